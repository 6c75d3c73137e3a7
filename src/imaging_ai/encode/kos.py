"""Key Object notes (PS3.3 A.35.4, TID 2010): one rejects the results of an earlier run, others point at what weighed.

A rejection is by IHE Imaging Object Change Management. A note of what is of interest names the slices of the source
that weighed most in a finding, and the maps and pictures that show why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from highdicom import ko
from highdicom.sr import CodeContentItem, RelationshipTypeValues
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from imaging_ai.core.explanation import Explanation
from imaging_ai.core.finding import Code
from imaging_ai.core.volume import Volume
from imaging_ai.encode.objects import EncodedObject, Predecessor
from imaging_ai.encode.provenance import Provenance, code_item, serialize, stand_in
from imaging_ai.encode.source import text
from imaging_ai.encode.sr import device_observer, reference_tree, referenced_requests

__all__ = ["OF_INTEREST", "REJECTED", "encode_interest", "encode_rejection"]

#: Of the titles that reject (CID 7010), the one for objects that should not be used; its reason is from CID 7011.
REJECTED = Code("113001", "DCM", "Rejected for Quality Reasons")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
_IMAGES = frozenset({SegmentationStorage, ParametricMapStorage, SecondaryCaptureImageStorage})
_TITLE_MODIFIER = Code("113011", "DCM", "Document Title Modifier")
_REASON = Code("111219", "DCM", "Inappropriate image processing")
_DESCRIPTION = "Superseded: the results of an earlier run on an incomplete or since corrected series."
_EXPLAINED = "explained"


def encode_rejection(provenance: Provenance) -> EncodedObject:
    """Encode the note that rejects all objects which the job supersedes."""
    rejected = [_shown(old) for old in provenance.supersedes]
    ds = _note(REJECTED, rejected, _DESCRIPTION, provenance)
    modifier = CodeContentItem(code_item(_TITLE_MODIFIER), code_item(_REASON), RelationshipTypeValues.HAS_CONCEPT_MOD)
    ds.ContentSequence.insert(0, modifier)
    provenance.complete(ds, "KO")
    return _finished(ds, provenance, frozenset(old.sop_instance_uid for old in provenance.supersedes))


def encode_interest(
    volume: Volume,
    explanations: Sequence[Explanation],
    shown: Mapping[str, Sequence[EncodedObject]],
    provenance: Provenance,
) -> list[EncodedObject]:
    """Encode a note for each finding that is explained, in one series; `shown` has its maps and pictures by its UID."""
    notes = []
    named = {one.tracking_uid: one.tracking_identifier for one in explanations}
    for number, (uid, identifier) in enumerate(named.items(), 1):
        slices = sorted({k for one in explanations if one.tracking_uid == uid for k in one.slices})
        objects = list(shown.get(uid, ()))
        methods = ", ".join(dict.fromkeys(one.method for one in explanations if one.tracking_uid == uid))
        described = f"The slices that weighed most in {identifier}, by {methods}"
        notes.append(_interest(volume, slices, objects, described, number, provenance))
    return notes


def _interest(
    volume: Volume,
    slices: Sequence[int],
    objects: Sequence[EncodedObject],
    described: str,
    number: int,
    provenance: Provenance,
) -> EncodedObject:
    study, series = provenance.study_instance_uid, str(provenance.header.SeriesInstanceUID)
    frames: dict[str, list[int]] = {}
    for k in slices:
        source = volume.sources[k]
        frames.setdefault(source.sop_instance_uid, []).extend([source.frame_number] if source.multi_frame else [])
    classes = {source.sop_instance_uid: source.sop_class_uid for source in volume.sources}
    images = [stand_in(study, series, CTImageStorage, uid) for uid in frames]  # highdicom knows no private class
    results = [stand_in(study, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid) for one in objects]
    ds = _note(OF_INTEREST, [*images, *results], described, provenance)
    for item in ds.ContentSequence:
        for reference in item.get("ReferencedSOPSequence") or ():
            if (uid := str(reference.ReferencedSOPInstanceUID)) in frames:
                reference.ReferencedSOPClassUID = classes[uid]
                if frames[uid]:
                    reference.ReferencedFrameNumber = sorted(frames[uid])
    evidence = {(study, series): [(classes[uid], uid) for uid in frames]}
    for one in objects:
        evidence.setdefault((study, one.series_instance_uid), []).append((one.sop_class_uid, one.sop_instance_uid))
    ds.CurrentRequestedProcedureEvidenceSequence = reference_tree(evidence)
    provenance.complete(ds, "KO", _EXPLAINED, number)
    return _finished(ds, provenance, frozenset(one.sop_instance_uid for one in objects))


def _note(
    title: Code, referenced: Sequence[Dataset], described: str, provenance: Provenance
) -> ko.KeyObjectSelectionDocument:
    content = ko.KeyObjectSelection(
        document_title=code_item(title),
        referenced_objects=referenced,
        observer_device_context=device_observer(provenance.algorithm),
        description=described,
    )
    return ko.KeyObjectSelectionDocument(
        evidence=referenced,
        content=content,
        series_instance_uid=provenance.uid("KO", "series"),
        series_number=1,
        sop_instance_uid=provenance.uid("KO", "instance"),
        instance_number=1,
        manufacturer=text(provenance.algorithm.manufacturer, 64),
    )


def _finished(ds: Dataset, provenance: Provenance, related: frozenset[str]) -> EncodedObject:
    if requests := referenced_requests(provenance):
        ds.ReferencedRequestSequence = requests
    return EncodedObject("KO", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, serialize(ds), related)


def _shown(old: Predecessor) -> Dataset:
    ds = stand_in(old.study_instance_uid, old.series_instance_uid, old.sop_class_uid, old.sop_instance_uid)
    if old.sop_class_uid not in _IMAGES:
        del ds.Rows  # only images are referred to by IMAGE items
    return ds
