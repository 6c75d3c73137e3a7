"""What all objects of a job share: patient, study, equipment, times, identifiers, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom.config import disable_value_validation

import encoded
import phantoms
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.region import Region
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


@pytest.mark.parametrize("kind", encoded.KINDS)
def test_every_object_stays_in_the_study_and_says_who_made_it(
    objects: dict[str, EncodedObject], volume: Volume, kind: str
) -> None:
    ds, source = encoded.read(objects[kind]), volume.headers[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert ds[keyword].value == source[keyword].value
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    part = {"SR 2": "SR lines", "PM": "PM probability"}.get(kind, kind)
    assert ds.SeriesDescription == f"Lesion finder 1.2.0 {part}"
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
            assert str(header.SOPInstanceUID).encode() in bytes(obj.data)


def test_every_kind_has_a_series_of_its_own_and_every_object_a_number_in_it(objects: dict[str, EncodedObject]) -> None:
    assert set(encoded.KINDS) <= set(objects)
    read = {key: encoded.read(obj) for key, obj in objects.items()}
    series: dict[str, list[int]] = {}
    for ds in read.values():
        series.setdefault(str(ds.SeriesInstanceUID), []).append(int(ds.InstanceNumber))
    assert len(series) == len(encoded.KINDS)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in series.values())
    assert len({int(ds.SeriesNumber) for ds in read.values()}) == len(encoded.KINDS)
    assert len({obj.sop_instance_uid for obj in objects.values()}) == len(objects)


def test_only_the_kinds_that_are_asked_for_are_made(volume: Volume) -> None:
    heat = encoded.probability(volume)
    assert list(encoded.encode(volume, maps=[heat])) == ["SEG", "SR"]
    assert list(encoded.encode(volume, maps=[heat], kinds=("SR", "PM"))) == ["SR", "PM"]


def test_a_source_whose_sop_class_is_no_uid_is_refused_by_name() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    with disable_value_validation():
        for ds in datasets:
            ds.SOPClassUID = "not.a.uid"
        volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    with pytest.raises(ResultInvalid, match="SOPClassUID of the source is no UID"):
        encoded.encode(volume)


def test_a_source_of_a_private_sop_class_has_results_too() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.3.46.670589.11.0.0.12.1"
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    for obj in encoded.encode_all(volume).values():
        check(obj, volume)


def test_findings_must_fit_the_volume(volume: Volume) -> None:
    (finding, *_) = encoded.findings(volume.grid.shape)
    with pytest.raises(ResultInvalid, match="shape"):
        encoded.encode(volume, [replace(finding, region=Region.of(np.ones((2, 2, 2), np.bool_)))])


def test_a_report_needs_something_that_was_looked_for(volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match="looked for"):
        encoded.encode(volume, [])
