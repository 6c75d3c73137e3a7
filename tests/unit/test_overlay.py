"""The picture of a finding: right plane, right way up, right shape, outline where the mask ends."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.explain.overlay import three_planes
from imaging_ai.infer.volume import read_volume

RED = (255, 0, 0)
#: Where the three planes begin (the axial, coronal and sagittal one), for a picture of this module's volume.
MARGIN, CAPTION, HEIGHT = 8, 18, 360


def volume(modality: str = "CT", spacing: tuple[float, float, float] = (4.0, 1.0, 1.0)) -> Volume:
    image = np.zeros((10, 40, 30), np.float32)
    image[8:, :, :] = 1000  # the head end is bright
    return read_volume(phantoms.series(image, modality=modality, spacing=spacing))


def mask(at: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    found = np.zeros((10, 40, 30), bool)
    found[at] = True
    return found


def panels(picture: object, widths: list[int]) -> list[NDArray[np.uint8]]:
    pixels = np.asarray(picture)
    found, left = [], MARGIN
    for width in widths:
        found.append(pixels[MARGIN + CAPTION : MARGIN + CAPTION + HEIGHT, left : left + width])
        left += width + MARGIN
    return found


WIDTHS = [270, 270, 360]  # 40 x 30 mm; 40 mm high and 30 or 40 mm wide


def test_panels_keep_the_proportions_of_the_body() -> None:
    picture = three_planes(volume(), [])
    assert picture.width == sum(WIDTHS) + 4 * MARGIN
    axial, coronal, sagittal = panels(picture, WIDTHS)
    assert axial.shape[1] / axial.shape[0] == pytest.approx(30 / 40)
    assert coronal.shape[1] / coronal.shape[0] == pytest.approx(30 / (10 * 4))
    assert sagittal.shape[1] / sagittal.shape[0] == pytest.approx(40 / (10 * 4))


def test_the_head_is_up() -> None:
    _, coronal, sagittal = panels(three_planes(volume(), []), WIDTHS)
    for panel in (coronal, sagittal):
        assert panel[10, 20].min() > 200
        assert panel[-10, 20].max() < 50


def test_pet_is_dark_on_white() -> None:
    _, coronal, _ = panels(three_planes(volume("PT"), []), WIDTHS)
    assert coronal[10, 20].max() < 50
    assert coronal[-10, 20].min() > 200


def test_the_planes_go_through_the_largest_mask_and_outline_it() -> None:
    small, large = mask(np.s_[0:1, 0:2, 0:2]), mask(np.s_[2:5, 10:20, 4:14])
    picture = three_planes(volume(), [("small", small, (0, 255, 0)), ("large", large, RED)])
    axial, coronal, sagittal = panels(picture, WIDTHS)
    scale = HEIGHT / 40
    rows, columns = np.nonzero((axial == RED).all(axis=-1))
    assert (rows.min() / scale, rows.max() / scale) == pytest.approx((10, 20), abs=0.6)
    assert (columns.min() / scale, columns.max() / scale) == pytest.approx((4, 14), abs=0.6)
    middle = axial[round(15 * scale), round(9 * scale)]
    assert tuple(middle) != RED, "an outline, not a patch"
    for panel in (coronal, sagittal):
        rows, _ = np.nonzero((panel == RED).all(axis=-1))
        assert (40 - rows.max() / scale, 40 - rows.min() / scale) == pytest.approx((8, 20), abs=2.1)
    assert not (np.asarray(picture)[MARGIN + CAPTION :] == (0, 255, 0)).all(axis=-1).any()


def test_without_findings_the_middle_is_shown() -> None:
    image = np.zeros((9, 20, 20), np.float32)
    image[4] = 1000
    shown = read_volume(phantoms.series(image, spacing=(1.0, 1.0, 1.0)))
    for masks in ([], [("nothing", np.zeros((9, 20, 20), bool), RED)]):
        axial = np.asarray(three_planes(shown, masks, window=(0, 1000)))[MARGIN + CAPTION :][
            :HEIGHT, MARGIN : MARGIN + HEIGHT
        ]
        assert axial[HEIGHT // 2, HEIGHT // 2].min() > 200


def test_a_flat_image_is_no_division_by_zero() -> None:
    flat = read_volume(phantoms.series(np.full((4, 8, 8), 7, np.float32)))
    assert three_planes(flat, []).height > HEIGHT
