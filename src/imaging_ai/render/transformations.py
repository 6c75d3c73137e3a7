"""Which grayscale transformations an instance asks for, frame by frame, and which it gets where it says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_ai.render.elements import Elements, items, number, numbers, text, values
from imaging_ai.render.grey import Grayscale, LookupTable, Modality, Rescale, VoiFunction, Window
from imaging_ai.render.source import Source

__all__ = ["grayscale_of", "lookup_table", "modality_of", "voi_of", "window_of"]

_FUNCTIONS: dict[str, VoiFunction] = {"LINEAR_EXACT": "linear-exact", "SIGMOID": "sigmoid"}
_MAX_ENTRIES = 1 << 16


def grayscale_of(source: Source, frame_number: int, stored: NDArray[Any], window: Window | None) -> Grayscale:
    """Return what is done to the stored values of a frame; a `window` that is asked for replaces its own.

    Without any: 8 bits as they are, else from the lowest to the highest value that is no padding.
    """
    modality = modality_of(source, source.macro(frame_number, "PixelValueTransformationSequence"))
    voi = window or voi_of(source, source.macro(frame_number, "FrameVOILUTSequence"), modality)
    inverted = text(source.elements, "PhotometricInterpretation") == "MONOCHROME1"
    return Grayscale(modality, voi or _whole_range(source, stored, modality), inverted)


def modality_of(source: Source, elements: Elements) -> Modality:
    """Return the Modality LUT of elements (PS3.3 C.11.1), the identity when they have none."""
    signed = bool(number(source.elements, "PixelRepresentation"))
    for item in items(elements, "ModalityLUTSequence")[:1]:
        if table := lookup_table(source, item, signed=signed):
            return table
    slope, intercept = number(elements, "RescaleSlope"), number(elements, "RescaleIntercept")
    return Rescale(1.0 if slope is None or slope == 0 else slope, intercept or 0.0)


def voi_of(source: Source, elements: Elements, modality: Modality) -> Window | LookupTable | None:
    """Return the first VOI LUT of elements, else their first window (PS3.3 C.11.2)."""
    for item in items(elements, "VOILUTSequence")[:1]:
        if table := lookup_table(source, item, signed=_negative(source, modality)):
            return table
    return window_of(elements)


def window_of(elements: Elements) -> Window | None:
    """Return the first window of elements, None when they have none that can be applied."""
    center, width = number(elements, "WindowCenter"), number(elements, "WindowWidth")
    function = _FUNCTIONS.get(text(elements, "VOILUTFunction"), "linear")
    if center is None or width is None or width <= 0 or (function == "linear" and width < 1):
        return None
    return Window(center, width, function)


def lookup_table(source: Source, item: Elements, *, signed: bool) -> LookupTable | None:
    """Return the table of a sequence item, None when it is damaged.

    `signed` is whether its first value mapped is: its VR, US or SS, does not survive every encoding.
    """
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    entries, first, bits = (int(value) for value in descriptor)
    entries = entries % _MAX_ENTRIES or _MAX_ENTRIES
    data = source.words(item, "LUTData", bits, entries)[:entries]
    if not len(data) or not 8 <= bits <= 16:
        return None
    if signed and first >= 1 << 15:
        first -= 1 << 16
    return LookupTable(data, first, bits)


def _negative(source: Source, modality: Modality) -> bool:
    """Say whether values after the Modality LUT may be below 0 (PS3.3 C.11.2.1.1)."""
    if isinstance(modality, LookupTable):
        return False
    return bool(number(source.elements, "PixelRepresentation")) or modality.intercept < 0 or modality.slope < 0


def _whole_range(source: Source, stored: NDArray[Any], modality: Modality) -> Window:
    bits = number(source.elements, "BitsStored") or 16
    if modality == Rescale() and stored.dtype.kind in "iu" and bits <= 8:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0, 2**bits - 1)
        return Window.spanning(low, high)
    shown = _without_padding(source.elements, stored)
    if not shown.size:
        return Window.spanning(0, 1)
    ends = modality.of(np.asarray([shown.min(), shown.max()], np.float64))
    if isinstance(modality, LookupTable):  # need not rise
        values_of_all = modality.of(np.unique(shown).astype(np.float64))
        ends = np.asarray([values_of_all.min(), values_of_all.max()])
    return Window.spanning(float(ends.min()), float(ends.max()))


def _without_padding(elements: Elements, stored: NDArray[Any]) -> NDArray[Any]:
    if stored.dtype.kind == "f":
        finite: NDArray[Any] = stored[np.isfinite(stored)]
        return finite
    if not values(elements, "PixelPaddingValue"):
        return stored
    first = number(elements, "PixelPaddingValue") or 0.0
    last = number(elements, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    if stored.dtype.kind == "i":  # some write a negative value as US
        low, high = (value - 65536 if value > 32767 else value for value in (low, high))
        low, high = min(low, high), max(low, high)
    shown: NDArray[Any] = stored[(stored < low) | (stored > high)]
    return shown
