"""`[[destinations]]`: what is right becomes a value, what is wrong names the key and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imaging_ai.errors import ConfigError
from imaging_ai.send.destinations import Destination, DicomDestination, WebDestination

DICOM: dict[str, Any] = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}
WEB: dict[str, Any] = {"name": "web", "url": "https://pacs.example/dicom-web"}


def parse(table: dict[str, Any], **changes: Any) -> Destination:
    merged = {key: value for key, value in {**table, **changes}.items() if value is not None}
    return Destination.parse(merged, "a.toml: destinations[1]")


def test_three_keys_and_a_name_are_a_storage_scp() -> None:
    assert parse(DICOM) == DicomDestination(name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=4242)


def test_a_url_and_a_name_are_a_dicomweb_service() -> None:
    assert parse(WEB) == WebDestination(name="web", url="https://pacs.example/dicom-web")


def test_slashes_at_the_end_of_a_url_do_not_matter() -> None:
    assert parse(WEB, url="https://pacs.example/dicom-web//") == parse(WEB)


def test_our_own_ae_title_is_used_unless_the_destination_names_another() -> None:
    ours = Destination.parse(DICOM, "x", calling_ae_title="OURS")
    other = Destination.parse({**DICOM, "calling_ae_title": "OTHER"}, "x", calling_ae_title="OURS")

    assert isinstance(ours, DicomDestination)
    assert isinstance(other, DicomDestination)
    assert (ours.calling_ae_title, other.calling_ae_title) == ("OURS", "OTHER")


def test_the_common_keys_are_taken() -> None:
    made = parse(DICOM, max_attempts=3, check_back=False, timeout=5, connect_timeout=1.5)

    assert (made.max_attempts, made.check_back, made.timeout, made.connect_timeout) == (3, False, 5.0, 1.5)


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (DICOM, {"name": None}, r"destinations\[1\]: name: is missing"),
        (DICOM, {"ae_title": None}, r"\(pacs\): ae_title: is missing; .*or url"),
        (DICOM, {"ae_title": "SEVENTEEN_LETTERS"}, "ae_title: .* is not an AE title"),
        (DICOM, {"calling_ae_title": "A\\B"}, "calling_ae_title: .* is not an AE title"),
        (DICOM, {"host": None}, "host: is missing"),
        (DICOM, {"port": None}, "port: give a whole number from 1 to 65535"),
        (DICOM, {"port": 0}, "port: give a whole number"),
        (DICOM, {"port": "4242"}, "port: give a whole number"),
        (DICOM, {"port": True}, "port: give a whole number"),
        (DICOM, {"aetitle": "X"}, "aetitle: unknown key; did you mean ae_title?"),
        (DICOM, {"zzz": 1}, "zzz: unknown key; known: ae_title, "),
        (DICOM, {"token_file": "/x"}, r"token_file: does not belong to a DICOM destination"),
        (DICOM, {"check_back": "yes"}, "check_back: give true or false"),
        (DICOM, {"max_attempts": 0}, "max_attempts: give a whole number"),
        (DICOM, {"timeout": 0}, "timeout: give a number"),
        (WEB, {"port": 80}, r"port: does not belong to a DICOMweb destination"),
        (WEB, {"url": "pacs.example"}, "url: give the DICOMweb root"),
        (WEB, {"url": "https://me:secret@pacs.example"}, "url: keep credentials out of it"),
        (WEB, {"username": "me"}, "username: goes together with password_file"),
        (WEB, {"password_env": "P"}, "username: goes together"),
        (WEB, {"token_file": "/t", "token_env": "T"}, "token_file: give it or token_env"),
        (WEB, {"username": "me", "password_env": "P", "token_env": "T"}, "token_file: give either"),
        (WEB, {"ca_file": "/does/not/exist.pem"}, "ca_file: .* does not exist"),
    ],
)
def test_what_is_wrong_names_place_key_and_remedy(table: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(table, **changes)
    assert caught.value.message.startswith("a.toml: destinations[1]")


def test_a_secret_is_read_when_it_is_used_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = parse(WEB, token_file=str(file))
    assert isinstance(made, WebDestination)
    assert made.token is not None

    with pytest.raises(ConfigError, match="cannot be read"):
        made.token.read()
    file.write_text("s3cret\n")
    assert made.token.read() == "s3cret"
    assert "s3cret" not in repr(made)
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        made.token.read()
