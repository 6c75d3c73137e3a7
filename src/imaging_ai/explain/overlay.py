"""Pictures of findings over the images they were found in: three orthogonal planes through the largest finding.

The planes follow the source grid (its slices, rows and columns) and are scaled to square millimetres. Intensities are
windowed linearly (PS3.3 C.11.2.1.2); PET is shown dark on white, as it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging_ai.core.volume import Volume

__all__ = ["edge", "three_planes"]

_BACKGROUND = (16, 20, 24)
_PANEL_HEIGHT = 360
_MARGIN = 8
_CAPTION = 18

Colour = tuple[int, int, int]


def three_planes(
    volume: Volume,
    masks: Sequence[tuple[str, NDArray[np.bool_], Colour]],
    *,
    window: tuple[float, float] | None = None,
) -> Image.Image:
    """Draw the axial, coronal and sagittal plane through the centre of the largest mask, outlines over the image.

    Parameters
    ----------
    masks
        Name, boolean mask ``(slices, rows, columns)`` and RGB colour of each finding.
    window
        Lowest and highest intensity shown; by default the 1st and the 99.9th percentile.
    """
    low, high = window or tuple(float(value) for value in np.percentile(volume.voxels, (1, 99.9)))
    centre = _centre([mask for _, mask, _ in masks], volume.voxels.shape[:3])
    shades = np.clip((volume.voxels - low) / max(high - low, 1e-6), 0, 1)
    if volume.modality in {"PT", "NM"}:
        shades = 1 - shades
    spacing = volume.grid.spacing
    panels = []
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        rows, columns = (other for other in range(3) if other != axis)
        flip = axis != 0  # head up: the first slice is the lowest
        plane = _plane(shades, axis, centre[axis], flip=flip)
        outlines = [(_plane(mask, axis, centre[axis], flip=flip), colour) for _, mask, colour in masks]
        panels.append(_panel(plane, outlines, spacing[rows] / spacing[columns], f"{name} {centre[axis] + 1}"))
    return _beside(panels, "   ".join(name for name, _, _ in masks) or "nothing found")


def _centre(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, ...]) -> tuple[int, int, int]:
    largest = max(masks, key=np.count_nonzero, default=None)
    if largest is None or not largest.any():
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    sums = [np.count_nonzero(largest, axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    first, second, third = (int(np.argmax(counts)) for counts in sums)
    return first, second, third


def _plane(voxels: NDArray[np.generic], axis: int, index: int, *, flip: bool) -> NDArray[np.generic]:
    plane: NDArray[np.generic] = np.moveaxis(voxels, axis, 0)[index]
    return plane[::-1] if flip else plane


def _panel(
    plane: NDArray[np.generic],
    outlines: Sequence[tuple[NDArray[np.generic], Colour]],
    aspect: float,
    caption: str,
) -> Image.Image:
    height = _PANEL_HEIGHT
    width = max(1, round(height * plane.shape[1] / (plane.shape[0] * aspect)))
    grey = Image.fromarray((plane.astype(np.float32) * 255).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(grey.convert("RGB")).copy()
    for mask, colour in outlines:
        enlarged = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        inside = np.asarray(enlarged) > 127
        pixels[edge(inside)] = colour
    panel = Image.new("RGB", (width, height + _CAPTION), _BACKGROUND)
    panel.paste(Image.fromarray(pixels), (0, 0))
    ImageDraw.Draw(panel).text((2, height + 3), caption, fill=(200, 208, 216))
    return panel


def edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The border pixels of a region, two wide, just inside it."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1)
        core = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _beside(panels: Sequence[Image.Image], title: str) -> Image.Image:
    width = sum(panel.width for panel in panels) + _MARGIN * (len(panels) + 1)
    height = max(panel.height for panel in panels) + 2 * _MARGIN + _CAPTION
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN - 2), title, fill=(235, 240, 245))
    left = _MARGIN
    for panel in panels:
        sheet.paste(panel, (left, _MARGIN + _CAPTION))
        left += panel.width + _MARGIN
    return sheet
