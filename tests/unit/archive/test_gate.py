"""The gate reads headers as pydicom does, and refuses what cannot be an instance."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

import phantoms
from imaging_ai.archive import gate
from imaging_ai.errors import NotDicom

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def instance(name: str = "gate") -> Dataset:
    return phantoms.series(np.zeros((1, 4, 4), np.float32), name=name)[0]


def encoded(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return phantoms.to_bytes(ds)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


@pytest.mark.parametrize("transfer_syntax_uid", SYNTAXES)
def test_the_header_is_read_in_every_encoding(transfer_syntax_uid: str) -> None:
    header = gate.scan(encoded(instance(), transfer_syntax_uid))
    assert header.transfer_syntax_uid == transfer_syntax_uid
    assert header.patient_name == "Phantom^Test"
    assert (header.modality, header.rows, header.columns, header.instance_number) == ("CT", 4, 4, 1)
    assert header.image_type == "ORIGINAL\\PRIMARY\\AXIAL"
    assert header.number_of_frames is None


def test_every_real_file_says_what_pydicom_says(real_data: Path) -> None:
    chosen = sorted((real_data / "syntaxes").glob("*.dcm"))
    chosen += [sorted(folder.rglob("*.dcm"))[0] for folder in sorted(real_data.iterdir()) if any(folder.rglob("*.dcm"))]
    compared = 0
    for path in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = gate.scan(path.read_bytes())
            except NotDicom:
                continue
            ds = dcmread(path, stop_before_pixels=True)
            for tag, (field, kind) in gate._WANTED.items():
                if field:
                    assert getattr(header, field) == expected(ds, tag, kind), f"{path.name}: {field}"
            compared += 1
    assert compared >= 30


def expected(ds: Dataset, tag: int, kind: str) -> object:
    read = ds.get(tag)
    value = None if read is None else read.value
    if kind in ("int", "short"):
        return None if value in (None, "") else int(value)
    if value is None:
        return ""
    return "\\".join(map(str, value)) if read.VM > 1 else str(value).strip(" \0")


def test_a_damaged_real_file_is_refused(real_data: Path) -> None:
    with pytest.raises(NotDicom, match="cut short"):
        gate.scan((real_data / "syntaxes" / "emri_small_jpeg_2k_lossless_too_short.dcm").read_bytes())


@pytest.mark.parametrize("transfer_syntax_uid", SYNTAXES)
def test_a_data_set_that_is_cut_anywhere_is_refused(transfer_syntax_uid: str) -> None:
    whole = encoded(instance(), transfer_syntax_uid)
    start = gate.dataset_offset(whole)
    boundaries = 0
    for end in range(start, len(whole) - 1, 3):
        try:
            gate.scan(whole[:end])
        except NotDicom:
            continue
        boundaries += 1  # cut between two elements after the last that is required: a shorter, whole data set
    assert boundaries < (len(whole) - start) / 3 / 4


def test_only_the_beginning_of_a_large_instance_is_needed() -> None:
    whole = encoded(instance())
    head = whole[:-20]
    assert gate.scan(head, size=len(whole)).rows == 4
    with pytest.raises(NotDicom, match="cut short"):
        gate.scan(head, size=len(whole) - 10)


def test_sequences_are_stepped_over_in_every_form() -> None:
    for undefined_sequence in (False, True):
        for undefined_item in (False, True):
            for transfer_syntax_uid in SYNTAXES:
                ds = instance()
                item = Dataset()
                item.CodeValue = "inside"
                item.Modality = "XX"
                inner = Dataset()
                inner.PatientID = "inside"
                item.PurposeOfReferenceCodeSequence = Sequence([inner])
                ds.AnatomicRegionSequence = Sequence([item, Dataset()])
                ds.AnatomicRegionSequence.is_undefined_length = undefined_sequence
                for one in ds.AnatomicRegionSequence:
                    one.is_undefined_length_sequence_item = undefined_item
                header = gate.scan(encoded(ds, transfer_syntax_uid))
                assert (header.modality, header.patient_id) == ("CT", "PHANTOM")


def test_sequences_nested_without_end_are_refused() -> None:
    nested = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(NotDicom, match="nested"):
        gate.scan(nested * 5000, ExplicitVRLittleEndian)


def test_a_declared_length_is_not_believed() -> None:
    huge = struct.pack("<HH2sHI", 8, 0x0005, b"UN", 0, 0xFFFFFFF0)
    with pytest.raises(NotDicom, match="cut short"):
        gate.scan(huge + bytes(100), ExplicitVRLittleEndian)


def test_a_deflate_bomb_is_not_inflated() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    whole = encoded(instance())
    pixels = struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, 0xF0000000)
    deflated = bomb.compress(whole[gate.dataset_offset(whole) :] + pixels)
    for _ in range(300):
        deflated += bomb.compress(bytes(1 << 20))
    header = gate.scan(deflated, DeflatedExplicitVRLittleEndian)
    assert header.rows == 4


def test_a_deflated_data_set_that_is_cut_or_damaged_is_refused() -> None:
    whole = encoded(instance(), DeflatedExplicitVRLittleEndian)
    with pytest.raises(NotDicom, match="cut short"):
        gate.scan(whole[:-30])
    with pytest.raises(NotDicom, match="damaged"):
        gate.scan(whole[:400] + b"\xff" * 200)


@pytest.mark.parametrize(
    ("character_set", "value", "text"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg".encode(), "Müller^Jörg"),
        ("ISO_IR 144", "Иванов".encode("iso8859_5"), "Иванов"),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        ("KLINGON", "Müller".encode("latin-1"), "Müller"),
        ("", "Müller".encode(), "Müller"),
    ],
)
def test_names_are_decoded_and_no_character_set_is_a_reason_to_refuse(
    character_set: str, value: bytes, text: str
) -> None:
    ds = bytearray(encoded(instance()))
    start = gate.dataset_offset(ds)
    charset = character_set.encode() + b" " * (len(character_set) % 2)
    name = value + b" " * (len(value) % 2)
    ds = ds.replace(element(8, 5, b"CS", b"ISO_IR 192"), element(8, 5, b"CS", charset))
    ds = ds.replace(element(0x10, 0x10, b"PN", b"Phantom^Test"), element(0x10, 0x10, b"PN", name))
    assert gate.scan(bytes(ds[start:]), ExplicitVRLittleEndian).patient_name == text


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2/3", "1.2\\3", "1..2", "a.b", "", "1." + "2" * 64])
def test_a_uid_that_is_none_is_refused(uid: str) -> None:
    ds = instance()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del ds[0x0020000E]
        data = phantoms.to_bytes(ds)
        position = data.index(struct.pack("<HH", 0x20, 0x10))
        value = uid.encode() + b"\0" * (len(uid) % 2)
        data = data[:position] + element(0x20, 0x0E, b"UI", value) + data[position:]
    with pytest.raises(NotDicom, match="Series Instance UID"):
        gate.scan(data)


@pytest.mark.parametrize("garbage", [b"", b"x", b"\0" * 500, b"DICM" * 100, b"%PDF-1.7" * 100, bytes(128) + b"DICM"])
def test_what_is_not_dicom_is_refused(garbage: bytes) -> None:
    with pytest.raises(NotDicom):
        gate.scan(garbage)
    with pytest.raises(NotDicom):
        gate.scan(garbage, ExplicitVRLittleEndian)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
def test_no_bytes_make_it_fail_otherwise(data: bytes, transfer_syntax_uid: str) -> None:
    try:
        gate.scan(data, transfer_syntax_uid)
    except NotDicom:
        return


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_makes_it_fail_otherwise(data: st.DataObject) -> None:
    whole = bytearray(encoded(instance(), data.draw(st.sampled_from(SYNTAXES))))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        gate.scan(bytes(whole))
    except NotDicom:
        return
