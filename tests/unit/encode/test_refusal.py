"""The report that a series was not assessed: valid, about everything that was looked for, with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from highdicom.sr import srread
from pydicom import Dataset, dcmread

import encoded
from imaging_ai.core.finding import Code
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check, encode_refusal
from imaging_ai.infer.volume import read_headers
from others import dciodvfy_errors

TARGETS = [("Lesion", Code("52988006", "SCT", "Lesion")), ("Liver", Code("10200004", "SCT", "Liver"))]
WHY = "the model does not read this series: 3 slices, at least 16 are needed"


@pytest.fixture(scope="module")
def volume() -> Volume:
    return encoded.phantom_volume((8, 11, 9))


@pytest.fixture(scope="module")
def report(volume: Volume) -> EncodedObject:
    return encode_refusal(
        volume, TARGETS, WHY, encoded.MODEL, job_uid=encoded.JOB_UID, created_at=encoded.CREATED_AT, remark="shadow"
    )


def groups(ds: Dataset) -> list[Dataset]:
    (container,) = (item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(container.ContentSequence)


def said(group: Dataset) -> dict[str, str]:
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: (
            item.ConceptCodeSequence[0].CodeMeaning if item.ValueType == "CODE" else str(item.get("TextValue", ""))
        )
        for item in group.ContentSequence
    }


def test_everything_that_was_looked_for_is_named_as_not_done_with_the_reason(report: EncodedObject) -> None:
    ds = dcmread(io.BytesIO(report.data))
    assert ds.SeriesDescription.endswith("SR not assessed shadow")
    told = [said(group) for group in groups(ds)]
    assert [one["Finding"] for one in told] == ["Lesion", "Liver"]
    assert {one["Presence of property"] for one in told} == {"Not done"}
    assert {one["Comment"] for one in told} == {f"Not assessed because {WHY}"}


def test_it_passes_our_own_check_and_that_of_others(report: EncodedObject, volume: Volume, tmp_path: Path) -> None:
    check(report, volume)
    assert srread(io.BytesIO(report.data)).content.get_image_measurement_groups() != []
    (tmp_path / "sr.dcm").write_bytes(report.data)
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_the_same_refusal_is_the_same_object(report: EncodedObject, volume: Volume) -> None:
    again = encode_refusal(
        volume, TARGETS, WHY, encoded.MODEL, job_uid=encoded.JOB_UID, created_at=encoded.CREATED_AT, remark="shadow"
    )
    assert bytes(again.data) == bytes(report.data)


def test_it_is_made_of_a_series_that_is_no_volume(volume: Volume) -> None:
    headers = read_headers([volume.headers[0], b"nothing that is DICOM"])
    assert headers is not None and len(headers.headers) == 1
    one = encode_refusal(headers, TARGETS, WHY, encoded.MODEL, job_uid="1.2.3", created_at=encoded.CREATED_AT)
    check(one, headers)
    assert read_headers([b"nothing that is DICOM"]) is None
