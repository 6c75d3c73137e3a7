"""Windows of the network's size lie around what was found, within the image, those with the most of it first."""

from __future__ import annotations

import pytest
import torch

from imaging_ai.explain.pieces import fitted, unfitted, windows_over


def region(*box: slice, size: tuple[int, ...] = (40, 30, 20)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[box] = True
    return mask


def test_one_window_lies_around_what_fits_into_it() -> None:
    mask = region(slice(18, 22), slice(10, 16), slice(8, 12))
    (window,) = windows_over(mask, (16, 16, 16))
    assert window == (slice(12, 28), slice(5, 21), slice(2, 18))


@pytest.mark.parametrize("box", [(slice(0, 2),) * 3, (slice(38, 40), slice(28, 30), slice(18, 20))])
def test_a_window_at_the_border_stays_within_the_image(box: tuple[slice, ...]) -> None:
    (window,) = windows_over(region(*box), (16, 16, 16))
    assert all(side.start >= 0 and side.stop <= size for side, size in zip(window, (40, 30, 20), strict=True))
    assert region(*box)[window].sum() == 8


def test_what_is_larger_than_a_window_has_several_that_cover_it() -> None:
    mask = region(slice(0, 40), slice(5, 10), slice(5, 10))
    windows = windows_over(mask, (16, 16, 16))
    covered = torch.zeros_like(mask)
    for window in windows:
        covered[window] = True
    assert bool((covered | ~mask).all())
    inside = [int(mask[window].sum()) for window in windows]
    assert inside == sorted(inside, reverse=True)


def test_there_are_no_more_windows_than_asked_for() -> None:
    assert len(windows_over(torch.ones(40, 30, 20, dtype=torch.bool), (8, 8, 8), most=5)) == 5


@pytest.mark.parametrize("sizes", [(5, 7, 9), (8, 8, 8), (2, 30, 3)])
def test_padding_is_taken_away_again(sizes: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, 5, 6, 7)
    padded, pads = fitted(image, sizes)
    assert all(size >= least for size, least in zip(padded.shape[2:], sizes, strict=True))
    assert torch.equal(unfitted(padded, pads), image)
