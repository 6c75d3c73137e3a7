"""All DICOM objects of one job (IHE AIR: the results that an Evidence Creator makes)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.explanation import Explanation
from imaging_ai.core.finding import (
    Algorithm,
    Code,
    Evaluation,
    Finding,
    ParametricMap,
    Picture,
    ResultKind,
    SegmentationType,
)
from imaging_ai.core.volume import Volume
from imaging_ai.encode.kos import encode_interest, encode_rejection
from imaging_ai.encode.objects import EncodedObject, Predecessor
from imaging_ai.encode.pm import encode_pm
from imaging_ai.encode.provenance import trace
from imaging_ai.encode.sc import encode_sc
from imaging_ai.encode.seg import encode_seg
from imaging_ai.encode.sr import encode_planar_sr, encode_sr
from imaging_ai.errors import ResultInvalid

__all__ = ["encode_results"]


def encode_results(
    volume: Volume,
    findings: Sequence[Finding],
    algorithm: Algorithm,
    *,
    job_uid: str,
    created_at: float,
    kinds: Collection[ResultKind] = ("SEG", "SR"),
    lines: bool = False,
    segmentation: SegmentationType = "binary",
    probability: NDArray[np.float32] | None = None,
    maps: Sequence[ParametricMap] = (),
    pictures: Sequence[Picture] = (),
    supersedes: Sequence[Predecessor] = (),
    further_sources: Sequence[Volume] = (),
    procedure: Code | None = None,
    content_qualification: str = "RESEARCH",
    remark: str = "",
    evaluations: Sequence[Evaluation] = (),
    explanations: Sequence[Explanation] = (),
    explained_kinds: Collection[ResultKind] = ("PM", "SC", "KO"),
) -> tuple[EncodedObject, ...]:
    """Encode what a model found, or that it found nothing; the same arguments always give the same bytes.

    Parameters
    ----------
    volume
        What the findings are drawn on.
    findings
        All that the model looks for, found or not.
    created_at
        When the job ran, in seconds since the epoch.
    kinds
        SEG is made when anything was found, PM of every map, SC of every picture; KO, which rejects what is
        superseded, when `supersedes` is not empty.
    lines
        Whether a second SR has the measured distances and the boxes as lines.
    segmentation
        The type of the SEG; BINARY where segments overlap that a label map is wanted of.
    probability
        What a FRACTIONAL one says within the segments, of each voxel of the grid.
    supersedes
        The objects of the run that this one replaces.
    further_sources
        Other volumes that the model saw (multi-channel input); they are referred to.
    procedure
        The imaging procedure analysed; as the source says when None.
    content_qualification
        PRODUCT, RESEARCH or SERVICE.
    remark
        What the Series Description says at its end, of results that are not for everybody.
    evaluations
        What the model says of classes, found or not: of the whole first, then of instances; or of boxes.
    explanations
        Why it says so: further maps and pictures, which the report names where it says what they explain.
    explained_kinds
        What is made of these: PM of their maps, SC of their pictures, KO of the slices that weigh most.

    Raises
    ------
    ResultInvalid
        If there is nothing to say, or the source cannot carry a result.
    """
    if not findings and not evaluations:
        raise ResultInvalid("a report needs to name what was looked for, also when nothing was found")
    for finding in findings:
        if finding.region.shape != volume.grid.shape:
            raise ResultInvalid(f"a mask has the shape {finding.region.shape}, its source {volume.grid.shape}")
    provenance = trace(
        (volume, *further_sources),
        algorithm,
        job_uid=job_uid,
        created_at=created_at,
        content_qualification=content_qualification,
        supersedes=supersedes,
        remark=remark,
    )
    found = [finding for finding in findings if finding.found]
    seg = encode_seg(volume, found, provenance, segmentation, probability) if found and "SEG" in kinds else None
    results = [seg] if seg else []
    maps = [*(maps if "PM" in kinds else ()), *(one.map for one in explanations if "PM" in explained_kinds)]
    pictures = list(pictures if "SC" in kinds else ())
    pictures += [each for one in explanations for each in one.pictures if "SC" in explained_kinds]
    mapped = [encode_pm(volume, each, provenance) for each in maps]
    drawn = list(encode_sc(volume, pictures, provenance))
    shown = _by_what_they_explain(
        explanations, mapped if "PM" in explained_kinds else (), drawn if "SC" in explained_kinds else ()
    )
    if "SR" in kinds:
        results.append(encode_sr(findings, seg, provenance, procedure, evaluations, shown))
        uid = volume.grid.frame_of_reference_uid
        if lines and (planar := encode_planar_sr(found, evaluations, uid, provenance, procedure)):
            results.append(planar)
    results += [*mapped, *drawn]
    if "KO" in kinds and supersedes:
        results.append(encode_rejection(provenance))
    if "KO" in explained_kinds:
        results += encode_interest(volume, explanations, shown, provenance)
    return tuple(results)


def _by_what_they_explain(
    explanations: Sequence[Explanation], mapped: Sequence[EncodedObject], drawn: Sequence[EncodedObject]
) -> dict[str, list[EncodedObject]]:
    """List maps and pictures, those of the explanations last among each, by the tracking UIDs of what they explain."""
    maps = iter(mapped[len(mapped) - len(explanations) :] if mapped else ())
    pictures = iter(drawn[len(drawn) - sum(len(one.pictures) for one in explanations) :] if drawn else ())
    shown: dict[str, list[EncodedObject]] = {}
    for one in explanations:
        shown.setdefault(one.tracking_uid, []).extend([*islice(maps, 1), *islice(pictures, len(one.pictures))])
    return shown
