"""JPEG of 8 bits, in strips that several cores encode at once and restart markers join (ITU-T T.81 B.2, E.1.4, F.1.1).

Every strip but the last is one restart interval. The tables do not depend on the pixels, so what is decoded is the same
to the bit as of a picture that was encoded in one piece.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Literal

import imagecodecs

from imaging_ai.render.wish import Picture

__all__ = ["Subsampling", "encode_jpeg"]

Subsampling = Literal["444", "420"]

_WORTH_A_STRIP = 1 << 17  # pixels
_LONGEST_INTERVAL = 0xFFFF
_FRAME, _SCAN = 0xC0, 0xDA


def encode_jpeg(
    picture: Picture, quality: int, subsampling: Subsampling, threads: Executor | None = None, strips: int = 1
) -> bytes:
    """Return a picture as a JPEG file, encoded in as many as `strips` strips, all but one by threads that are idle."""

    def encoded(strip: Picture) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(strip, quality, subsampling=subsampling))

    rows, columns = picture.shape[:2]
    side = 16 if picture.ndim == 3 and subsampling == "420" else 8  # of a minimum coded unit
    across = -(-columns // side)
    wanted = min(strips, rows * columns // _WORTH_A_STRIP)
    if threads is None or wanted < 2 or across > _LONGEST_INTERVAL:
        return encoded(picture)
    units = min(-(-rows // (side * wanted)), _LONGEST_INTERVAL // across)
    first, *others = (picture[top : top + units * side] for top in range(0, rows, units * side))
    waiting = [(threads.submit(encoded, strip), strip) for strip in others]
    files = [encoded(first), *(encoded(strip) if future.cancel() else future.result() for future, strip in waiting)]
    return _joined(files, rows, units * across)


def _joined(files: Sequence[bytes], rows: int, interval: int) -> bytes:
    """Return one file of `rows` rows from files of its strips, of `interval` minimum coded units each."""
    frame, scan = _segment(files[0], _FRAME), _segment(files[0], _SCAN)
    head = files[0][: frame + 5] + struct.pack(">H", rows) + files[0][frame + 7 : scan]
    pieces = [head, struct.pack(">HHH", 0xFFDD, 4, interval), files[0][scan:-2]]
    for number, file in enumerate(files[1:]):
        start = _segment(file, _SCAN)
        pieces += [struct.pack(">H", 0xFFD0 + number % 8), file[start + 2 + _length(file, start) : -2]]
    return b"".join([*pieces, files[0][-2:]])


def _segment(file: bytes, marker: int) -> int:
    """Return where the first segment of a marker begins."""
    position = 2
    while file[position + 1] != marker:
        position += 2 + _length(file, position)
    return position


def _length(file: bytes, position: int) -> int:
    return int.from_bytes(file[position + 2 : position + 4], "big")
