"""The few lines that write and read Explicit VR Little Endian agree with pydicom."""

from __future__ import annotations

import io

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from imaging_ai.encode.explicit import element, item, read_elements, read_items, sequence


def by_pydicom(ds: Dataset) -> bytes:
    """Write a data set with pydicom."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, ds)
    return buffer.getvalue()


def nested(*, undefined: bool) -> Dataset:
    """Make two frames with what a frame of a SEG has, of defined or undefined length."""
    ds = Dataset()
    ds.PerFrameFunctionalGroupsSequence = []
    for number in (1, 2):
        inner, frame = Dataset(), Dataset()
        inner.ReferencedSegmentNumber = number
        inner.ReferencedSOPInstanceUID = "1.2.3"
        frame.SegmentIdentificationSequence = [inner]
        inner.is_undefined_length_sequence_item = undefined
        frame.is_undefined_length_sequence_item = undefined
        frame["SegmentIdentificationSequence"].is_undefined_length = undefined
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    return ds


def test_what_is_written_is_what_pydicom_reads() -> None:
    inner = item(element(0x00081155, "UI", b"1.2.3"), element(0x0062000B, "US", b"\x02\x00"))
    data = sequence(0x52009230, item(sequence(0x0062000A, inner)))
    ds = read_dataset(io.BytesIO(data), is_implicit_VR=False, is_little_endian=True)
    frame = ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0]
    assert (frame.ReferencedSOPInstanceUID, frame.ReferencedSegmentNumber) == ("1.2.3", 2)


@pytest.mark.parametrize(
    ("tag", "vr", "value", "padded"),
    [
        (0x00081155, "UI", b"1.2.3", b"1.2.3\0"),
        (0x00200032, "DS", b"1\\2\\3", b"1\\2\\3 "),
        (0x00080100, "SH", b"abcd", b"abcd"),
        (0x00420011, "OB", b"abc", b"abc\0"),
    ],
)
def test_values_are_padded_as_their_representation_wants(tag: int, vr: str, value: bytes, padded: bytes) -> None:
    assert element(tag, vr, value).endswith(padded)
    assert read_elements(element(tag, vr, value), 0, len(element(tag, vr, value)))[0] == {tag: (vr, padded)}


@pytest.mark.parametrize("undefined", [False, True])
def test_what_pydicom_writes_is_read(undefined: bool) -> None:
    data = by_pydicom(nested(undefined=undefined))
    elements, end = read_elements(data, 0, len(data))
    assert end == len(data)
    vr, frames = elements[0x52009230]
    assert vr == "SQ"
    numbers = [frame[0x0062000A][1][0][0x0062000B] for frame in frames]
    assert numbers == [("US", b"\x01\x00"), ("US", b"\x02\x00")]


def test_what_ends_too_early_is_refused_wherever_it_ends() -> None:
    data = by_pydicom(nested(undefined=False))
    for end in range(1, len(data)):
        with pytest.raises(ValueError, match="longer than what holds it"):
            read_elements(data[:end], 0, len(data))


def test_what_is_no_item_is_refused() -> None:
    with pytest.raises(ValueError, match="not an item"):
        read_items(b"\x08\x00\x05\x00\x00\x00\x00\x00", 0, 8)
