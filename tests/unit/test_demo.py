"""The demo keeps to its own folder, whatever installation the shell it runs in is set up for."""

from __future__ import annotations

from pathlib import Path

from imaging_ai import config
from imaging_ai.demo import demo_environment


def test_the_demo_never_touches_the_installation_that_the_shell_is_set_up_for(tmp_path: Path) -> None:
    site = {
        "PATH": "/bin",
        "IMAGING_AI_CONFIG": "/etc/imaging-ai.toml",
        "IMAGING_AI_DATA_DIR": "/var/lib/imaging-ai",
        "IMAGING_AI_DATABASE_URL": "postgresql://db/site",
        "IMAGING_AI_BROKER_URL": "redis://queue",
        "IMAGING_AI_STORAGE_URL": "s3://archive",
        "IMAGING_AI_DICOM_HOST": "0.0.0.0",
    }
    (tmp_path / "demo.toml").touch()
    environment = demo_environment(site, tmp_path, tmp_path / "demo.toml")
    settings = config.load(environment=environment)
    assert environment["PATH"] == "/bin"
    assert settings.database_url == f"sqlite:///{tmp_path}/imaging-ai.db"
    assert (settings.storage_url, settings.broker.url) == (f"file://{tmp_path}/objects", "embedded")
    assert (settings.dicom.host, settings.source) == ("127.0.0.1", str(tmp_path / "demo.toml"))


def test_the_ports_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").touch()
    given = {"IMAGING_AI_DICOM_PORT": "21112", "IMAGING_AI_HTTP_PORT": "28080"}
    settings = config.load(environment=demo_environment(given, tmp_path, tmp_path / "demo.toml"))
    assert (settings.dicom.port, settings.http.port) == (21112, 28080)
