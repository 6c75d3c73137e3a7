"""Maps as heat: from nothing, which is not drawn, to most; of maps with two sides, from against to for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging_ai.draw.style import BACKGROUND, TEXT, font

__all__ = ["colour_bar", "heat_colours", "heated"]

_HEAT = np.array([(20, 0, 60), (120, 20, 110), (220, 50, 70), (250, 140, 20), (255, 240, 130)], np.float32)
_TWO_SIDED = np.array([(90, 190, 255), (30, 80, 200), (20, 0, 60), (220, 50, 70), (255, 240, 130)], np.float32)
#: How much of the image the most of it covers.
_COVER = 0.75
_BAR = 18

Limits = tuple[float, float]


def heated(pixels: NDArray[np.uint8], values: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """Cover RGB `pixels` with the heat of a map on the same plane, which is scaled to their size."""
    low, high = limits
    part = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
    if part.shape != pixels.shape[:2]:
        size = pixels.shape[1], pixels.shape[0]
        part = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    strength = abs(2 * part - 1) if low < 0 else part
    cover = (_COVER * strength)[..., None]
    return (pixels * (1 - cover) + heat_colours(part, limits) * cover).astype(np.uint8)


def heat_colours(part: NDArray[np.float32], limits: Limits) -> NDArray[np.float32]:
    """Return the colours of values from 0, the lower limit, to 1, the upper one."""
    colours = _TWO_SIDED if limits[0] < 0 else _HEAT
    steps = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(part, steps, colours[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def colour_bar(limits: Limits, height: int, unit: str = "") -> Image.Image:
    """Draw the colours with the values that they stand for, and the unit below where there is one."""
    ramp = np.linspace(1, 0, height, dtype=np.float32)
    bar = Image.new("RGB", (_BAR + 46, height), BACKGROUND)
    bar.paste(Image.fromarray(np.repeat(heat_colours(ramp, limits)[:, None], _BAR, axis=1).astype(np.uint8)), (0, 0))
    low, high = limits
    draw = ImageDraw.Draw(bar)
    for value in (high, (low + high) / 2, low):
        top = (high - value) / (high - low) * (height - 16)
        draw.text((_BAR + 6, top), f"{value:.3g}", fill=TEXT, font=font(13))
    if unit:
        draw.text((_BAR + 6, height * 0.75), unit[:8], fill=TEXT, font=font(11))
    return bar
