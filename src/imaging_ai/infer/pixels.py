"""Stored pixel values to modality values: decoding, padding, Modality LUT, rescale, MONOCHROME1, palette and colour.

PS3.3 C.7.6.3 (image pixel), C.7.5.1.1.2 (pixel padding), C.11.1 (Modality LUT).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from imaging_ai.archive.codecs import decode_frames
from imaging_ai.errors import InputError, SeriesRefused
from imaging_ai.infer.frames import Frame
from imaging_ai.infer.numbers import number

__all__ = ["Pixels", "is_color"]

_COLOR = frozenset(
    {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
)
#: Modalities whose values mean the same whatever MONOCHROME1 says of their display.
_ABSOLUTE = frozenset({"CT", "PT", "NM"})


def is_color(ds: Dataset) -> bool:
    """Say whether the frames of an instance come out as RGB."""
    return ds.get("PhotometricInterpretation") in _COLOR


class Pixels:
    """The decoded frames of one instance, given out as modality values."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._stored = _decode(ds)

    def values(self, frame: Frame) -> NDArray[np.float32]:
        """Return the modality values of one frame; NaN where the frame is padding."""
        ds, decoded = self._ds, self._stored[frame.index]
        if ds.get("PhotometricInterpretation") == "PALETTE COLOR":
            return _eight_bits(ds, decoded).astype(np.float32)
        if is_color(ds) or decoded.dtype.kind == "f":  # colour, or a parametric map with real values
            return np.asarray(decoded, dtype=np.float32)
        stored: NDArray[np.integer] = decoded
        padding = _padding(ds, stored)
        if ds.get("PhotometricInterpretation") == "MONOCHROME1" and ds.get("Modality") not in _ABSOLUTE:
            stored = _inverted(ds, stored)
        if "ModalityLUTSequence" in ds:
            values = _looked_up(ds, stored)
        else:
            values = stored.astype(np.float32)
            if (frame.slope, frame.intercept) != (1.0, 0.0):
                values *= np.float32(frame.slope)
                values += np.float32(frame.intercept)
        if padding is not None:
            values[padding] = np.nan
        return values


def _decode(ds: Dataset) -> NDArray[Any]:
    try:
        decoded = decode_frames(ds, rgb=is_color(ds))
    except InputError as error:
        raise SeriesRefused("unreadable-pixels", f"pixel data cannot be decoded: {error.message}") from error
    if decoded.shape[3:] != ((3,) if is_color(ds) else ()):
        samples = decoded.shape[3] if decoded.ndim > 3 else 1
        raise SeriesRefused(
            "unreadable-pixels", f"pixels of {samples} samples do not go with the Photometric Interpretation"
        )
    return decoded


def _eight_bits(ds: Dataset, colours: NDArray[Any]) -> NDArray[Any]:
    """Bring the colours of a palette of 16 bits to those that networks of colours know, as whoever shows them does.

    Some palettes have 8 bits in 16 (PS3.3 C.7.6.3.1.6).
    """
    tables = [ds.get(f"{name}PaletteColorLookupTableData") for name in ("Red", "Green", "Blue")]
    small = all(isinstance(table, bytes) and not any(table[1::2]) for table in tables)
    return colours if colours.dtype.itemsize == 1 or small else colours >> 8


def _padding(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    value, limit = (_as_stored(ds, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _as_stored(ds: Dataset, keyword: str) -> int | None:
    """Return a value that is written in 16 bits, of the pixels' sign whatever its VR says (US for SS is common)."""
    value = number(ds, keyword)
    if value is None or not math.isfinite(value):
        return None
    bits = int(value) & 0xFFFF
    return bits - 0x10000 if ds.get("PixelRepresentation") and bits & 0x8000 else bits


def _looked_up(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.float32]:
    try:
        return np.asarray(apply_modality_lut(stored, ds), dtype=np.float32)
    except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError) as error:
        raise SeriesRefused("bad-rescale", "the Modality LUT cannot be read") from error


def _inverted(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.integer]:
    """Turn the stored range over, so that more signal is a larger value whatever the display."""
    ends = -1 if ds.PixelRepresentation else 2 ** int(ds.BitsStored) - 1
    return np.asarray(ends - stored.astype(np.int64))
