"""The whole server with encryption on: nothing plain on disk, and keys and storage that change meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

import phantoms
import storing
from e2e.server import Server, push
from imaging_ai.config import Settings, load
from imaging_ai.errors import ConfigError
from imaging_ai.wiring.storage import convert_storage, new_key, storage_status
from sealing import found_in, key_file
from services import wait_until

NAME, PIXELS = "Marked^Patient", b"\x11MARKED\x22PIXELS\x33"
MARKS = (NAME.encode(), PIXELS)
LARGE = 1100  # rows and columns: more than two megabytes


def marked(name: str, *, large: bool) -> pydicom.Dataset:
    """An instance with marks in its header and its pixels."""
    ds = phantoms.series(np.zeros((1, 8, 8), np.float32), name=name)[0]
    ds.PatientName = NAME
    ds.Rows = ds.Columns = LARGE if large else 64
    length = ds.Rows * ds.Columns * 2
    ds.PixelData = (PIXELS * (length // len(PIXELS) + 1))[:length]
    return ds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("encryption")
    settings = f'[storage]\nencryption_key_file = "{key_file(folder / "keys")}"\non_conflict = "replace"\n'
    with Server(folder, settings) as server:
        begin(server)
        yield server


def begin(server: Server) -> None:
    server.start("receive")
    server.start("web")
    server.wait_ready()


def on_disk(server: Server) -> list[str]:
    """The files of the data directory, but the database, that hold a mark."""
    return [one for one in found_in(server.folder / "data", *MARKS) if not one.startswith("imaging-ai.db")]


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.http_port}/dicom-web/{path}"


def stow(server: Server, ds: pydicom.Dataset) -> None:
    answer = httpx.post(
        url(server, "studies"),
        content=storing.multipart([storing.instance(phantoms.to_bytes(ds))]),
        headers={"Content-Type": storing.content_type()},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def frame(server: Server, ds: pydicom.Dataset) -> httpx.Response:
    place = f"studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    accept = 'multipart/related; type="application/octet-stream"'
    return httpx.get(url(server, f"{place}/frames/1"), headers={"Accept": accept}, timeout=60)


def is_read(server: Server, ds: pydicom.Dataset) -> bool:
    answer = frame(server, ds)
    return answer.status_code == 200 and bytes(ds.PixelData) in answer.content


def settings_of(server: Server) -> Settings:
    return load(server.config, server.environment)


def convert(server: Server, *, seals: bool) -> None:
    convert_storage(settings_of(server), lambda *_: None, seals=seals, keep_seconds=1.0)


def test_nothing_plain_is_on_disk_after_a_clean_end_or_a_crash(server: Server, tmp_path: Path) -> None:
    stored = {name: marked(name, large="large" in name) for name in ("small", "large", "small by web", "large by web")}
    paths = phantoms.write([stored["small"], stored["large"]], tmp_path)
    push(server.dicom_port, *paths)
    for name in ("small by web", "large by web"):
        stow(server, stored[name])
    again = marked("small", large=False)
    again.ImageComments = "corrected"
    push(server.dicom_port, *phantoms.write([again], tmp_path / "again"))  # what it replaces is kept aside
    assert all(is_read(server, ds) for ds in stored.values())
    assert on_disk(server) == []
    for process in server.processes.values():
        process.kill()
    assert list((server.folder / "data" / "objects" / "owners").iterdir()), "what recovery will look at"
    assert on_disk(server) == []
    begin(server)
    assert all(is_read(server, ds) for ds in stored.values())
    assert on_disk(server) == []
    told = json.loads(server.cli("storage", "status", "--json").stdout)
    assert told["encrypted"]["objects"] == 5
    assert told["plain"]["objects"] == 0
    assert set(told["data_keys"]) == {told["current_key"]} == {"file:first"}


def test_what_an_interrupted_sender_brought_is_not_there_in_plain(server: Server) -> None:
    """A body that stops in the middle of a large instance, of metadata with bulk data too."""
    data = phantoms.to_bytes(marked("half", large=True))
    body = storing.multipart([storing.instance(data)])
    entered, leave = threading.Event(), threading.Event()

    def half() -> Iterator[bytes]:
        yield body[: len(body) * 3 // 4]
        entered.set()
        leave.wait(60)
        raise OSError("gone")

    def send() -> None:
        with httpx.Client() as client:
            try:
                client.post(url(server, "studies"), content=half(), headers={"Content-Type": storing.content_type()})
            except (OSError, httpx.HTTPError):
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert entered.wait(60)
        owners = server.folder / "data" / "objects" / "owners"
        wait_until(lambda: any(path.stat().st_size > 1 << 20 for path in owners.rglob("*.part")), what="it is written")
        assert on_disk(server) == []
    finally:
        leave.set()
        sender.join()


def test_keys_change_while_everything_goes_on(server: Server) -> None:
    ds = marked("rotated", large=False)
    stow(server, ds)
    keys = server.folder / "keys" / "storage.keys"
    new_key(settings_of(server), "second")
    assert "now wrapped" in server.cli("storage", "rotate").stdout
    assert set(storage_status(settings_of(server)).data_keys) == {"file:second"}
    text = keys.read_text().splitlines()
    keys.write_text(text[0] + "\n")  # the old key goes
    assert is_read(server, ds)
    later = marked("after the rotation", large=True)
    stow(server, later)
    server.processes["web"].kill()
    server.start("web")
    server.wait_ready()
    assert is_read(server, ds)
    assert is_read(server, later)
    (row,) = server.rows("SELECT count(*) AS n FROM audit_event WHERE action = 'rewrap-keys'")
    assert row.n == 1


def test_storage_goes_back_to_plain_and_under_encryption_while_the_server_answers(server: Server) -> None:
    with pytest.raises(ConfigError, match="encrypt_new"):
        convert(server, seals=False)
    before = storage_status(settings_of(server)).encrypted
    settings = server.config.read_text()
    ds = marked("converted", large=True)
    stow(server, ds)
    failures: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if not is_read(server, ds):
                failures.append(frame(server, ds).status_code)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        server.config.write_text(f"{settings}encrypt_new = false\n")
        convert(server, seals=False)
        assert on_disk(server) != []
        server.config.write_text(settings)
        convert(server, seals=True)
    finally:
        over.set()
        reader.join()
        server.config.write_text(settings)
    assert failures == []
    assert on_disk(server) == []
    told = storage_status(settings_of(server))
    assert (told.encrypted.objects, told.plain.objects) == (before.objects + 1, 0)


def test_a_damaged_object_is_an_error_and_never_other_bytes(server: Server) -> None:
    ds = marked("damaged", large=True)
    stow(server, ds)
    (row,) = server.rows("SELECT blob_key FROM instance WHERE sop_instance_uid = :uid", uid=str(ds.SOPInstanceUID))
    path = server.folder / "data" / "objects" / row.blob_key
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"\0" * 8)
    answer = frame(server, ds)
    assert answer.status_code == 503
    assert NAME not in answer.text
    path.unlink()


def test_without_its_keys_the_server_says_so_before_it_begins(server: Server) -> None:
    keys = server.folder / "keys" / "storage.keys"
    text = keys.read_text()
    keys.chmod(0o644)
    try:
        done = server.cli("storage", "status", check=False)
        assert done.returncode == 2
        assert "chmod 600" in done.stderr
        assert text.split()[1] not in done.stderr
    finally:
        keys.chmod(0o600)
