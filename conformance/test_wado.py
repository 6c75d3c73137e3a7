"""Items 65 to 82: retrieving instances, metadata, bulk data and frames (PS3.18 section 10.4)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import native_xml
import pydicom
import pytest
import related
from peer import DICOM, JSON, MULTIPART_DICOM, OCTETS, XML, Peer, encoded, path_of
from pydicom import Dataset
from pydicom.encaps import encapsulate, get_frame
from studies import Collection, base, image

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
RLE, MPEG2 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100"
VIDEO_ENDOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
PIXELS, PRIVATE_BULK = "7FE00010", "00991002"


def series_of(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"


def levels(ds: Dataset) -> tuple[str, str, str]:
    return f"/studies/{ds.StudyInstanceUID}", series_of(ds), path_of(ds)


def instances(peer: Peer, path: str, accept: str = MULTIPART_DICOM) -> dict[str, Dataset]:
    response = peer.get(path, accept)
    assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:300]}"
    found = [pydicom.dcmread(BytesIO(part.body)) for part in related.read(response)]
    return {str(ds.SOPInstanceUID): ds for ds in found}


def test_item_65_study_and_series_come_as_dicom_in_explicit_little_endian(peer: Peer, held: Collection) -> None:
    """10.4.4, 8.7.3.3."""
    for path, expected in ((f"/studies/{held.study}", 5), (series_of(held.ct[0]), 3)):
        for accept in ("", MULTIPART_DICOM):
            found = instances(peer, path, accept)
            assert len(found) == expected, path
            assert {ds.file_meta.TransferSyntaxUID for ds in found.values()} == {EXPLICIT}
    (unpacked,) = instances(peer, series_of(held.compressed)).values()
    assert unpacked.file_meta.TransferSyntaxUID == EXPLICIT and len(unpacked.PixelData) == 32 * 32
    (original,) = (ds for ds in (image(base()),))
    assert unpacked.PixelData == original.PixelData


def test_item_66_any_transfer_syntax_gives_what_was_stored_unchanged(peer: Peer, held: Collection) -> None:
    """8.7.3.5.2."""
    for sent in (held.compressed, held.ct[0], held.multi_frame):
        for path in levels(sent)[1:]:
            kept = instances(peer, path, f"{MULTIPART_DICOM}; transfer-syntax=*")[sent.SOPInstanceUID]
            assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
            assert kept == pydicom.dcmread(BytesIO(encoded(sent)))


def test_item_67_implicit_little_endian_and_big_endian_are_406(peer: Peer, held: Collection) -> None:
    """8.7.3."""
    for syntax in (IMPLICIT, BIG_ENDIAN):
        for path in levels(held.ct[0]):
            response = peer.get(path, f"{MULTIPART_DICOM}; transfer-syntax={syntax}")
            assert response.status_code == 406, f"{path} in {syntax}: {response.status_code}"


def test_item_68_a_transfer_syntax_that_cannot_be_made_is_406(peer: Peer, held: Collection) -> None:
    """8.7.3.5."""
    for syntax in (MPEG2, "1.2.826.0.1.3680043.2.1143.107.68"):
        for path in levels(held.ct[0]):
            response = peer.get(path, f"{MULTIPART_DICOM}; transfer-syntax={syntax}")
            assert response.status_code == 406, f"{path} in {syntax}: {response.status_code}"


def test_item_69_an_instance_comes_as_a_single_part(peer: Peer, held: Collection) -> None:
    """10.4.4, Table 10.4.4-1 (2025a)."""
    response = peer.get(path_of(held.ct[0]), DICOM)
    assert response.status_code == 200 and response.headers["content-type"].startswith(DICOM)
    assert pydicom.dcmread(BytesIO(response.content)).PixelData == held.ct[0].PixelData


def test_item_70_a_study_or_series_as_a_single_part_is_406(peer: Peer, held: Collection) -> None:
    """10.4.4, Table 10.4.4-1."""
    for path in (f"/studies/{held.study}", series_of(held.ct[0])):
        assert peer.get(path, DICOM).status_code == 406, path


def test_item_71_metadata_is_one_json_array_at_every_level(peer: Peer, held: Collection) -> None:
    """10.4.1.1.2, Annex F.2."""
    for path, expected in zip(levels(held.ct[0]), (5, 3, 1), strict=True):
        found = peer.metadata(path)
        assert len(found) == expected, path
        for attributes in found:
            assert list(attributes) == sorted(attributes), "tags in ascending order"
            assert not any(tag.startswith("0002") and tag != "00020010" for tag in attributes)
    (attributes,) = peer.metadata(path_of(held.ct[0]))
    assert attributes["00281050"] == {"vr": "DS", "Value": [40]}


def test_item_72_metadata_comes_in_xml_in_parts(peer: Peer, held: Collection) -> None:
    """10.4.1.1.2; PS3.19 A.1."""
    for path, expected in zip(levels(held.ct[0]), (5, 3, 1), strict=True):
        response = peer.get(f"{path}/metadata", XML)
        assert response.status_code == 200, f"{path}: {response.status_code}"
        documents = [native_xml.read(part.body) for part in related.read(response)]
        assert len(documents) == expected
        assert all(document["0020000D"] == [held.study] for document in documents)


def bulk_uris(attributes: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for tag, element in attributes.items():
        if "BulkDataURI" in element:
            yield tag, element["BulkDataURI"]
        for item in element.get("Value", []) if element["vr"] == "SQ" else []:
            yield from bulk_uris(item)


def bulk_uri(peer: Peer, ds: Dataset, wanted: str) -> str:
    (attributes,) = peer.metadata(path_of(ds))
    return dict(bulk_uris(attributes))[wanted]


def octets(peer: Peer, uri: str, accept: str = OCTETS) -> bytes:
    response = peer.get(uri, accept)
    assert response.status_code == 200, f"{uri}: {response.status_code} {response.text[:300]}"
    if response.headers["content-type"].startswith("multipart/"):
        return b"".join(part.body for part in related.read(response))
    return response.content


def test_item_73_binary_values_are_there_and_every_bulk_data_uri_leads_to_them(peer: Peer, held: Collection) -> None:
    """10.4.1.1.2, Annex F.2.6."""
    for path in levels(held.ct[0]):
        for attributes in peer.metadata(path):
            has_pixels = attributes["00080060"]["Value"] != ["SR"]
            assert ("7FE00010" in attributes) == has_pixels, "pixel data is left out"
            for tag, uri in bulk_uris(attributes):
                assert octets(peer, uri), f"{tag} at {uri} is empty"
    (attributes,) = peer.metadata(path_of(held.ct[0]))
    assert {"BulkDataURI", "InlineBinary"} & set(attributes[PRIVATE_BULK])
    assert octets(peer, bulk_uri(peer, held.ct[0], PIXELS)) == held.ct[0].PixelData


def test_item_74_bulk_data_comes_in_one_part_and_in_parts(peer: Peer, held: Collection) -> None:
    """10.4.1.1.5, Table 10.4.4-1."""
    uri, expected = bulk_uri(peer, held.ct[0], PRIVATE_BULK), held.ct[0][0x00991002].value
    single = peer.get(uri, "application/octet-stream")
    assert single.status_code == 200 and single.headers["content-type"].startswith("application/octet-stream")
    assert single.content == expected
    for accept in (OCTETS, 'multipart/related; type="*/*"'):
        (part,) = related.read(peer.get(uri, accept))
        assert part.body == expected
        assert part.content_type.startswith("application/octet-stream")


def test_item_75_a_range_of_bulk_data_is_206_or_the_whole_200(peer: Peer, held: Collection) -> None:
    """10.4.1.1.5; RFC 9110 14."""
    uri, expected = bulk_uri(peer, held.ct[0], PRIVATE_BULK), held.ct[0][0x00991002].value
    response = peer.get(uri, "application/octet-stream", {"Range": "bytes=100-199"})
    if response.status_code in (400, 406):  # a server that only has it in parts
        response = peer.get(uri, OCTETS, {"Range": "bytes=100-199"})
        assert response.status_code == 200 and related.read(response)[0].body == expected
        return
    assert response.status_code in (200, 206)
    if response.status_code == 200:
        assert response.content == expected
    else:
        assert response.content == expected[100:200]
        assert response.headers["content-range"] == f"bytes 100-199/{len(expected)}"
        past = peer.get(uri, "application/octet-stream", {"Range": "bytes=999999-"})
        assert past.status_code == 416


def test_item_76_the_bulk_data_and_pixel_data_of_every_level_come_in_parts(peer: Peer, held: Collection) -> None:
    """10.4.1.1.5 and 10.4.1.1.6 (CP-2040)."""
    for path, expected in zip(levels(held.ct[0]), (4, 3, 1), strict=True):
        response = peer.get(f"{path}/pixeldata", OCTETS)
        assert response.status_code == 200, f"{path}/pixeldata: {response.status_code}"
        assert len(related.read(response)) == expected
        response = peer.get(f"{path}/bulkdata", OCTETS)
        assert response.status_code == 200, f"{path}/bulkdata: {response.status_code}"
        assert held.ct[0][0x00991002].value in [part.body for part in related.read(response)]


def frame(ds: Dataset, number: int) -> bytes:
    return bytes(ds.PixelData[(number - 1) * 1024 : number * 1024])


def test_item_77_frames_come_in_the_order_asked_for(peer: Peer, held: Collection) -> None:
    """10.4.1.1.4."""
    ds = held.multi_frame
    for numbers in ([3, 1], [1, 2, 3, 4], [2]):
        listed = ",".join(map(str, numbers))
        for form in (listed, listed.replace(",", "%2C")):
            response = peer.get(f"{path_of(ds)}/frames/{form}", OCTETS)
            assert response.status_code == 200, f"frames/{form}: {response.status_code}"
            assert [part.body for part in related.read(response)] == [frame(ds, number) for number in numbers]


def test_item_78_frames_that_are_not_there_are_404_or_400_and_always_the_same(peer: Peer, held: Collection) -> None:
    """10.4.1.1.4."""
    for number in ("0", "5", "4,5", "-1", "1.5", "one", "9" * 40):
        statuses = {peer.get(f"{path_of(held.multi_frame)}/frames/{number}", OCTETS).status_code for _ in range(2)}
        assert len(statuses) == 1 and statuses <= {400, 404}, f"frames/{number}: {statuses}"


def test_item_79_one_frame_comes_as_a_single_part(peer: Peer, held: Collection) -> None:
    """10.4.4, Table 10.4.4-1."""
    response = peer.get(f"{path_of(held.multi_frame)}/frames/2", "application/octet-stream")
    assert response.status_code == 200, response.status_code
    assert response.headers["content-type"].startswith("application/octet-stream")
    assert response.content == frame(held.multi_frame, 2)


def test_item_80_frames_come_as_viewers_ask_for_them(peer: Peer, held: Collection) -> None:
    """8.7.3.5.2; the Accept header of OHIF, without quotes."""
    accept = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    (part,) = related.read(peer.get(f"{path_of(held.ct[0])}/frames/1", accept))
    assert part.body == held.ct[0].PixelData
    response = peer.get(f"{path_of(held.compressed)}/frames/1", accept)
    assert response.status_code == 200
    (part,) = related.read(response)
    _, found = related.parameters(part.content_type)
    stored = get_frame(held.compressed.PixelData, 0, number_of_frames=1)
    plain = image(base()).PixelData
    assert part.body == (stored if found.get("transfer-syntax") == RLE else plain)


def test_item_81_frames_of_what_is_no_image_are_404_or_406(peer: Peer, held: Collection) -> None:
    """10.4.1.1.4."""
    assert peer.get(f"{path_of(held.sr)}/frames/1", OCTETS).status_code in (400, 404, 406)


def test_item_82_a_study_is_206_in_part(peer: Peer) -> None:
    """8.5, 10.4.3: of two instances one is a video, which nobody can give as Explicit VR Little Endian."""
    plain = image(base())
    video = image(base(plain, sop_class=VIDEO_ENDOSCOPIC), samples=3)
    video.PixelData = encapsulate([b"\0\0\1\xb3" + bytes(1020)])
    video["PixelData"].is_undefined_length = True
    video.file_meta.TransferSyntaxUID = MPEG2
    assert peer.store([plain, video]).status_code == 200
    response = peer.get(f"/studies/{plain.StudyInstanceUID}", f"{MULTIPART_DICOM}; transfer-syntax={EXPLICIT}")
    assert response.status_code == 206, response.status_code
    assert [pydicom.dcmread(BytesIO(part.body)) for part in related.read(response)] == [plain]


def test_item_82_what_was_deleted_is_410(peer: Peer) -> None:
    """8.5."""
    ds = image(base())
    assert peer.store([ds]).status_code == 200
    if peer.request("DELETE", f"/studies/{ds.StudyInstanceUID}").status_code not in (200, 202, 204):
        pytest.skip("this server deletes nothing")
    for path in levels(ds):
        assert peer.get(path, MULTIPART_DICOM).status_code == 410, path
        assert peer.get(f"{path}/metadata", JSON).status_code == 410, path
    assert peer.search("/studies", StudyInstanceUID=ds.StudyInstanceUID) == []
