"""What the storage has lost is not taken for deleted, and an answer that fails on its way not for whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litestar import Litestar, Response, get
from litestar.testing import TestClient
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

import phantoms
from attacked import Attacked, attack
from imaging_ai.archive import transcode
from imaging_ai.archive.folder import FolderStore
from imaging_ai.errors import NotDicom, StorageUnavailable
from imaging_ai.serve.dicomweb.wire import Part, multipart, stream
from imaging_ai.serve.problem import respond
from imaging_ai.serve.unbroken import unbroken
from shelf import DICOM, Shelf, shelf

ELE = "1.2.840.10008.1.2.1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Shelf]:
    with shelf(tmp_path) as opened:
        yield opened


def ct(count: int, name: str = "lost") -> list[Dataset]:
    return phantoms.series(np.arange(count * 64, dtype=np.float32).reshape(count, 8, 8), name=name)


def lose(server: Shelf, path: str) -> None:
    """Take the bytes of an instance away behind the index."""
    stored = server.parts.describer.find(path.rpartition("/")[2])
    assert stored is not None
    store = server.parts.archive.store
    assert isinstance(store, FolderStore)
    store.delete(stored[0].blob)


@pytest.mark.parametrize("described", [True, False])
def test_what_the_storage_has_lost_was_not_deleted(
    server: Shelf, described: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it had been described or not; the log names the instance."""
    (path,) = server.put(*ct(1))
    if described:
        server.parts.describer.describe_pending()
    lose(server, path)
    study, uid = path.partition("/series/")[0], path.rpartition("/")[2]
    asked: list[tuple[str, str]] = [(study, DICOM), (path, DICOM), (path, "application/dicom; transfer-syntax=*")]
    asked += [(f"{path}/frames/1", "*/*"), (f"{path}/bulkdata", "*/*"), (f"{path}/pixeldata", "*/*")]
    for place, accept in asked:
        caplog.clear()
        answer = server.get(place, accept)
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5"), (place, accept, answer.text)
        assert "deleted" not in answer.text
        assert any(uid in one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
    assert server.get(f"{study}/metadata").status_code == 200


def test_of_a_study_comes_what_is_left(server: Shelf) -> None:
    first, second = server.put(*ct(2))
    lose(server, first)
    (part,) = server.parts_of(first.partition("/series/")[0], DICOM, status=206)
    assert str(part.dataset.SOPInstanceUID) == second.rpartition("/")[2]


def test_what_was_deleted_is_gone(server: Shelf) -> None:
    (path,) = server.put(*ct(1))
    assert server.client.delete(f"/dicom-web/{path}").status_code == 204
    assert server.get(f"{path}/frames/1").status_code == 410


def test_bytes_that_come_back_are_described_again(server: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a file system that was not mounted when the describer came by."""
    (path,) = server.put(*ct(1))
    root = server.parts.archive.store
    assert isinstance(root, FolderStore)
    with monkeypatch.context() as unmounted:
        unmounted.setattr(root, "root", root.root / "nowhere")
        server.parts.describer.describe_pending()
        assert server.get(f"{path}/frames/1", "*/*").status_code == 503
    assert server.get(f"{path}/frames/1", "*/*").status_code == 200


def test_a_rendered_image_whose_bytes_are_lost_is_no_deletion(tmp_path: Path) -> None:
    with attack(tmp_path) as attacked:
        _forget(attacked, tmp_path)
        for end in ("/rendered", "/frames/1/rendered"):
            assert attacked.client.get(f"/dicom-web{attacked.place}{end}").status_code == 503


def _forget(attacked: Attacked, folder: Path) -> None:
    for file in (*(folder / "store" / "logs").rglob("*.log"), *(folder / "store" / "objects").rglob("*.dcm")):
        file.unlink()
    for file in (folder / "store" / "owners").rglob("*.log"):
        file.unlink()


def test_a_damaged_frame_of_many_is_told_before_the_status(server: Shelf) -> None:
    """Of bulk data that is decoded: what cannot be decoded is left out, or refused."""
    ds = phantoms.enhanced(np.zeros((4, 8, 8), np.float32), name="damaged")
    good = bytes(64) + b"\0" * 0
    frames = [b"\1\0\0\0\x40\0\0\0" + bytes(56) + b"\x81\0" for _ in range(3)]
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.5")
    ds.PixelData = encapsulate([*frames, good])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    (path,) = server.put(ds)
    for end, accept in (
        ("/bulkdata", "*/*"),
        ("/pixeldata", "*/*"),
        ("/bulkdata/7FE00010", "application/octet-stream"),
    ):
        assert server.get(path + end, accept).status_code == 406, end


# -- answers on their way


def failing(after: int, error: Exception) -> Any:
    for _ in range(after):
        yield bytes(1 << 19)
    raise error


@pytest.mark.parametrize(
    ("after", "error", "status"),
    [(0, StorageUnavailable("down"), 503), (0, NotDicom("damaged"), 400), (0, ValueError("ours"), 500)],
)
def test_before_its_first_bytes_an_answer_can_be_another(after: int, error: Exception, status: int) -> None:
    with streaming(after, error) as client:
        answer = client.get("/")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_after_them_it_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """A server closes the connection then: no client takes it for whole."""
    ends: list[bool] = []
    with streaming(2, StorageUnavailable("down"), ends) as client:
        assert client.get("/").status_code == 200
    assert ends == [True, True]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.getMessage() == "the answer to / broke off: down"
    assert record.exc_info is None


def streaming(after: int, error: Exception, ends: list[bool] | None = None) -> TestClient[Litestar]:
    """A client of an application whose answer fails; `ends` hears of each piece whether there is more."""

    @get("/", sync_to_thread=True)
    def handler() -> Response[Any]:
        return stream(failing(after, error), "application/octet-stream")

    def listening(app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            async def heard(message: Any) -> None:
                if ends is not None and message["type"] == "http.response.body":
                    ends.append(message["more_body"])
                await send(message)

            await app(scope, receive, heard)

        return answer

    app = Litestar(
        [handler], middleware=[listening, unbroken], exception_handlers={Exception: respond}, logging_config=None
    )
    return TestClient(app, raise_server_exceptions=False)


def test_what_a_stream_holds_is_let_go_when_its_client_has_gone() -> None:
    """Also while a thread waits for the next piece."""
    let_go, waiting, go_on = threading.Event(), threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        try:
            yield b"x" * (1 << 19)
            waiting.set()
            go_on.wait(10)
            yield b"y"
        finally:
            let_go.set()

    sent = multipart(iter([Part("a/b", body())]), "a/b")
    pieces: Any = sent.iterator
    assert next(pieces)
    reader = threading.Thread(target=lambda: next(pieces, None))
    reader.start()
    assert waiting.wait(10)
    closer = threading.Thread(target=pieces.close)
    closer.start()
    go_on.set()
    reader.join()
    closer.join()
    assert let_go.wait(10)
    assert next(pieces, None) is None


def test_frames_too_large_to_be_held_are_given_as_they_are_stored(
    server: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = server.put(*ct(1))
    monkeypatch.setattr(transcode, "_LARGEST_FRAME", 100)
    assert server.get(path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80").status_code == 406
    assert server.get(path, f"application/dicom; transfer-syntax={ELE}").status_code == 200


def test_a_value_error_is_no_end_of_the_pieces(caplog: pytest.LogCaptureFixture) -> None:
    """Litestar takes one for it: an answer that was cut would look whole."""
    ends: list[bool] = []
    with streaming(1, ValueError("ours"), ends) as client:
        client.get("/")
    assert ends == [True]
    assert any(one.exc_info for one in caplog.records)
