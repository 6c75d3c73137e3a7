"""The report says for every finding whether it is there, how large it is, and who says so (TID 1500)."""

from __future__ import annotations

import io
from dataclasses import replace

import highdicom as hd
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

import encoded
import phantoms
from imaging_ai.core.finding import Code, Measurement
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume


def report(objects: dict[str, EncodedObject]) -> hd.sr.Comprehensive3DSR:
    """Read the report as highdicom does."""
    return hd.sr.srread(io.BytesIO(objects["SR"].data))


def names(item: Dataset) -> list[str]:
    """Return the names of the children of a content item."""
    return [child.ConceptNameCodeSequence[0].CodeMeaning for child in item.ContentSequence]


def test_a_found_finding_is_a_volumetric_group_with_the_tracking_of_its_segment(
    objects: dict[str, EncodedObject],
) -> None:
    groups = report(objects).content.get_volumetric_roi_measurement_groups()
    seg = encoded.read(objects["SEG"])
    assert len(groups) == len(seg.SegmentSequence) == 2
    for group, segment in zip(groups, seg.SegmentSequence, strict=True):
        assert (group.tracking_identifier, group.tracking_uid) == (segment.TrackingID, segment.TrackingUID)
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference.referenced_segment_numbers == [segment.SegmentNumber]
        assert group.finding_type.value == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue
        assert group.finding_sites[0].value.value == segment.AnatomicRegionSequence[0].CodeValue


def test_a_finding_that_is_absent_is_said_to_be_absent(objects: dict[str, EncodedObject]) -> None:
    (group,) = report(objects).content.get_image_measurement_groups()
    assert group.tracking_identifier == "Lesion 2"
    (evaluation,) = group.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
    assert evaluation.value == codes.SCT.Absent
    assert group.finding_type.value == "52988006"


def test_a_finding_without_a_segment_and_without_measurements_is_said_to_be_present(volume: Volume) -> None:
    (found,) = encoded.findings(volume.grid.shape, found=1, absent=0)
    objects = encoded.encode(volume, [replace(found, measurements=())], kinds=("SR",))
    check(objects["SR"], volume)
    (group,) = report(objects).content.get_image_measurement_groups()
    (evaluation,) = group.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
    assert evaluation.value == codes.SCT.Present


def test_nothing_found_is_a_valid_report_without_a_seg(volume: Volume) -> None:
    objects = encoded.encode(volume, encoded.findings(volume.grid.shape, found=0, absent=2))
    assert list(objects) == ["SR"]
    check(objects["SR"], volume)
    assert len(report(objects).content.get_image_measurement_groups()) == 2


def test_measurements_keep_their_digits_units_and_derivation(objects: dict[str, EncodedObject]) -> None:
    group = report(objects).content.get_volumetric_roi_measurement_groups()[0]
    volume, mean, _ = group.get_measurements()
    assert volume.value == pytest.approx(12.345678901234, rel=1e-12)
    assert (volume.unit.value, volume.unit.scheme_designator) == ("ml", "UCUM")
    assert mean.value == pytest.approx(-1 / 3, rel=1e-12)
    assert mean.derivation.value == "373098007"


def test_headings_are_worded_as_viewers_compare_them(objects: dict[str, EncodedObject]) -> None:
    ds = encoded.read(objects["SR"])
    assert ds.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert names(ds)[-1] == "Imaging Measurements"
    group = ds.ContentSequence[-1].ContentSequence[0]
    assert group.ConceptNameCodeSequence[0].CodeMeaning == "Measurement Group"
    assert names(group)[:2] == ["Tracking Identifier", "Tracking Unique Identifier"]


def test_the_model_is_the_observer_and_signs_every_group(objects: dict[str, EncodedObject]) -> None:
    content = report(objects).content
    (observer,) = content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert (device.uid, device.name) == (encoded.MODEL.device_uid, "Lesion finder")
    assert device.manufacturer_name == "imaging-ai tests"
    for group in encoded.read(objects["SR"]).ContentSequence[-1].ContentSequence:
        assert {"Algorithm Name", "Algorithm Version", "Algorithm Manufacturer", "Algorithm Family"} <= {*names(group)}
        assert names(group).count("Algorithm Parameters") == 2


def test_the_report_is_not_verified_and_not_complete(objects: dict[str, EncodedObject]) -> None:
    ds = encoded.read(objects["SR"])
    assert (ds.VerificationFlag, ds.CompletionFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PARTIAL", "PRELIMINARY")


def test_evidence_is_every_source_instance_and_the_seg(objects: dict[str, EncodedObject], volume: Volume) -> None:
    evidence = {instance for *_, instance, _ in report(objects).get_evidence()}
    assert evidence == {h.SOPInstanceUID for h in volume.headers} | {objects["SEG"].sop_instance_uid}


def test_the_report_names_the_report_that_it_replaces(objects: dict[str, EncodedObject], volume: Volume) -> None:
    (study,) = encoded.read(objects["SR"]).PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    old = encoded.predecessors(volume)[1]
    assert [ref.ReferencedSOPInstanceUID for ref in series.ReferencedSOPSequence] == [old.sop_instance_uid]


@pytest.mark.parametrize(("modality", "expected"), [("CT", "77477000"), ("MR", "113091000"), ("PT", "82918005")])
def test_without_a_procedure_code_the_modality_says_what_was_done(modality: str, expected: str) -> None:
    volume = replace(encoded.phantom_volume(), modality=modality)
    (procedure,) = procedures(volume)
    assert procedure == expected


def procedures(volume: Volume, **options: object) -> list[str]:
    """Return the codes of Procedure Reported."""
    ds = encoded.read(encoded.encode(volume, **options)["SR"])
    items = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121058"]
    return [item.ConceptCodeSequence[0].CodeValue for item in items]


def test_the_procedure_is_the_studys_when_it_has_one_and_the_callers_before_all() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P5-09051", "SRT", "CT of abdomen"
        ds.ProcedureCodeSequence = [code]
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    assert procedures(volume) == ["P5-09051"]
    assert procedures(volume, procedure=Code("1", "99TEST", "Mine")) == ["1"]


def test_a_report_alone_carries_the_measurements_without_a_segment(volume: Volume) -> None:
    objects = encoded.encode(volume, kinds=("SR",))
    check(objects["SR"], volume)
    groups = report(objects).content.get_image_measurement_groups()
    assert [len(group.get_measurements()) for group in groups] == [2, 0, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_no_number_is_refused(volume: Volume, value: float) -> None:
    bad = Measurement(encoded.VOLUME.quantity, value, encoded.VOLUME.unit)
    some = [replace(finding, measurements=(bad,)) for finding in encoded.findings(volume.grid.shape)]
    with pytest.raises(ResultInvalid, match="Volume"):
        encoded.encode(volume, some)


def test_the_request_that_the_source_fulfils_is_carried() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        request = Dataset()
        request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
        request.RequestedProcedureDescription = "CT of the liver"
        ds.RequestAttributesSequence = [request]
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    objects = encoded.encode_all(volume)
    for kind in ("SR", "KO"):
        (item,) = encoded.read(objects[kind]).ReferencedRequestSequence
        assert (item.AccessionNumber, item.RequestedProcedureID) == ("A1", "RP1")
        assert item.StudyInstanceUID == volume.headers[0].StudyInstanceUID
    (item,) = encoded.read(objects["SEG"]).RequestAttributesSequence
    assert (item.RequestedProcedureID, item.ScheduledProcedureStepID) == ("RP1", "SPS1")
    for obj in objects.values():
        check(obj, volume)
