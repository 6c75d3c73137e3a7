"""How results are laid out: pages of one size, the first of which stands for all.

key      a slice at a time: the one where the largest segment is largest, or, moving, all that have something
montage  twelve slices a page, evenly through what was found, or, moving, all of them
planes   slice, row and column through the largest segment; moving, through it from its one end to the other
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging_ai.core.volume import Volume
from imaging_ai.draw.heat import colour_bar, heated
from imaging_ai.draw.panels import Window, outlined, panel, window_of, with_directions, with_scale
from imaging_ai.draw.planes import Plane
from imaging_ai.draw.sheets import sheet
from imaging_ai.visualize.reading import Layer, Shown

__all__ = ["LAYOUTS", "Layout", "pages"]

Layout = Literal["key", "montage", "planes"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

#: How much of what is inside an outline is covered with its colour.
_FILL = 0.25
_MOST_PAGES, _MOST_LINES = 60, 12
_ON_A_PAGE, _ACROSS = 12, 4
_SOMETHING = 0.1  # of the range of a map

_Pixels = NDArray[np.uint8]


def pages(
    volume: Volume, shown: Shown, layout: Layout, *, window: Window | None = None, side: int = 480, moving: bool = False
) -> Iterator[_Pixels]:
    """Yield pages, RGB; one unless `moving`. `window` is the lowest and the highest intensity shown."""
    window = window or window_of(volume)
    slices = _present(volume, shown)
    if layout == "key":
        chosen = _evenly(slices, _MOST_PAGES) if moving else [_largest(volume, shown)]
        yield from (_key(volume, shown, Plane(0, k), window, side) for k in chosen)
    elif layout == "montage":
        chosen = slices if moving else _evenly(slices, _ON_A_PAGE)
        for first in range(0, len(chosen), _ON_A_PAGE):
            planes = [Plane(0, k) for k in chosen[first : first + _ON_A_PAGE]]
            rows = -(-min(len(chosen), _ON_A_PAGE) // _ACROSS)
            yield _page(volume, shown, planes, window, side // 2, columns=_ACROSS, rows=rows)
    else:
        for planes in _crossing(volume, shown, _MOST_PAGES if moving else 1):
            yield _page(volume, shown, planes, window, side)


def _key(volume: Volume, shown: Shown, plane: Plane, window: Window, side: int) -> _Pixels:
    """Draw one slice with outlines, and beside it the map."""
    pixels = panel(volume, plane, window, side)
    found = _with_layers(pixels, shown.layers, plane)
    panels = [with_scale(with_directions(found, volume, plane), volume, plane)]
    if shown.heat is not None:
        mapped = heated(pixels, plane.of(shown.heat.values), shown.heat.limits)
        panels += [with_directions(mapped, volume, plane), colour_bar(shown.heat.limits, side, shown.heat.unit)]
    return _sheet(volume, shown, panels, plane.name(volume.grid), side)


def _page(
    volume: Volume,
    shown: Shown,
    planes: Sequence[Plane],
    window: Window,
    side: int,
    *,
    columns: int = 0,
    rows: int = 1,
) -> _Pixels:
    """Draw several planes of one scale, each with outlines and map, the bar at the end."""
    panels = []
    longest = max(max(plane.extent(volume.grid)) for plane in planes)
    for plane in planes:
        pixels = panel(volume, plane, window, side, longest)
        if shown.heat is not None:
            pixels = heated(pixels, plane.of(shown.heat.values), shown.heat.limits)
        pixels = _with_layers(pixels, shown.layers, plane, 0.0 if shown.heat else _FILL)
        panels.append(with_scale(with_directions(pixels, volume, plane), volume, plane))
    blank = Image.new("RGB", panels[0].size)
    panels += [blank] * (columns * rows - len(panels))
    if columns:
        where = f"slices {planes[0].index + 1} to {planes[-1].index + 1} of {volume.grid.slices}"
    else:
        where = ", ".join(plane.name(volume.grid) for plane in planes)
    if shown.heat is not None:
        bar = colour_bar(shown.heat.limits, side, shown.heat.unit)
        panels, columns = (_with_bar(panels, bar, columns), columns + 1) if columns else ([*panels, bar], 0)
    return _sheet(volume, shown, panels, where, side, columns)


def _with_bar(panels: Sequence[Image.Image], bar: Image.Image, columns: int) -> list[Image.Image]:
    """Put the bar at the end of the first row, and nothing at the end of the others."""
    blank = Image.new("RGB", (1, 1))
    rows = [list(panels[first : first + columns]) for first in range(0, len(panels), columns)]
    return [one for number, row in enumerate(rows) for one in (*row, bar if number == 0 else blank)]


def _with_layers(pixels: _Pixels, layers: Sequence[Layer], plane: Plane, fill: float = _FILL) -> _Pixels:
    return outlined(pixels, [(plane.mask(one.region), one.colour) for one in reversed(layers)], fill)


def _sheet(
    volume: Volume, shown: Shown, panels: Sequence[Image.Image], where: str, side: int, columns: int = 0
) -> _Pixels:
    title = "   ".join(filter(None, (shown.title, where, shown.heat.description if shown.heat else "")))
    lines = [(_line(one, volume), one.colour) for one in shown.layers[:_MOST_LINES]]
    if (more := len(shown.layers) - _MOST_LINES) > 0:
        lines[-1] = (f"and {more + 1} more", lines[-1][1])
    return sheet(panels, title, lines, len(lines), side=side, columns=columns)


def _line(layer: Layer, volume: Volume) -> str:
    """Say name, volume and probability."""
    millilitres = layer.region.voxels * volume.grid.voxel_volume / 1000
    chance = "" if layer.probability is None else f"   probability {layer.probability:.2f}"
    return f"{layer.name}   {millilitres:.3g} ml{chance}"


def _present(volume: Volume, shown: Shown) -> list[int]:
    """Return the slices that have something: a segment, or else some of the map, or else all."""
    areas = sum((one.region.areas for one in shown.layers), np.zeros(volume.grid.slices, np.intp))
    if not areas.any() and shown.heat is not None:
        low, high = shown.heat.limits
        strength = np.abs(shown.heat.values).max(axis=(1, 2))
        areas = strength > max(low, 0.0) + _SOMETHING * (high - max(low, 0.0))
    found = np.flatnonzero(areas)
    return [int(k) for k in found] if found.size else list(range(volume.grid.slices))


def _evenly(slices: Sequence[int], most: int) -> list[int]:
    chosen = np.linspace(0, len(slices) - 1, min(most, len(slices))).round().astype(int)
    return [slices[k] for k in chosen]


def _largest(volume: Volume, shown: Shown) -> int:
    """Return the slice where the largest segment is largest, or else the map."""
    if shown.layers:
        return int(shown.layers[0].region.areas.argmax())
    if shown.heat is not None:
        return int(np.abs(shown.heat.values).max(axis=(1, 2)).argmax())
    return volume.grid.slices // 2


def _crossing(volume: Volume, shown: Shown, count: int) -> Iterator[list[Plane]]:
    """Yield three planes that cross: once in the middle of the largest segment, or in steps through it."""
    box = shown.layers[0].region.box if shown.layers else tuple(slice(0, size) for size in volume.grid.shape)
    if count > 1:
        steps = min(count, max(side.stop - side.start for side in box))
        for part in np.linspace(0, 1, steps):
            yield _three([round(side.start + part * (side.stop - 1 - side.start)) for side in box])
    elif shown.layers:
        inside = shown.layers[0].region.inside
        across = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
        widest = [int(np.count_nonzero(inside, axis=axes).argmax()) for axes in across]
        yield _three([side.start + at for side, at in zip(box, widest, strict=True)])
    else:
        yield _three([_largest(volume, shown), volume.grid.rows // 2, volume.grid.columns // 2])


def _three(centre: Sequence[int]) -> list[Plane]:
    return [Plane(0, int(centre[0])), Plane(1, int(centre[1])), Plane(2, int(centre[2]))]
