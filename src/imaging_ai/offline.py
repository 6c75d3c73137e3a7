"""A model on a folder, without a server: DICOM files in, DICOM results out (`imaging-ai run`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from imaging_ai.catalog import Explaining, ModelEntry
from imaging_ai.core.finding import Evaluation
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.job import Stage
from imaging_ai.errors import SeriesRefused
from imaging_ai.sandbox.messages import Analyst, Found, Made, Order

__all__ = ["Written", "accepted", "run_folder"]


@dataclass(frozen=True, slots=True)
class Written:
    """What one run wrote: its findings and evaluations, each object with its path, and how it came about."""

    findings: tuple[Found, ...]
    objects: tuple[tuple[Made, Path], ...]
    evaluations: tuple[Evaluation, ...] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Series:
    files: tuple[Path, ...]
    attributes: Mapping[str, str]


def run_folder(
    source: Path,
    target: Path,
    entry: ModelEntry,
    analyst: Analyst,
    report: Callable[[int, Stage], None],
    *,
    created_at: float,
    explained: Explaining | None = None,
) -> Iterator[Written]:
    """Have `analyst` run a model on every series below `source` that it accepts; write its objects into `target`.

    What a classifier says is written as JSON too. The same series and model give objects with the same UIDs, so a run
    that is repeated replaces its files.

    Raises
    ------
    SeriesRefused
        If the model accepts none of the series, or does not read one.
    """
    runs = accepted(source, entry)
    target.mkdir(parents=True, exist_ok=True)
    for uids, files in runs:
        job_uid = derive_uid("run", entry.digest, *uids)
        answer = analyst.analyse(entry, entry.digest, files, Order(job_uid, created_at, explained=explained), report)
        if why := answer.refused:
            raise SeriesRefused(why.code, why.reason)
        written = []
        for one in answer.objects:
            path = target / f"{one.kind.lower()}-{one.sop_instance_uid[-12:]}.dcm"
            path.write_bytes(one.data)
            written.append((one, path))
        if answer.evaluations:
            tree = [one.as_tree() for one in answer.evaluations]
            (target / f"evaluations-{job_uid[-12:]}.json").write_bytes(msgspec.json.format(msgspec.json.encode(tree)))
        yield Written(answer.findings, tuple(written), answer.evaluations, answer.provenance)


def accepted(source: Path, entry: ModelEntry) -> Iterator[tuple[tuple[str, ...], dict[str, list[bytes]]]]:
    """Yield the files of each series below `source` that a model accepts, by input, with their Series Instance UIDs.

    Raises
    ------
    SeriesRefused
        At once, if there is none.
    """
    series = _read(source)
    runs = list(_choose(series, entry))
    if not runs:
        raise SeriesRefused("no-series", _why_none(series, entry))
    return (
        (
            tuple(uid for uid, _ in channels.values()),
            {name: [path.read_bytes() for path in one.files] for name, (_, one) in channels.items()},
        )
        for channels in runs
    )


def _read(folder: Path) -> dict[str, _Series]:
    files: dict[str, list[Path]] = defaultdict(list)
    first: dict[str, Dataset] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        if uid := str(ds.get("SeriesInstanceUID", "")):
            files[uid].append(path)
            first.setdefault(uid, ds)
    return {uid: _Series(tuple(paths), _attributes(first[uid])) for uid, paths in files.items()}


def _attributes(ds: Dataset) -> dict[str, str]:
    return {
        element.keyword: "\\".join(map(str, value)) if isinstance(value := element.value, MultiValue) else str(value)
        for element in ds
        if element.keyword and element.VR != "SQ"
    }


def _choose(series: Mapping[str, _Series], entry: ModelEntry) -> Iterator[dict[str, tuple[str, _Series]]]:
    accepted = {uid: one for uid, one in series.items() if not entry.accepts.mismatches(one.attributes, len(one.files))}
    if not entry.inputs:
        yield from ({"image": (uid, one)} for uid, one in accepted.items())
        return
    studies: dict[str, dict[str, _Series]] = defaultdict(dict)
    for uid, one in accepted.items():
        studies[one.attributes.get("StudyInstanceUID", "")][uid] = one
    for of_study in studies.values():
        channels: dict[str, tuple[str, _Series]] = {}
        for name, conditions in entry.inputs.items():
            for uid, one in of_study.items():
                free = all(uid != taken for taken, _ in channels.values())
                if free and name not in channels and not conditions.mismatches(one.attributes, len(one.files)):
                    channels[name] = uid, one
        if len(channels) == len(entry.inputs):
            yield channels


def _why_none(series: Mapping[str, _Series], entry: ModelEntry) -> str:
    if not series:
        return "there are no DICOM files in the folder"
    told: Sequence[str] = [
        f"{uid}: {'; '.join(entry.accepts.mismatches(one.attributes, len(one.files))) or 'no series for some input'}"
        for uid, one in series.items()
    ]
    return f"{entry.name} accepts none of the {len(series)} series: " + " | ".join(told[:10])
