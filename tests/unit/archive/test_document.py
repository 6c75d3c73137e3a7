"""Documents: held against pydicom on every real file, and against hostile bytes."""

from __future__ import annotations

import io
import json
import math
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from imaging_ai.archive.document import (
    Document,
    inflate,
    located,
    make_document,
    pack_bulk,
    pack_json,
    reader_of,
    unpack_bulk,
    unpack_json,
)
from imaging_ai.errors import InputError, NotDicom

UID_OF_TEST = "1.2.3.4"
FOLDERS = ["syntaxes", "ct-liver-seg", "ct-gantry-tilt", "mr-head-t1", "ct-abdomen-slab", "ct-abdomen-3mm", "sts"]


def document_of(data: bytes) -> Document:
    return make_document(reader_of(data), len(data), UID_OF_TEST)


def parsed(document: Document) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(document.json)
    return loaded


def file_of(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    ds.file_meta.MediaStorageSOPInstanceUID = UID(UID_OF_TEST)
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(target, enforce_file_format=True)
    return target.getvalue()


def raw_file(body: bytes, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """A file whose data set is exactly `body`."""
    return file_of(Dataset(), transfer_syntax_uid) + body


def element(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OW", "SQ", "UN", "UT", "OV", "UC", "UR"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def expected(ds: Dataset) -> dict[str, Any]:
    """What pydicom makes of it; what it has no JSON for is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ds.to_json_dict(
            bulk_data_threshold=1368, bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True
        )


def differences(ours: dict[str, Any], theirs: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every difference that is not one of these: group lengths (F.2.2 forbids them), the character set (we say
    UTF-8, which it is), null for an empty value among several (F.2.5), and values that pydicom gives up on."""
    for tag in sorted(ours.keys() | theirs.keys()):
        if tag.endswith("0000") or tag == "00080005":
            continue
        mine, other = ours.get(tag), theirs.get(tag)
        if mine is None:
            yield f"{path}{tag} is missing"
        elif other is None:
            if mine["vr"] not in ("UI", "DS", "SH", "OW"):
                yield f"{path}{tag} {mine['vr']} is too much"
        elif mine["vr"] == other["vr"] == "SQ":
            assert len(mine["Value"]) == len(other.get("Value", []))
            for number, (item, their_item) in enumerate(zip(mine["Value"], other["Value"], strict=True), 1):
                yield from differences(item, their_item, f"{path}{tag}/{number}/")
        elif ("BulkDataURI" in mine) != ("BulkDataURI" in other):
            yield f"{path}{tag} differs in being bulk"
        elif "BulkDataURI" not in mine and nulled(mine) != nulled(other):
            yield f"{path}{tag} {mine['vr']}: other value"


def nulled(attribute: dict[str, Any]) -> dict[str, Any]:
    if attribute["vr"] in ("LO", "CS", "SH") and len(attribute.get("Value", [])) > 1:
        return {**attribute, "Value": [value or None for value in attribute["Value"]]}
    return attribute


def real_files(folder: Path) -> list[Path]:
    """The DICOM files below a folder; of a large one, every twentieth."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("LICENSE", "README.md")]
    dicom = [path for path in files if path.suffix in (".dcm", "") or path.read_bytes()[128:132] == b"DICM"]
    return dicom if len(dicom) < 60 else dicom[::20] + [path for path in dicom if path.name == "RS.dcm"][:3]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_real_file_says_what_pydicom_says_and_its_bulk_data_lies_where_it_says(
    real_data: Path, folder: str
) -> None:
    compared = 0
    for path in real_files(real_data / folder):
        data = path.read_bytes()
        try:
            document = document_of(data)
        except NotDicom:
            assert path.name not in ("", "RS.dcm") and path.suffix != ".dcm"
            continue
        if path.name == "emri_small_jpeg_2k_lossless_too_short.dcm":
            assert document.error == "the encapsulated pixel data has no end"
            assert len(parsed(document)) > 100  # pydicom gives nothing at all
            continue
        assert document.error == "", path.name
        ds = pydicom.dcmread(path, force=True)
        assert list(differences(parsed(document), expected(ds))) == [], path.name
        for bulk in document.bulk:
            assert data[bulk.offset : bulk.offset + bulk.length].startswith(value_at(ds, bulk.path)), bulk.path
        compared += 1
    assert compared > 3


def value_at(ds: Dataset, path: str) -> bytes:
    *levels, tag = path.split("/")
    for sequence, number in zip(levels[::2], levels[1::2], strict=True):
        ds = ds[int(sequence, 16)].value[int(number) - 1]
    value = ds[int(tag, 16)].value
    assert isinstance(value, bytes)
    return value[: len(value) - len(value) % 2]


def test_keys_ascend_and_group_lengths_are_left_out() -> None:
    body = element(0x00100020, "LO", b"ID") + element(0x00080000, "UL", b"\0\0\0\0") + element(0x00080060, "CS", b"CT")
    assert list(parsed(document_of(raw_file(body)))) == ["00080060", "00100020"]


def test_a_tag_that_comes_twice_is_one_key_with_the_last_value() -> None:
    body = element(0x00100020, "LO", b"A ") + element(0x00100020, "LO", b"B ")
    document = document_of(raw_file(body))
    assert document.json == b'{"00100020":{"vr":"LO","Value":["B"]}}'


@pytest.mark.parametrize(
    ("character_set", "encoded", "name"),
    [
        (b"ISO_IR 100", "Müller^Jürgen".encode("latin-1"), {"Alphabetic": "Müller^Jürgen"}),
        (b"ISO_IR 192", "Łukasz^Żółć".encode(), {"Alphabetic": "Łukasz^Żółć"}),
        (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), {"Alphabetic": "Люкceмбypг"}),
        (
            b"GB18030",
            "Wang^XiaoDong=王^小东".encode("gb18030"),
            {"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小东"},
        ),
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"},
        ),
        (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=", {"Alphabetic": "ﾔﾏﾀﾞ^ﾀﾛｳ"}),
        (b"NO_SUCH_SET", b"Plain^Name", {"Alphabetic": "Plain^Name"}),
        (b"ISO_IR 192", b"Bad\xff^Bytes", {"Alphabetic": "Bad\ufffd^Bytes"}),
    ],
)
def test_text_of_every_character_set_becomes_utf8_with_its_name_groups(
    character_set: bytes, encoded: bytes, name: dict[str, str]
) -> None:
    padded = encoded + b" " * (len(encoded) % 2)
    body = element(0x00080005, "CS", character_set) + element(0x00100010, "PN", padded)
    found = parsed(document_of(raw_file(body)))
    assert found["00100010"] == {"vr": "PN", "Value": [name]}
    assert found["00080005"]["Value"] == ["ISO_IR 192"]


def test_escape_sequences_that_were_not_declared_cost_no_time_and_no_warnings() -> None:
    value = b"\x1bX" * 20_000
    body = element(0x00080005, "CS", b"ISO 2022 IR 6\\ISO 2022 IR 87") + element(0x00091001, "UT", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parsed(document_of(raw_file(body)))["00091001"]["Value"] == [value.decode()]


def test_text_without_a_declared_set_that_is_not_ascii_gets_the_character_set_it_now_has() -> None:
    found = parsed(document_of(raw_file(element(0x00081030, "LO", b"Sch\xe4del "))))
    assert found == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00081030": {"vr": "LO", "Value": ["Schädel"]},
    }


def test_the_character_set_of_an_item_ends_with_the_item() -> None:
    inner = element(0x00080005, "CS", b"ISO_IR 144") + element(0x00080104, "LO", "Ж ".encode("iso8859_5"))
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
    body = element(0x00080005, "CS", b"ISO_IR 100") + element(0x00081032, "SQ", item)
    body += element(0x00081030, "LO", b"\xe4 ")
    found = parsed(document_of(raw_file(body)))
    assert found["00081032"]["Value"][0]["00080104"]["Value"] == ["Ж"]
    assert found["00081030"]["Value"] == ["ä"]


@pytest.mark.parametrize(
    ("vr", "value", "expected_values"),
    [
        ("DS", b"1.50\\-2e3 \\.5\\+7", [1.5, -2000.0, 0.5, 7.0]),
        ("DS", b"1.5\\nonsense\\", [1.5, "nonsense", None]),
        ("DS", b"NaN ", ["NaN"]),
        ("DS", b"1_0 ", ["1_0"]),
        ("DS", b"1e999 ", ["1e999"]),
        ("IS", b"+7\\007\\-3", [7, 7, -3]),
        ("IS", b"12.0", [12]),
        ("IS", b"99999999999999999999", ["99999999999999999999"]),
        ("FD", struct.pack("<3d", math.nan, math.inf, -math.inf), ["NaN", "Infinity", "-Infinity"]),
        ("FL", struct.pack("<f", 0.5), [0.5]),
        ("AT", b"\x10\x00\x20\x00\x08\x00\x05\x00", ["00100020", "00080005"]),
        ("US", b"\x01\x00\x02", [1]),
        ("SS", b"\xff\xff", [-1]),
        ("LO", b"a\\\\b ", ["a", None, "b"]),
        ("LT", b"  keeps\\its backslash ", ["  keeps\\its backslash"]),
        ("UI", b"1.2.3\0", ["1.2.3"]),
        ("CS", b" ORIGINAL\\PRIMARY", ["ORIGINAL", "PRIMARY"]),
        ("LO", b'quote" \x07 ', ['quote" \x07']),
    ],
)
def test_values_come_out_as_the_standard_and_our_docstring_say(
    vr: str, value: bytes, expected_values: list[Any]
) -> None:
    found = parsed(document_of(raw_file(element(0x00091001, vr, value))))
    assert found["00091001"] == {"vr": vr, "Value": expected_values}


def test_decimal_strings_keep_their_digits() -> None:
    assert b'"Value":[0.10,1.0]' in document_of(raw_file(element(0x00280030, "DS", b"0.10\\1.0"))).json


@pytest.mark.parametrize("vr", ["LO", "PN", "DS", "US", "OB", "AT", "SQ"])
def test_an_empty_element_has_a_vr_and_no_value(vr: str) -> None:
    found = parsed(document_of(raw_file(element(0x00091001, vr, b""))))["00091001"]
    assert found == ({"vr": "SQ", "Value": []} if vr == "SQ" else {"vr": vr})


@pytest.mark.parametrize(
    "transfer_syntax_uid",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_every_encoding_of_one_data_set_gives_one_document(transfer_syntax_uid: str) -> None:
    found = parsed(document_of(file_of(a_rich_data_set(), transfer_syntax_uid)))
    reference = parsed(document_of(file_of(a_rich_data_set(), ExplicitVRLittleEndian)))
    assert found == reference


def a_rich_data_set() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPInstanceUID = UID_OF_TEST
    ds.PatientName = "Müller^J"
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    ds.add_new(0x00280103, "US", 1)
    ds.add_new(0x00280106, "SS", -5)
    ds.FrameIncrementPointer = 0x00181063
    item = Dataset()
    item.CodeValue = "T-1"
    item.add_new(0x00189004, "CS", "X")
    inner = Dataset()
    inner.add_new(0x00081155, "UI", "1.2.3")
    item.ReferencedImageSequence = [inner, Dataset()]
    ds.AnatomicRegionSequence = [item]
    ds["AnatomicRegionSequence"].is_undefined_length = True
    return ds


def test_big_endian_words_come_out_little_endian() -> None:
    ds = Dataset()
    ds.add_new(0x00281201, "OW", b"\x01\x02\x03\x04")
    found = parsed(document_of(file_of(ds, ExplicitVRBigEndian)))["00281201"]
    assert found == {"vr": "OW", "InlineBinary": "AgEEAw=="}


def test_large_binary_is_bulk_data_by_a_path_that_names_its_item_and_pixel_data_always_is() -> None:
    ds = Dataset()
    item, second = Dataset(), Dataset()
    second.add_new(0x54001010, "OW", b"\x07\x00" * 1000)
    ds.add_new(0x54000100, "SQ", [item, second])
    ds.Rows = ds.Columns = 2
    ds.BitsAllocated = 8
    ds.add_new(0x7FE00010, "OB", b"abcd")
    data = file_of(ds)
    document = document_of(data)
    found = parsed(document)
    assert found["7FE00010"]["BulkDataURI"] == "instances/1.2.3.4/bulkdata/7FE00010"
    nested = found["54000100"]["Value"][1]["54001010"]
    assert nested == {"vr": "OW", "BulkDataURI": "instances/1.2.3.4/bulkdata/54000100/2/54001010"}
    ranges = {bulk.path: data[bulk.offset : bulk.offset + bulk.length] for bulk in document.bulk}
    assert ranges == {"54000100/2/54001010": b"\x07\x00" * 1000, "7FE00010": b"abcd"}
    assert unpack_bulk(pack_bulk(document.bulk)) == document.bulk


def test_text_cannot_forge_a_bulk_data_uri() -> None:
    forged = b'","BulkDataURI":"instances/x'
    document = document_of(raw_file(element(0x00081030, "LO", forged)))
    assert b'"BulkDataURI":"' not in document.json
    assert parsed(document)["00081030"]["Value"] == [forged.decode()]


def test_contours_stay_inline_however_long() -> None:
    contour = b"\\".join(b"%d.125" % number for number in range(60_000))
    document = document_of(raw_file(element(0x30060050, "UT", contour).replace(b"UT", b"UN", 1)))
    assert document.error == ""
    ds = Dataset()
    ds.add_new(0x30060050, "DS", [f"{number}.125" for number in range(60_000)])
    assert len(parsed(document_of(file_of(ds, ImplicitVRLittleEndian)))["30060050"]["Value"]) == 60_000


def test_an_unknown_vr_that_has_a_long_length_is_un() -> None:
    body = struct.pack("<HH2sHI", 0x0009, 0x1001, b"ZZ", 0, 4) + b"abcd" + element(0x00100020, "LO", b"ID")
    found = parsed(document_of(raw_file(body)))
    assert found["00091001"] == {"vr": "UN", "InlineBinary": "YWJjZA=="}
    assert found["00100020"]["Value"] == ["ID"]


def test_un_of_undefined_length_is_an_implicit_sequence() -> None:
    inner = struct.pack("<HHI", 0x0008, 0x0100, 4) + b"CODE"
    value = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner + b"\xfe\xff\xdd\xe0\0\0\0\0"
    body = struct.pack("<HH2sHI", 0x0040, 0x0555, b"UN", 0, 0xFFFFFFFF) + value + element(0x00400556, "ST", b"ok")
    found = parsed(document_of(raw_file(body)))
    assert found["00400555"] == {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["CODE"]}}]}
    assert found["00400556"]["Value"] == ["ok"]


def test_damage_inside_a_sequence_of_known_length_costs_only_that_sequence() -> None:
    broken = (
        b"\xfe\xff\x00\xe0" + struct.pack("<I", 16) + element(0x00080100, "SH", b"A ")[:-2] + b"\xff\xff" + b"garbage!"
    )
    body = element(0x00081032, "SQ", broken[:20]) + element(0x00100020, "LO", b"ID")
    document = document_of(raw_file(body))
    assert "00081032" in document.error
    assert parsed(document)["00100020"]["Value"] == ["ID"]


def test_an_item_that_is_cut_short_keeps_what_it_has() -> None:
    inner = element(0x00080096, "SQ", b"") + element(0x00080104, "LO", b"kept")
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner) + 50) + inner
    document = document_of(raw_file(element(0x00081032, "SQ", item)))
    assert "cut short" in document.error
    assert parsed(document)["00081032"]["Value"][0]["00080104"]["Value"] == ["kept"]


def test_nesting_without_end_is_an_error_and_no_crash() -> None:
    level = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    document = document_of(raw_file(element(0x00080060, "CS", b"SR") + level * 5_000))
    assert "deeper than 64" in document.error
    assert parsed(document)["00080060"]["Value"] == ["SR"]


def test_a_truncated_file_gives_what_is_whole_and_a_position(real_data: Path) -> None:
    data = (real_data / "syntaxes" / "emri_small.dcm").read_bytes()
    whole = parsed(document_of(data))
    for size in range(700, len(data), 997):
        document = document_of(data[:size])
        assert document.error or parsed(document).keys() < whole.keys()  # cut between two elements: cannot be told
        assert "00080016" in parsed(document)
        assert all(bulk.offset + bulk.length <= size for bulk in document.bulk)


def test_error_texts_hold_no_values() -> None:
    body = element(0x00100010, "PN", b"Secret^Name ") + element(0x00100020, "LO", b"Secret")[:-2]
    error = document_of(raw_file(body)).error
    assert error
    assert "Secret" not in error


def test_a_deflate_bomb_is_cut_at_the_limit() -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(64)) + engine.flush()
    tracemalloc.start()
    data, error = inflate(bomb, limit=2 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) == 2 << 20
    assert "more than" in error
    assert peak < 12 << 20


def test_a_damaged_deflated_data_set_gives_its_beginning() -> None:
    data = file_of(a_rich_data_set(), DeflatedExplicitVRLittleEndian)
    document = document_of(data[:-20])
    assert "cut short" in document.error
    assert "00080018" in parsed(document)
    assert "7FE00010" not in parsed(document)


@pytest.mark.parametrize("data", [b"", b"x" * 500, b"\0" * 128 + b"DICM", b"\0" * 1000])
def test_what_is_no_dicom_is_refused(data: bytes) -> None:
    with pytest.raises(NotDicom):
        document_of(data)


def test_pixel_data_is_not_read(real_data: Path) -> None:
    data = (real_data / "syntaxes" / "RG3_J2KR.dcm").read_bytes() + bytes(20 << 20)
    read = 0

    def counting(start: int, length: int) -> bytes:
        nonlocal read
        read += min(length, max(len(data) - start, 0))
        return data[start : start + length]

    small = (real_data / "syntaxes" / "RG3_J2KR.dcm").stat().st_size
    document = make_document(counting, small, UID_OF_TEST)
    assert document.frames.count == 1
    assert read < 300_000 < small


def test_a_data_set_longer_than_a_window_is_read_window_by_window() -> None:
    ds = Dataset()
    for number in range(3_000):
        ds.add_new(0x00091000 + number % 0xF00 + (number // 0xF00 << 17), "LO", f"value {number} " * 3)
    ds.add_new(0x00420011, "OB", bytes(5 << 20))
    items = []
    for number in range(4_000):
        item = Dataset()
        item.add_new(0x00080104, "LO", f"item {number} in a sequence")
        items.append(item)
    ds.add_new(0x00540016, "SQ", items)
    ds["00540016"].is_undefined_length = True
    data = file_of(ds)
    document = document_of(data)
    assert document.error == ""
    assert list(differences(parsed(document), expected(pydicom.dcmread(io.BytesIO(data))))) == []
    assert [(bulk.path, bulk.length) for bulk in document.bulk] == [("00420011", 5 << 20)]


def test_an_icon_with_encapsulated_pixels_inside_a_sequence_is_skipped_whole() -> None:
    icon = element(0x00280010, "US", b"\x01\x00")
    icon += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    icon += b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x04\0\0\0abcd" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(icon)) + icon
    data = raw_file(element(0x00880200, "SQ", item) + element(0x00100020, "LO", b"ID"), RLELossless)
    document = document_of(data)
    assert document.error == ""
    assert [bulk.path for bulk in document.bulk] == ["00880200/1/7FE00010"]
    assert document.frames.count == 0
    assert parsed(document)["00100020"]["Value"] == ["ID"]


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_after_a_good_start_give_a_document_or_not_dicom(noise: bytes) -> None:
    for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless):
        check_hostile(raw_file(element(0x00080060, "CS", b"CT") + noise, uid))


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_real_headers_with_flipped_bytes_give_a_document_or_not_dicom(real_data: Path, data: st.DataObject) -> None:
    names = [
        "emri_small.dcm",
        "emri_small_RLE.dcm",
        "bad_sequence.dcm",
        "emri_small_big_endian.dcm",
        "liver_deflate.dcm",
    ]
    original = bytearray((real_data / "syntaxes" / data.draw(st.sampled_from(names))).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(132, min(len(original) - 1, 6_000)))] = data.draw(st.integers(0, 255))
    check_hostile(bytes(original))


def check_hostile(data: bytes) -> None:
    try:
        document = document_of(data)
    except NotDicom:
        return
    parsed(document)
    for bulk in document.bulk:
        assert 0 <= bulk.offset <= bulk.offset + bulk.length <= len(data)
    for number in range(1, min(document.frames.count, 50) + 1):
        for offset, length in document.frames.ranges(number):
            assert 0 <= offset <= offset + length <= len(data)
    assert type(document.frames).unpack(document.frames.pack()) == document.frames


def test_a_bulk_table_that_is_none_is_refused() -> None:
    with pytest.raises(InputError):
        unpack_bulk(b"nonsense")


@pytest.mark.parametrize("pack", [pack_json, zlib.compress], ids=["as it is stored", "as it was stored before"])
def test_a_stored_document_comes_back_with_the_address_of_its_series(pack: Callable[[bytes], bytes]) -> None:
    ds = Dataset()
    ds.ImageComments = 'a \0 b "BulkDataURI":"c\\'
    ds.add_new(0x00091010, "OB", bytes(5_000))
    ds.add_new(0x7FE00010, "OB", bytes(12))
    json_bytes = document_of(file_of(ds)).json
    assert unpack_json(pack(json_bytes)) == json_bytes
    placed = json.loads(unpack_json(pack(json_bytes), b"http://server/series/1/"))
    assert placed == json.loads(located(json_bytes, b"http://server/series/1/"))
    assert placed["00204000"] == json.loads(json_bytes)["00204000"]
    for tag in ("7FE00010", "00091010"):
        assert placed[tag]["BulkDataURI"] == f"http://server/series/1/instances/{UID_OF_TEST}/bulkdata/{tag}"
