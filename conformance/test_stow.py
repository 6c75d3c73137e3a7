"""Items 16 to 36: storing (PS3.18 section 10.5, Annex I)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import httpx
import native_xml
import pydicom
import pytest
import related
from peer import DICOM, JSON, MULTIPART_DICOM, Peer, encoded, items, path_of, value
from pydicom import Dataset
from pydicom.uid import generate_uid
from related import Part
from studies import base, image

STORED, FAILED = "00081199", "00081198"
CLASS, INSTANCE, RETRIEVE_URL = "00081150", "00081155", "00081190"
FAILURE_REASON, WARNING_REASON = "00081197", "00081196"
EXPLICIT = "1.2.840.10008.1.2.1"

Option = Callable[[str], str]


def fresh(of: Dataset | None = None, **more: str) -> Dataset:
    return image(base(of, **more))


def uids(response: httpx.Response, tag: str) -> set[str]:
    return {value(item, INSTANCE) for item in items(response, tag)}


def failure(response: httpx.Response) -> int:
    (item,) = items(response, FAILED)
    return int(value(item, FAILURE_REASON))


def test_item_16_what_was_stored_is_listed_with_class_uid_and_retrieve_url(peer: Peer) -> None:
    """10.5.3; Annex I.2."""
    first = fresh()
    second = fresh(first)
    response = peer.store([first, second])
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(JSON)
    listed = {value(item, INSTANCE): item for item in items(response, STORED)}
    assert set(listed) == {first.SOPInstanceUID, second.SOPInstanceUID}
    for ds in (first, second):
        assert value(listed[ds.SOPInstanceUID], CLASS) == ds.SOPClassUID
        assert value(listed[ds.SOPInstanceUID], RETRIEVE_URL).endswith(path_of(ds))


def test_item_17_an_instance_of_another_study_is_refused_with_a_failure_reason(peer: Peer) -> None:
    """10.5.2: stored under the study of the path, or not at all."""
    ds = fresh()
    response = peer.store([ds], study=generate_uid())
    assert response.status_code == 409, response.status_code
    assert uids(response, FAILED) == {ds.SOPInstanceUID} and failure(response)
    assert not peer.holds(ds)


def test_item_18_some_stored_and_some_failed_is_202_and_lists_both(peer: Peer) -> None:
    """10.5.3, Table 10.5.3-1."""
    good, other = fresh(), fresh()
    response = peer.store([good, other], study=good.StudyInstanceUID)
    assert response.status_code == 202, response.status_code
    assert uids(response, STORED) == {good.SOPInstanceUID}
    assert uids(response, FAILED) == {other.SOPInstanceUID} and failure(response)
    assert peer.holds(good) and not peer.holds(other)


def test_item_19_good_parts_beside_an_unreadable_one_are_stored(peer: Peer) -> None:
    """10.5.3."""
    first = fresh()
    second = fresh(first)
    peer.stored.add(first.StudyInstanceUID)
    parts = [Part(DICOM, encoded(first)), Part(DICOM, b"this is no DICOM file"), Part(DICOM, encoded(second))]
    response = peer.store_parts(parts, DICOM)
    assert response.status_code == 202, response.status_code
    assert uids(response, STORED) == {first.SOPInstanceUID, second.SOPInstanceUID}
    assert peer.holds(first) and peer.holds(second)


def test_item_20_nothing_stored_is_409(peer: Peer) -> None:
    """10.5.3, Table 10.5.3-1."""
    response = peer.store_parts([Part(DICOM, b"this is no DICOM file")], DICOM)
    assert response.status_code == 409, response.status_code


def test_item_21_a_malformed_body_or_a_missing_boundary_is_400_and_nothing_is_stored(peer: Peer) -> None:
    """8.6.1.2; RFC 2046 5.1.1."""
    ds = fresh()
    body, content_type = related.write([Part(DICOM, encoded(ds))], DICOM)
    for wrong_body, wrong_type in (
        (body, 'multipart/related; type="application/dicom"'),
        (body, content_type.replace("conformance-boundary", "another-boundary")),
        (body[: len(body) // 2], content_type),
        (b"no parts at all", content_type),
    ):
        response = peer.post("/studies", wrong_body, wrong_type)
        expected = (400,) if "boundary" in wrong_type else (400, 415)
        assert response.status_code in expected, f"{response.status_code} for {wrong_type} of {len(wrong_body)} bytes"
        assert not peer.holds(ds)


def test_item_22_the_same_instance_twice_is_200_and_one_copy(peer: Peer) -> None:
    """10.5.3."""
    ds = fresh()
    assert [peer.store([ds]).status_code for _ in range(2)] == [200, 200]
    assert len(peer.search(f"/studies/{ds.StudyInstanceUID}/instances")) == 1
    both = peer.store([ds, ds])
    assert both.status_code == 200 and len(peer.search(f"/studies/{ds.StudyInstanceUID}/instances")) == 1


def test_item_23_other_content_under_the_same_uid_is_refused_or_replaces_and_says_which(peer: Peer) -> None:
    """10.5.3; Annex I.2."""
    first = fresh(ImageComments="the first")
    second = deepcopy(first)
    second.ImageComments = "the second"
    peer.store([first])
    response = peer.store([second])
    kept = peer.instance(path_of(first)).ImageComments
    if response.status_code == 200:
        warned = value(items(response, STORED)[0], WARNING_REASON)
        assert kept == "the second" or warned, "200 without a warning, and the first content stays"
    else:
        assert response.status_code in (202, 409) and failure(response) and kept == "the first"


def in_parts(ds: Dataset, *, bulk: bool = True) -> tuple[dict[str, Any], list[Part]]:
    """A data set as metadata and a part for its pixels."""
    attributes = json.loads(ds.to_json(bulk_data_threshold=1 << 30))
    attributes["7FE00010"] = {"vr": "OB", "BulkDataURI": f"pixels/{ds.SOPInstanceUID}"}
    octets = f"application/octet-stream; transfer-syntax={EXPLICIT}"
    part = Part(octets, ds.PixelData, {"Content-Location": f"pixels/{ds.SOPInstanceUID}"})
    return attributes, [part] if bulk else []


def is_stored_as_dicom(peer: Peer, ds: Dataset) -> None:
    kept = peer.instance(path_of(ds))
    assert kept.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert kept.PixelData == ds.PixelData
    assert kept.PatientName == ds.PatientName and kept.Rows == ds.Rows
    assert kept.ReferencedImageSequence[0].ReferencedSOPClassUID == ds.SOPClassUID


def described() -> Dataset:
    """An instance with values of several kinds."""
    ds = fresh(PatientName="Größe^Käthe", SpecificCharacterSet="ISO_IR 192")
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, generate_uid()
    ds.ReferencedImageSequence = [reference]
    ds.PixelSpacing, ds.ImageComments = [0.5, 0.25], "less < and & more"
    return ds


def test_item_24_xml_metadata_with_bulk_data_is_stored_as_dicom(peer: Peer) -> None:
    """10.5.2, 8.7.3.2; PS3.19 A.1."""
    ds = described()
    peer.stored.add(ds.StudyInstanceUID)
    attributes, bulk = in_parts(ds)
    metadata = Part("application/dicom+xml", native_xml.write(attributes))
    response = peer.store_parts([metadata, *bulk], "application/dicom+xml")
    assert response.status_code == 200, response.text[:500]
    is_stored_as_dicom(peer, ds)


def test_item_25_json_metadata_with_bulk_data_is_stored_as_dicom(peer: Peer) -> None:
    """10.5.2, 8.7.3.2; Annex F."""
    ds = described()
    peer.stored.add(ds.StudyInstanceUID)
    attributes, bulk = in_parts(ds)
    attributes["00420011"] = {"vr": "OB", "InlineBinary": base64.b64encode(b"inline").decode()}
    metadata = Part(JSON, json.dumps([attributes]).encode())
    response = peer.store_parts([metadata, *bulk], JSON)
    assert response.status_code == 200, response.text[:500]
    is_stored_as_dicom(peer, ds)
    assert peer.instance(path_of(ds)).EncapsulatedDocument == b"inline"


def test_item_26_an_instance_whose_bulk_data_is_missing_fails_and_others_go_through(peer: Peer) -> None:
    """10.5.2, 10.5.3."""
    whole, cut = described(), described()
    peer.stored.update((whole.StudyInstanceUID, cut.StudyInstanceUID))
    (first, pixels), (second, _) = in_parts(whole), in_parts(cut, bulk=False)
    metadata = Part(JSON, json.dumps([first, second]).encode())
    response = peer.store_parts([metadata, *pixels], JSON)
    assert response.status_code == 202, response.text[:500]
    assert uids(response, STORED) == {whole.SOPInstanceUID} and uids(response, FAILED) == {cut.SOPInstanceUID}
    assert not peer.holds(cut)
    is_stored_as_dicom(peer, whole)


def test_item_27_a_single_part_of_dicom_is_stored(peer: Peer) -> None:
    """Beyond the standard (10.5.2 asks for multipart)."""
    ds = fresh()
    peer.stored.add(ds.StudyInstanceUID)
    response = peer.post("/studies", encoded(ds), DICOM)
    assert response.status_code == 200, response.text[:500]
    assert uids(response, STORED) == {ds.SOPInstanceUID} and peer.holds(ds)


def test_item_28_plain_text_is_415(peer: Peer) -> None:
    """8.5, 10.5.2."""
    assert peer.post("/studies", b"hello", "text/plain").status_code == 415
    body, content_type = related.write([Part("text/plain", b"hello")], "text/plain")
    assert peer.post("/studies", body, content_type).status_code == 415


def test_item_29_an_empty_body_is_400(peer: Peer) -> None:
    """8.5."""
    _, content_type = related.write([], DICOM)
    assert peer.post("/studies", b"", content_type).status_code == 400
    assert peer.post("/studies", b"", "").status_code in (400, 415)


def test_item_30_the_answer_comes_in_xml_when_asked_for(peer: Peer) -> None:
    """10.5.3.3, 8.7.3."""
    ds = fresh()
    response = peer.store([ds], accept="application/dicom+xml")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/dicom+xml")
    root = ElementTree.fromstring(response.content)
    assert STORED in {attribute.attrib.get("tag") for attribute in root}
    assert ds.SOPInstanceUID in response.text


def test_item_31_an_unsupported_sop_class_fails_alone_with_0122(peer: Peer) -> None:
    """Annex I.2.2, Table I.2-2."""
    good, odd = fresh(), fresh()
    odd.SOPClassUID = "1.2.826.0.1.3680043.2.1143.107.122"
    response = peer.store([good, odd])
    if response.status_code == 200:
        pytest.skip("this server takes every SOP class")
    assert response.status_code == 202 and uids(response, STORED) == {good.SOPInstanceUID}
    assert failure(response) == 0x0122


def test_item_32_what_is_coerced_is_told_and_what_is_not_told_is_not_coerced(peer: Peer) -> None:
    """Annex I.2.2; PS3.3 C.12.1.1.9."""
    ds = fresh(PatientSex="M", InstitutionName="  spaces  ", AccessionNumber="x" * 20)
    response = peer.store([ds])
    assert response.status_code in (200, 202)
    (item,) = items(response, STORED)
    kept, sent = peer.instance(path_of(ds)), pydicom.dcmread(BytesIO(encoded(ds)))
    changed = [element.keyword for element in sent if kept.get(element.tag) != element]
    if changed:
        assert value(item, WARNING_REASON) == 0xB000, f"coerced without a word: {changed}"
        assert "OriginalAttributesSequence" in kept or "04000561" in item


def test_item_33_a_body_over_the_limit_is_413_and_leaves_no_half_study(peer: Peer, option: Option) -> None:
    """8.5."""
    megabytes = float(option("--limit-mb"))
    ds = fresh()
    head = encoded(ds)

    def body() -> Iterator[bytes]:
        whole, _ = related.write([Part(DICOM, head)], DICOM)
        yield whole[: -len(b"\r\n--conformance-boundary--\r\n")]
        for _ in range(int(megabytes) + 2):
            yield bytes(1 << 20)
        yield b"\r\n--conformance-boundary--\r\n"

    _, content_type = related.write([], DICOM)
    assert peer.post("/studies", body(), content_type).status_code == 413
    assert not peer.holds(ds)


def test_item_34_a_chunked_body_without_a_length_is_stored(peer: Peer) -> None:
    """RFC 9112 7.1."""
    ds = fresh()
    peer.stored.add(ds.StudyInstanceUID)
    body, content_type = related.write([Part(DICOM, encoded(ds))], DICOM)
    response = peer.post("/studies", (body[start : start + 100] for start in range(0, len(body), 100)), content_type)
    assert "content-length" not in response.request.headers
    assert response.status_code == 200, response.text[:500]
    assert peer.holds(ds)


def test_item_35_what_was_acknowledged_is_found_and_retrieved_at_once(peer: Peer) -> None:
    """Beyond the standard."""
    for _ in range(5):
        ds = fresh()
        assert peer.store([ds]).status_code == 200
        assert peer.search("/studies", StudyInstanceUID=ds.StudyInstanceUID)
        assert peer.search("/instances", SOPInstanceUID=ds.SOPInstanceUID)
        assert peer.get(f"/studies/{ds.StudyInstanceUID}", MULTIPART_DICOM).status_code == 200


def test_item_36_the_retrieve_url_works_from_outside(peer: Peer) -> None:
    """10.5.3.3, Annex I.2: Retrieve URL (0008,1190)."""
    ds = fresh()
    response = peer.store([ds])
    url = value(items(response, STORED)[0], RETRIEVE_URL)
    assert url.startswith((peer.public_url or peer.url) + "/studies/"), url
    parts = related.read(peer.get(url, MULTIPART_DICOM))
    assert len(parts) == 1 and ds.SOPInstanceUID.encode() in parts[0].body
    study = value(json.loads(response.content), RETRIEVE_URL)
    assert study is None or peer.get(study, MULTIPART_DICOM).status_code == 200
