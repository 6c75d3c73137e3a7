"""The bundles of `bench/zoo.py` through the whole server: C-STORE in, a rule, a job, its results out of the archive.

Each comes twice: as it is, with random weights, for the seconds of its job and the peak memory of the server's largest
process; and with a network that thresholds in the place of its own, on an oblique series in reverse order, whose SEG
must lie where the series is bright.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

import phantoms
import zoo
from e2e.server import Server, push
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.job import Job, JobState
from imaging_ai.infer.volume import read_volume

__all__ = ["Shape", "through_server"]

#: Slices, rows and columns of a phantom, and millimetres between them.
Shape = tuple[tuple[int, int, int], tuple[float, float, float]]

_GEOMETRY = {"orientation": phantoms.OBLIQUE, "reverse": True}
_RULE = """
[[rules]]
name = "{name}"
when = {{ StudyDescription = "{name}" }}
run = ["{name}"]
"""
_PATIENCE = 1800.0


@dataclass(frozen=True)
class _Sent:
    """A bundle of the server by its name, and the study of that name that it is sent."""

    name: str
    shape: tuple[int, ...]
    files: dict[str, list[bytes]]


def through_server(bundles: Sequence[tuple[Path, Shape]], *, scripts: bool) -> Iterator[str]:
    """Send each bundle its series, and yield the rows of a table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    environment = {
        "IMAGING_AI_MODELS_ALLOW_SCRIPTS": str(scripts).lower(),
        "IMAGING_AI_MODELS_MEMORY_MB": "1",  # the memory is of one model
        "IMAGING_AI_WORKER_MAX_ATTEMPTS": "1",
    }
    names = [name for folder, _ in bundles for name in (folder.name, _bright(folder))]
    yield "| bundle | series | objects | seconds | with loading | peak memory | Dice | centre |"
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as scratch:
        settings = "".join(_RULE.format(name=name) for name in names)
        with Server(Path(scratch), settings, environment) as server:
            random = [_random(folder, shape, server.models, scripts) for folder, shape in bundles]
            bright = [_thresholding(folder, shape[1], server.models, scripts) for folder, shape in bundles]
            server.serve()
            for noise, body in zip(random, bright, strict=True):
                size = " x ".join(map(str, noise.shape))
                yield f"| {noise.name} | {size} | {' | '.join(_row(server, noise, body))} |"


def _bright(folder: Path) -> str:
    return f"{folder.name}-bright"


def _random(folder: Path, shape: Shape, models: Path, scripts: bool) -> _Sent:
    entry = zoo.copied(folder, models / folder.name)
    with contextlib.suppress(Exception):  # what cannot be built is named by its job
        zoo.random_weights(entry, allow_scripts=scripts)
    return _Sent(folder.name, shape[0], zoo.series_of(entry, *shape, study=folder.name))


def _thresholding(folder: Path, spacing: tuple[float, float, float], models: Path, scripts: bool) -> _Sent | None:
    """Install a bundle with a network that thresholds; None of what makes no masks, or cannot be built."""
    name, image = _bright(folder), zoo.angular((21, 45, 53))
    image[:, 12:17, 14:22] = 300  # something in each slice, for flat networks, and in one piece, for who keeps one
    entry = zoo.copied(folder, models / name)
    files = zoo.series_of(entry, image.shape, spacing, image=image, study=name, **_GEOMETRY)
    try:
        zoo.brighten(entry, files, allow_scripts=scripts)
    except Exception:
        return None
    return _Sent(name, image.shape, files)


def _row(server: Server, noise: _Sent, body: _Sent | None) -> Iterator[str]:
    with _peak(server) as peak:
        job = _run(server, noise)
    if job.state is not JobState.COMPLETED:
        yield f"{job.state}: {job.failure.code}: {job.failure.reason}" if job.failure else job.state
        return
    kinds = [row.kind for row in server.rows("SELECT kind FROM result WHERE job_id = :id", id=job.id)]
    seconds: dict[str, float] = job.provenance["seconds"]  # type: ignore[assignment]
    yield ", ".join(sorted(kinds))
    yield f"{sum(seconds.values()):.1f}"
    yield f"{(job.finished_at or 0) - (job.started_at or 0):.1f}"
    yield f"{peak[0]:.1f} GB"
    if body and "SEG" in kinds:
        yield from _compared(server, body)


def _compared(server: Server, body: _Sent) -> Iterator[str]:
    """Compare the SEG of a job with what is bright: Dice, and how far the centres lie apart, in voxels."""
    job = _run(server, body)
    if job.state is not JobState.COMPLETED or "SEG" not in (results := server.results(job.id)):
        yield f"{job.state}: {job.failure}"
        return
    first = read_volume(next(iter(body.files.values())))
    answer = zoo.mask_of(results["SEG"], first).any(axis=0)
    bright = first.voxels > 175 if first.voxels.ndim == 3 else first.voxels[..., 0] > 130
    centres = [np.mean(np.nonzero(mask), axis=1) for mask in (answer, bright)]
    yield f"{2 * (answer & bright).sum() / (answer.sum() + bright.sum()):.3f}"
    yield f"{np.abs(centres[0] - centres[1]).max():.2f}"


def _run(server: Server, sent: _Sent) -> Job:
    """Send a study, and wait for its job."""
    folder = server.folder / "sent" / sent.name
    for name, files in sent.files.items():
        (folder / name).mkdir(parents=True)
        for index, file in enumerate(files):
            (folder / name / f"{index}.dcm").write_bytes(file)
    push(server.dicom_port, folder)
    uid = derive_uid("phantom", sent.name, "study")
    return server.wait_jobs(1, study=uid, timeout=_PATIENCE)[0]


@contextlib.contextmanager
def _peak(server: Server) -> Iterator[list[float]]:
    """Measure the largest memory that one of the server's processes had in between, in GB."""
    found: list[float] = []
    for process in _processes(server):
        (Path("/proc") / str(process.pid) / "clear_refs").write_text("5")  # proc(5): forget the peak
    yield found
    peaks = [(Path("/proc") / str(process.pid) / "status").read_text() for process in _processes(server)]
    found.append(max(int(text.split("VmHWM:")[1].split()[0]) for text in peaks if "VmHWM:" in text) / 2**20)


def _processes(server: Server) -> list[psutil.Process]:
    main = psutil.Process(server.processes["serve"].pid)
    return [main, *main.children(recursive=True)]
