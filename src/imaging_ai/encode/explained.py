"""Explanations in a report: each measurement group names the maps and pictures that say why (TID 1411 and 1501 extend).

The name of the reference is (130401, DCM, "Visual explanation").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from highdicom.sr import ImageContentItem, RelationshipTypeValues
from pydicom import Dataset

from imaging_ai.core.finding import Code
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.provenance import code_item

__all__ = ["VISUAL_EXPLANATION", "refer_to"]

VISUAL_EXPLANATION = Code("130401", "DCM", "Visual explanation")
_MEASUREMENTS, _GROUP, _TRACKING_UID = "126010", "125007", "112040"


def refer_to(ds: Dataset, shown: Mapping[str, Sequence[EncodedObject]]) -> list[EncodedObject]:
    """Name in each group of a report what explains it, by its tracking UID; return what was named."""
    named: list[EncodedObject] = []
    for group in _groups(ds):
        uids = [str(item.UID) for item in group.ContentSequence if _concept(item) == _TRACKING_UID]
        for one in (one for uid in uids for one in shown.get(uid, ())):
            group.ContentSequence.append(
                ImageContentItem(
                    name=code_item(VISUAL_EXPLANATION),
                    referenced_sop_class_uid=one.sop_class_uid,
                    referenced_sop_instance_uid=one.sop_instance_uid,
                    relationship_type=RelationshipTypeValues.CONTAINS,
                )
            )
            named.append(one)
    return named


def _groups(ds: Dataset) -> Iterator[Dataset]:
    for container in ds.ContentSequence:
        if _concept(container) == _MEASUREMENTS:
            yield from (item for item in container.ContentSequence if _concept(item) == _GROUP)


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].get("CodeValue", ""))
