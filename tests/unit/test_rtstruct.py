from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from imaging_ai.core.geometry import Grid
from rtstruct import dice, inside, rasterise

GRID = Grid(5, 20, 24, np.array([[2.0, 0, 0, 10], [0, 3, 0, -7], [0, 0, 4, 50], [0, 0, 0, 1]]), "1.2.3")


def structure_set(*contours: NDArray[np.float64], name: str = "GTV_Mass_PET") -> Dataset:
    ds, roi, region = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 1, name
    region.ReferencedROINumber, region.ContourSequence = 1, []
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType, contour.ContourData = "CLOSED_PLANAR", points.ravel().tolist()
        region.ContourSequence.append(contour)
    ds.StructureSetROISequence, ds.ROIContourSequence = [roi], [region]
    return ds


def box(slice_: float, top: float, left: float, bottom: float, right: float) -> NDArray[np.float64]:
    corners = [(slice_, top, left), (slice_, top, right), (slice_, bottom, right), (slice_, bottom, left)]
    return GRID.to_patient(np.array(corners, float))


def test_a_voxel_belongs_to_a_contour_when_its_centre_lies_inside() -> None:
    mask = rasterise(structure_set(box(2, 3.4, 5.6, 7.6, 9.4)), GRID)
    expected = np.zeros(GRID.shape, bool)
    expected[2, 4:8, 6:10] = True
    assert (mask == expected).all()


def test_a_contour_inside_another_is_a_hole() -> None:
    mask = rasterise(structure_set(box(1, 2.5, 2.5, 12.5, 12.5), box(1, 5.5, 5.5, 8.5, 8.5)), GRID)
    assert mask.sum() == 100 - 9
    assert not mask[1, 7, 7]


def test_a_polygon_may_be_concave_and_leave_the_grid() -> None:
    spire = np.array([(-5.0, -5.0), (-5.0, 30.0), (10.2, 30.0), (3.2, 11.0), (10.2, -5.0)])
    mask = inside(spire, 20, 24)
    assert mask[0].all()
    assert not mask[5, 11]
    assert mask[5, 0] and mask[5, 23]


def test_a_slanted_edge_cuts_between_the_right_voxels() -> None:
    mask = inside(np.array([(-0.5, 0.25), (9.5, 0.25), (9.5, 10.25)]), 12, 12)  # the edge is at the row + 0.75
    expected = np.tril(np.ones((12, 12), bool))
    expected[:, 0] = expected[10:] = False
    assert (mask == expected).all()


def test_a_disc_has_the_area_of_a_disc() -> None:
    angle = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    disc = inside(np.column_stack([50.3 + 30 * np.sin(angle), 49.8 + 30 * np.cos(angle)]), 100, 100)
    assert disc.sum() == pytest.approx(np.pi * 900, rel=0.005)


def test_a_contour_between_two_slices_is_not_of_this_grid() -> None:
    with pytest.raises(AssertionError, match="between the slices"):
        rasterise(structure_set(box(2.5, 3, 3, 6, 6)), GRID)
    with pytest.raises(AssertionError, match="outside the grid"):
        rasterise(structure_set(box(5, 3, 3, 6, 6)), GRID)


def test_other_regions_are_left_out() -> None:
    with pytest.raises(AssertionError, match="no region"):
        rasterise(structure_set(box(2, 3, 3, 6, 6), name="Oedema"), GRID)


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    one, other = np.zeros(10, bool), np.zeros(10, bool)
    assert dice(one, other) == 1
    one[:4] = True
    assert dice(one, other) == 0
    other[2:8] = True
    assert dice(one, other) == pytest.approx(0.4)
