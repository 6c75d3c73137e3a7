"""The results of a run that was superseded are rejected by a Key Object note."""

from __future__ import annotations

import io
from dataclasses import replace

from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread

import encoded
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check


def test_the_note_rejects_every_old_object_and_says_why(objects: dict[str, EncodedObject], volume: Volume) -> None:
    note = KeyObjectSelectionDocument.from_dataset(dcmread(io.BytesIO(objects["KO"].data)))
    assert note.ConceptNameCodeSequence[0].CodeMeaning == "Rejected for Quality Reasons"
    modifier = note.ContentSequence[0]
    assert modifier.ConceptNameCodeSequence[0].CodeMeaning == "Document Title Modifier"
    for old in encoded.predecessors(volume):
        study, series, _ = note.resolve_reference(old.sop_instance_uid)
        assert (study, series) == (old.study_instance_uid, old.series_instance_uid)


def test_an_image_is_referred_to_as_an_image_and_a_report_as_a_composite(objects: dict[str, EncodedObject]) -> None:
    items = encoded.read(objects["KO"]).ContentSequence
    assert [item.ValueType for item in items][-2:] == ["IMAGE", "COMPOSITE"]


def test_maps_and_pictures_of_an_earlier_run_are_rejected_as_images(volume: Volume) -> None:
    seg, _ = encoded.predecessors(volume)
    old = [
        replace(seg, sop_class_uid=uid, sop_instance_uid=derive_uid("old", uid))
        for uid in ("1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.7")
    ]
    objects = encoded.encode(volume, kinds=("SR", "KO"), supersedes=old)
    assert [item.ValueType for item in encoded.read(objects["KO"]).ContentSequence][-2:] == ["IMAGE", "IMAGE"]
    check(objects["KO"], volume)


def test_without_anything_to_supersede_there_is_no_note(volume: Volume) -> None:
    assert list(encoded.encode(volume, kinds=("SEG", "SR", "KO"))) == ["SEG", "SR"]
