"""Codestreams that claim more than their instance: refused by what they say of themselves, before they take memory."""

from __future__ import annotations

import struct
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from imaging_ai.archive import decoders
from imaging_ai.archive.decoders import DECODABLE, Image

PREFIX = "1.2.840.10008.1.2.4."


def image(transfer_syntax_uid: str, rows: int, columns: int, samples: int = 1) -> Image:
    interpretation = "MONOCHROME2" if samples == 1 else "RGB"
    return Image(transfer_syntax_uid, rows, columns, samples, 8, 8, 7, False, interpretation, False, 1, False, False)


def jpeg_2000_of(components: int, side: int = 64) -> bytes:
    """A codestream of a few kilobytes that says it has so many components."""
    data = bytes(imagecodecs.jpeg2k_encode(np.zeros((side, side), np.uint8), reversible=True, codecformat="J2K"))
    start = data.find(b"\xff\x51")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    head = bytearray(data[start : start + 38])
    struct.pack_into(">H", head, 2, 38 + 3 * components)
    component = data[start + 40 : start + 43]
    size = bytes(head) + struct.pack(">H", components) + component * components
    return data[:start] + size + data[start + 2 + length :]


@pytest.mark.parametrize("end", ["90", "91", "201", "202", "203"])
def test_components_that_the_data_set_does_not_have(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 of them in 9 kB took 15 GB."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", never)
    monkeypatch.setattr(imagecodecs, "htj2k_decode", never)
    with pytest.raises(ValueError, match="components"):
        DECODABLE[PREFIX + end](jpeg_2000_of(3_000), image(PREFIX + end, 64, 64))


@pytest.mark.parametrize(("end", "codec"), [("50", "jpeg"), ("80", "jpegls"), ("90", "jpeg2k"), ("110", "jpegxl")])
def test_other_sides_or_samples_than_those_of_the_data_set(end: str, codec: str) -> None:
    data = bytes(getattr(imagecodecs, f"{codec}_encode")(np.zeros((48, 64), np.uint8)))
    right = image(PREFIX + end, 48, 64)
    assert DECODABLE[PREFIX + end](data, right).shape == (48, 64)
    for wrong in (replace(right, rows=49), replace(right, columns=65), replace(right, rows=64, columns=48)):
        with pytest.raises(ValueError, match="other rows, columns or components"):
            DECODABLE[PREFIX + end](data, wrong)


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 300), (64, 64), (512, 768), (20, 16), (1080, 1920), (600, 9), (2500, 2000), (1000, 2000, 3)]
)
@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_of_a_jpeg_xl_codestream(shape: tuple[int, ...], lossless: bool) -> None:
    data = bytes(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=lossless))
    assert decoders._jpeg_xl_size(data) == shape[:2]


def test_heads_that_are_cut_are_errors_like_others() -> None:
    for end, length in (("90", 20), ("201", 3), ("110", 2), ("110", 0), ("50", 5), ("80", 1)):
        with pytest.raises((ValueError, struct.error)):
            DECODABLE[PREFIX + end](b"\xff\x4f\xff\x51\xff\x0a\xff\xd8"[:length] * 2, image(PREFIX + end, 8, 8))
