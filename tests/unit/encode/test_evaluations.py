"""What a classifier says is in the report in the words of the standard (TID 1501), about the images it is of."""

from __future__ import annotations

import io
from dataclasses import replace

import highdicom as hd
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

import encoded
from imaging_ai.core.finding import ClassDescription, Code, Evaluation
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.errors import ResultInvalid

BLEEDING = ClassDescription("Bleeding", Code("50960005", "SCT", "Hemorrhage"), 0.4, Code("12738006", "SCT", "Brain"))


def evaluation(probability: float, *instances: str, calibrated: bool = True) -> Evaluation:
    name = "Bleeding" + (f", image {len(instances[0])}" if instances else "")
    uid = derive_uid("test", "class", *instances)
    return Evaluation(BLEEDING, probability, name, uid, instances, calibrated)


def groups_of(obj: EncodedObject) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """Read the report as highdicom does."""
    content = hd.sr.srread(io.BytesIO(obj.data)).content
    return list(content.get_image_measurement_groups())


def said(volume: Volume, *evaluations: Evaluation) -> EncodedObject:
    """Encode a report of evaluations alone, and check it."""
    objects = encoded.encode(volume, [], evaluations=evaluations)
    assert list(objects) == ["SR"]
    check(objects["SR"], volume)
    return objects["SR"]


def test_a_group_says_what_it_is_whether_it_is_there_and_how_probable(volume: Volume) -> None:
    (group,) = groups_of(said(volume, evaluation(0.4021)))
    assert group.finding_type.value == "50960005"
    assert group.finding_sites[0].value.value == "12738006"
    assert (group.tracking_identifier, group.tracking_uid) == ("Bleeding", derive_uid("test", "class"))
    (word,) = group.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
    assert word.value == codes.SCT.Present
    (number,) = group.get_measurements(name=codes.DCM.Probability)
    assert number.value == pytest.approx(40.21)
    assert (number.unit.value, number.unit.scheme_designator) == ("%", "UCUM")
    assert group.source_images == []


def test_below_the_threshold_it_is_absent(volume: Volume) -> None:
    (group,) = groups_of(said(volume, evaluation(0.3999)))
    (word,) = group.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
    assert word.value == codes.SCT.Absent


def test_a_score_that_was_not_calibrated_is_called_no_probability(volume: Volume) -> None:
    (group,) = groups_of(said(volume, evaluation(0.7, calibrated=False)))
    assert group.get_measurements(name=codes.DCM.Probability) == []
    assert group.get_measurements(name=codes.DCM.CertaintyOfFinding)[0].value == pytest.approx(70)


def test_what_is_said_of_an_instance_names_it(volume: Volume) -> None:
    source = volume.sources[3]
    whole, one = groups_of(said(volume, evaluation(0.9), evaluation(0.9, source.sop_instance_uid)))
    (image,) = one.source_images
    assert image.referenced_sop_instance_uid == source.sop_instance_uid
    assert image.referenced_sop_class_uid == source.sop_class_uid
    assert whole.source_images == []


def test_the_model_is_named_in_every_group(volume: Volume) -> None:
    ds = encoded.read(said(volume, evaluation(0.9), evaluation(0.1, volume.sources[0].sop_instance_uid)))
    for group in ds.ContentSequence[-1].ContentSequence:
        named = {item.ConceptNameCodeSequence[0].CodeMeaning: item.get("TextValue") for item in group.ContentSequence}
        assert (named["Algorithm Name"], named["Algorithm Version"]) == ("Lesion finder", "1.2.0")


def test_findings_and_evaluations_stand_in_one_report(volume: Volume) -> None:
    objects = encoded.encode(volume, evaluations=[evaluation(0.9)])
    assert list(objects) == ["SEG", "SR"]
    check(objects["SR"], volume)
    content = hd.sr.srread(io.BytesIO(objects["SR"].data)).content
    assert len(content.get_volumetric_roi_measurement_groups()) == 2
    assert [group.tracking_identifier for group in groups_of(objects["SR"])] == ["Lesion 2", "Bleeding"]


def test_the_same_evaluations_give_the_same_bytes(volume: Volume) -> None:
    assert said(volume, evaluation(0.9)).data == said(volume, evaluation(0.9)).data


@pytest.mark.parametrize("probability", [-0.01, 1.01, float("nan")])
def test_what_is_no_probability_is_refused(volume: Volume, probability: float) -> None:
    with pytest.raises(ResultInvalid, match="the probability of Bleeding is"):
        said(volume, evaluation(probability))


def test_what_is_about_an_unknown_instance_is_refused(volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match=r"is about 1\.2\.3, which the model has not seen"):
        said(volume, evaluation(0.5), evaluation(0.5, "1.2.3"))


def broken(obj: EncodedObject, change: str) -> EncodedObject:
    """Break one thing in the first group."""
    ds = encoded.read(obj)
    group: Dataset = ds.ContentSequence[-1].ContentSequence[0]
    number = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    if change == "beyond":
        number.MeasuredValueSequence[0].NumericValue = "101"
    elif change == "unit":
        number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "1"
    else:
        group.ContentSequence = [
            item
            for item in group.ContentSequence
            if item.ConceptNameCodeSequence[0].CodeMeaning != "Presence of property"
        ]
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return replace(obj, data=buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "message"),
    [("beyond", "a probability that is none"), ("unit", "a probability that is none"), ("word", "without one word")],
)
def test_a_report_that_contradicts_itself_does_not_leave(volume: Volume, change: str, message: str) -> None:
    with pytest.raises(ResultInvalid, match=message):
        check(broken(said(volume, evaluation(0.5)), change), volume)
