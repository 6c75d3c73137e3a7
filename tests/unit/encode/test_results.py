"""What all objects of a job share: patient, study, equipment, times, identifiers, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check, encode_results
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume


def test_the_same_job_makes_the_same_bytes(objects: dict[str, EncodedObject], volume: Volume) -> None:
    again = encoded.encode_all(volume)
    assert {kind: obj.data for kind, obj in again.items()} == {kind: obj.data for kind, obj in objects.items()}


def test_another_job_makes_other_instances_in_other_series(objects: dict[str, EncodedObject], volume: Volume) -> None:
    other = encoded.encode(volume, job_uid=derive_uid("test", "another job"))
    for kind, obj in other.items():
        assert obj.sop_instance_uid != objects[kind].sop_instance_uid
        assert obj.series_instance_uid != objects[kind].series_instance_uid


@pytest.mark.parametrize("kind", ["SEG", "SR", "KO"])
def test_every_object_stays_in_the_study_and_says_who_made_it(
    objects: dict[str, EncodedObject], volume: Volume, kind: str
) -> None:
    ds, source = encoded.read(objects[kind]), volume.headers[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert ds[keyword].value == source[keyword].value
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    assert ds.SeriesDescription == f"Lesion finder 1.2.0 {kind}"
    assert ds.ContentQualification == "RESEARCH"
    acquisition, processing = ds.ContributingEquipmentSequence
    assert acquisition.ManufacturerModelName == "phantom"
    assert processing.DeviceUID == ds.DeviceUID == encoded.MODEL.device_uid
    assert processing.SoftwareVersions[0] == "1.2.0"
    assert "ab" * 32 in processing.ContributionDescription
    assert "overlap=0.5" in processing.ContributionDescription


def test_times_are_those_of_the_job_in_the_zone_of_the_source() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        ds.TimezoneOffsetFromUTC = "-0330"
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    ds = encoded.read(encoded.encode(volume)["SR"])
    assert datetime.fromtimestamp(encoded.CREATED_AT, UTC).isoformat() == "2023-11-14T22:13:20.250000+00:00"
    assert (ds.ContentDate, ds.ContentTime) == ("20231114", "184320.250000")
    assert ds.TimezoneOffsetFromUTC == "-0330"


def test_a_long_model_name_leaves_room_for_version_and_kind(volume: Volume) -> None:
    model = replace(encoded.MODEL, name="A model with a name that goes on \\ and on, " * 3, version="2026.11.22-rc1")
    (seg, sr) = encode_results(
        volume, encoded.findings(volume.grid.shape), model, job_uid=encoded.JOB_UID, created_at=encoded.CREATED_AT
    )
    description = encoded.read(seg).SeriesDescription
    assert len(description) <= 64
    assert description.endswith(" 2026.11.22-rc1 SEG")
    check(seg, volume)
    check(sr, volume)


def test_further_volumes_that_the_model_saw_are_referred_to(volume: Volume) -> None:
    other = read_volume([phantoms.to_bytes(ds) for ds in phantoms.series(phantoms.ball((8, 11, 9)), name="second")])
    objects = encoded.encode(volume, further_sources=(other,))
    for obj in objects.values():
        check(obj, volume)
        for header in other.headers:
            assert str(header.SOPInstanceUID).encode() in obj.data


def test_findings_must_fit_the_volume(volume: Volume) -> None:
    (finding, *_) = encoded.findings(volume.grid.shape)
    with pytest.raises(ResultInvalid, match="shape"):
        encoded.encode(volume, [replace(finding, mask=np.ones((2, 2, 2), np.bool_))])


def test_a_report_needs_something_that_was_looked_for(volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match="looked for"):
        encoded.encode(volume, [])
