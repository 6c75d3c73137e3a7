"""Stored pixel values to modality values: decoding, padding, Modality LUT, rescale, MONOCHROME1, palette and colour.

PS3.3 C.7.6.3 (image pixel), C.7.5.1.1.2 (pixel padding), C.11.1 (Modality LUT).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, convert_color_space

from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.frames import Frame

__all__ = ["Pixels", "decode", "is_color"]

_COLOR = frozenset({"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"})
#: Modalities whose values mean the same whatever MONOCHROME1 says of their display.
_ABSOLUTE = frozenset({"CT", "PT", "NM"})


def is_color(ds: Dataset) -> bool:
    """Say whether the frames of an instance come out as RGB."""
    return ds.get("PhotometricInterpretation") in _COLOR


class Pixels:
    """The decoded frames of one instance, given out as modality values."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._stored = decode(ds)

    def values(self, frame: Frame) -> NDArray[np.float32]:
        """Return the modality values of one frame; NaN where the frame is padding."""
        ds, stored = self._ds, self._stored[frame.index]
        if is_color(ds):
            return _rgb(ds, stored)
        padding = _padding(ds, stored)
        if ds.get("PhotometricInterpretation") == "MONOCHROME1" and ds.get("Modality") not in _ABSOLUTE:
            stored = _inverted(ds, stored)
        if "ModalityLUTSequence" in ds:
            values = np.asarray(apply_modality_lut(stored, ds), dtype=np.float32)
        else:
            values = stored.astype(np.float32)
            if (frame.slope, frame.intercept) != (1.0, 0.0):
                values *= np.float32(frame.slope)
                values += np.float32(frame.intercept)
        if padding is not None:
            values[padding] = np.nan
        return values


def decode(ds: Dataset) -> NDArray[np.integer]:
    """Decode all frames of an instance to ``(frames, rows, columns[, samples])``.

    Raises
    ------
    SeriesRefused
        If the pixel data is damaged or in an encoding that cannot be read.
    """
    try:
        pixels = _native(ds)
        if pixels is None:
            ds.pixel_array_options(raw=True)
            pixels = ds.pixel_array
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError, NotImplementedError) as error:
        raise SeriesRefused("unreadable-pixels", f"pixel data cannot be decoded ({type(error).__name__})") from error
    frames = int(ds.get("NumberOfFrames") or 1)
    return np.asarray(pixels).reshape(frames, ds.Rows, ds.Columns, *([3] if ds.SamplesPerPixel == 3 else []))


def _native(ds: Dataset) -> NDArray[np.integer] | None:
    """Read uncompressed little endian monochrome frames without a copy; None for what needs a decoder."""
    syntax = ds.file_meta.TransferSyntaxUID if hasattr(ds, "file_meta") else None
    plain = syntax is not None and not syntax.is_compressed and syntax.is_little_endian
    if not plain or ds.SamplesPerPixel != 1 or ds.BitsAllocated not in (8, 16, 32) or "PixelData" not in ds:
        return None
    allocated, stored = int(ds.BitsAllocated), int(ds.BitsStored)
    dtype = np.dtype(f"<{'i' if ds.PixelRepresentation else 'u'}{allocated // 8}")
    count = int(ds.get("NumberOfFrames") or 1) * int(ds.Rows) * int(ds.Columns)
    pixels = np.frombuffer(ds.PixelData, dtype, count)
    if stored == allocated:
        return pixels
    # Bits above the High Bit may hold overlays or nothing at all: shift them out, and the sign in.
    above = allocated - 1 - int(ds.HighBit)
    return np.asarray(np.right_shift(np.left_shift(pixels, above), allocated - stored))


def _rgb(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.float32]:
    photometric = str(ds.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        rgb = apply_color_lut(stored, ds)[..., :3]
        return np.asarray(rgb >> 8 if rgb.dtype.itemsize > 1 else rgb, dtype=np.float32)
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        stored = convert_color_space(stored, photometric, "RGB")
    return np.asarray(stored, dtype=np.float32)


def _padding(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    value = ds.get("PixelPaddingValue")
    if value is None:
        return None
    limit = ds.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _inverted(ds: Dataset, stored: NDArray[np.integer]) -> NDArray[np.integer]:
    """Turn the stored range over, so that more signal is a larger value whatever the display."""
    ends = -1 if ds.PixelRepresentation else 2 ** int(ds.BitsStored) - 1
    return np.asarray(ends - stored.astype(np.int64))
