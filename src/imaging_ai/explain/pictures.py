"""Pictures of findings for viewers that show nothing but pictures: key slices with outlines, and beside them a map.

The largest finding comes first, the slice where it is largest before its others. Slices are shown as they are stored,
scaled to square millimetres, with the directions of the patient at the edges. No patient's name is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imaging_ai.core.colour import DISPLAY_COLOURS, srgb_of
from imaging_ai.core.finding import Finding, ParametricMap, Picture
from imaging_ai.core.volume import Volume
from imaging_ai.explain.overlay import edge

__all__ = ["NOTICE", "key_slices"]

NOTICE = "AI result - not for diagnosis unless reviewed by a physician"

_PANEL, _MARGIN, _LINE, _BAR = 480, 10, 20, 18
_MOST_LABELS, _MOST_NUMBERS = 4, 4
_BACKGROUND, _TEXT, _WARNING = (16, 20, 24), (225, 230, 235), (255, 196, 0)
#: From nothing to most: the colours of the heat, and how much of it covers the image.
_HEAT = np.array([(20, 0, 60), (120, 20, 110), (220, 50, 70), (250, 140, 20), (255, 240, 130)], np.float32)
_COVER = 0.75
_OPPOSITE = str.maketrans("LRPAHF", "RLAPFH")
_SAMPLES = 200_000

_Colour = tuple[int, int, int]
_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A finding as it is drawn."""

    finding: Finding
    colour: _Colour
    voxels: int


def key_slices(
    volume: Volume, findings: Sequence[Finding], heading: str, heat: ParametricMap | None = None, *, most: int = 6
) -> tuple[Picture, ...]:
    """Draw at most `most` slices through what was found; none where nothing was."""
    shown = _by_size(findings)
    window = _window(volume) if shown else (0.0, 1.0)
    labels = min(len(shown), _MOST_LABELS)
    pictures = []
    for k, label in _choose(shown, most):
        panel = _panel(volume, k, window)
        panels = [_outlined(panel, volume, shown, k)]
        if heat is not None:
            panels += [_heated(panel, volume, heat, k), _colour_bar(heat)]
        where = f"slice {k + 1} of {volume.grid.slices}"
        title = "   ".join([heading, where, *([f"right: {heat.description}"] if heat else [])])
        lines = [(_sentence(one.finding), one.colour) for one in shown if one.finding.region.areas[k]]
        pictures.append(Picture(_sheet(panels, title, lines, labels), k, f"{label}, {where}"))
    return tuple(pictures)


def _by_size(findings: Sequence[Finding]) -> list[_Shown]:
    found = [
        _Shown(
            finding,
            srgb_of(finding.description.cielab or DISPLAY_COLOURS[number % len(DISPLAY_COLOURS)]),
            finding.region.voxels,
        )
        for number, finding in enumerate(one for one in findings if one.found)
    ]
    return sorted(found, key=lambda one: -one.voxels)


def _choose(shown: Sequence[_Shown], most: int) -> Iterator[tuple[int, str]]:
    """Yield slices, each once: of every finding the one where it is largest, then others evenly through it."""
    taken: set[int] = set()
    each = max(1, most // max(1, len(shown)))
    for one in shown:
        areas = one.finding.region.areas
        present = np.flatnonzero(areas)
        others = present[np.linspace(0, len(present) - 1, each + 1).round().astype(int)[1:-1]] if each > 1 else []
        for k in (int(areas.argmax()), *map(int, others)):
            if k not in taken and len(taken) < most:
                taken.add(k)
                yield k, one.finding.tracking_identifier


def _window(volume: Volume) -> tuple[float, float]:
    """Return the intensities shown: the window of a CT, else from the 1st to the 99.9th percentile."""
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


def _size(volume: Volume) -> tuple[int, int]:
    """Return width and height of a panel."""
    _, rows, columns = volume.grid.shape
    _, row_spacing, column_spacing = volume.grid.spacing
    height, width = rows * row_spacing, columns * column_spacing
    scale = _PANEL / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _panel(volume: Volume, k: int, window: tuple[float, float]) -> Image.Image:
    low, high = window
    plane = volume.voxels[k] if volume.voxels.ndim == 3 else volume.voxels[k].mean(axis=-1)
    shades = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
    if volume.modality in {"PT", "NM"}:
        shades = 1 - shades
    grey = Image.fromarray((shades * 255).astype(np.uint8))
    return grey.resize(_size(volume), Image.Resampling.BICUBIC).convert("RGB")


def _outlined(panel: Image.Image, volume: Volume, shown: Sequence[_Shown], k: int) -> Image.Image:
    pixels = np.asarray(panel).copy()
    for one in shown:
        plane = one.finding.region.plane(k)
        if plane.any():
            mask = Image.fromarray(plane.astype(np.uint8) * 255)
            pixels[edge(np.asarray(mask.resize(panel.size, Image.Resampling.BILINEAR)) > 127)] = one.colour
    return _with_directions(Image.fromarray(pixels), volume)


def _heated(panel: Image.Image, volume: Volume, heat: ParametricMap, k: int) -> Image.Image:
    low, high = heat.limits
    part = ((heat.values[k] - low) / (high - low)).clip(0, 1).astype(np.float32)
    part = np.asarray(Image.fromarray(part).resize(panel.size, Image.Resampling.BILINEAR)).clip(0, 1)
    cover = (_COVER * part)[..., None]
    pixels = np.asarray(panel) * (1 - cover) + _heat_colours(part) * cover
    return _with_directions(Image.fromarray(pixels.astype(np.uint8)), volume)


def _heat_colours(part: NDArray[np.float32]) -> NDArray[np.float32]:
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(part, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def _colour_bar(heat: ParametricMap) -> Image.Image:
    ramp = np.linspace(1, 0, _PANEL, dtype=np.float32)
    bar = Image.new("RGB", (_BAR + 46, _PANEL), _BACKGROUND)
    bar.paste(Image.fromarray(np.repeat(_heat_colours(ramp)[:, None], _BAR, axis=1).astype(np.uint8)), (0, 0))
    low, high = heat.limits
    for value in (high, (low + high) / 2, low):
        top = (high - value) / (high - low) * (_PANEL - 16)
        ImageDraw.Draw(bar).text((_BAR + 6, top), f"{value:.3g}", fill=_TEXT, font=_font(13))
    return bar


def _with_directions(panel: Image.Image, volume: Volume) -> Image.Image:
    """Write at each edge where in the patient it lies."""
    right, bottom = volume.grid.patient_orientation
    draw, font = ImageDraw.Draw(panel), _font(15)
    width, height = panel.size
    for letters, at, anchor in (
        (right, (width - 4, height / 2), "rm"),
        (right.translate(_OPPOSITE), (4, height / 2), "lm"),
        (bottom, (width / 2, height - 4), "md"),
        (bottom.translate(_OPPOSITE), (width / 2, 4), "ma"),
    ):
        draw.text(at, letters, fill=_WARNING, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return panel


def _sheet(panels: Sequence[Image.Image], title: str, lines: Sequence[tuple[str, _Colour]], most_lines: int) -> _Pixels:
    """Put panels side by side, the title above, findings and notice below; of one size for the whole series."""
    width = max(sum(panel.width + _MARGIN for panel in panels) + _MARGIN, _PANEL + 2 * _MARGIN)
    top = _LINE + _MARGIN
    below = top + _PANEL + _MARGIN
    sheet = Image.new("RGB", (width, below + (most_lines + 1) * _LINE + _MARGIN), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), _font(14)
    draw.text((_MARGIN, 6), title, fill=_TEXT, font=font)
    left = _MARGIN
    for panel in panels:
        sheet.paste(panel, (left, top))
        left += panel.width + _MARGIN
    for number, (line, colour) in enumerate(lines[:most_lines]):
        draw.text((_MARGIN, below + number * _LINE), line, fill=colour, font=font)
    draw.text((_MARGIN, below + most_lines * _LINE), NOTICE, fill=_WARNING, font=font)
    return np.asarray(sheet)


def _sentence(finding: Finding) -> str:
    """Say the measurements of a finding in words, sizes first."""
    told = [
        f"{' '.join(part.meaning for part in (m.quantity, m.derivation) if part)} {m.value:.4g} {m.unit.value}"
        for m in sorted(finding.measurements, key=lambda m: m.derivation is not None)[:_MOST_NUMBERS]
    ]
    return f"{finding.tracking_identifier}: {', '.join(told)}" if told else finding.tracking_identifier


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
