"""Which rules match the series in a folder, and why not: the rules tried without a server."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

from imaging_ai.catalog import Catalog
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.errors import NotFound
from imaging_ai.route.attributes import DAMAGED, attributes_of
from imaging_ai.route.plan import Decision, Run, Skip, plan
from imaging_ai.route.rules import Rule

__all__ = ["Explanation", "explain_folder", "render"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The series of a folder and what the rules decide on them; `skipped` counts files that are no instances."""

    series: tuple[SeriesSummary, ...]
    decisions: tuple[Decision, ...]
    skipped: int


def explain_folder(
    path: Path,
    rules: Sequence[Rule],
    catalog: Catalog,
    *,
    progress: Callable[[int], None] = lambda _files: None,
) -> Explanation:
    """Read the headers below `path` and apply the rules as if each study had just been received in full.

    Raises
    ------
    NotFound
        If there is no such folder.
    """
    if not path.is_dir():
        raise NotFound(f"{path} is no folder; name one with DICOM files in it")
    with warnings.catch_warnings():  # a header's oddities are not the matter here, and warnings quote its values
        warnings.simplefilter("ignore")
        return _explain(path, rules, catalog, progress)


def _explain(path: Path, rules: Sequence[Rule], catalog: Catalog, progress: Callable[[int], None]) -> Explanation:
    series: dict[tuple[str, str], list[Dataset]] = defaultdict(list)
    skipped = 0
    for count, file in enumerate(_files(path), 1):
        header = _header(file)
        if header is None:
            skipped += 1
        else:
            instances = series[header.StudyInstanceUID, header.SeriesInstanceUID]
            instances.append(header if not instances else Dataset())
        progress(count)
    studies: dict[str, list[SeriesSummary]] = defaultdict(list)
    for (study_instance_uid, series_instance_uid), headers in sorted(series.items()):
        studies[study_instance_uid].append(_summary(study_instance_uid, series_instance_uid, headers))
    decisions = [decision for study in studies.values() for decision in plan(rules, study, catalog)]
    return Explanation(tuple(one for study in studies.values() for one in study), tuple(decisions), skipped)


def render(explanation: Explanation) -> Iterator[str]:
    """Tell the explanation in lines of plain text."""
    for series in explanation.series:
        yield f"series {series.series_instance_uid}: {series.modality or 'no Modality'}, {series.instances} instances"
        told = [line for decision in explanation.decisions if (line := _line(decision, series.series_instance_uid))]
        yield from told or ["  there are no rules"]
    if explanation.skipped:
        yield f"{explanation.skipped} files are no DICOM instances"
    if not explanation.series:
        yield "no series found"


def _line(decision: Decision, series_instance_uid: str) -> str:
    if isinstance(decision, Skip):
        return f"  no   {decision}" if decision.series_instance_uid == series_instance_uid else ""
    for position, series in enumerate(decision.series):
        if series.series_instance_uid == series_instance_uid:
            return _run_line(decision, decision.channels[position] if decision.channels else "")
    return ""


def _run_line(run: Run, channel: str) -> str:
    as_channel = f" as its input {channel}" if channel else ""
    destinations = ", ".join(run.destinations) or "no destination"
    return f"  runs rule {run.rule!r}, model {run.model.name!r}{as_channel}; results to {destinations}"


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file())


def _header(file: Path) -> Dataset | None:
    try:
        header = dcmread(file, stop_before_pixels=True)
    except DAMAGED:
        return None
    return header if header.get("StudyInstanceUID") and header.get("SeriesInstanceUID") else None


def _summary(study_instance_uid: str, series_instance_uid: str, headers: Sequence[Dataset]) -> SeriesSummary:
    header = headers[0]
    attributes = attributes_of(header)
    modality = attributes.get("Modality", "")
    return SeriesSummary(study_instance_uid, series_instance_uid, modality, len(headers), 0, attributes)
