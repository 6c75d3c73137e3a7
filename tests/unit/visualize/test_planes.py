"""Three planes through a finding: right plane, right way up, right shape, outline where the mask ends."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import phantoms
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.draw.style import Colour
from imaging_ai.infer.volume import read_volume
from imaging_ai.visualize.layouts import pages
from imaging_ai.visualize.reading import Layer, Shown

RED, GREEN = (255, 0, 0), (0, 255, 0)
#: Where the three planes begin (the axial, coronal and sagittal one), for a picture of this module's volume.
MARGIN, TOP, SIDE = 10, 30, 400
WIDTHS = [300, 300, 400]  # 40 x 30 mm; 40 mm high and 30 or 40 mm wide


def volume(modality: str = "CT", spacing: tuple[float, float, float] = (4.0, 1.0, 1.0)) -> Volume:
    image = np.zeros((10, 40, 30), np.float32)
    image[8:, :, :] = 1000  # the head end is bright
    return read_volume(phantoms.series(image, modality=modality, spacing=spacing))


def layer(name: str, at: tuple[slice, slice, slice], colour: Colour) -> Layer:
    found = np.zeros((10, 40, 30), bool)
    found[at] = True
    return Layer(name, colour, Region.of(found))


def picture(shown: Volume, *layers: Layer, window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    (page,) = pages(shown, Shown("", layers, None), "planes", window=window, side=SIDE)
    return page


def panels(page: NDArray[np.uint8], widths: list[int]) -> list[NDArray[np.uint8]]:
    found, left = [], MARGIN
    for width in widths:
        found.append(page[TOP : TOP + SIDE, left : left + width])
        left += width + MARGIN
    return found


def test_panels_keep_the_proportions_of_the_body() -> None:
    page = picture(volume())
    assert page.shape[1] == sum(WIDTHS) + 4 * MARGIN
    for panel in panels(page, WIDTHS):
        assert panel[5:-5, 20].max() > 20 and panel[5:-5, -20].max() > 20, "an image from edge to edge"


def test_the_head_is_up() -> None:
    _, coronal, sagittal = panels(picture(volume()), WIDTHS)
    for panel in (coronal, sagittal):
        assert panel[10, 40].min() > 200
        assert panel[-40, 200].max() < 50


def test_pet_is_dark_on_white() -> None:
    _, coronal, _ = panels(picture(volume("PT")), WIDTHS)
    assert coronal[10, 40].max() < 50
    assert coronal[-40, 200].min() > 200


def test_the_planes_go_through_the_largest_segment_and_outline_it() -> None:
    large, small = layer("large", np.s_[2:5, 10:20, 4:14], RED), layer("small", np.s_[0:1, 0:2, 0:2], GREEN)
    page = picture(volume(), large, small)
    axial, coronal, sagittal = panels(page, WIDTHS)
    scale = SIDE / 40
    rows, columns = np.nonzero((axial == RED).all(axis=-1))
    assert (rows.min() / scale, rows.max() / scale) == pytest.approx((10, 20), abs=0.6)
    assert (columns.min() / scale, columns.max() / scale) == pytest.approx((4, 14), abs=0.6)
    middle = axial[round(15 * scale), round(9 * scale)]
    assert tuple(middle) != RED, "an outline, and inside it what is below"
    for panel in (coronal, sagittal):
        rows, _ = np.nonzero((panel == RED).all(axis=-1))
        assert (40 - rows.max() / scale, 40 - rows.min() / scale) == pytest.approx((8, 20), abs=2.1)
    assert not (page[TOP : TOP + SIDE] == GREEN).all(axis=-1).any()


def test_without_segments_the_middle_is_shown() -> None:
    image = np.zeros((9, 20, 20), np.float32)
    image[4] = 1000
    shown = read_volume(phantoms.series(image, spacing=(1.0, 1.0, 1.0)))
    axial, *_ = panels(picture(shown, window=(0, 1000)), [SIDE, SIDE, SIDE])
    assert axial[SIDE // 2, SIDE // 2].min() > 200


def test_a_flat_image_is_no_division_by_zero() -> None:
    flat = read_volume(phantoms.series(np.full((4, 8, 8), 7, np.float32)))
    assert len(picture(flat)) > SIDE


def test_the_three_planes_have_one_scale() -> None:
    wide = volume(spacing=(2.0, 1.0, 1.0))  # 20 mm high
    axial, coronal, _ = panels(picture(wide), WIDTHS)
    assert axial[5:-5, 20].max() > 20
    assert coronal[:200].max() > 200 and coronal[210:].max() < 50, "half as high as the axial one"
