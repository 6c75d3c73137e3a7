"""Explanations are objects that the report names, and a note of the slices that weighed most."""

from __future__ import annotations

import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.core.finding import Picture
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.infer.volume import read_volume


def explained(volume: Volume, **how: object) -> dict[str, EncodedObject]:
    found = encoded.findings(volume.grid.shape)
    why = [encoded.explanation(volume, one.tracking_uid, number) for number, one in enumerate(found, 1) if one.found]
    made = encoded.encode(volume, found, kinds=("SEG", "SR"), explanations=why, **how)
    for one in made.values():
        check(one, volume)
    return made


def test_each_finding_has_its_map_its_picture_and_its_note(volume: Volume) -> None:
    assert list(explained(volume)) == ["SEG", "SR", "PM", "PM 2", "SC", "SC 2", "KO", "KO 2"]


def test_the_report_names_what_explains_a_finding_in_its_own_group(volume: Volume) -> None:
    made = explained(volume)
    (report,) = (item for item in encoded.read(made["SR"]).ContentSequence if "Imaging Measurements" in str(item))
    named = [
        [
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for item in group.ContentSequence
            if item.ConceptNameCodeSequence[0].CodeMeaning == "Visual explanation"
        ]
        for group in report.ContentSequence
    ]
    first, second = ([made[f"{kind}{k}"].sop_instance_uid for kind in ("PM", "SC")] for k in ("", " 2"))
    assert named == [first, [], second], "what is absent has none"


def test_other_maps_and_pictures_are_not_taken_for_explanations(volume: Volume) -> None:
    found = encoded.findings(volume.grid.shape, found=1, absent=0)
    plain = Picture(np.zeros((4, 4, 3), np.uint8), 1, "Lesion")
    made = encoded.encode(
        volume,
        found,
        kinds=("SEG", "SR", "PM", "SC"),
        maps=[encoded.probability(volume)],
        pictures=[plain],
        explanations=[encoded.explanation(volume, found[0].tracking_uid)],
    )
    assert list(made) == ["SEG", "SR", "PM", "PM 2", "SC", "SC 2", "KO"]
    text = str(encoded.read(made["SR"]))
    assert made["PM 2"].sop_instance_uid in text
    assert made["SC 2"].sop_instance_uid in text
    assert made["PM"].sop_instance_uid not in text
    assert made["SC"].sop_instance_uid not in text
    assert encoded.read(made["SC 2"]).DerivationCodeSequence[0].CodeValue == encoded.CAM.value


def test_the_note_is_of_interest_and_names_the_slices_the_map_and_the_picture(volume: Volume) -> None:
    made = explained(volume)
    note = encoded.read(made["KO"])
    assert note.ConceptNameCodeSequence[0].CodeValue == "113000"
    described = [item.TextValue for item in note.ContentSequence if item.ValueType == "TEXT"][-1]
    assert described == "The slices that weighed most in Lesion 1, by grad-cam"
    named = [r.ReferencedSOPInstanceUID for item in note.ContentSequence for r in item.get("ReferencedSOPSequence", ())]
    slices = [volume.sources[k].sop_instance_uid for k in (0, 2)]
    assert named == [*slices, made["PM"].sop_instance_uid, made["SC"].sop_instance_uid]
    assert made["KO"].series_instance_uid == made["KO 2"].series_instance_uid
    assert made["KO"].sop_instance_uid != made["KO 2"].sop_instance_uid


def test_the_note_of_a_multi_frame_source_names_the_frames_of_its_instance() -> None:
    ds = phantoms.enhanced(phantoms.ball((4, 6, 8)), order=[2, 0, 3, 1])
    volume = read_volume([phantoms.to_bytes(ds)])
    made = explained(volume)
    (reference,) = (
        reference
        for item in encoded.read(made["KO"]).ContentSequence
        for reference in item.get("ReferencedSOPSequence", ())
        if reference.ReferencedSOPInstanceUID == ds.SOPInstanceUID
    )
    assert reference.ReferencedSOPClassUID == ds.SOPClassUID
    expected = sorted(volume.sources[k].frame_number for k in (0, 2))
    assert list(reference.ReferencedFrameNumber) == expected


@pytest.mark.parametrize(("kinds", "made"), [((), []), (("SC",), ["SC", "SC 2"]), (("KO",), ["KO", "KO 2"])])
def test_which_objects_are_made_of_it_is_a_choice(volume: Volume, kinds: tuple[str, ...], made: list[str]) -> None:
    assert list(explained(volume, explained_kinds=kinds)) == ["SEG", "SR", *made]


def test_the_same_job_makes_the_same_bytes(volume: Volume) -> None:
    one, other = explained(volume), explained(volume)
    assert [each.data for each in one.values()] == [each.data for each in other.values()]
