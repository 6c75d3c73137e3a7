"""Key slices: the largest finding first, outlines where masks end, heat where the map is, the patient's directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import encoded
import phantoms
from imaging_ai.core.colour import srgb_of
from imaging_ai.core.finding import Finding, Picture
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.explain.pictures import key_slices
from imaging_ai.infer.volume import read_volume

SHAPE = (10, 40, 40)
#: Where the first panel begins, and its side: 40 x 40 mm.
LEFT, TOP, SIDE = 10, 30, 480


def volume(modality: str = "CT", **how: object) -> Volume:
    image = np.zeros(SHAPE, np.float32)
    image[:, 20:, :] = 200
    return read_volume(phantoms.series(image, modality=modality, **how))  # type: ignore[arg-type]


def finding(name: str, where: tuple[slice, slice, slice]) -> Finding:
    (first, *_) = encoded.findings(SHAPE, found=1, absent=0)
    mask = np.zeros(SHAPE, bool)
    mask[where] = True
    return replace(first, region=Region.of(mask), tracking_identifier=name)


SMALL = finding("small", np.s_[1:3, 2:4, 2:4])
LARGE = finding("large", np.s_[4:9, 10:20, 20:30])
COLOUR = srgb_of(encoded.LESION.cielab or (0, 0, 0))


def panel(picture: Picture, number: int = 0) -> NDArray[np.uint8]:
    left = LEFT + number * (SIDE + 10)
    return picture.pixels[TOP : TOP + SIDE, left : left + SIDE]


def test_the_largest_finding_comes_first_and_every_slice_once() -> None:
    pictures = key_slices(volume(), [SMALL, LARGE], "Model 1.0")
    assert pictures[0].caption == "large, slice 5 of 10"
    names = [picture.caption.split(",")[0] for picture in pictures]
    assert names == sorted(names)  # large before small
    slices = [picture.slice for picture in pictures]
    assert len(set(slices)) == len(slices) <= 6
    assert all(LARGE.mask[k].any() or SMALL.mask[k].any() for k in slices)


def test_the_slice_where_a_finding_is_largest_is_its_first() -> None:
    mask = LARGE.mask.copy()
    mask[7, 5:30, 5:35] = True
    (first, *_) = key_slices(volume(), [replace(LARGE, region=Region.of(mask))], "Model 1.0")
    assert first.slice == 7


@pytest.mark.parametrize("most", [1, 2, 5])
def test_there_are_no_more_pictures_than_asked_for_and_one_for_each_of_many_findings(most: int) -> None:
    many = [finding(f"{k}", np.s_[k : k + 1, 5:10, 5:10]) for k in range(10)]
    assert len(key_slices(volume(), many, "Model 1.0", most=most)) == most


def test_nothing_found_has_no_picture() -> None:
    nothing = replace(LARGE, region=Region.nothing(SHAPE))
    assert key_slices(volume(), [nothing], "Model 1.0") == ()
    assert key_slices(volume(), [], "Model 1.0") == ()


def test_the_outline_is_where_the_mask_ends_in_the_colour_of_the_segment() -> None:
    (picture, *_) = key_slices(volume(), [LARGE], "Model 1.0", most=1)
    rows, columns = np.nonzero((panel(picture) == COLOUR).all(axis=-1))
    scale = SIDE / SHAPE[1]
    assert (rows.min() / scale, rows.max() / scale) == pytest.approx((10, 20), abs=0.6)
    assert (columns.min() / scale, columns.max() / scale) == pytest.approx((20, 30), abs=0.6)
    assert tuple(panel(picture)[round(15 * scale), round(25 * scale)]) != COLOUR, "an outline, not a patch"


def test_the_map_is_drawn_beside_the_outline_hot_where_it_is_high() -> None:
    shown = volume()
    values = np.zeros(SHAPE, np.float32)
    values[:, :10, :10] = 1
    (picture,) = key_slices(shown, [LARGE], "Model 1.0", encoded.probability(shown, values=values), most=1)
    plain, heated = panel(picture, 0), panel(picture, 1)
    scale = SIDE / SHAPE[1]
    hot, cold = np.s_[round(4 * scale), round(4 * scale)], np.s_[round(34 * scale), round(30 * scale)]
    assert heated[hot].astype(int)[0] - heated[hot].astype(int)[2] > 50
    assert np.array_equal(heated[cold], plain[cold])
    assert not (heated == COLOUR).all(axis=-1).any()


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [
        (phantoms.AXIAL, ("L", "P")),
        (phantoms.FLIPPED, ("R", "A")),
        (phantoms.CORONAL, ("L", "F")),
        (phantoms.SAGITTAL, ("P", "F")),
    ],
)
def test_the_directions_are_those_of_the_patient(orientation: tuple[float, ...], letters: tuple[str, str]) -> None:
    assert volume(orientation=orientation).grid.patient_orientation == letters


def test_a_leaning_direction_has_two_letters() -> None:
    leaning = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
    assert volume(orientation=leaning).grid.patient_orientation == ("LP", "PR")


def test_pet_is_dark_on_white_and_ct_has_the_window_of_its_header() -> None:
    pet, ct = (panel(key_slices(volume(kind), [LARGE], "Model", most=1)[0])[-60, 60] for kind in ("PT", "CT"))
    assert pet.max() < 50
    assert ct[0] == pytest.approx(255 * (200 - (150 - 200)) / 400, abs=2)


def test_pictures_of_one_job_are_of_one_size() -> None:
    pictures = key_slices(volume(), [SMALL, LARGE, finding("other", np.s_[4:6, 30:34, 2:9])], "Model 1.0")
    assert len({picture.pixels.shape for picture in pictures}) == 1
    assert all(picture.pixels.dtype == np.uint8 for picture in pictures)


def test_pixels_that_are_not_square_are_drawn_in_millimetres() -> None:
    (picture,) = key_slices(volume(spacing=(2.0, 1.0, 0.5)), [LARGE], "Model 1.0", most=1)
    drawn = picture.pixels[TOP : TOP + SIDE, LEFT : LEFT + SIDE // 2]
    rows, columns = np.nonzero((drawn == COLOUR).all(axis=-1))
    assert np.ptp(rows) == pytest.approx(2 * np.ptp(columns), rel=0.05)


def test_a_colour_image_is_drawn_in_grey() -> None:
    coloured = volume()
    voxels = np.repeat(coloured.voxels[..., None], 3, axis=-1)
    assert len(key_slices(replace(coloured, voxels=voxels), [LARGE], "Model 1.0", most=1)) == 1
