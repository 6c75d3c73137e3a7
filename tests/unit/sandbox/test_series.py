"""Files of a series handed over in memory."""

from __future__ import annotations

import os

import pytest

from imaging_ai.sandbox.series import pack, unpack


def test_files_come_out_as_they_went_in() -> None:
    series = {"flair": [b"one", b"", b"three" * 1000], "t1": (file for file in (b"four",))}
    descriptor, lengths = pack(series)
    assert lengths == {"flair": [3, 0, 5000], "t1": [4]}
    assert unpack(descriptor, lengths) == {"flair": [b"one", b"", b"three" * 1000], "t1": [b"four"]}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux seals")
def test_who_gets_them_cannot_change_or_lengthen_them() -> None:
    descriptor, _ = pack({"image": [b"one"]})
    for act in (lambda: os.pwrite(descriptor, b"two", 0), lambda: os.ftruncate(descriptor, 1 << 30)):
        with pytest.raises(PermissionError):
            act()
    os.close(descriptor)


def test_what_is_shorter_than_was_said_is_no_series() -> None:
    descriptor, _ = pack({"image": [b"one"]})
    with pytest.raises(EOFError):
        unpack(descriptor, {"image": [4]})
