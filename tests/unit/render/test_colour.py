"""Colours of images, palettes and segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, convert_color_space
from pydicom.sequence import Sequence

import phantoms
from imaging_ai.errors import NotAcceptable
from imaging_ai.render.colour import rgb_of, srgb_of_lab
from imaging_ai.render.picture import draw
from imaging_ai.render.wish import Wish
from rendering import source_of

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (16, 12, 3), np.uint8)


def colour(frame: np.ndarray[Any, Any], interpretation: str, **attributes: Any) -> Dataset:
    """Write a frame of colours as a secondary capture of a kind."""
    (ds,) = phantoms.series(np.zeros((1, *frame.shape[:2]), np.float32), name="colour")
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        ds.pop(keyword, None)
    ds.PhotometricInterpretation = interpretation
    ds.SamplesPerPixel = frame.shape[2] if frame.ndim == 3 else 1
    ds.PlanarConfiguration, ds.PixelRepresentation = 0, 0
    ds.BitsAllocated = ds.BitsStored = frame.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = frame.tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def drawn(ds: Dataset) -> np.ndarray[Any, Any]:
    return np.asarray(draw(source_of(ds), 1, Wish()))


def palette(*tables: list[int], first: int = 0, bits: int = 8, segmented: bool = False) -> dict[str, Any]:
    """Make the attributes of a palette."""
    attributes: dict[str, Any] = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [256, first, bits]
        keyword = f"{'Segmented' if segmented else ''}{name}PaletteColorLookupTableData"
        attributes[keyword] = np.asarray(table, "u1" if bits == 8 else "<u2").tobytes()
    return attributes


def test_rgb_is_shown_as_it_is() -> None:
    assert np.array_equal(drawn(colour(PIXELS, "RGB")), PIXELS)


def test_planes_of_colours_are_put_together() -> None:
    ds = colour(PIXELS, "RGB", PlanarConfiguration=1, PixelData=np.moveaxis(PIXELS, -1, 0).tobytes())
    assert np.array_equal(drawn(ds), PIXELS)


def test_rgb_of_sixteen_bits_keeps_its_eight_highest() -> None:
    deep = PIXELS.astype(np.uint16) * 257
    assert np.array_equal(drawn(colour(deep, "RGB")), PIXELS)


def test_ybr_becomes_the_rgb_of_pydicom() -> None:
    expected = convert_color_space(PIXELS, "YBR_FULL", "RGB").astype(int)
    assert np.abs(drawn(colour(PIXELS, "YBR_FULL")) - expected).max() <= 1


def test_partial_ybr_uses_its_narrower_range() -> None:
    gray = np.asarray([[[16, 128, 128], [235, 128, 128], [126, 128, 128]]], np.uint8)
    assert rgb_of(gray, "YBR_PARTIAL_422", 8)[0, :, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("interpretation", ["HSV", "CMYK", "ARGB"])
def test_retired_colours_are_refused(interpretation: str) -> None:
    with pytest.raises(NotAcceptable, match="retired"):
        drawn(colour(PIXELS, interpretation))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_maps_as_pydicom_maps(bits: int) -> None:
    scale = 1 if bits == 8 else 257
    tables = [[value * scale for value in table] for table in (range(256), range(255, -1, -1), [7] * 256)]
    ds = colour(PIXELS[..., 0], "PALETTE COLOR", **palette(*tables, first=10, bits=bits))
    expected = apply_color_lut(ds.pixel_array, ds)
    assert np.array_equal(drawn(ds), expected if bits == 8 else expected >> 8)


def test_a_palette_of_signed_values_begins_below_zero() -> None:
    stored = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    for first in (-128, 65408):
        ds = colour(stored, "PALETTE COLOR", PixelRepresentation=1, **palette(*[list(range(256))] * 3))
        for name in ("Red", "Green", "Blue"):
            element = ds[f"{name}PaletteColorLookupTableDescriptor"]
            element.VR, element.value = ("SS", [256, first, 8]) if first < 0 else ("US", [256, first, 8])
        assert drawn(ds)[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_segmented_palette_is_expanded_as_pydicom_expands_it(bits: int) -> None:
    top = 255 if bits == 8 else 65535
    offset = [0, 0] if bits == 16 else [0, 0, 0, 0]
    segments = [0, 2, 0, top // 5, 1, 126, top, 2, 2, *offset]  # the last says: the first two once more
    ds = colour(PIXELS[..., 0], "PALETTE COLOR", **palette(segments, segments, segments, bits=bits, segmented=True))
    expected = apply_color_lut(ds.pixel_array, ds).astype(int)
    assert np.abs(drawn(ds) - (expected if bits == 8 else expected >> 8)).max() <= 1


def test_a_segmented_palette_that_never_ends_is_cut_at_its_length() -> None:
    bomb = [0, 1, 9] + [1, 65535, 0] * 300 + [2, 65535, 0, 0] * 300
    ds = colour(PIXELS[..., 0], "PALETTE COLOR", **palette(bomb, bomb, bomb, bits=16, segmented=True))
    assert drawn(ds).shape == PIXELS.shape


@pytest.mark.parametrize("segments", [[], [1, 5, 9], [2, 1, 0, 0], [7, 7, 7, 7], [0, 200]])
def test_a_damaged_palette_is_refused(segments: list[int]) -> None:
    ds = colour(PIXELS[..., 0], "PALETTE COLOR", **palette(segments, segments, segments, bits=16, segmented=True))
    with pytest.raises(NotAcceptable, match="palette"):
        drawn(ds)


def test_a_palette_image_without_one_is_refused() -> None:
    with pytest.raises(NotAcceptable, match="palette"):
        drawn(colour(PIXELS[..., 0], "PALETTE COLOR"))


def test_values_above_the_first_that_a_supplemental_palette_maps_are_coloured() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mixed = colour(
        gray, "MONOCHROME2", PixelPresentation="MIXED", **palette([200] * 256, [9] * 256, [9] * 256, first=128)
    )
    shown = drawn(mixed).reshape(256, 3)
    assert shown[127].tolist() == [127, 127, 127]
    assert shown[128].tolist() == [200, 9, 9]
    mixed.PixelPresentation = "MONOCHROME"
    assert drawn(mixed).ndim == 2


def test_labels_have_the_colours_recommended_for_them_and_the_background_is_black() -> None:
    labels = np.asarray([[0, 1], [2, 3]], np.uint8)
    ds = colour(labels, "MONOCHROME2", SegmentationType="LABELMAP", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7")
    segments = []
    for number, lab in ((1, [35579, 53662, 50858]), (2, [65535, 32896, 32896])):
        segment = Dataset()
        segment.SegmentNumber, segment.RecommendedDisplayCIELabValue = number, lab
        segments.append(segment)
    ds.SegmentSequence = Sequence(segments)
    shown = drawn(ds).reshape(4, 3).astype(int)
    assert shown[0].tolist() == [0, 0, 0]
    assert np.abs(shown[1] - (255, 0, 0)).max() <= 3
    assert shown[2].min() >= 254
    assert shown[3].max() == 255 and shown[3].min() < 128


def test_cielab_white_and_black_are_white_and_black() -> None:
    assert min(srgb_of_lab((65535, 32896, 32896))) >= 254
    assert srgb_of_lab((0, 32896, 32896)) == (0, 0, 0)


def test_binary_and_fractional_segments_are_white_on_black() -> None:
    fraction = np.asarray([[0, 50], [100, 25]], np.uint8)
    ds = colour(fraction, "MONOCHROME2", SegmentationType="FRACTIONAL", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    ds.MaximumFractionalValue = 100
    assert drawn(ds).tolist() == [[0, 128], [255, 64]]


def test_a_real_segmentation_shows_its_mask(real_data: Path) -> None:
    path = real_data / "ct-liver-seg" / "liver_SEG.dcm"
    mask = dcmread(path).pixel_array
    source = source_of(path.read_bytes())
    for number in (1, 2, 3):
        assert np.array_equal(np.asarray(draw(source, number, Wish())), mask[number - 1] * 255)
