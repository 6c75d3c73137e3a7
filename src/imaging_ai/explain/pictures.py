"""Pictures of findings for viewers that show nothing but pictures: key slices with outlines, and beside them a map.

The largest finding comes first, the slice where it is largest before its others. Slices are shown as they are stored,
scaled to square millimetres, with the directions of the patient at the edges. No patient's name is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imaging_ai.core.colour import DISPLAY_COLOURS, srgb_of
from imaging_ai.core.finding import Finding, ParametricMap, Picture
from imaging_ai.core.volume import Volume
from imaging_ai.draw.heat import colour_bar, heated
from imaging_ai.draw.panels import Pixels, outlined, panel, window_of, with_directions
from imaging_ai.draw.planes import Plane
from imaging_ai.draw.sheets import sheet
from imaging_ai.draw.style import TEXT, Colour

__all__ = ["explained_slices", "key_slices"]

_PANEL = 480
_MOST_LABELS, _MOST_NUMBERS = 4, 4


@dataclass(frozen=True, slots=True)
class _Shown:
    """A finding as it is drawn."""

    finding: Finding
    colour: Colour
    voxels: int


def key_slices(
    volume: Volume, findings: Sequence[Finding], heading: str, heat: ParametricMap | None = None, *, most: int = 6
) -> tuple[Picture, ...]:
    """Draw at most `most` slices through what was found; none where nothing was."""
    shown = _by_size(findings)
    window = window_of(volume) if shown else (0.0, 1.0)
    labels = min(len(shown), _MOST_LABELS)
    pictures = []
    for k, label in _choose(shown, most):
        pixels = panel(volume, Plane(0, k), window, _PANEL)
        panels = [_found(pixels, volume, shown, k)]
        if heat is not None:
            panels += [_mapped(pixels, volume, heat, k), colour_bar(heat.limits, _PANEL)]
        where = f"slice {k + 1} of {volume.grid.slices}"
        title = "   ".join([heading, where, *([f"right: {heat.description}"] if heat else [])])
        lines = [(_sentence(one.finding), one.colour) for one in shown if one.finding.region.areas[k]]
        pictures.append(Picture(sheet(panels, title, lines, labels, side=_PANEL), k, f"{label}, {where}"))
    return tuple(pictures)


def explained_slices(
    volume: Volume,
    heat: ParametricMap,
    slices: Sequence[int],
    heading: str,
    lines: Sequence[str],
    finding: Finding | None = None,
) -> tuple[Picture, ...]:
    """Draw slices with the outline of a finding, if there is one, beside the map that explains it; `lines` below."""
    window = window_of(volume)
    shown = _by_size([finding] if finding else [])
    pictures = []
    for k in slices:
        pixels = panel(volume, Plane(0, k), window, _PANEL)
        panels = [
            _found(pixels, volume, shown, k),
            _mapped(pixels, volume, heat, k),
            colour_bar(heat.limits, _PANEL),
        ]
        where = f"slice {k + 1} of {volume.grid.slices}"
        title = "   ".join([heading, where, f"right: {heat.description}"])
        drawn = sheet(panels, title, [(line, TEXT) for line in lines], len(lines), side=_PANEL)
        pictures.append(Picture(drawn, k, f"{heat.description}, {where}", heat.quantity))
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


def _found(pixels: Pixels, volume: Volume, shown: Sequence[_Shown], k: int) -> Image.Image:
    plane = Plane(0, k)
    shapes = [(plane.mask(one.finding.region), one.colour) for one in shown]
    return with_directions(outlined(pixels, shapes), volume, plane)


def _mapped(pixels: Pixels, volume: Volume, heat: ParametricMap, k: int) -> Image.Image:
    return with_directions(heated(pixels, heat.values[k], heat.limits), volume, Plane(0, k))


def _sentence(finding: Finding) -> str:
    """Say the measurements of a finding in words, sizes first."""
    told = [
        f"{' '.join(part.meaning for part in (m.quantity, m.derivation) if part)} {m.value:.4g} {m.unit.value}"
        for m in sorted(finding.measurements, key=lambda m: m.derivation is not None)[:_MOST_NUMBERS]
    ]
    return f"{finding.tracking_identifier}: {', '.join(told)}" if told else finding.tracking_identifier
