"""A region is its mask, in less memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from imaging_ai.core.region import Region

MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.booleans())


@given(mask=MASKS)
def test_it_says_of_a_mask_what_the_mask_says(mask: NDArray[np.bool_]) -> None:
    region = Region.of(mask)
    assert np.array_equal(region.whole(), mask)
    assert (region.found, region.voxels) == (mask.any(), mask.sum())
    assert np.array_equal(region.slices, np.flatnonzero(mask.any(axis=(1, 2))))
    assert np.array_equal(region.areas, mask.sum(axis=(1, 2)))
    for k in range(len(mask)):
        assert np.array_equal(region.plane(k), mask[k])


@given(mask=MASKS)
def test_its_box_is_the_smallest(mask: NDArray[np.bool_]) -> None:
    inside = Region.of(mask).inside
    for axes in ((1, 2), (0, 2), (0, 1)):
        ends = inside.any(axis=axes)
        assert not len(ends) or (ends[0] and ends[-1])


def test_its_memory_is_that_of_its_box_alone() -> None:
    mask = np.zeros((50, 60, 70), np.bool_)
    mask[10:12, 20:23, 30:34] = True
    inside = Region.of(mask).inside
    assert inside.size == 24 and inside.base is None


def test_nothing_has_no_voxel() -> None:
    nothing = Region.nothing((4, 5, 6))
    assert not nothing.found and nothing.voxels == 0 and nothing.slices.size == 0
    assert nothing.whole().shape == (4, 5, 6) and not nothing.plane(2).any()


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((slice(0, 2), slice(0, 2), slice(0, 2)), (2, 2, 1)),
        ((slice(3, 5), slice(0, 2), slice(0, 2)), (2, 2, 2)),
        ((slice(-1, 1), slice(0, 2), slice(0, 2)), (2, 2, 2)),
    ],
    ids=["another size", "beyond the grid", "before it"],
)
def test_what_does_not_lie_on_the_grid_cannot_be_made(box: tuple[slice, ...], size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie at"):
        Region((4, 4, 4), box, np.ones(size, np.bool_))
