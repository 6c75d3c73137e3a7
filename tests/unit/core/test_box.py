"""A box in the patient, as the slices of any grid cut it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import phantoms
from imaging_ai.core.box import PatientBox
from imaging_ai.core.geometry import Grid

SHAPE, SPACING = (9, 14, 17), (2.5, 0.7, 1.3)
GEOMETRIES = {
    "axial": {},
    "oblique": {"orientation": phantoms.OBLIQUE},
    "sagittal, tilted": {"orientation": phantoms.SAGITTAL, "tilt_degrees": -14.0},
}
#: Slices 2 to 5, rows 3 to 8, columns 4 to 12, each voxel as a whole.
LOW, HIGH = np.array([3.5, 2.5, 1.5]), np.array([12.5, 8.5, 5.5])


def grid(**geometry: object) -> Grid:
    return Grid(*SHAPE, phantoms.affine(SPACING, **geometry), "1.2.3")  # type: ignore[arg-type]


def indices(points: NDArray[np.float64], on: Grid) -> NDArray[np.float64]:
    inverse = np.linalg.inv(on.affine)
    return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_the_outlines_are_the_edges_of_its_voxels_on_every_slice_that_it_covers(geometry: dict[str, object]) -> None:
    on = grid(**geometry)
    outlines = PatientBox.between(LOW, HIGH, on.affine).outlines(on)
    assert list(outlines) == [2, 3, 4, 5]
    for k, points in outlines.items():
        places = indices(points, on)
        assert np.array_equal(points[0], points[-1])
        assert places[:, 2] == pytest.approx(np.full(len(points), k), abs=1e-6)
        corners = {(round(x, 3), round(y, 3)) for x, y, _ in places}
        assert corners == {(x, y) for x in (3.5, 12.5) for y in (2.5, 8.5)}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_its_region_is_the_voxels_that_it_was_made_of(geometry: dict[str, object]) -> None:
    on = grid(**geometry)
    mask = np.zeros(SHAPE, np.bool_)
    mask[2:6, 3:9, 4:13] = True
    assert np.array_equal(PatientBox.between(LOW, HIGH, on.affine).region(on).whole(), mask)


def test_its_edges_follow_the_grid_however_they_were_given() -> None:
    on = grid(orientation=phantoms.OBLIQUE)
    straight = PatientBox.between(LOW, HIGH, on.affine)
    assert straight.size == pytest.approx((9 * 1.3, 6 * 0.7, 4 * 2.5), rel=1e-4)
    width, height, depth = straight.edges
    back = tuple(-side for side in height)
    turned = PatientBox(straight.centre, (depth, width, back)).along(on)  # type: ignore[arg-type]
    assert np.array(turned.edges) == pytest.approx(np.array(straight.edges))
    assert list(turned.outlines(on)) == list(straight.outlines(on))


def test_a_box_that_leans_is_cut_into_polygons_that_lie_in_it() -> None:
    on, leaning = grid(), grid(orientation=phantoms.OBLIQUE)
    box = PatientBox(tuple(on.to_patient(np.array([[4.0, 7.0, 8.0]]))[0]), tuple(map(tuple, 6 * np.eye(3))))  # type: ignore[arg-type]
    tilted = PatientBox(box.centre, tuple(tuple(6 * v / np.linalg.norm(v)) for v in leaning.affine[:3, :3].T))  # type: ignore[arg-type]
    outlines = tilted.outlines(on)
    assert any(len(points) > 5 for points in outlines.values()), "a slice that is no parallelogram"
    for points in outlines.values():
        inside = np.linalg.solve(np.array(tilted.edges).T, (points - np.array(tilted.centre)).T)
        assert np.abs(inside).max() < 0.5 + 1e-4
        assert np.isclose(np.abs(inside).max(axis=0), 0.5, atol=1e-4).all(), "each corner lies on its surface"


def test_a_box_between_two_slices_lies_on_the_nearest() -> None:
    on = grid()
    thin = PatientBox.between(np.array([3.0, 3.0, 4.2]), np.array([6.0, 5.0, 4.4]), on.affine)
    (k,) = thin.outlines(on)
    assert k == thin.nearest_slice(on) == 4


def test_what_lies_beyond_the_images_is_left_out() -> None:
    on = grid()
    beyond = PatientBox.between(np.array([-5.0, 3.0, -4.0]), np.array([6.0, 5.0, 2.0]), on.affine)
    outlines = beyond.outlines(on)
    assert list(outlines) == [0, 1, 2]
    assert indices(outlines[0], on)[:, 0].min() == pytest.approx(-0.5)
    outside = PatientBox.between(np.array([30.0, 3.0, 1.0]), np.array([36.0, 5.0, 2.0]), on.affine)
    assert outside.outlines(on) == {}
    above = PatientBox.between(np.array([3.0, 3.0, 20.2]), np.array([6.0, 5.0, 20.6]), on.affine)
    assert above.outlines(on) == {}
