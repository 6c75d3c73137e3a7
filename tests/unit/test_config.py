"""The settings: precedence, and errors that name source, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ai import config
from imaging_ai.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "imaging-ai.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_lives_in_the_data_directory() -> None:
    settings = config.load(environment={"IMAGING_AI_DATA_DIR": "/somewhere"})
    assert settings.database_url == "sqlite:////somewhere/imaging-ai.db"
    assert settings.storage_url == "file:///somewhere/objects"
    assert (settings.dicom.port, settings.dicom.ae_title, settings.http.port) == (11112, "IMAGINGAI", 8080)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[dicom]\nport = 104\nae_title = "FILE"\n')
    settings = config.load(path, {"IMAGING_AI_DICOM_PORT": "11113"})
    assert (settings.dicom.port, settings.dicom.ae_title) == (11113, "FILE")


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "[http]\nport = 8181\n")
    assert config.load(environment={"IMAGING_AI_CONFIG": str(path)}).http.port == 8181


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    settings = config.load(environment={"IMAGING_AI_DICOM_CALLING_AE_TITLES": "CT1, ORTHANC"})
    assert settings.dicom.calling_ae_titles == ("CT1", "ORTHANC")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[dicom]\nprt = 1\n", r"dicom\.prt: unknown key; did you mean port\?"),
        ("[dcom]\nport = 1\n", r"dcom: unknown key; did you mean dicom\?"),
        ('[dicom]\nport = "many"\n', r"dicom\.port: Expected `int`"),
        ("[dicom]\nport = 70000\n", r"dicom\.port: Expected `int` <= 65535"),
        ('[dicom]\nack = "soon"\n', r"dicom\.ack: Invalid enum value 'soon'"),
        ("[dicom\n", "is not valid TOML"),
        ('[http]\nhost = "0.0.0.0"\n[auth]\nmode = "off"\n', "only this machine is served"),
        ('source = "elsewhere"\n', "source: unknown key"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=sentence) as error:
        config.load(path, {})
    assert "imaging-ai.toml" in error.value.message


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"IMAGING_AI_HTTP_PORT: http\.port"):
        config.load(environment={"IMAGING_AI_HTTP_PORT": "eighty"})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/x\.toml: cannot be read"):
        config.load("/nowhere/x.toml", {})


def test_passwords_are_masked() -> None:
    settings = config.load(environment={"IMAGING_AI_DATABASE_URL": "postgresql://ai:hunter2@db/ai"})
    assert config.masked(settings)["database"]["url"] == "postgresql://ai:***@db/ai"
    assert "hunter2" not in repr(config.masked(settings))


def test_own_models_come_before_configured_and_shipped_ones(tmp_path: Path) -> None:
    settings = config.load(environment={"IMAGING_AI_DATA_DIR": str(tmp_path), "IMAGING_AI_MODELS_FOLDERS": "/more"})
    assert settings.model_folders[:2] == (tmp_path / "models", Path("/more"))
    assert settings.model_folders[2:] == ((shipped,) if (shipped := config.shipped_models()) else ())


def test_a_queue_that_nobody_rings_is_refused() -> None:
    with pytest.raises(ConfigError, match="WORKER_QUEUES"):
        config.load(None, {"IMAGING_AI_WORKER_QUEUES": "route,inference-gpus"})
    assert config.load(None, {"IMAGING_AI_WORKER_QUEUES": "route, delivery"}).worker.queues == ("route", "delivery")
