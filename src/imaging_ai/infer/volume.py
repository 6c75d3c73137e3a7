"""Instances of a series to one volume: in order, in modality values, with the affine of the patient.

Slices are ordered by geometry, rescaled each by its own slope (PS3.3 C.11.1), and PET comes out as SUV where the
series allows it. A tilted gantry stays a sheared stack, exactly. What cannot be one volume is refused with a coded
reason, see `stack.py`; what was left out or could not be told is said in the volume's notes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from imaging_ai.archive import gate
from imaging_ai.archive.document import DEFLATED, inflate
from imaging_ai.core.geometry import Grid, SourceFrame
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import NotDicom, SeriesRefused
from imaging_ai.infer.frames import Frame, Part, flat_frames, frames_of
from imaging_ai.infer.pixels import Pixels, is_color
from imaging_ai.infer.stack import Stack, build_stack
from imaging_ai.infer.suv import unit_and_factor

__all__ = ["parse_instance", "read_headers", "read_volume"]

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: Instances without geometry are left out when they are no more than this part of the series.
_UNPLACED = 0.1
#: What all slices have in common: a result goes where the first of them belongs.
_OF_ONE = (("StudyInstanceUID", "mixed-studies"), ("PatientID", "mixed-patients"))
#: Stands for all frames of an instance.
_ALL: frozenset[int] = frozenset()
#: The extended scale of CT numbers ends below this.
_HIGHEST_CT = 32767


def read_volume(files: Iterable[bytes | bytearray | memoryview | Dataset | Part]) -> Volume:
    """Read the instances of one series, in any order.

    Raises
    ------
    SeriesRefused
        If they are not the instances of one volume; `reason` says why not.
    """
    parts = [file if isinstance(file, Part) else Part(parse_instance(file), _ALL) for file in files]
    datasets = [part.ds for part in parts]
    images = [ds for ds in datasets if any(keyword in ds for keyword in _PIXEL_KEYWORDS)]
    if not images:
        raise SeriesRefused("no-images", "the series has no instances with pixel data")
    _require_one(images, "SeriesInstanceUID", "mixed-series")
    frames, unplaced = _frames(images)
    chosen = {id(part.ds): part.frames for part in parts if part.frames}
    frames = [frame for frame in frames if frame.index in chosen.get(id(frame.ds), (frame.index,))]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        pixels = _Decoded(pool, images)
        stack = build_stack(frames, pixels.same)
        used = list({id(frame.ds): frame.ds for frame in stack.frames}.values())
        for keyword, reason in _OF_ONE:
            _require_one(used, keyword, reason)
        frame_of_reference_uid = _frame_of_reference(used)
        unit, factor, note = unit_and_factor(used)
        voxels = _fill(stack, pixels, pool)
    modality = str(used[0].get("Modality") or "")
    _require_plausible(voxels, modality)
    if factor != 1.0:
        voxels *= np.float32(factor)
    notes = [*stack.notes, note]
    for count, what in ((len(datasets) - len(images), "pixel data"), (unplaced, "a position in the patient")):
        notes.append(f"{count} instances without {what} are left out" if count else "")
    located = any("ImagePositionPatient" in ds or "PerFrameFunctionalGroupsSequence" in ds for ds in used)
    notes.append("" if located else "the images have no place in the patient: each is read by itself")
    slices, rows, columns = voxels.shape[:3]
    return Volume(
        voxels=voxels,
        grid=Grid(slices, rows, columns, stack.affine, frame_of_reference_uid),
        sources=tuple(_source(frame) for frame in stack.frames),
        headers=tuple(_header(ds) for ds in used),
        modality=modality,
        unit=unit,
        notes=tuple(note for note in notes if note),
        located=located,
    )


def read_headers(files: Iterable[bytes | bytearray | memoryview | Dataset]) -> Volume | None:
    """Read what the instances of a series say of themselves, whatever their pixels; None when nothing can be read.

    The volume that carries the headers is empty, and lies nowhere.
    """
    headers: list[Dataset] = []
    for file in files:
        try:
            headers.append(_header(file if isinstance(file, Dataset) else parse_instance(file)))
        except SeriesRefused:
            continue
    if not headers:
        return None
    nowhere = Grid(0, 0, 0, np.eye(4), str(headers[0].get("FrameOfReferenceUID") or ""))
    modality = str(headers[0].get("Modality") or "")
    return Volume(np.empty((0, 0, 0), np.float32), nowhere, (), tuple(headers), modality)


def _frames(images: Sequence[Dataset]) -> tuple[list[Frame], int]:
    """List all frames; a few instances without geometry (a dose page among the slices) are left out, and counted."""
    frames: list[Frame] = []
    refusals: list[SeriesRefused] = []
    for ds in images:
        try:
            frames += frames_of(ds)
        except SeriesRefused as refusal:
            refusals.append(refusal)
    if len(refusals) == len(images) and (flat := flat_frames(images)):
        return flat, 0
    if len(refusals) > _UNPLACED * len(images):
        raise refusals[0]
    return frames, len(refusals)


class _Decoded:
    """The pixels of instances, decoded by a pool ahead of their use, each once."""

    def __init__(self, pool: ThreadPoolExecutor, images: Sequence[Dataset]) -> None:
        self._pending = {id(ds): pool.submit(Pixels, ds) for ds in images}

    def values(self, frame: Frame) -> NDArray[np.float32]:
        return self._pending[id(frame.ds)].result().values(frame)

    def same(self, one: Frame, other: Frame) -> bool:
        return np.array_equal(self.values(one), self.values(other), equal_nan=True)


def parse_instance(file: bytes | bytearray | memoryview | Dataset) -> Dataset:
    """Read an instance, unless it is read; a deflated one only when it inflates to no more than the archive shows."""
    if isinstance(file, Dataset):
        return file
    try:
        view = memoryview(file)
        if gate.transfer_syntax(view) == DEFLATED:
            _, wrong = inflate(bytes(view[gate.dataset_offset(view) :]))
            if wrong:
                raise SeriesRefused("unreadable-instance", wrong)
        return dcmread(io.BytesIO(file))
    except (NotDicom, InvalidDicomError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise SeriesRefused("unreadable-instance", f"an instance cannot be read ({type(error).__name__})") from error


def _require_one(images: Sequence[Dataset], keyword: str, reason: str) -> str:
    values = {str(ds.get(keyword) or "").strip() for ds in images}
    if len(values) > 1:
        raise SeriesRefused(reason, f"the instances have {len(values)} different values of {keyword}")
    return values.pop()


def _require_plausible(voxels: NDArray[np.float32], modality: str) -> None:
    """Refuse a CT whose numbers no CT can have: air at 64512 is -1024, written signed and declared unsigned."""
    highest = float(voxels.max(initial=0))
    if modality == "CT" and highest > _HIGHEST_CT:
        raise SeriesRefused(
            "implausible-values",
            f"its CT numbers reach {highest:.0f}: signed pixels that are declared unsigned (Pixel Representation), or "
            "a wrong Rescale Intercept; have the series written anew",
        )


def _frame_of_reference(used: Sequence[Dataset]) -> str:
    """Return the Frame of Reference UID; a series without one is a frame of reference of its own."""
    uid = _require_one(used, "FrameOfReferenceUID", "mixed-frames-of-reference")
    return uid or derive_uid("frame of reference", str(used[0].get("SeriesInstanceUID") or ""))


def _fill(stack: Stack, pixels: _Decoded, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
    first = stack.frames[0].ds
    colors = {is_color(frame.ds) for frame in stack.frames}
    if len(colors) > 1:
        raise SeriesRefused("mixed-sizes", "colour and monochrome frames are in one series")
    shape = (len(stack.frames), int(first.Rows), int(first.Columns))
    voxels = np.empty((*shape, 3) if colors.pop() else shape, dtype=np.float32)

    def fill(k: int) -> None:
        voxels[k] = pixels.values(stack.frames[k])

    list(pool.map(fill, range(len(stack.frames))))
    lowest = float(np.min(voxels)) if voxels.size else 0.0
    if np.isnan(lowest):  # padding: what was not measured is as little as what was measured least
        outside = np.isnan(voxels)
        voxels[outside] = np.nanmin(voxels) if not outside.all() else 0.0
    return voxels


def _source(frame: Frame) -> SourceFrame:
    multi_frame = "NumberOfFrames" in frame.ds
    return SourceFrame(str(frame.ds.SOPClassUID), str(frame.ds.SOPInstanceUID), frame.index + 1, multi_frame)


def _header(ds: Dataset) -> Dataset:
    """Return a data set without its pixel data, which is always its last group (PS3.5 7.1)."""
    header = ds[:0x7FE00000]
    if hasattr(ds, "file_meta"):
        header.file_meta = ds.file_meta
    return header
