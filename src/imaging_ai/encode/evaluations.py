"""Evaluations to measurement groups on TID 1501 (PS3.16): a coded finding, whether it is present, and how probable.

Presence is in the words of CID 240. The probability is a number in percent: (122157, DCM, "Probability") where it was
calibrated, else (111012, DCM, "Certainty of Finding"), what the device makes of it. A group about one instance names it
as the source of the measurement; one about the whole series or study names none, and the evidence lists them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from highdicom import sr as hdsr

from imaging_ai.core.finding import Algorithm, Code, Evaluation
from imaging_ai.encode.provenance import Provenance, code_item
from imaging_ai.errors import ResultInvalid

__all__ = ["CERTAINTY", "PRESENCE", "PROBABILITY", "algorithm_identification", "evaluation_groups", "presence"]

PROBABILITY = Code("122157", "DCM", "Probability")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")

PRESENCE = Code("121052", "DCM", "Presence of property")
_PRESENT = Code("52101004", "SCT", "Present")
_ABSENT = Code("272519000", "SCT", "Absent")
_PERCENT = Code("%", "UCUM", "Percent")


def evaluation_groups(
    evaluations: Sequence[Evaluation], provenance: Provenance
) -> list[hdsr.MeasurementsAndQualitativeEvaluations]:
    """Describe each evaluation, in their order.

    Raises
    ------
    ResultInvalid
        If a probability is none, or of an instance that the model has not seen.
    """
    classes = {uid: sop_class for some in provenance.source_instances().values() for sop_class, uid in some}
    identification = algorithm_identification(provenance.algorithm)
    return [_group(one, identification, classes) for one in evaluations]


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
    evaluation: Evaluation, identification: hdsr.AlgorithmIdentification, classes: Mapping[str, str]
) -> hdsr.MeasurementsAndQualitativeEvaluations:
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
    return hdsr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hdsr.TrackingIdentifier(
            uid=evaluation.tracking_uid, identifier=evaluation.tracking_identifier
        ),
        finding_type=code_item(what.finding),
        finding_sites=[hdsr.FindingSite(code_item(what.finding_site))] if what.finding_site else None,
        algorithm_id=identification,
        measurements=[number],
        qualitative_evaluations=[presence(evaluation.present)],
        source_images=[
            hdsr.SourceImageForMeasurementGroup(referenced_sop_class_uid=classes[uid], referenced_sop_instance_uid=uid)
            for uid in evaluation.instances
        ]
        or None,
    )
