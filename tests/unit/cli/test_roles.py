"""A role that cannot listen says so in the words of the settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from imaging_ai.cli import cli
from imaging_ai.errors import UnavailableError


def refused(tmp_path: Path, role: str, **environment: str) -> str:
    environment = {"IMAGING_AI_DATA_DIR": str(tmp_path / "data"), "IMAGING_AI_DICOM_PORT": "0", **environment}
    done = CliRunner().invoke(cli, [role], env=environment)
    assert isinstance(done.exception, UnavailableError), done.exception
    return done.exception.message


@pytest.mark.parametrize(("role", "key"), [("serve", "dicom"), ("serve", "http")])
def test_a_port_that_is_taken_is_named_with_the_remedy(tmp_path: Path, role: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(tmp_path, role, **{f"IMAGING_AI_{key.upper()}_PORT": port})
    assert f"{key}.port: 127.0.0.1:{port}" in said
    assert "ss -ltnp" in said
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_none_of_this_machine_is_named(tmp_path: Path) -> None:
    assert "set dicom.host" in refused(tmp_path, "serve", IMAGING_AI_DICOM_HOST="192.0.2.1")
    assert "set dicom.host" in refused(tmp_path, "serve", IMAGING_AI_DICOM_HOST="nowhere.invalid")
