"""Colours (PS3.3 C.7.6.3.1.2 and C.7.9): RGB of 8 bits from RGB, YBR and PALETTE COLOR, and of segments."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging_ai.errors import NotAcceptable
from imaging_ai.render.elements import count, items, number, numbers, text
from imaging_ai.render.source import Source

__all__ = ["has_supplemental_palette", "labelmap_rgb", "palette_rgb", "rgb_of", "srgb_of_lab", "supplemented"]

_MAX_ENTRIES = 1 << 16
_NAMES = ("Red", "Green", "Blue")
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")
_GOLDEN = 0.61803398875

Rgb = NDArray[np.uint8]


def rgb_of(frame: NDArray[Any], photometric_interpretation: str, bits_stored: int) -> Rgb:
    """Return a frame of three samples a pixel as RGB of 8 bits.

    Raises
    ------
    NotAcceptable
        If its colours are of another, retired kind.
    """
    if frame.ndim != 3 or frame.shape[2] < 3:
        raise NotAcceptable("the instance has neither one nor three samples a pixel and cannot be rendered")
    eight = _eight_bits(frame[..., :3], bits_stored)
    if photometric_interpretation in ("YBR_PARTIAL_422", "YBR_PARTIAL_420"):
        luma, chroma = eight[..., :1].astype(np.float32), eight[..., 1:].astype(np.float32)
        whole = np.concatenate([(luma - 16) * (255 / 219), (chroma - 128) * (255 / 224) + 128], axis=2)
        eight, photometric_interpretation = np.clip(whole + 0.5, 0, 255).astype(np.uint8), "YBR_FULL"
    if photometric_interpretation in ("YBR_FULL", "YBR_FULL_422"):
        size = eight.shape[1], eight.shape[0]
        return np.asarray(Image.frombytes("YCbCr", size, np.ascontiguousarray(eight)).convert("RGB"))
    if photometric_interpretation in ("RGB", "YBR_ICT", "YBR_RCT"):  # the codecs undo those two
        return np.ascontiguousarray(eight)
    raise NotAcceptable("the instance has a retired photometric interpretation that cannot be rendered")


def _eight_bits(frame: NDArray[Any], bits_stored: int) -> NDArray[np.uint8]:
    if frame.dtype == np.uint8 and bits_stored == 8:
        return frame
    if bits_stored > 8:
        return (frame >> (bits_stored - 8)).astype(np.uint8)
    return (frame.astype(np.uint16) * 255 // ((1 << bits_stored) - 1)).astype(np.uint8)


def palette_rgb(source: Source, frame: NDArray[Any]) -> Rgb:
    """Return a PALETTE COLOR frame as RGB (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6)."""
    signed = bool(number(source.elements, "PixelRepresentation"))
    channels = [_channel(source, name, frame, signed=signed) for name in _NAMES]
    return np.stack(channels, axis=-1)


def supplemented(source: Source, frame: NDArray[Any], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return gray levels with values from the first that the palette maps in its colours (PS3.3 C.7.6.19)."""
    coloured = frame >= _first_mapped(source)
    if not coloured.any():
        return levels
    gray = np.repeat(levels[..., np.newaxis], 3, axis=-1)
    return np.where(coloured[..., np.newaxis], palette_rgb(source, frame), gray)


def has_supplemental_palette(source: Source, frame_number: int) -> bool:
    """Say whether a grayscale frame is to have colours too, by its Pixel Presentation or that of the instance."""
    if len(numbers(source.elements, "RedPaletteColorLookupTableDescriptor")) != 3:
        return False
    own = items(source.elements, "PerFrameFunctionalGroupsSequence")[frame_number - 1 : frame_number]
    groups = [*own, *items(source.elements, "SharedFunctionalGroupsSequence")[:1]]
    types = [item for group in groups for name in _FRAME_TYPES for item in items(group, name)]
    found = [text(item, "PixelPresentation") for item in [*types, source.elements]]
    return next(filter(None, found), "") in ("COLOR", "MIXED")


def _first_mapped(source: Source) -> int:
    _, first, _ = numbers(source.elements, "RedPaletteColorLookupTableDescriptor")
    signed = bool(number(source.elements, "PixelRepresentation"))
    return int(first) - (1 << 16) if signed and first >= 1 << 15 else int(first)


def _channel(source: Source, name: str, frame: NDArray[Any], *, signed: bool) -> NDArray[np.uint8]:
    descriptor = numbers(source.elements, f"{name}PaletteColorLookupTableDescriptor")
    if len(descriptor) != 3:
        raise NotAcceptable("the instance has no palette and cannot be rendered")
    entries, first, bits = (int(value) for value in descriptor)
    entries = entries % _MAX_ENTRIES or _MAX_ENTRIES
    first = first - (1 << 16) if signed and first >= 1 << 15 else first
    words = source.words(source.elements, f"{name}PaletteColorLookupTableData", bits, entries)[:entries]
    if not len(words):
        segments = source.units(source.elements, f"Segmented{name}PaletteColorLookupTableData", wide=bits > 8)
        words = _expanded([int(unit) for unit in segments], entries, wide=bits > 8)
    if not len(words):
        raise NotAcceptable("the instance has no palette and cannot be rendered")
    small = bits <= 8 or words.max() < 256  # some say 16 bits and give 8
    table = (words if small else words >> 8).astype(np.uint8)
    return np.take(table, np.clip(frame.astype(np.int32) - first, 0, len(table) - 1))


def _expanded(units: list[int], entries: int, *, wide: bool) -> NDArray[np.uint16]:
    """Return the entries of segmented data (PS3.3 C.7.9.2), no more of them than there are to be."""
    table: list[int] = []
    for linear, length, values in _segments(units, wide=wide):
        if not linear:
            table += values
        elif table and length:
            steps = np.linspace(table[-1], values[0], length + 1)[1 : entries + 1]
            table += [int(value) for value in np.rint(steps)]
        if len(table) >= entries:
            break
    return np.asarray(table[:entries], np.uint16)


def _segments(units: list[int], *, wide: bool, nested: bool = False) -> Iterator[tuple[bool, int, list[int]]]:
    """Give the discrete and the linear segments; an indirect one repeats some that came before."""
    position, offset_units = 0, 2 if wide else 4
    while position + 2 < len(units):
        opcode, length = units[position], units[position + 1]
        position += 2
        if opcode == 0:
            yield False, length, units[position : position + length]
            position += length
        elif opcode == 1:
            yield True, length, units[position : position + 1]
            position += 1
        elif opcode == 2 and not nested:
            parts = units[position : position + offset_units]
            offset = sum(part << (16 if wide else 8) * place for place, part in enumerate(parts))
            repeated = _segments(units[offset // 2 if wide else offset : position - 2], wide=wide, nested=True)
            yield from islice(repeated, length)
            position += offset_units
        else:
            return


def labelmap_rgb(source: Source, frame: NDArray[Any]) -> Rgb:
    """Return a labelmap with each segment in the colour recommended for it, or one of its own, on black."""
    labels = frame.astype(np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= _MAX_ENTRIES:
        raise NotAcceptable("the labels of the segmentation are no numbers of segments")
    table = np.zeros((int(labels.max(initial=0)) + 1, 3), np.uint8)
    background = count(source.elements, "PixelPaddingValue")
    for label in np.unique(labels):
        if label != background:
            table[label] = _own_colour(int(label))
    for item in items(source.elements, "SegmentSequence"):
        segment, lab = count(item, "SegmentNumber"), numbers(item, "RecommendedDisplayCIELabValue")
        if segment != background and 0 <= segment < len(table) and len(lab) == 3:
            table[segment] = srgb_of_lab((lab[0], lab[1], lab[2]))
    return np.take(table, labels, axis=0)


def _own_colour(label: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.65, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def srgb_of_lab(stored: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return a CIELab value as DICOM stores it (PS3.3 C.10.7.1.1, D50) in sRGB."""
    lightness, a, b = stored[0] * 100 / 65535, stored[1] * 255 / 65535 - 128, stored[2] * 255 / 65535 - 128
    middle = (lightness + 16) / 116
    ratios = (middle + a / 500, middle, middle - b / 200)
    white = (0.9642, 1.0, 0.8249)
    xyz = [
        one * (ratio**3 if ratio > 6 / 29 else 3 * (6 / 29) ** 2 * (ratio - 4 / 29))
        for ratio, one in zip(ratios, white, strict=True)
    ]
    from_d50 = np.asarray(  # to linear sRGB, adapted from D50 to D65 (Bradford)
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = np.clip(from_d50 @ np.asarray(xyz), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in encoded)
    return red, green, blue
