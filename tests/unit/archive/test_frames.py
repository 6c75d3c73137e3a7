"""Frame tables, held against pydicom's on real data and against tables that lie."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from imaging_ai.archive.document import make_document, reader_of
from imaging_ai.archive.frames import (
    NO_END,
    FrameTable,
    PixelData,
    PixelDescription,
    frame_table,
    walk_fragments,
)
from imaging_ai.errors import InputError, NotFound

END = b"\xfe\xff\xdd\xe0\0\0\0\0"
JPEG_LS = "1.2.840.10008.1.2.4.80"
RLE = "1.2.840.10008.1.2.5"


def item(data: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


def table_of(
    value: bytes, frames: int, *, extended: bytes = b"", uid: str = JPEG_LS, before: int = 0
) -> tuple[FrameTable, str]:
    data = bytes(before) + value
    fragments = walk_fragments(reader_of(data), before, len(data))
    pixels = PixelData(0x7FE00010, before, len(value), fragments, extended)
    return frame_table(pixels, PixelDescription(4, 4, 1, 8, frames), uid)


def bytes_of(table: FrameTable, data: bytes) -> list[bytes]:
    return [
        b"".join(data[offset : offset + length] for offset, length in table.ranges(number))
        for number in range(1, table.count + 1)
    ]


def test_the_frames_of_every_real_file_are_pydicoms(real_data: Path) -> None:
    folders = ("syntaxes", "ct-liver-seg", "ct-abdomen-slab")
    files = [path for folder in folders for path in sorted((real_data / folder).rglob("*.dcm"))]
    encapsulated = native = 0
    for path in files:
        data = path.read_bytes()
        document = make_document(reader_of(data), len(data), "1.2.3")
        ds = pydicom.dcmread(path, force=True)
        count = int(ds.get("NumberOfFrames", 1))
        if path.name == "emri_small_jpeg_2k_lossless_too_short.dcm":
            assert (document.frames.count, document.error) == (10, NO_END)
            continue
        frames = bytes_of(document.frames, data)
        assert len(frames) == count, path.name
        assert FrameTable.unpack(document.frames.pack()) == document.frames
        if document.frames.kind == "encapsulated":
            assert frames == list(generate_frames(ds.PixelData, number_of_frames=count)), path.name
            encapsulated += 1
        elif ds.BitsAllocated > 1:
            value = next(
                ds[word].value for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if word in ds
            )
            assert b"".join(frames) == value[: sum(map(len, frames))], path.name
            native += 1
    assert (encapsulated, native) > (30, 12)


def test_single_bit_frames_begin_inside_a_byte() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (5, 3, 3), dtype=np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    table, error = frame_table(PixelData(0x7FE00010, 10, len(packed)), PixelDescription(3, 3, 1, 1, 5), "")
    assert error == ""
    assert [table.bit_offset(number) for number in range(1, 6)] == [0, 1, 2, 3, 4]
    data = bytes(10) + packed
    for number, frame in enumerate(bytes_of(table, data), start=1):
        unpacked = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        start = table.bit_offset(number)
        assert np.array_equal(unpacked[start : start + 9], bits[number - 1].ravel())


def test_subsampled_native_colour_takes_two_thirds() -> None:
    image = PixelDescription(4, 6, 3, 8, 2, "YBR_FULL_422")
    table, error = frame_table(PixelData(0x7FE00010, 0, 96), image, "")
    assert (table.ranges(1), table.ranges(2), error) == (((0, 48),), ((48, 48),), "")


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("fragments", [1, 3])
def test_frames_of_several_fragments_are_told_apart_with_and_without_an_offset_table(
    has_table: bool, fragments: int
) -> None:
    frames = [b"\xff\xd8\xff\xf7" + bytes([number]) * 40 for number in range(4)]
    value = encapsulate(frames, fragments_per_frame=fragments, has_bot=has_table) + END
    table, error = table_of(value, 4, before=100)
    assert error == ""
    assert [frame.rstrip(b"\0") for frame in bytes_of(table, bytes(100) + value)] == [f.rstrip(b"\0") for f in frames]


def test_an_extended_offset_table_tells_frames_of_several_fragments_apart() -> None:
    value, offsets, _ = encapsulate_extended([b"abcdef", b"ghij"])
    table, error = table_of(value + END, 2, extended=offsets, uid=RLE)
    assert (bytes_of(table, value), error) == ([b"abcdef", b"ghij"], "")
    split = item(b"") + item(b"ab") + item(b"cd") + item(b"efgh") + END
    table, error = table_of(split, 2, extended=struct.pack("<QQ", 0, 20), uid=RLE)
    assert (bytes_of(table, split), error) == ([b"abcd", b"efgh"], "")


def test_an_offset_table_that_points_nowhere_is_not_believed() -> None:
    frames = [b"\xff\xd8\xff\xf7aa", b"\xff\xd8\xff\xf7bb"]
    pieces = [frames[0][:4], frames[0][4:], frames[1]]
    value = item(struct.pack("<II", 0, 7777)) + b"".join(map(item, pieces)) + END
    table, error = table_of(value, 2)
    assert (bytes_of(table, value), error) == (frames, "")


def test_fragments_that_cannot_be_told_apart_are_an_error() -> None:
    value = item(b"") + item(b"aa") + item(b"bb") + item(b"cc") + END
    table, error = table_of(value, 2, uid=RLE)
    assert table.count == 0
    assert "can be told apart" in error


def test_fewer_fragments_than_frames_give_those_that_are_there() -> None:
    value = item(b"") + item(b"aa") + item(b"bb") + END
    table, error = table_of(value, 5, uid=RLE)
    assert bytes_of(table, value) == [b"aa", b"bb"]
    assert "2 of 5" in error


def test_more_codestreams_than_frames_stop_at_the_last_frame() -> None:
    value = item(b"") + b"".join(item(b"\xff\xd8\xff\xf7" + bytes([number, 0])) for number in range(4)) + END
    table, error = table_of(value, 3)
    assert [frame[4] for frame in bytes_of(table, value)] == [0, 1, 2]
    assert "3 of 3" in error or error == ""


@pytest.mark.parametrize(
    ("value", "words", "count"),
    [
        (item(b"") + item(b"aa"), "no end", 1),
        (item(b"") + item(b"aaaa")[:-2], "cut short by 2 bytes", 1),
        (item(b"") + b"garbage!garbage!", "no fragment", 0),
        (item(b"") + END, "no frames", 0),
        (b"", "no end", 0),
    ],
)
def test_damage_is_named_and_what_is_there_is_kept(value: bytes, words: str, count: int) -> None:
    table, error = table_of(value, 1)
    assert words in error
    assert table.count == count


@pytest.mark.parametrize(
    ("image", "length", "count", "words"),
    [
        (PixelDescription(4, 4, 1, 8, 3), 40, 2, "2 of 3"),
        (PixelDescription(4, 4, 1, 8, 1), 15, 0, "shorter than one frame"),
        (PixelDescription(0, 4, 1, 8, 1), 15, 0, "cannot be known"),
        (PixelDescription(4, 4, 1, 8, -1), 15, 0, "cannot be known"),
        (PixelDescription(10**15, 10**15, 10**15, 10**15, 10**15), 15, 0, "shorter"),
    ],
)
def test_native_pixel_data_that_is_not_what_it_says(
    image: PixelDescription, length: int, count: int, words: str
) -> None:
    table, error = frame_table(PixelData(0x7FE00010, 0, length), image, "")
    assert table.count == count
    assert words in error
    table.pack()


def test_video_and_objects_without_pixels_have_no_frames() -> None:
    value = item(b"") + item(b"stream") + END
    assert table_of(value, 100, uid="1.2.840.10008.1.2.4.102") == (FrameTable(), "")
    assert frame_table(None, PixelDescription(), "") == (FrameTable(), "")


@pytest.mark.parametrize("number", [0, 3, -1, 10**9])
def test_a_frame_that_does_not_exist_is_not_found(number: int) -> None:
    with pytest.raises(NotFound, match="2 readable frames"):
        FrameTable("native", 0, 8, 2).ranges(number)


def test_a_table_takes_four_bytes_a_frame() -> None:
    lengths = array("I", range(1000, 1400))
    assert len(FrameTable("encapsulated", 5000, 0, 400, lengths).pack()) < 400 * 4 + 40


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30),
    st.data(),
)
def test_packing_and_unpacking_is_the_identity(lengths: list[int], data: st.DataObject) -> None:
    firsts = data.draw(st.sets(st.integers(1, len(lengths) - 1)) if len(lengths) > 1 else st.just(set())) | {0}
    table = FrameTable("encapsulated", 7, 0, len(firsts), array("I", lengths), array("I", sorted(firsts)))
    assert FrameTable.unpack(table.pack()) == table


@given(st.binary(max_size=200))
def test_packed_noise_is_refused_or_harmless(noise: bytes) -> None:
    for packed in (noise, FrameTable("native", 1, 8, 1).pack() + noise, b"\x01\x02" + noise):
        try:
            table = FrameTable.unpack(packed)
        except InputError:
            continue
        for number in range(1, min(table.count, 20) + 1):
            table.ranges(number)


@given(st.binary(max_size=300), st.integers(-5, 2**31), st.binary(max_size=64))
@settings(max_examples=300, deadline=None)
def test_hostile_fragments_never_lead_outside_the_value(noise: bytes, frames: int, extended: bytes) -> None:
    for value in (noise, item(b"") + noise, item(noise[:8]) + item(noise[8:]) + item(b"\xff\xd8\xff") + END):
        table, _ = table_of(value, frames, extended=extended)
        for number in range(1, min(table.count, 50) + 1):
            assert all(0 <= offset <= offset + length <= len(value) for offset, length in table.ranges(number))
        assert FrameTable.unpack(table.pack()) == table


def test_a_value_of_nothing_but_item_headers_is_walked_in_bounded_steps() -> None:
    value = item(b"") * 200_000 + END
    reads = 0

    def counting(start: int, length: int) -> bytes:
        nonlocal reads
        reads += length
        return value[start : start + length]

    fragments = walk_fragments(counting, 0, len(value))
    assert len(fragments.lengths) == 199_999
    assert reads < 2 * len(value)
