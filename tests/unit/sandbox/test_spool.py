"""Objects handed over: small ones in memory, large ones in files without a name."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from imaging_ai.errors import StorageUnavailable
from imaging_ai.sandbox import spool
from imaging_ai.sandbox.spool import received, sent

SMALL, LARGE = b"small" * 100, os.urandom(1 << 20) * 3 + b"end"


def through(folder: Path, *parts: bytes, said: int | None = None) -> list[bytes | memoryview]:
    """Hand over some objects, of which the last is said to be so long."""
    out, into = os.pipe()

    def send() -> None:
        for part in parts:
            sent(into, part)
        os.close(into)

    sender = threading.Thread(target=send)
    sender.start()
    lengths = [len(part) for part in parts[:-1]] + [len(parts[-1]) if said is None else said]
    try:
        return [received(out, length, folder) for length in lengths]
    finally:
        os.close(out)
        sender.join()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_SMALL", 1 << 20)


def test_objects_come_out_as_they_went_in_and_leave_nothing(tmp_path: Path) -> None:
    one, other, last = through(tmp_path, SMALL, LARGE, b"")
    assert (one, last) == (SMALL, b"")
    assert isinstance(other, memoryview) and other == LARGE
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_shorter_than_was_said_is_none(tmp_path: Path) -> None:
    for part in (SMALL, LARGE):
        with pytest.raises(EOFError):
            through(tmp_path, part, said=len(part) + 1)


def test_a_disk_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _part: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "sent", full)
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(StorageUnavailable, match="No space left on device"):
        received(zeros.fileno(), len(LARGE), tmp_path)
