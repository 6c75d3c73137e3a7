"""STOW-RS of metadata with bulk data: the instance that is made is the one that was meant."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.archive.document import make_document, reader_of
from imaging_ai.archive.shelf import shelved
from imaging_ai.db.engine import Database
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from storing import Part, ct, instance, post, reasons, uids

FAILED, REFERENCED, OTHER = "00081198", "00081199", "0008119A"
JSON, XML, BYTES = "application/dicom+json", "application/dicom+xml", "application/octet-stream"
J = "1.2.840.10008.1.2.4."


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()
    database.dispose()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient[Litestar]]:
    with storing.web(parts) as client:
        yield client


def image(**more: Any) -> tuple[Dataset, dict[str, Any]]:
    """A CT slice, and its metadata with pixel data by URI."""
    (ds,) = ct()
    ds.update(more)
    elements = ds.to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda one: f"bulk/{one.tag:08X}")
    return ds, {tag: value for tag, value in elements.items() if not tag.startswith("0002")}


def metadata(*data_sets: Mapping[str, Any]) -> Part:
    return {"Content-Type": JSON}, json.dumps(data_sets).encode()


def bulk(location: str, data: bytes, media_type: str = BYTES) -> Part:
    return {"Content-Type": media_type, "Content-Location": location}, data


def read(parts: Parts, study: str) -> Dataset:
    (one,) = shelved(parts.database, study)
    return pydicom.dcmread(io.BytesIO(parts.archive.read(one)))


def bare(ds: Dataset, *without: str) -> Dataset:
    """A data set without File Meta Information, and without these elements."""
    return Dataset({element.tag: element for element in ds if element.keyword not in without})


# -- what is made


def test_json_with_pixel_data_is_stored_as_dicom(client: TestClient[Litestar], parts: Parts) -> None:
    ds, elements = image()
    answer = post(client, [metadata(elements), bulk("bulk/7FE00010", ds.PixelData)], of_type=JSON)
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [ds.SOPInstanceUID])
    found = read(parts, ds.StudyInstanceUID)
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert found.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert bare(found) == bare(ds)


def test_xml_with_pixel_data_is_stored_as_dicom(client: TestClient[Litestar], parts: Parts) -> None:
    ds, elements = image()
    sent = [({"Content-Type": XML}, to_xml(elements)), bulk("bulk/7FE00010", ds.PixelData)]
    answer = post(client, sent, of_type=XML)
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [ds.SOPInstanceUID])
    assert bare(read(parts, ds.StudyInstanceUID)) == bare(ds)


def test_several_instances_in_one_array_and_bulk_data_before_it(client: TestClient[Litestar], parts: Parts) -> None:
    datasets = ct(3)
    all_elements, bulks = [], []
    for number, ds in enumerate(datasets):
        elements = ds.to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda _: f"pixels/{number}")  # noqa: B023
        all_elements.append(elements)
        bulks.append(bulk(f"pixels/{number}", ds.PixelData))
    answer = post(client, [*bulks, metadata(*all_elements)], of_type=JSON)
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [ds.SOPInstanceUID for ds in datasets])
    assert len(shelved(parts.database, ds.StudyInstanceUID)) == 3


def test_a_single_part_of_json_has_its_values_inline(client: TestClient[Litestar], parts: Parts) -> None:
    (ds,) = ct()
    body = json.dumps([ds.to_json_dict(bulk_data_threshold=1 << 30)]).encode()
    answer = client.post("/dicom-web/studies", content=body, headers={"Content-Type": JSON})
    assert answer.status_code == 200
    assert bare(read(parts, ds.StudyInstanceUID)) == bare(ds)


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("http://server.local:8080/dicom-web/studies/1/bulk", "studies/1/bulk"),
        ("studies/1/bulk", "http://server.local:8080/dicom-web/studies/1/bulk"),
        ("/dicom-web/studies/1/bulk", "studies/1/bulk"),
        ("urn:uuid:1", "urn:uuid:1"),
        ("cid:<1@x>", "cid:<1@x>"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_bulk_data_is_found_by_the_same_address(client: TestClient[Litestar], uri: str, location: str) -> None:
    ds, elements = image()
    elements["7FE00010"]["BulkDataURI"] = uri
    assert post(client, [metadata(elements), bulk(location, ds.PixelData)], of_type=JSON).status_code == 200


def test_bulk_data_in_sequences_and_of_any_kind(client: TestClient[Litestar], parts: Parts) -> None:
    ds, elements = image()
    item = {"54001010": {"vr": "OW", "BulkDataURI": "wave"}, "003A0005": {"vr": "US", "Value": [1]}}
    elements["54000100"] = {"vr": "SQ", "Value": [item, {}]}
    elements["00420011"] = {"vr": "OB", "BulkDataURI": "pdf"}
    sent = [
        metadata(elements),
        bulk("bulk/7FE00010", ds.PixelData),
        bulk("wave", b"wave"),
        bulk("pdf", b"%PDF-", "application/pdf"),
    ]
    assert post(client, sent, of_type=JSON).status_code == 200
    found = read(parts, ds.StudyInstanceUID)
    assert found.WaveformSequence[0].WaveformData == b"wave"
    assert (len(found.WaveformSequence), found.EncapsulatedDocument) == (2, b"%PDF-\0")


def test_text_beyond_ascii_is_stored_in_unicode_whatever_the_metadata_claim(
    client: TestClient[Litestar], parts: Parts
) -> None:
    ds, elements = image()
    elements["00080005"] = {"vr": "CS", "Value": ["ISO_IR 100"]}
    elements["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg", "Ideographic": "山田^太郎"}]}
    elements["00081030"] = {"vr": "LO", "Value": ["Schädel", None, "é"]}
    post(client, [metadata(elements), bulk("bulk/7FE00010", ds.PixelData)], of_type=JSON)
    found = read(parts, ds.StudyInstanceUID)
    assert (found.SpecificCharacterSet, str(found.PatientName)) == ("ISO_IR 192", "Müller^Jörg=山田^太郎")
    assert list(found.StudyDescription) == ["Schädel", "", "é"]


#: Real objects of many kinds that ship with pydicom.
FILES = ["CT_small", "MR_small", "rtplan", "rtdose", "test-SR", "waveform_ecg", "liver_1frame", "JPEG2000"]
FILES += [
    "SC_rgb_rle_2frame",
    "SC_rgb_jpeg_dcmtk",
    "MR_small_RLE",
    "examples_palette",
]


@pytest.mark.parametrize("name", FILES)
def test_what_this_server_says_of_an_instance_makes_the_same_instance(
    client: TestClient[Litestar], parts: Parts, name: str
) -> None:
    """Metadata as WADO-RS gives it, with the bulk data behind its URIs, comes back as what it was made of."""
    path = get_testdata_file(f"{name}.dcm", download=False)
    assert path is not None
    data = Path(path).read_bytes()
    ds = pydicom.dcmread(io.BytesIO(data))
    document = make_document(reader_of(data), len(data), ds.SOPInstanceUID)
    syntax = ds.file_meta.TransferSyntaxUID
    sent = [({"Content-Type": JSON}, b"[%b]" % document.json)]
    for value in document.bulk:
        location = f"instances/{ds.SOPInstanceUID}/bulkdata/{value.path}"
        if value.encapsulated:
            frames = generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1)))
            sent += [bulk(location, frame, f'{BYTES}; transfer-syntax="{syntax}"') for frame in frames]
        else:
            sent.append(bulk(location, data[value.offset : value.offset + value.length]))
    answer = post(client, sent, of_type=JSON)
    assert answer.status_code == 200, answer.text
    found = read(parts, ds.StudyInstanceUID)
    stored = parts.archive.read(shelved(parts.database, ds.StudyInstanceUID)[0])
    again = make_document(reader_of(stored), len(stored), ds.SOPInstanceUID)
    assert json.loads(again.json) == json.loads(document.json)
    if "PixelData" in ds:
        count = int(ds.get("NumberOfFrames", 1))
        if syntax.is_compressed:
            pairs = zip(*(generate_frames(one.PixelData, number_of_frames=count) for one in (found, ds)), strict=True)
            assert all(one.rstrip(b"\0") == other.rstrip(b"\0") for one, other in pairs)
            assert found.file_meta.TransferSyntaxUID == syntax
        else:
            assert found.PixelData == ds.PixelData


# -- compressed pixel data


def compressed(kind: str, colour: bool = False) -> tuple[bytes, np.ndarray[Any, Any]]:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    pixels = np.stack([pixels] * 3, axis=-1) if colour else pixels
    encode = {
        "jpeg": lambda: imagecodecs.jpeg8_encode(pixels, level=90),
        "jpeg lossless": lambda: imagecodecs.ljpeg_encode(pixels),
        "jls": lambda: imagecodecs.jpegls_encode(pixels),
        "jls near": lambda: imagecodecs.jpegls_encode(pixels, level=2),
        "jp2": lambda: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        "jp2 lossy": lambda: imagecodecs.jpeg2k_encode(pixels, level=40, reversible=False, codecformat="j2k"),
        "jphc": lambda: imagecodecs.htj2k_encode(pixels, reversible=True),
    }
    return bytes(encode[kind]()), pixels


@pytest.mark.parametrize(
    ("kind", "media_type", "syntax"),
    [
        ("jpeg", "image/jpeg", J + "50"),
        ("jls", "image/jls", J + "80"),
        ("jls near", "image/jls", J + "81"),
        ("jp2", "image/jp2", J + "90"),
        ("jp2 lossy", "image/jp2", J + "91"),
        ("jphc", "image/jphc", J + "201"),
        ("jp2", f'image/jp2; transfer-syntax="{J}91"', J + "91"),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_a_compressed_frame_is_encapsulated_and_says_what_the_metadata_leave_out(
    client: TestClient[Litestar], parts: Parts, kind: str, media_type: str, syntax: str, colour: bool
) -> None:
    codestream, pixels = compressed(kind, colour)
    ds, elements = image()
    described = [tag for tag in elements if tag.startswith("0028") and tag <= "00280103"]
    elements = {tag: value for tag, value in elements.items() if tag not in described}
    answer = post(client, [metadata(elements), bulk("bulk/7FE00010", codestream, media_type)], of_type=JSON)
    assert answer.status_code == 200, answer.text
    found = read(parts, ds.StudyInstanceUID)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert next(generate_frames(found.PixelData, number_of_frames=1)).rstrip(b"\0") == codestream.rstrip(b"\0")
    size = (found.Rows, found.Columns, found.SamplesPerPixel, found.BitsAllocated, found.BitsStored, found.HighBit)
    assert size == (8, 8, 3 if colour else 1, 8, 8, 7)
    assert found.PixelRepresentation == 0
    if not colour:
        assert found.PhotometricInterpretation == "MONOCHROME2"
    decoded = parts.archive.read(shelved(parts.database, ds.StudyInstanceUID)[0])
    from imaging_ai.archive.codecs import open_frames

    shown = open_frames(decoded).decode(1, rgb=colour)
    assert np.abs(shown.astype(int) - pixels.astype(int)).max() <= (
        0 if kind in ("jls", "jp2", "jphc") and "91" not in media_type else 16
    )


def test_several_parts_of_one_location_are_frames_in_their_order(client: TestClient[Litestar], parts: Parts) -> None:
    frames = [imagecodecs.jpegls_encode(np.full((8, 8), shade, np.uint8)) for shade in (1, 2, 3)]
    ds, elements = image()
    elements["00280008"] = {"vr": "IS", "Value": [3]}
    sent = [metadata(elements), *(bulk("bulk/7FE00010", frame, "image/jls") for frame in frames)]
    assert post(client, sent, of_type=JSON).status_code == 200
    found = read(parts, ds.StudyInstanceUID)
    assert [one.rstrip(b"\0") for one in generate_frames(found.PixelData)] == [one.rstrip(b"\0") for one in frames]


def test_native_frames_may_come_in_parts_too(client: TestClient[Litestar], parts: Parts) -> None:
    ds, elements = image()
    elements["00280008"] = {"vr": "IS", "Value": [2]}
    sent = [metadata(elements), bulk("bulk/7FE00010", ds.PixelData), bulk("bulk/7FE00010", bytes(len(ds.PixelData)))]
    assert post(client, sent, of_type=JSON).status_code == 200
    assert read(parts, ds.StudyInstanceUID).PixelData == ds.PixelData + bytes(len(ds.PixelData))


def test_a_video_of_many_frames_is_one_stream(client: TestClient[Litestar], parts: Parts) -> None:
    ds, elements = image()
    elements["00280008"] = {"vr": "IS", "Value": ["250"]}
    sent = [metadata(elements), bulk("bulk/7FE00010", b"moving pictures!", "video/mp4")]
    assert post(client, sent, of_type=JSON).status_code == 200
    assert read(parts, ds.StudyInstanceUID).file_meta.TransferSyntaxUID == J + "102"


def test_frames_that_are_too_few_fail_the_instance(client: TestClient[Litestar]) -> None:
    ds, elements = image()
    elements["00280008"] = {"vr": "IS", "Value": [3]}
    sent = [metadata(elements), bulk("bulk/7FE00010", compressed("jls")[0], "image/jls")]
    answer = post(client, sent, of_type=JSON)
    assert (answer.status_code, uids(answer, FAILED), reasons(answer)) == (409, [ds.SOPInstanceUID], [0xC000])


@pytest.mark.parametrize("said", ["image/tiff", 'image/jpeg; transfer-syntax="1.2.840.10008.1.2.5"'])
def test_pixel_data_in_no_transfer_syntax_fails_the_instance(client: TestClient[Litestar], said: str) -> None:
    _, elements = image()
    answer = post(client, [metadata(elements), bulk("bulk/7FE00010", b"II*\0", said)], of_type=JSON)
    assert (answer.status_code, reasons(answer)) == (409, [0xC122])


# -- what fails alone, and what is refused


def test_missing_bulk_data_fails_its_instance_only(client: TestClient[Litestar], parts: Parts) -> None:
    first, second = ct(2)
    elements = [
        ds.to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda _: f"pixels/{ds.InstanceNumber}")  # noqa: B023
        for ds in (first, second)
    ]
    answer = post(client, [metadata(*elements), bulk("pixels/1", first.PixelData)], of_type=JSON)
    assert (answer.status_code, uids(answer, REFERENCED)) == (202, [first.SOPInstanceUID])
    assert (uids(answer, FAILED), reasons(answer)) == ([second.SOPInstanceUID], [0xC000])
    assert len(shelved(parts.database, first.StudyInstanceUID)) == 1


def test_bulk_data_that_nothing_names_is_told(client: TestClient[Litestar]) -> None:
    ds, elements = image()
    sent = [metadata(elements), bulk("bulk/7FE00010", ds.PixelData), bulk("other", b"x")]
    answer = post(client, sent, of_type=JSON)
    assert (answer.status_code, reasons(answer, OTHER)) == (202, [0xC000])


def test_instances_and_metadata_may_come_together(client: TestClient[Litestar]) -> None:
    ds, elements = image()
    (other,) = ct(1, "other")
    sent = [instance(phantoms.to_bytes(other)), metadata(elements), bulk("bulk/7FE00010", ds.PixelData)]
    answer = post(client, sent)
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [other.SOPInstanceUID, ds.SOPInstanceUID])


def test_metadata_of_another_study_is_not_stored(client: TestClient[Litestar]) -> None:
    ds, elements = image()
    answer = post(client, [metadata(elements), bulk("bulk/7FE00010", ds.PixelData)], "1.2.3", of_type=JSON)
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><NativeDicomModel>&b;</NativeDicomModel>'


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (JSON, b"{"),
        (JSON, b"[]"),
        (JSON, b"[" * 100_000),
        (JSON, b'[{"00400275":' * 2_000),
        (JSON, b'{"a": "\\ud800"}'),
        (JSON, b"\xff\xfe"),
        (XML, b"<NativeDicomModel>"),
        (XML, BOMB),
        (XML, b"not XML"),
    ],
)
def test_metadata_that_cannot_be_read_is_400(client: TestClient[Litestar], kind: str, document: bytes) -> None:
    answer = client.post("/dicom-web/studies", content=document, headers={"Content-Type": kind})
    assert answer.status_code in (400, 409)
    assert post(client, [({"Content-Type": kind}, document)], of_type=kind).status_code == answer.status_code


def nested(depth: int) -> Any:
    value: Any = {"vr": "SQ", "Value": []}
    for _ in range(depth):
        value = {"vr": "SQ", "Value": [{"00400275": value}]}
    return value


@pytest.mark.parametrize(
    ("tag", "element"),
    [
        ("0010001", {"vr": "LO"}),
        ("PatientName", {"vr": "PN"}),
        ("00100010", {"vr": "XX"}),
        ("00100010", {}),
        ("00100010", "Doe"),
        ("00100010", {"vr": "PN", "Value": ["Doe^John"]}),
        ("00100010", {"vr": "PN", "Value": [{"Alphabetic": 1}]}),
        ("00100020", {"vr": "LO", "Value": "x"}),
        ("00100020", {"vr": "LO", "Value": [1]}),
        ("00280010", {"vr": "US", "Value": [65_536]}),
        ("00280010", {"vr": "US", "Value": [-1]}),
        ("00280010", {"vr": "US", "Value": ["x"]}),
        ("00280010", {"vr": "US", "Value": [True]}),
        ("00280010", {"vr": "US", "Value": [None]}),
        ("00189073", {"vr": "FD", "Value": ["x"]}),
        ("00189073", {"vr": "FL", "Value": [1e300]}),
        ("00280009", {"vr": "AT", "Value": ["x"]}),
        ("00280009", {"vr": "AT", "Value": [5]}),
        ("00420011", {"vr": "OB", "InlineBinary": "%"}),
        ("00420011", {"vr": "OB", "InlineBinary": 5}),
        ("00420011", {"vr": "OB", "Value": [1]}),
        ("00420011", {"vr": "OB", "BulkDataURI": 5}),
        ("00400275", {"vr": "SQ", "BulkDataURI": "x"}),
        ("00400275", {"vr": "SQ", "Value": [1]}),
        ("00400275", {"vr": "SQ", "Value": {}}),
        ("00400275", nested(40)),
        ("00081030", {"vr": "LO", "Value": ["x" * 70_000]}),
    ],
)
def test_an_element_that_is_none_fails_its_instance_and_names_no_value(
    client: TestClient[Litestar], tag: str, element: Any
) -> None:
    ds, elements = image()
    broken = {**elements, tag: element, "00080018": {"vr": "UI", "Value": ["1.2.3"]}}
    answer = post(client, [metadata(broken, elements), bulk("bulk/7FE00010", ds.PixelData)], of_type=JSON)
    assert (answer.status_code, uids(answer, FAILED), reasons(answer)) == (202, ["1.2.3"], [0xC000])
    assert uids(answer, REFERENCED) == [ds.SOPInstanceUID]


@pytest.mark.parametrize(
    "document", [[5], [{}], [None], [{"00080018": 5}], [{"00080016": {"vr": "UI", "Value": ["x"]}}]]
)
def test_metadata_of_nobody_is_another_failure(client: TestClient[Litestar], document: list[Any]) -> None:
    answer = post(client, [metadata(*document)], of_type=JSON)
    assert (answer.status_code, reasons(answer, OTHER)) == (409, [0xC000])


@pytest.mark.parametrize(
    ("vr", "values", "expected"),
    [
        (
            "DS",
            [0.1, 1, "3.50", 1 / 3, -1.23456789012345e-10, None],
            b"0.1\\1\\3.50\\0.33333333333333\\-1.234567890e-10\\ ",
        ),
        ("IS", [1, "2", -3], b"1\\2\\-3"),
        ("FD", [1.5, "NaN", "-Infinity"], None),
        ("UI", ["1.2.3"], b"1.2.3\0"),
        ("AT", ["00280010"], b"\x28\0\x10\0"),
        ("SV", [-(2**63)], b"\0" * 7 + b"\x80"),
        ("UV", [str(2**64 - 1)], b"\xff" * 8),
        ("UT", ["a long text"], b"a long text "),
        ("LO", [], b""),
    ],
)
def test_values_are_encoded_as_their_vr_has_them(vr: str, values: list[Any], expected: bytes | None) -> None:
    from imaging_ai.archive.from_json import encode_elements

    (data,) = encode_elements({"00091010": {"vr": vr, "Value": values}}, lambda *_: pytest.fail("no bulk data"))
    assert isinstance(data, bytes)
    value = data[12 if vr in ("SV", "UV", "UT") else 8 :]
    if expected is not None:
        assert value == expected
    else:
        assert np.frombuffer(value, "<f8").tolist()[0] == 1.5


def test_inline_binary_may_be_any_vr() -> None:
    from imaging_ai.archive.from_json import encode_elements

    elements = {"00091010": {"vr": "UN", "InlineBinary": base64.b64encode(b"odd").decode()}}
    (data,) = encode_elements(elements, lambda *_: pytest.fail("no bulk data"))
    assert isinstance(data, bytes) and data.endswith(b"\x04\0\0\0odd\0")
