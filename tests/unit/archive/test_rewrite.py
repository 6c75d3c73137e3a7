"""Writing a data set again: other heads, the same values, wherever they are nested."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from imaging_ai.archive.document import reader_of
from imaging_ai.archive.rewrite import Encoding, rewritten
from imaging_ai.errors import NotDicom

IMPLICIT, BIG, EXPLICIT = Encoding(False), Encoding(True, True), Encoding()


def encoded(ds: Dataset, encoding: Encoding, *, undefined: bool = False) -> bytes:
    """A data set in an encoding, by pydicom."""
    target = DicomBytesIO()
    target.is_little_endian, target.is_implicit_VR = not encoding.big_endian, not encoding.explicit
    for element in ds.iterall() if undefined else ():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    write_dataset(target, ds)
    return target.getvalue()


def rewrite(data: bytes, encoding: Encoding, **options: Any) -> bytes:
    return b"".join(rewritten(reader_of(data), 0, len(data), encoding, **options))


def data_set() -> Dataset:
    """One element of nearly every VR, at two levels."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PatientName, ds.PatientAge, ds.PatientComments = "Müller^Änne", "042Y", "text " * 40
    ds.Rows, ds.PixelRepresentation, ds.SmallestImagePixelValue = 512, 1, -5
    ds.PixelSpacing, ds.InstanceNumber = ["0.5", "0.25"], 7
    ds.FrameIncrementPointer = 0x00181063
    ds.SimpleFrameList = [1, 70000]
    ds.RealWorldValueSlope, ds.RecommendedDisplayFrameRateInFloat = 0.1, 2.5
    ds.RedPaletteColorLookupTableData = bytes(range(64))
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", 1000)
    unknown = ds.private_block(0x0029, "NOBODY KNOWS", create=True)
    unknown.add_new(0x01, "UN", b"\x01\x02\x03\x04")
    item, inner = Dataset(), Dataset()
    inner.SmallestImagePixelValue, inner.LongCodeValue = -3, "x" * 20
    item.PixelRepresentation, item.ReferencedImageSequence, item.Columns = 1, [inner, Dataset()], 3
    ds.RequestAttributesSequence = [item]
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("encoding", [IMPLICIT, BIG, EXPLICIT])
def test_every_vr_comes_as_pydicom_would_write_it(encoding: Encoding, undefined: bool) -> None:
    ds = data_set()
    if encoding.big_endian:  # pydicom writes the words of OW as they are given
        ds.RedPaletteColorLookupTableData = np.frombuffer(bytes(range(64)), "u2").byteswap().tobytes()
    assert rewrite(encoded(ds, encoding, undefined=undefined), encoding) == encoded(data_set(), EXPLICIT)


def test_real_headers_keep_every_value(real_data: Path) -> None:
    for name in ("mr-head-t1/N2D_0001.dcm", "ct-liver-seg/01.dcm"):
        ds = pydicom.dcmread(real_data / name, stop_before_pixels=True)
        raw = encoded(ds, IMPLICIT)
        again = pydicom.dcmread(io.BytesIO(rewrite(raw, IMPLICIT)), force=True)
        for element in ds:
            if element.tag.element:
                assert again[element.tag].value == element.value


def test_long_values_pass_in_pieces() -> None:
    ds = Dataset()
    ds.EncapsulatedDocument = bytes(range(256)) * 20_000
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    for encoding in (IMPLICIT, BIG):
        data = encoded(ds, encoding)
        asked: list[int] = []

        def read(start: int, length: int, data: bytes = data, asked: list[int] = asked) -> bytes:
            asked.append(length)
            return data[start : start + length]

        given = b"".join(rewritten(read, 0, len(data), encoding))
        assert given == encoded(ds, EXPLICIT)
        assert max(asked) <= 1 << 20


def test_text_too_long_for_its_vr_becomes_un() -> None:
    ds = Dataset()
    ds.ImageComments = "x" * 10
    data = encoded(ds, IMPLICIT).replace(b"\x0a\0\0\0xxxxxxxxxx", (70_000).to_bytes(4, "little") + b"x" * 70_000)
    given = pydicom.dcmread(io.BytesIO(b"\x08\0\x05\0CS\0\0" + rewrite(data, IMPLICIT)), force=True)
    assert given.get_item(0x00204000).VR in ("UN", "LT")
    assert b"".join(rewritten(reader_of(data), 0, len(data), IMPLICIT))[4:6] == b"UN"


def test_edits_take_the_place_of_what_is_there_come_between_and_remove() -> None:
    ds = Dataset()
    ds.Rows, ds.Columns, ds.BitsStored = 1, 2, 8
    new = Dataset()
    new.Columns, new.BitsAllocated, new.PixelRepresentation = 9, 16, 0
    edits = {int(element.tag): encoded(Dataset({element.tag: element}), EXPLICIT) for element in new}
    given = rewrite(encoded(ds, IMPLICIT), IMPLICIT, edits={**edits, 0x00280101: b""})
    wanted = Dataset()
    wanted.Rows, wanted.Columns, wanted.BitsAllocated, wanted.PixelRepresentation = 1, 9, 16, 0
    assert given == encoded(wanted, EXPLICIT)


def test_a_sequence_without_vrs_inside_explicit_ones_gets_them() -> None:
    inner = Dataset()
    inner.Rows = 5
    body = encoded(inner, IMPLICIT)
    item = b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body
    data = b"\x40\x00\x75\x02UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    given = pydicom.dcmread(io.BytesIO(rewrite(data, EXPLICIT)), force=True)
    assert given.RequestAttributesSequence[0].Rows == 5


def test_a_sequence_larger_than_a_window_is_whole() -> None:
    item = Dataset()
    item.LongCodeValue = "y" * 100

    def large() -> Dataset:
        ds = Dataset()
        ds.RequestAttributesSequence = [copy.copy(item) for _ in range(3_000)]
        return ds

    data = encoded(large(), IMPLICIT, undefined=True)
    assert len(data) > 1 << 18
    assert rewrite(data, IMPLICIT) == encoded(large(), EXPLICIT)


@pytest.mark.parametrize("encoding", [IMPLICIT, EXPLICIT, BIG])
def test_cut_data_sets_raise_and_nothing_else_happens(encoding: Encoding) -> None:
    data = encoded(data_set(), encoding, undefined=True)
    raised = 0
    for length in range(len(data)):
        try:
            rewrite(data[:length], encoding)
        except NotDicom:
            raised += 1
    assert raised > len(data) // 2


def test_endless_nesting_is_refused() -> None:
    data = b"\x40\x00\x75\x02\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 500
    with pytest.raises(NotDicom, match="nested deeper"):
        rewrite(data, IMPLICIT)
