"""One plane of a volume as a picture: windowed, scaled to square millimetres, with what was found drawn over it.

Intensities are windowed linearly (PS3.3 C.11.2.1.2); PET is shown dark on white, as it is read. Where in the patient
the edges lie is written at them; no patient's name is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging_ai.core.volume import Volume
from imaging_ai.draw.planes import OPPOSITE, Plane
from imaging_ai.draw.style import WARNING, Colour, font

__all__ = ["edge", "outlined", "panel", "window_of", "with_directions", "with_scale"]

_SAMPLES = 200_000
#: Lengths that a scale may have, in millimetres, and the part of the width that it may take.
_SCALES, _SCALE_PART = (100, 50, 20, 10, 5, 2, 1), 0.3

Pixels = NDArray[np.uint8]
Window = tuple[float, float]
#: A mask of a plane and its colour.
Shape = tuple[NDArray[np.bool_], Colour]


def window_of(volume: Volume) -> Window:
    """Return the intensities to show: the window of a CT, else from the 1st to the 99.9th percentile."""
    header = volume.headers[0]
    try:
        first = [float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth")]
    except (KeyError, IndexError, TypeError, ValueError):
        first = [0.0, 0.0]
    if volume.modality == "CT" and first[1] > 1:
        return first[0] - first[1] / 2, first[0] + first[1] / 2
    values = volume.voxels.reshape(-1)
    low, high = np.percentile(values[:: max(1, values.size // _SAMPLES)], (1, 99.9))
    return float(low), float(high)


def panel(volume: Volume, plane: Plane, window: Window, side: int, longest: float | None = None) -> Pixels:
    """Draw a plane, RGB: `side` pixels for its own longer side, or for `longest` millimetres."""
    low, high = window
    values = plane.of(volume.voxels)
    values = values if values.ndim == 2 else values.mean(axis=-1)
    shades = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    if volume.modality in {"PT", "NM"}:
        shades = 1 - shades
    height, width = plane.extent(volume.grid)
    scale = side / (longest or max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = Image.fromarray((shades * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


def outlined(pixels: Pixels, shapes: Sequence[Shape], fill: float = 0.0) -> Pixels:
    """Outline masks of a plane, scaled to the size of `pixels`, and cover what is inside by the part `fill`."""
    drawn = pixels.copy()
    size = pixels.shape[1], pixels.shape[0]
    for mask, colour in shapes:
        if not mask.any():
            continue
        enlarged = Image.fromarray(mask.astype(np.uint8) * 255)
        inside = np.asarray(enlarged.resize(size, Image.Resampling.BILINEAR)) > 127
        if fill:
            drawn[inside] = (drawn[inside] * (1 - fill) + np.array(colour) * fill).astype(np.uint8)
        drawn[edge(inside)] = colour
    return drawn


def edge(inside: NDArray[np.bool_], width: int = 2) -> NDArray[np.bool_]:
    """Return the border pixels of a region, `width` of them, just inside it."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1)
        core = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def with_directions(pixels: Pixels, volume: Volume, plane: Plane) -> Image.Image:
    """Write at each edge where in the patient it lies."""
    drawn = Image.fromarray(pixels)
    right, bottom = plane.directions(volume.grid)
    draw, letters_font = ImageDraw.Draw(drawn), font(15)
    width, height = drawn.size
    for letters, at, anchor in (
        (right, (width - 4, height / 2), "rm"),
        (right.translate(OPPOSITE), (4, height / 2), "lm"),
        (bottom, (width / 2, height - 4), "md"),
        (bottom.translate(OPPOSITE), (width / 2, 4), "ma"),
    ):
        draw.text(at, letters, fill=WARNING, font=letters_font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return drawn


def with_scale(drawn: Image.Image, volume: Volume, plane: Plane) -> Image.Image:
    """Draw a bar of a round length at the lower left, and say its length."""
    millimetres = plane.extent(volume.grid)[1]
    length = next((one for one in _SCALES if one <= millimetres * _SCALE_PART), 0)
    if not length:
        return drawn
    draw, top = ImageDraw.Draw(drawn), drawn.height - 8
    right = 6 + length / millimetres * drawn.width
    draw.line([(6, top), (right, top)], fill=(0, 0, 0), width=5)
    draw.line([(6, top), (right, top)], fill=WARNING, width=3)
    said = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    draw.text((6, top - 4), said, fill=WARNING, font=font(12), anchor="ld", stroke_width=2, stroke_fill=(0, 0, 0))
    return drawn
