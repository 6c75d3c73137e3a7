"""From a folder of images and files of results to a picture in a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from imaging_ai.core.volume import Volume
from imaging_ai.draw.panels import Window
from imaging_ai.errors import InputError
from imaging_ai.infer.volume import read_volume
from imaging_ai.visualize.layouts import Layout, pages
from imaging_ai.visualize.reading import CLASSES, place

__all__ = ["visualize"]

_MILLISECONDS = {"key": 150, "planes": 150, "montage": 1500}


def visualize(
    series: Path,
    results: Sequence[Path],
    target: Path,
    layout: Layout = "key",
    *,
    window: Window | None = None,
    side: int = 480,
) -> int:
    """Draw results over the series in the folder `series` into `target`, a PNG or a GIF; return how many pages it has.

    A result is a file, or a folder of which all that can be drawn is taken.

    Raises
    ------
    InputError
        If there is nothing to draw, or it was made of another series.
    SeriesRefused
        If the images are no volume.
    """
    moving = target.suffix.lower() == ".gif"
    if not moving and target.suffix.lower() != ".png":
        raise InputError(f"{target.name} is neither .png nor .gif")
    read = _results(results)
    volume = _series(series, read)
    drawn = pages(volume, place(read, volume), layout, window=window, side=side, moving=moving)
    target.parent.mkdir(parents=True, exist_ok=True)
    return _write(drawn, target, _MILLISECONDS[layout] if moving else 0)


def _write(drawn: Iterable[NDArray[np.uint8]], target: Path, milliseconds: int) -> int:
    """Write pages as they come; of a PNG there is one."""
    if not milliseconds:
        Image.fromarray(next(iter(drawn))).save(target, "PNG", optimize=True)
        return 1
    images = [Image.fromarray(page).quantize(dither=Image.Dither.NONE) for page in drawn]
    images[0].save(target, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return len(images)


def _results(paths: Sequence[Path]) -> list[Dataset]:
    found: list[Dataset] = []
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            ds = _read(file) if file.is_file() else None
            if ds is not None and ds.get("SOPClassUID") in CLASSES:
                found.append(ds)
            elif not path.is_dir():
                raise InputError(f"{path} is no DICOM segmentation or parametric map")
    if not found:
        raise InputError(f"there is no segmentation or parametric map in {', '.join(map(str, paths))}")
    return found


def _series(folder: Path, results: Sequence[Dataset]) -> Volume:
    """Read the one series of a folder that the results say they were made of."""
    referenced = {str(item.SeriesInstanceUID) for ds in results for item in ds.get("ReferencedSeriesSequence") or ()}
    frames = {str(ds.get("FrameOfReferenceUID", "")) for ds in results}
    by_series: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        ds = _read(path, stop_before_pixels=True)
        if ds is None or ds.get("SOPClassUID") in CLASSES or "Rows" not in ds:
            continue
        uid = str(ds.get("SeriesInstanceUID", ""))
        if uid in referenced or (not referenced and str(ds.get("FrameOfReferenceUID", "")) in frames):
            by_series.setdefault(uid, []).append(path)
    if not by_series:
        raise InputError(f"{folder} does not hold the series that the result was made of")
    files = max(by_series.values(), key=len)
    return read_volume(path.read_bytes() for path in files)


def _read(path: Path, *, stop_before_pixels: bool = False) -> Dataset | None:
    try:
        return dcmread(path, stop_before_pixels=stop_before_pixels)
    except (InvalidDicomError, OSError):
        return None
