"""Segmentations (PS3.3 A.51) and Parametric Maps (A.75) over the images that they were made of.

A frame names its source image in its Derivation Image Sequence; it is drawn over that image where both lie on the very
same pixels of the patient, and else alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ParametricMapStorage

from imaging_ai.core.colour import DISPLAY_COLOURS, srgb_of
from imaging_ai.draw.heat import heated
from imaging_ai.draw.panels import edge
from imaging_ai.draw.style import Colour
from imaging_ai.render.elements import Elements, count, items, number, numbers, text
from imaging_ai.render.picture import SEGMENTATIONS, decoded, draw, finished
from imaging_ai.render.source import Source
from imaging_ai.render.wish import Picture, Region, Wish

__all__ = ["draw_over", "is_laid_over", "lies_on", "made_of"]

_FILL = 0.3
_MOST_SOURCES = 8
_MILLIMETRE, _COSINE, _RATIO = 0.01, 1e-3, 1e-3
_GEOMETRY = (
    ("PlanePositionSequence", "ImagePositionPatient", 3, _MILLIMETRE, 0.0),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 6, _COSINE, 0.0),
    ("PixelMeasuresSequence", "PixelSpacing", 2, 0.0, _RATIO),
)
_LIMITS = (
    ("DoubleFloatRealWorldValueFirstValueMapped", "DoubleFloatRealWorldValueLastValueMapped"),
    ("RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"),
)


def is_laid_over(source: Source) -> bool:
    """Say whether an instance is one that is shown over others."""
    return source.sop_class_uid in (*SEGMENTATIONS, ParametricMapStorage)


def made_of(source: Source, frame_number: int) -> list[tuple[str, int]]:
    """Return the SOP Instance UIDs and frame numbers of the images that a frame says it was made of."""
    derivation = source.macro(frame_number, "DerivationImageSequence")
    if not is_laid_over(source) or derivation is source.elements:
        return []
    images = items(derivation, "SourceImageSequence")[:_MOST_SOURCES]
    return [(text(one, "ReferencedSOPInstanceUID"), count(one, "ReferencedFrameNumber", 1)) for one in images]


def lies_on(source: Source, frame_number: int, image: Source, image_number: int) -> bool:
    """Say whether two frames have the same pixels of the same patient."""
    same = all(
        text(source.elements, keyword) == text(image.elements, keyword)
        for keyword in ("Rows", "Columns", "FrameOfReferenceUID")
    )
    if not same or not 1 <= image_number <= image.frame_count:
        return False
    for sequence, keyword, length, absolute, relative in _GEOMETRY:
        here = numbers(source.macro(frame_number, sequence), keyword)
        there = numbers(image.macro(image_number, sequence), keyword)
        if not len(here) == len(there) == length or not np.allclose(here, there, atol=absolute, rtol=relative):
            return False
    return True


def draw_over(source: Source, frame_number: int, image: Source, image_number: int, wish: Wish) -> Picture:
    """Render a frame of a segmentation or map over a frame of its source image, whose window `wish` may name.

    Raises
    ------
    NotAcceptable, TooLarge
        If one of them cannot be rendered.
    BadParameterError
        If the wish has nothing of it, or too much.
    """
    frame, _ = decoded(source, frame_number)
    under = draw(image, image_number, Wish(window=wish.window))
    pixels = under if under.ndim == 3 else np.repeat(under[..., np.newaxis], 3, axis=-1)
    if source.sop_class_uid == ParametricMapStorage:
        pixels = _mapped(source, frame_number, frame, pixels)
    else:
        pixels = _segmented(source, frame_number, frame, pixels)
    region = wish.region or Region()
    left, top, right, bottom = region.box(pixels.shape[1], pixels.shape[0], wish.region_name)
    return finished(pixels[top:bottom, left:right], image, image_number, wish)


def _segmented(source: Source, frame_number: int, frame: NDArray[Any], pixels: Picture) -> Picture:
    """Fill segments with some of their colour, as much as they are probable, and outline them."""
    drawn = pixels.astype(np.float32)
    kind = text(source.elements, "SegmentationType")
    if kind == "LABELMAP":
        background = count(source.elements, "PixelPaddingValue")
        masks = [(int(label), frame == label) for label in np.unique(frame) if label != background]
        strengths = [mask.astype(np.float32) for _, mask in masks]
    else:
        identified = source.macro(frame_number, "SegmentIdentificationSequence")
        whole = (number(source.elements, "MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 1
        masks = [(count(identified, "ReferencedSegmentNumber", 1), frame >= whole / 2)]
        strengths = [np.clip(frame / np.float32(whole), 0, 1)]
    for (segment, mask), strength in zip(masks, strengths, strict=True):
        colour = np.array(_colour(source.elements, segment), np.float32)
        cover = (_FILL * strength)[..., np.newaxis]
        drawn = drawn * (1 - cover) + colour * cover
        drawn[edge(mask, 1)] = colour
    return (drawn + 0.5).astype(np.uint8)


def _colour(elements: Elements, segment: int) -> Colour:
    """Return the colour that is recommended for a segment, as viewers take it, or else one of ours."""
    described = next((one for one in items(elements, "SegmentSequence") if count(one, "SegmentNumber") == segment), {})
    lab = numbers(described, "RecommendedDisplayCIELabValue")
    if len(lab) != 3:
        return srgb_of(DISPLAY_COLOURS[(segment - 1) % len(DISPLAY_COLOURS)])
    return srgb_of((lab[0] / 655.35, lab[1] / 257 - 128, lab[2] / 257 - 128))


def _mapped(source: Source, frame_number: int, frame: NDArray[Any], pixels: Picture) -> Picture:
    """Cover pixels with heat, from the lowest to the highest value that the map says it has."""
    mapping = source.macro(frame_number, "RealWorldValueMappingSequence")
    slope, intercept = number(mapping, "RealWorldValueSlope"), number(mapping, "RealWorldValueIntercept")
    values = np.nan_to_num(frame.astype(np.float32)) * np.float32(1 if slope is None else slope)
    values += np.float32(intercept or 0)
    for first, last in _LIMITS:
        low, high = number(mapping, first), number(mapping, last)
        if low is not None and high is not None and low < high:
            return heated(pixels, values, (low, high))
    low, high = float(values.min()), float(values.max())
    return heated(pixels, values, (low, high)) if low < high else pixels
