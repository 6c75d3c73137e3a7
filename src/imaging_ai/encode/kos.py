"""A note that rejects the results of an earlier run (PS3.3 A.35.4, TID 2010; IHE Imaging Object Change Management)."""

from __future__ import annotations

from highdicom import ko
from highdicom.sr import CodeContentItem, RelationshipTypeValues
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage, SecondaryCaptureImageStorage, SegmentationStorage

from imaging_ai.core.finding import Code
from imaging_ai.encode.objects import EncodedObject, Predecessor
from imaging_ai.encode.provenance import Provenance, code_item, serialize, stand_in
from imaging_ai.encode.source import text
from imaging_ai.encode.sr import device_observer, referenced_requests

__all__ = ["REJECTED", "encode_rejection"]

#: Of the titles that reject (CID 7010), the one for objects that should not be used; its reason is from CID 7011.
REJECTED = Code("113001", "DCM", "Rejected for Quality Reasons")
_IMAGES = frozenset({SegmentationStorage, ParametricMapStorage, SecondaryCaptureImageStorage})
_TITLE_MODIFIER = Code("113011", "DCM", "Document Title Modifier")
_REASON = Code("111219", "DCM", "Inappropriate image processing")
_DESCRIPTION = "Superseded: the results of an earlier run on an incomplete or since corrected series."


def encode_rejection(provenance: Provenance) -> EncodedObject:
    """Encode the note that rejects all objects which the job supersedes."""
    rejected = [_shown(old) for old in provenance.supersedes]
    content = ko.KeyObjectSelection(
        document_title=code_item(REJECTED),
        referenced_objects=rejected,
        observer_device_context=device_observer(provenance.algorithm),
        description=_DESCRIPTION,
    )
    content[0].ContentSequence.insert(
        0,
        CodeContentItem(code_item(_TITLE_MODIFIER), code_item(_REASON), RelationshipTypeValues.HAS_CONCEPT_MOD),
    )
    ds = ko.KeyObjectSelectionDocument(
        evidence=rejected,
        content=content,
        series_instance_uid=provenance.uid("KO", "series"),
        series_number=1,
        sop_instance_uid=provenance.uid("KO", "instance"),
        instance_number=1,
        manufacturer=text(provenance.algorithm.manufacturer, 64),
    )
    provenance.complete(ds, "KO")
    if requests := referenced_requests(provenance):
        ds.ReferencedRequestSequence = requests
    related = frozenset(old.sop_instance_uid for old in provenance.supersedes)
    return EncodedObject("KO", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, serialize(ds), related)


def _shown(old: Predecessor) -> Dataset:
    ds = stand_in(old.study_instance_uid, old.series_instance_uid, old.sop_class_uid, old.sop_instance_uid)
    if old.sop_class_uid not in _IMAGES:
        del ds.Rows  # only images are referred to by IMAGE items
    return ds
