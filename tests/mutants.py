"""Instances that somebody damaged: real files with a few bytes changed, under UIDs that nobody has."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pydicom

__all__ = ["load", "mutant"]

Change = Callable[[random.Random, bytearray], None]

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
#: Group 0028: what decoders believe.
_IMAGE_PIXEL = [
    bytes((0x28, 0, low, high))
    for low, high in ((2, 0), (4, 0), (6, 0), (8, 0), (0x10, 0), (0x11, 0), (0, 1), (1, 1), (2, 1), (3, 1))
] + [bytes((0x28, 0, low, 0x10)) for low in (0x50, 0x51, 0x52, 0x53)]
_VALUES = (
    b"\0\0",
    b"\xff\xff",
    b"\1\0",
    b"\0\x80",
    b"\x10\0",
    b"\x20\0",
    b"\3\0",
    b"99",
    b"-1",
    b"1e",
    b"na",
    b"\0\x10",
)
_LENGTHS = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\0\0\0\0",
    b"\xff\xff\xff\x7f",
)
_SYNTAXES = [b"1.2.840.10008.1.2" + end for end in (b"", b".1", b".2", b".5", b".1.99")] + [
    b"1.2.840.10008.1.2.4." + end for end in (b"50", b"51", b"70", b"80", b"90", b"100", b"102", b"110", b"201")
]


def load(folder: Path, largest: int = 700_000) -> dict[str, tuple[bytes, str]]:
    """The DICOM files of a folder that are not too large, and their SOP Instance UIDs."""
    found = {}
    for path in sorted(folder.glob("*.dcm")):
        data = path.read_bytes()
        if len(data) <= largest and data[128:132] == b"DICM":
            found[path.name] = data, str(pydicom.dcmread(path, force=True, stop_before_pixels=True).SOPInstanceUID)
    return found


def mutant(files: dict[str, tuple[bytes, str]], seed: int) -> tuple[str, bytes]:
    """One of the files, changed; its name says how."""
    rng = random.Random(seed)
    name = rng.choice(list(files))
    data, uid = files[name]
    fresh = "1.2." + "".join(rng.choice("123456789") for _ in range(len(uid) - 4))
    changed = bytearray(data.replace(uid.encode(), fresh.encode()))
    change = rng.choice(_CHANGES)
    change(rng, changed)
    return f"{seed} {name} {change.__name__}", bytes(changed)


def _value(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        if (at := data.find(rng.choice(_IMAGE_PIXEL))) >= 0:
            data[at + 8 : at + 10] = rng.choice((*_VALUES, rng.randbytes(2)))


def _length(rng: random.Random, data: bytearray) -> None:
    if (at := data.find(rng.choice([*_IMAGE_PIXEL, _PIXEL_DATA]))) >= 0:
        start = at + rng.choice((4, 6, 8))
        data[start : start + 2] = rng.choice(_VALUES)


def _header(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(132, _pixels(data))] = rng.randrange(256)


def _pixel(rng: random.Random, data: bytearray) -> None:
    start = min(_pixels(data), len(data) - 1)
    for _ in range(rng.randint(1, 8)):
        reach = len(data) if rng.random() < 0.5 else min(start + 200, len(data))
        data[rng.randrange(start, reach)] = rng.randrange(256)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(max(200, _pixels(data) - 100), len(data)) :]


def _lost(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(132, len(data))
    del data[at : at + rng.randint(1, 40)]


def _twice(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(132, len(data))
    data[at:at] = data[at : at + rng.randint(1, 400)]


def _claim(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(132, len(data) - 4)
    data[at : at + 4] = rng.choice(_LENGTHS)


def _syntax(rng: random.Random, data: bytearray) -> None:
    at = data.find(b"\x02\x00\x10\x00UI")
    length, syntax = int.from_bytes(data[at + 6 : at + 8], "little"), rng.choice(_SYNTAXES)
    if at >= 0 and len(syntax) <= length:
        data[at + 8 : at + 8 + length] = syntax.ljust(length, b"\0")


_CHANGES: tuple[Change, ...] = (_value, _value, _length, _header, _pixel, _pixel, _cut, _lost, _twice, _claim, _syntax)


def _pixels(data: bytearray) -> int:
    """Where Pixel Data begins, about."""
    at = data.rfind(_PIXEL_DATA)
    return at if at > 200 else len(data) * 2 // 3
