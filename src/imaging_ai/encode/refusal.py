"""A series that a model does not read, as a report: nothing was assessed, and why.

One measurement group on TID 1501 for each thing that the model would have looked for, with the word that it was not
done, so that nobody takes the absence of a result for the absence of a finding; the reason is a comment of the group.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr as hdsr
from highdicom.sr.enum import RelationshipTypeValues

from imaging_ai.core.finding import Algorithm, Code
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode.evaluations import PRESENCE, algorithm_identification
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.provenance import code_item, trace
from imaging_ai.encode.source import text
from imaging_ai.encode.sr import encode_groups

__all__ = ["encode_refusal"]

_NOT_DONE = Code("385660001", "SCT", "Not done")
_COMMENT = Code("121106", "DCM", "Comment")
_LONGEST = 1024


def encode_refusal(
    series: Volume,
    targets: Sequence[tuple[str, Code]],
    reason: str,
    algorithm: Algorithm,
    *,
    job_uid: str,
    created_at: float,
    content_qualification: str = "RESEARCH",
    remark: str = "",
) -> EncodedObject:
    """Say of each target, a label with its coded finding, that it was not assessed and why.

    Of `series` only the headers count. The same arguments always give the same bytes.

    Raises
    ------
    ResultInvalid
        If the source cannot carry a result.
    """
    provenance = trace(
        (series,),
        algorithm,
        job_uid=job_uid,
        created_at=created_at,
        content_qualification=content_qualification,
        supersedes=(),
        remark=" ".join(filter(None, ("not assessed", remark))),
    )
    identification = algorithm_identification(algorithm)
    groups = [
        _group(label, finding, derive_uid(job_uid, "tracking", "refused", str(number)), identification, reason)
        for number, (label, finding) in enumerate(targets, 1)
    ]
    return encode_groups(groups, "", None, provenance, None)


def _group(
    label: str, finding: Code, tracking_uid: str, identification: hdsr.AlgorithmIdentification, reason: str
) -> hdsr.MeasurementsAndQualitativeEvaluations:
    group = hdsr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hdsr.TrackingIdentifier(uid=tracking_uid, identifier=label),
        finding_type=code_item(finding),
        algorithm_id=identification,
        qualitative_evaluations=[hdsr.QualitativeEvaluation(name=code_item(PRESENCE), value=code_item(_NOT_DONE))],
    )
    comment = hdsr.TextContentItem(
        name=code_item(_COMMENT),
        value=text(f"Not assessed because {reason}", _LONGEST),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    group[0].ContentSequence.append(comment)
    return group
