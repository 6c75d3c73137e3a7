"""Evaluations to measurement groups on TID 1501 (PS3.16): a coded finding, whether it is present, and how probable.

Presence is in the words of CID 240. The probability is a number in percent: (122157, DCM, "Probability") where it was
calibrated, else (111012, DCM, "Certainty of Finding"), what the device makes of it. A group about one instance names it
as the source of the measurement; one about the whole series or study names none, and the evidence lists them all.
What is said of a box is in `boxes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from highdicom import sr as hdsr

from imaging_ai.core.finding import Algorithm, Code, Evaluation, Measurement
from imaging_ai.encode.boxes import BoxGroup, Coordinates, box_group, outline_of
from imaging_ai.encode.provenance import Provenance, code_item
from imaging_ai.errors import ResultInvalid

__all__ = [
    "CERTAINTY",
    "PRESENCE",
    "PROBABILITY",
    "algorithm_identification",
    "evaluation_groups",
    "measured",
    "outline_groups",
    "presence",
]

PROBABILITY = Code("122157", "DCM", "Probability")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")

PRESENCE = Code("121052", "DCM", "Presence of property")
_PRESENT = Code("52101004", "SCT", "Present")
_ABSENT = Code("272519000", "SCT", "Absent")
_PERCENT = Code("%", "UCUM", "Percent")


def evaluation_groups(
    evaluations: Sequence[Evaluation], provenance: Provenance
) -> list[hdsr.MeasurementsAndQualitativeEvaluations | BoxGroup]:
    """Describe each evaluation, in their order.

    Raises
    ------
    ResultInvalid
        If a probability is none, or of an instance that the model has not seen, or a box lies beyond the images.
    """
    classes = {uid: sop_class for some in provenance.source_instances().values() for sop_class, uid in some}
    identification = algorithm_identification(provenance.algorithm)
    return [_group(one, identification, classes, provenance) for one in evaluations]


def outline_groups(
    evaluations: Sequence[Evaluation], provenance: Provenance
) -> list[hdsr.MeasurementsAndQualitativeEvaluations]:
    """Describe each box by its outline on one slice, as OHIF takes it over; the tracking UID says which box it is."""
    identification = algorithm_identification(provenance.algorithm)
    groups = []
    for one in evaluations:
        if one.box:
            tool, area, line = outline_of(one, provenance.sources[0])
            groups.append(
                hdsr.MeasurementsAndQualitativeEvaluations(
                    tracking_identifier=hdsr.TrackingIdentifier(uid=one.tracking_uid, identifier=tool),
                    finding_type=code_item(one.description.finding),
                    finding_sites=_sites(one),
                    algorithm_id=identification,
                    measurements=[measured(area, [line])],
                )
            )
    return groups


def measured(measurement: Measurement, lines: Sequence[Coordinates] | None = None) -> hdsr.Measurement:
    """Write a number, and what it was measured on."""
    if not math.isfinite(measurement.value):
        raise ResultInvalid(f"the measurement {measurement.quantity.meaning!r} is not a finite number")
    return hdsr.Measurement(
        name=code_item(measurement.quantity),
        value=float(measurement.value),
        unit=code_item(measurement.unit),
        derivation=code_item(measurement.derivation) if measurement.derivation else None,
        method=code_item(measurement.method) if measurement.method else None,
        referenced_coordinates=lines,
    )


def algorithm_identification(algorithm: Algorithm) -> hdsr.AlgorithmIdentification:
    """Say which model it was (TID 4019)."""
    return hdsr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"{name}={value}" for name, value in algorithm.parameters],
        family=code_item(algorithm.family),
        manufacturer=algorithm.manufacturer,
    )


def presence(present: bool) -> hdsr.QualitativeEvaluation:
    """Say that a finding is present, or absent."""
    return hdsr.QualitativeEvaluation(name=code_item(PRESENCE), value=code_item(_PRESENT if present else _ABSENT))


def _group(
    evaluation: Evaluation,
    identification: hdsr.AlgorithmIdentification,
    classes: Mapping[str, str],
    provenance: Provenance,
) -> hdsr.MeasurementsAndQualitativeEvaluations | BoxGroup:
    what = evaluation.description
    if not (math.isfinite(evaluation.probability) and 0 <= evaluation.probability <= 1):
        raise ResultInvalid(f"the probability of {what.label} is {evaluation.probability}")
    if strangers := [uid for uid in evaluation.instances if uid not in classes]:
        raise ResultInvalid(f"an evaluation is about {strangers[0]}, which the model has not seen")
    number = hdsr.Measurement(
        name=code_item(PROBABILITY if evaluation.calibrated else CERTAINTY),
        value=round(100 * evaluation.probability, 4),
        unit=code_item(_PERCENT),
    )
    common: dict[str, Any] = {
        "tracking_identifier": hdsr.TrackingIdentifier(
            uid=evaluation.tracking_uid, identifier=evaluation.tracking_identifier
        ),
        "finding_type": code_item(what.finding),
        "finding_sites": _sites(evaluation),
        "algorithm_id": identification,
        "measurements": [number, *(measured(each) for each in evaluation.measurements)],
        "qualitative_evaluations": [presence(evaluation.present)],
    }
    if evaluation.box:
        return box_group(evaluation.box, provenance.sources[0], common)
    return hdsr.MeasurementsAndQualitativeEvaluations(
        **common,
        source_images=[
            hdsr.SourceImageForMeasurementGroup(referenced_sop_class_uid=classes[uid], referenced_sop_instance_uid=uid)
            for uid in evaluation.instances
        ]
        or None,
    )


def _sites(evaluation: Evaluation) -> list[hdsr.FindingSite] | None:
    site = evaluation.description.finding_site
    return [hdsr.FindingSite(code_item(site))] if site else None
