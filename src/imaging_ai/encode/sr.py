"""Findings to a Comprehensive 3D SR (PS3.3 A.35.13) on TID 1500, Measurement Report (PS3.16), as IHE AIR wants it.

One measurement group per finding: TID 1411 for what has a segment, TID 1501 for what has none, so that "looked for and
not found" is said with the same codes as the finding would have been; after them what a classifier says, in
`evaluations.py`. Viewers compare the meanings of the headings to the letter; highdicom writes them as the standard has
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from highdicom import sr as hdsr
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage

from imaging_ai.core.finding import Algorithm, Code, Evaluation, Finding, Measurement
from imaging_ai.encode.boxes import BoxGroup
from imaging_ai.encode.evaluations import (
    algorithm_identification,
    evaluation_groups,
    measured,
    outline_groups,
    presence,
)
from imaging_ai.encode.explained import refer_to
from imaging_ai.encode.iod import module
from imaging_ai.encode.objects import EncodedObject, Predecessor
from imaging_ai.encode.provenance import Provenance, code_item, instance_item, serialize, stand_in
from imaging_ai.encode.source import clean, text

__all__ = [
    "LINES",
    "OHIF_LENGTH",
    "device_observer",
    "encode_groups",
    "encode_planar_sr",
    "encode_sr",
    "reference_tree",
    "referenced_requests",
]

_Group: TypeAlias = BoxGroup | hdsr.MeasurementsAndQualitativeEvaluations

#: What the series of the document with the lines is called, beside that of the report.
LINES = "lines"
#: The tracking identifier by which OHIF knows a line of its own length tool.
OHIF_LENGTH = "Cornerstone3DTools@^0.1.0:Length"

_DEVICE = Code("121007", "DCM", "Device")

#: Procedure Reported where the source has no procedure code: the modality's own (PS3.16 CID 100).
_PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
    "NM": Code("373205008", "SCT", "Nuclear medicine imaging procedure"),
    "US": Code("16310003", "SCT", "Diagnostic ultrasonography"),
    "MG": Code("71651007", "SCT", "Mammography"),
}
_ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


def encode_sr(
    findings: Sequence[Finding],
    seg: EncodedObject | None,
    provenance: Provenance,
    procedure: Code | None,
    evaluations: Sequence[Evaluation] = (),
    shown: Mapping[str, Sequence[EncodedObject]] = MappingProxyType({}),
) -> EncodedObject:
    """Encode all findings, found or not, and evaluations; `seg` has those found as segments 1, 2, … in their order.

    `shown` has the maps and pictures that explain a finding or an evaluation, by its tracking UID.
    """
    groups = [*_groups(findings, seg, provenance), *evaluation_groups(evaluations, provenance)]
    return encode_groups(groups, "", seg, provenance, procedure, shown)


def encode_planar_sr(
    findings: Sequence[Finding],
    evaluations: Sequence[Evaluation],
    frame_of_reference_uid: str,
    provenance: Provenance,
    procedure: Code | None,
) -> EncodedObject | None:
    """Encode the distances whose ends are known, and boxes, as lines in the patient, in a document of their own.

    OHIF shows no report that refers to a segment, and takes over lines only from one whose groups all have them and
    are named by its own tool. None when there is none.
    """
    groups: list[_Group] = [
        _line_group(finding, measurement, frame_of_reference_uid, provenance.algorithm)
        for finding in findings
        for measurement in finding.measurements
        if measurement.ends
    ]
    groups += outline_groups(evaluations, provenance)
    return encode_groups(groups, LINES, None, provenance, procedure) if groups else None


def encode_groups(
    groups: Sequence[_Group],
    part: str,
    seg: EncodedObject | None,
    provenance: Provenance,
    procedure: Code | None,
    shown: Mapping[str, Sequence[EncodedObject]] = MappingProxyType({}),
) -> EncodedObject:
    """Encode measurement groups as a report; `part` names its series where a job has several."""
    ds = hdsr.Comprehensive3DSR(
        evidence=_evidence(seg, provenance),
        content=_report(groups[:1], provenance, procedure)[0],
        series_instance_uid=provenance.uid("SR", "series"),
        series_number=1,
        sop_instance_uid=provenance.uid("SR", "instance"),
        instance_number=1,
        manufacturer=text(provenance.algorithm.manufacturer, 64),
        is_complete=False,
        is_final=False,
        is_verified=False,
    )
    if len(groups) > 1:  # highdicom copies the content twice: show it one group, and put the rest in ourselves
        ds.ContentSequence = _report(groups, provenance, procedure)[0].ContentSequence
    provenance.complete(ds, "SR", part)
    ds.ReferencedRequestSequence = referenced_requests(provenance)
    if not ds.ReferencedRequestSequence:
        del ds.ReferencedRequestSequence
    evidence = provenance.source_instances()
    results = [*([seg] if seg else []), *refer_to(ds, shown)]
    for one in results:
        key = provenance.study_instance_uid, one.series_instance_uid
        evidence.setdefault(key, []).append((one.sop_class_uid, one.sop_instance_uid))
    ds.CurrentRequestedProcedureEvidenceSequence = reference_tree(evidence)
    if reports := [old for old in provenance.supersedes if old.sop_class_uid == Comprehensive3DSRStorage]:
        ds.PredecessorDocumentsSequence = reference_tree(_tree(reports))
    related = provenance.further_instances | {old.sop_instance_uid for old in reports}
    related |= {one.sop_instance_uid for one in results}
    return EncodedObject("SR", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, serialize(ds), related)


def device_observer(algorithm: Algorithm) -> hdsr.ObserverContext:
    """Say that the model, not a person, observed (TID 1002, TID 1004)."""
    return hdsr.ObserverContext(
        observer_type=code_item(_DEVICE),
        observer_identifying_attributes=hdsr.DeviceObserverIdentifyingAttributes(
            uid=algorithm.device_uid,
            name=algorithm.name,
            manufacturer_name=algorithm.manufacturer,
            model_name=f"{algorithm.name} {algorithm.version}",
            serial_number=algorithm.digest,
        ),
    )


def reference_tree(instances: dict[tuple[str, str], list[tuple[str, str]]]) -> list[Dataset]:
    """Return references by study and series (PS3.3 table C.17-3a, Hierarchical SOP Instance Reference)."""
    studies: dict[str, Dataset] = {}
    for (study_instance_uid, series_instance_uid), references in instances.items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedSOPSequence = [instance_item(*reference) for reference in references]
        if study_instance_uid not in studies:
            studies[study_instance_uid] = Dataset()
            studies[study_instance_uid].StudyInstanceUID = study_instance_uid
            studies[study_instance_uid].ReferencedSeriesSequence = []
        studies[study_instance_uid].ReferencedSeriesSequence.append(series)
    return list(studies.values())


def referenced_requests(provenance: Provenance) -> list[Dataset]:
    """Return the requests that the source fulfilled, which its results do too (PS3.3 C.17.2, Referenced Request)."""
    request = module("sr-document-general")["ReferencedRequestSequence"].items
    wanted = {"RequestAttributesSequence": module("general-series")["RequestAttributesSequence"]}
    attributes = (clean(provenance.header, wanted) or Dataset()).get("RequestAttributesSequence") or []
    if not attributes and not provenance.subject.get("AccessionNumber"):
        return []
    result = []
    for source in attributes or [Dataset()]:
        item = Dataset()
        for keyword, attribute in request.items():
            if value := source.get(keyword):
                setattr(item, keyword, value)
            elif attribute.type == "2":
                setattr(item, keyword, [] if attribute.items else "")
        item.StudyInstanceUID = provenance.study_instance_uid
        item.AccessionNumber = source.get("AccessionNumber") or provenance.subject.get("AccessionNumber", "")
        item.ReferencedStudySequence = []
        result.append(item)
    return result


def _tree(objects: Sequence[Predecessor]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    tree: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for each in objects:
        key = each.study_instance_uid, each.series_instance_uid
        tree.setdefault(key, []).append((each.sop_class_uid, each.sop_instance_uid))
    return tree


def _evidence(seg: EncodedObject | None, provenance: Provenance) -> list[Dataset]:
    """Show highdicom what the content refers to, and only that; the whole evidence is written by us, and faster.

    It knows no private SOP class, and is shown a CT for whatever the source is.
    """
    ((study, series), instances), *_ = provenance.source_instances().items()
    shown = [stand_in(study, series, CTImageStorage, instances[0][1])]
    if seg:
        shown.append(stand_in(study, seg.series_instance_uid, seg.sop_class_uid, seg.sop_instance_uid))
    return shown


def _groups(findings: Sequence[Finding], seg: EncodedObject | None, provenance: Provenance) -> list[_Group]:
    segments = iter(range(1, len(findings) + 1))
    return [
        _region_group(finding, next(segments), seg, provenance)
        if seg and finding.found
        else _plain_group(finding, provenance.algorithm)
        for finding in findings
    ]


def _report(groups: Sequence[_Group], provenance: Provenance, procedure: Code | None) -> hdsr.MeasurementReport:
    return hdsr.MeasurementReport(
        observation_context=hdsr.ObservationContext(observer_device_context=device_observer(provenance.algorithm)),
        procedure_reported=[code_item(procedure)] if procedure else _procedures(provenance),
        imaging_measurements=groups,
    )


def _procedures(provenance: Provenance) -> list[hdsr.CodedConcept]:
    """Return the procedure codes of the study, else the modality's."""
    if items := provenance.subject.get("ProcedureCodeSequence"):
        return [hdsr.CodedConcept.from_dataset(item) for item in items]
    return [code_item(_PROCEDURES.get(provenance.sources[0].modality, _ANY_PROCEDURE))]


def _region_group(
    finding: Finding, segment_number: int, seg: EncodedObject, provenance: Provenance
) -> hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Describe a finding that has a segment (TID 1411)."""
    series = hdsr.SourceSeriesForSegmentation(str(provenance.header.SeriesInstanceUID))
    return hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **_common(finding, provenance.algorithm),
        referenced_segment=hdsr.ReferencedSegment(
            sop_class_uid=seg.sop_class_uid,
            sop_instance_uid=seg.sop_instance_uid,
            segment_number=segment_number,
            source_series=series,
        ),
        measurements=[measured(each) for each in finding.measurements] or None,
    )


def _plain_group(finding: Finding, algorithm: Algorithm) -> hdsr.MeasurementsAndQualitativeEvaluations:
    """Describe a finding without a region, or say that it is absent (TID 1501)."""
    numbers = [measured(each) for each in finding.measurements] if finding.found else []
    return hdsr.MeasurementsAndQualitativeEvaluations(
        **_common(finding, algorithm),
        measurements=numbers or None,
        qualitative_evaluations=None if numbers else [presence(finding.found)],
    )


def _line_group(
    finding: Finding, measurement: Measurement, frame_of_reference_uid: str, algorithm: Algorithm
) -> hdsr.MeasurementsAndQualitativeEvaluations:
    """Describe a distance by its ends (TID 1501, TID 320); the tracking UID says which finding it is of."""
    line = hdsr.CoordinatesForMeasurement3D(
        graphic_type=hdsr.GraphicTypeValues3D.POLYLINE,
        graphic_data=np.asarray(measurement.ends, np.float64),
        frame_of_reference_uid=frame_of_reference_uid,
    )
    return hdsr.MeasurementsAndQualitativeEvaluations(
        **_common(finding, algorithm, OHIF_LENGTH),
        measurements=[measured(measurement, [line])],
    )


def _common(finding: Finding, algorithm: Algorithm, tracking_identifier: str = "") -> dict[str, Any]:
    what = finding.description
    return {
        "tracking_identifier": hdsr.TrackingIdentifier(
            uid=finding.tracking_uid, identifier=tracking_identifier or finding.tracking_identifier
        ),
        "finding_category": code_item(what.property_category),
        "finding_type": code_item(what.property_type),
        "finding_sites": [hdsr.FindingSite(code_item(what.anatomic_region))] if what.anatomic_region else None,
        "algorithm_id": algorithm_identification(algorithm),
    }
