"""What is checked of a report and of a Key Object note: the content tree, its template, and what it refers to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pydicom import Dataset

from imaging_ai.core.volume import Volume
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import require
from imaging_ai.encode.validate_places import check_flat, check_line, check_polygon

__all__ = ["check_ko", "check_sr"]

#: The attribute that holds the value of a content item (PS3.3 table C.17-7).
_VALUE_OF: Mapping[str, str] = {
    "TEXT": "TextValue",
    "CODE": "ConceptCodeSequence",
    "NUM": "MeasuredValueSequence",
    "UIDREF": "UID",
    "IMAGE": "ReferencedSOPSequence",
    "COMPOSITE": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "SCOORD3D": "GraphicData",
    "CONTAINER": "ContinuityOfContent",
}
_RELATIONSHIPS = frozenset(
    {"CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS PROPERTIES", "INFERRED FROM", "SELECTED FROM"}
)

# concepts (DCM unless said otherwise) that TID 1500, 1411, 1501, 4019 and 2010 require
_TITLE, _REJECTED, _OF_INTEREST, _TITLE_MODIFIER = "126000", "113001", "113000", "113011"
_ROOT = {
    "121049": "language",
    "121005": "observer type",
    "121012": "device observer UID",
    "121058": "procedure reported",
}
_MEASUREMENTS, _GROUP = "126010", "125007"
_OF_EACH_GROUP = {
    "112039": "tracking identifier",
    "112040": "tracking unique identifier",
    "121071": "finding",
    "111001": "algorithm name",
    "111003": "algorithm version",
}
_REFERENCED_SEGMENT, _SOURCE_SERIES = "121191", "121232"
_IMAGE_REGION, _VOLUME_SURFACE, _PURPOSE = "111030", "121231", "130400"
_PRESENCE, _PROBABILITIES = "121052", ("122157", "111012")


def check_sr(ds: Dataset, obj: EncodedObject, volume: Volume) -> None:
    """Check a Comprehensive 3D SR on TID 1500."""
    for keyword, values in (
        ("CompletionFlag", ("PARTIAL", "COMPLETE")),
        ("VerificationFlag", ("UNVERIFIED",)),
        ("PreliminaryFlag", ("PRELIMINARY", "FINAL")),
    ):
        require(ds.get(keyword) in values, keyword, f"not one of {', '.join(values)}")
    _check_root(ds, "1500", _TITLE)
    _check_tree(ds)
    for concept, name in _ROOT.items():
        require(bool(_children(ds, concept)), "ContentSequence", f"the {name} is missing")
    containers = _children(ds, _MEASUREMENTS)
    groups = _children(containers[0], _GROUP) if len(containers) == 1 else []
    require(bool(groups), "ContentSequence", "no measurement group under Imaging Measurements")
    series = {str(header.SeriesInstanceUID) for header in volume.headers}
    for number, group in enumerate(groups, 1):
        _check_group(group, f"Measurement Group {number}", series)
        _check_places(group, f"Measurement Group {number}", volume)
    sources = {str(header.SOPInstanceUID) for header in volume.headers}
    evidence = _listed(ds, "CurrentRequestedProcedureEvidenceSequence")
    require(sources <= evidence, "CurrentRequestedProcedureEvidenceSequence", "does not list every source instance")
    require(evidence <= sources | obj.related, "CurrentRequestedProcedureEvidenceSequence", "lists a stranger")
    require(_referenced(ds) <= evidence, "ContentSequence", "refers to an instance that is not in the evidence")
    require(
        _listed(ds, "PredecessorDocumentsSequence") <= obj.related, "PredecessorDocumentsSequence", "lists a stranger"
    )


def check_ko(ds: Dataset, obj: EncodedObject, volume: Volume) -> None:
    """Check a Key Object Selection that rejects, or that says what is of interest."""
    of_interest = _concept(ds) == _OF_INTEREST
    _check_root(ds, "2010", _OF_INTEREST if of_interest else _REJECTED)
    _check_tree(ds)
    has_reason = bool(_children(ds, _TITLE_MODIFIER))
    require(has_reason or of_interest, "ContentSequence", "a rejection without its reason")
    require(not (has_reason and of_interest), "ConceptNameCodeSequence", "gives a reason to reject what is of interest")
    referenced = _referenced(ds)
    evidence = _listed(ds, "CurrentRequestedProcedureEvidenceSequence")
    require(bool(referenced), "ContentSequence", "refers to nothing")
    require(referenced == evidence, "CurrentRequestedProcedureEvidenceSequence", "is not what the content refers to")
    sources = {str(header.SOPInstanceUID) for header in volume.headers} if of_interest else set()
    require(evidence <= sources | obj.related, "CurrentRequestedProcedureEvidenceSequence", "lists a stranger")


def _check_root(ds: Dataset, template: str, title: str) -> None:
    require(ds.get("ValueType") == "CONTAINER", "ValueType", "the root is no container")
    require(_concept(ds) == title, "ConceptNameCodeSequence", "not the title of this document")
    templates = [item.get("TemplateIdentifier") for item in ds.get("ContentTemplateSequence") or []]
    require(templates == [template], "ContentTemplateSequence", f"not TID {template}")


def _check_tree(ds: Dataset) -> None:
    for path, item in _items(ds, ""):
        value_type = item.get("ValueType", "")
        require(value_type in _VALUE_OF, f"{path}ValueType", "missing or unknown")
        require(bool(item.get(_VALUE_OF[value_type])), f"{path}{_VALUE_OF[value_type]}", "missing or empty")
        if item is ds:
            continue
        require(item.get("RelationshipType") in _RELATIONSHIPS, f"{path}RelationshipType", "missing or unknown")
        require(bool(_concept(item)), f"{path}ConceptNameCodeSequence", "missing")
        if value_type == "NUM":
            _check_number(item, path)
        if value_type in ("IMAGE", "COMPOSITE"):
            ref = _only(item.ReferencedSOPSequence)
            complete = bool(ref.get("ReferencedSOPClassUID") and ref.get("ReferencedSOPInstanceUID"))
            require(complete, f"{path}ReferencedSOPSequence", "incomplete")


def _check_number(item: Dataset, path: str) -> None:
    measured = _only(item.MeasuredValueSequence)
    require(math.isfinite(float(measured.NumericValue)), f"{path}NumericValue", "not a finite number")
    units = measured.get("MeasurementUnitsCodeSequence") or []
    in_ucum = len(units) == 1 and units[0].get("CodingSchemeDesignator") == "UCUM"
    require(in_ucum, f"{path}MeasurementUnitsCodeSequence", "not one UCUM unit")


def _check_group(group: Dataset, path: str, series: set[str]) -> None:
    for concept, name in _OF_EACH_GROUP.items():
        require(len(_children(group, concept)) == 1, path, f"not exactly one {name}")
    templates = [item.get("TemplateIdentifier") for item in group.get("ContentTemplateSequence") or []]
    segments = _children(group, _REFERENCED_SEGMENT)
    if segments:
        require(templates == ["1411"], path, "refers to a segment and is not TID 1411")
        require(len(segments) == 1, path, "refers to more than one segment")
        numbers = segments[0].ReferencedSOPSequence[0].get("ReferencedSegmentNumber")
        require(isinstance(numbers, int) and numbers > 0, path, "does not say which segment")
        named = {str(item.UID) for item in _children(group, _SOURCE_SERIES)}
        require(bool(named) and named <= series, path, "the segment's source series is not the source")
    elif _children(group, _IMAGE_REGION) or _children(group, _VOLUME_SURFACE):
        _check_box(group, path, templates, series)
    else:
        require(templates == ["1501"], path, "has no region and is not TID 1501")
        said = [item for item in group.ContentSequence if item.ValueType in ("NUM", "CODE")]
        known = ("121071", "276214006", "363698007", "111000")  # finding, its category and site, algorithm family
        require(any(_concept(item) not in known for item in said), path, "says nothing of its finding")
        _check_evaluation(group, path)


def _check_box(group: Dataset, path: str, templates: Sequence[str | None], series: set[str]) -> None:
    """Check that a region is one of an image or, of several polygons, of a volume, and that it says what it is."""
    regions, surfaces = _children(group, _IMAGE_REGION), _children(group, _VOLUME_SURFACE)
    flat = len(regions) == 1 and not surfaces and templates == ["1410"]
    solid = len(surfaces) > 1 and not regions and templates == ["1411"]
    require(flat or solid, path, "is neither TID 1410 with a region nor TID 1411 with a surface")
    if solid:
        named = {str(item.UID) for item in _children(group, _SOURCE_SERIES)}
        require(bool(named) and named <= series, path, "the surface's source series is not the source")
    require(len(_children(group, _PURPOSE)) == 1, path, "does not say what its coordinates are of the finding")
    require(len(_children(group, _PRESENCE)) == 1, path, "does not say whether what is in it is present")
    _check_evaluation(group, path)


def _check_places(group: Dataset, path: str, volume: Volume) -> None:
    """Check coordinates, in the patient or in pixels, and that numbers are those of what they were measured on."""
    for region in (*_children(group, _IMAGE_REGION), *_children(group, _VOLUME_SURFACE)):
        (check_flat if region.ValueType == "SCOORD" else check_polygon)(region, path, volume)
    for line, item in _lines(group):
        size = float(item.MeasuredValueSequence[0].NumericValue)
        (check_flat if line.ValueType == "SCOORD" else check_line)(line, path, volume, size)


def _check_evaluation(group: Dataset, path: str) -> None:
    """Check that what is probable is also said to be present or absent, and how probable things can be."""
    numbers = [number for concept in _PROBABILITIES for number in _children(group, concept)]
    for measured in (_only(number.MeasuredValueSequence) for number in numbers):
        in_percent = measured.MeasurementUnitsCodeSequence[0].CodeValue == "%"
        require(in_percent and 0 <= float(measured.NumericValue) <= 100, path, "a probability that is none")
    if numbers:
        both = len(numbers) == 1 and len(_children(group, _PRESENCE)) == 1
        require(both, path, "a probability without one word on whether it is present")


def _lines(group: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    """Yield the coordinates in a group with the number that is inferred from them."""
    for item in group.ContentSequence:
        for child in item.get("ContentSequence") or []:
            if child.ValueType in ("SCOORD", "SCOORD3D"):
                require(item.ValueType == "NUM", "ContentSequence", "coordinates of what is no number")
                yield child, item


def _items(ds: Dataset, path: str) -> Iterator[tuple[str, Dataset]]:
    yield path, ds
    for number, item in enumerate(ds.get("ContentSequence") or [], 1):
        yield from _items(item, f"{path}ContentSequence[{number}].")


def _children(item: Dataset, concept: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence") or [] if _concept(child) == concept]


def _only(items: Sequence[Dataset]) -> Dataset:
    require(len(items) == 1, "ContentSequence", "a value with more than one item")
    return items[0]


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].get("CodeValue") or names[0].get("LongCodeValue") or "") if len(names) == 1 else ""


def _referenced(ds: Dataset) -> set[str]:
    return {
        str(ref.ReferencedSOPInstanceUID)
        for _, item in _items(ds, "")
        for ref in item.get("ReferencedSOPSequence") or []
    }


def _listed(ds: Dataset, keyword: str) -> set[str]:
    """Return the SOP Instance UIDs of a Hierarchical SOP Instance Reference."""
    return {
        str(ref.ReferencedSOPInstanceUID)
        for study in ds.get(keyword) or []
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    }
