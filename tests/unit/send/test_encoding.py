"""From a stored file to the bytes of an association."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from imaging_ai.errors import NotDicom
from imaging_ai.send.encoding import choose, dataset_of, rewritten
from imaging_ai.send.scu import contexts_for, pdus
from services.peers import CT, SEG, dataset_bytes, small_object, stored


def test_the_data_set_begins_after_the_file_meta_information(tmp_path: Path) -> None:
    data = small_object(tmp_path, SEG, "1.2.3.1").read_bytes()

    assert bytes(dataset_of(data)) == dataset_bytes(data)


def test_the_group_length_of_the_file_meta_information_is_not_needed(tmp_path: Path) -> None:
    data = small_object(tmp_path, SEG, "1.2.3.1").read_bytes()
    without = data[:132] + data[144:]

    assert bytes(dataset_of(without)) == dataset_bytes(data)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    data = small_object(tmp_path, SEG, "1.2.3.1").read_bytes()

    with pytest.raises(NotDicom, match="DICM"):
        dataset_of(dataset_bytes(data))
    with pytest.raises(NotDicom, match="cut off"):
        dataset_of(data[:170])


@pytest.mark.parametrize(
    ("stored_in", "accepted", "chosen"),
    [
        (ExplicitVRLittleEndian, {ExplicitVRLittleEndian, ImplicitVRLittleEndian}, ExplicitVRLittleEndian),
        (ImplicitVRLittleEndian, {ExplicitVRLittleEndian, ImplicitVRLittleEndian}, ImplicitVRLittleEndian),
        (ExplicitVRLittleEndian, {ImplicitVRLittleEndian}, ImplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, {ImplicitVRLittleEndian, ExplicitVRLittleEndian}, ExplicitVRLittleEndian),
        (JPEG2000Lossless, {JPEG2000Lossless, ExplicitVRLittleEndian}, JPEG2000Lossless),
        (JPEG2000Lossless, {ExplicitVRLittleEndian}, None),
        (ExplicitVRBigEndian, {ExplicitVRLittleEndian}, None),  # pixels would have to be swapped
        (ExplicitVRLittleEndian, set(), None),
    ],
)
def test_the_stored_transfer_syntax_is_preferred(stored_in: str, accepted: set[str], chosen: str | None) -> None:
    assert choose(stored_in, accepted) == chosen


@pytest.mark.parametrize("target", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_rewritten_data_set_says_the_same(tmp_path: Path, target: str) -> None:
    for transfer_syntax_uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        path = small_object(tmp_path, SEG, "1.2.3.1", transfer_syntax_uid=transfer_syntax_uid)
        meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(target) + len(target) % 2)
        head = bytes(128) + b"DICM" + meta + target.encode() + b"\0" * (len(target) % 2)

        arrived = dcmread(BytesIO(head + rewritten(path.read_bytes(), target)))

        assert arrived == dcmread(path)


def test_each_pair_of_class_and_syntax_is_proposed_once_with_what_it_can_be_rewritten_to(tmp_path: Path) -> None:
    instances = [
        stored(small_object(tmp_path, sop_class, f"1.2.3.{n}")) for n, sop_class in enumerate((CT, CT, SEG), 1)
    ]

    proposed = [(str(c.abstract_syntax), [str(uid) for uid in c.transfer_syntax]) for c in contexts_for(instances)]

    assert proposed == [
        (CT, [ExplicitVRLittleEndian]),
        (CT, [ImplicitVRLittleEndian]),
        (SEG, [ExplicitVRLittleEndian]),
        (SEG, [ImplicitVRLittleEndian]),
    ]


@pytest.mark.parametrize("size", [1, 99, 100, 101, 250])
def test_pdus_carry_everything_and_mark_the_last(size: int) -> None:
    command, payload = b"c" * 120, bytes(range(256))[:size]

    cut = list(pdus(5, command, memoryview(payload), 100))

    flags = []
    for header, fragment in cut:
        kind, _, length, pdv_length, context_id, control = struct.unpack(">BBLLBB", header)
        assert (kind, context_id) == (4, 5)
        assert length == pdv_length + 4 == len(fragment) + 6 <= 106
        flags.append(control)
    assert b"".join(bytes(fragment) for _, fragment in cut) == command + payload
    assert flags[:2] == [1, 3]
    assert flags[2:] == [0] * (len(flags) - 3) + [2]
