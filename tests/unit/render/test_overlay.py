"""A result over its source image: its colour where it is, the image elsewhere, and nothing where it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset

import encoded
import phantoms
from imaging_ai.core.colour import srgb_of
from imaging_ai.core.volume import Volume
from imaging_ai.draw.heat import heat_colours
from imaging_ai.infer.volume import read_volume
from imaging_ai.render.grey import Window
from imaging_ai.render.overlay import draw_over, lies_on, made_of
from imaging_ai.render.picture import draw
from imaging_ai.render.source import Source
from imaging_ai.render.wish import Region, Viewport, Wish
from rendering import source_of

SHAPE = (6, 40, 50)
FILES = phantoms.series(phantoms.ball(SHAPE), name="overlay")
COLOUR = srgb_of(encoded.LESION.cielab or (0, 0, 0))


@pytest.fixture(scope="module")
def volume() -> Volume:
    return read_volume([phantoms.to_bytes(ds) for ds in FILES])


def image_of(result: Source, frame_number: int) -> Source:
    """Open the image that a frame was made of."""
    ((uid, number),) = made_of(result, frame_number)
    assert number == 1
    return source_of(next(ds for ds in FILES if ds.SOPInstanceUID == uid))


def segmented(volume: Volume, **options: object) -> Source:
    return source_of(bytes(encoded.encode(volume, **options)["SEG"].data))


@pytest.mark.parametrize("segmentation", ["binary", "labelmap", "fractional"])
def test_a_segment_has_its_colour_and_what_is_outside_is_the_image(volume: Volume, segmentation: str) -> None:
    some = encoded.findings(SHAPE, found=1, absent=0)
    chances = np.ones(SHAPE, np.float32)
    result = segmented(volume, some=some, segmentation=segmentation, probability=chances)
    image = image_of(result, 1)
    assert lies_on(result, 1, image, 1)
    picture, plain = draw_over(result, 1, image, 1, Wish()), draw(image, 1, Wish())
    inside = some[0].region.plane(int(some[0].region.slices[0]))
    assert np.array_equal(picture[~inside], np.repeat(plain[~inside][:, None], 3, axis=1))
    rows, columns = np.nonzero(inside)
    assert tuple(picture[rows[0], columns[0]]) == COLOUR, "an outline"
    middle = rows[len(rows) // 2], int(np.median(columns))
    expected = 0.7 * plain[middle] + 0.3 * np.array(COLOUR)
    assert np.abs(picture[middle] - expected).max() <= 1


def test_a_map_is_heat_as_strong_as_its_values(volume: Volume) -> None:
    heat = encoded.probability(volume)
    result = source_of(encoded.encode(volume, kinds=("SR", "PM"), maps=[heat])["PM"].data)
    image = image_of(result, 6)
    picture, plain = draw_over(result, 6, image, 1, Wish()), draw(image, 1, Wish())
    value = heat.values[5, -1, -1:]
    cover = 0.75 * value
    expected = plain[-1, -1] * (1 - cover) + heat_colours(value, (0.0, 1.0))[0] * cover
    assert np.abs(picture[-1, -1] - expected).max() <= 1
    first = draw_over(result, 1, image_of(result, 1), 1, Wish())
    assert np.abs(first[0, 0].astype(int) - draw(image_of(result, 1), 1, Wish())[0, 0]).max() <= 1, "nothing is no heat"


def test_a_region_a_viewport_and_a_window_are_those_of_both(volume: Volume) -> None:
    result = segmented(volume)
    image = image_of(result, 1)
    whole = draw_over(result, 1, image, 1, Wish(window=Window(100, 50)))
    part = draw_over(result, 1, image, 1, Wish(window=Window(100, 50), region=Region(5, 6, 20, 10)))
    assert np.array_equal(part, whole[6:16, 5:25])
    assert draw_over(result, 1, image, 1, Wish(viewport=Viewport(100, None))).shape == (80, 100, 3)
    assert not np.array_equal(whole, draw_over(result, 1, image, 1, Wish()))


def moved(**attributes: object) -> Callable[[Dataset], Dataset]:
    def change(ds: Dataset) -> Dataset:
        ds = ds.copy()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return ds

    return change


@pytest.mark.parametrize(
    "change",
    [
        moved(ImagePositionPatient=[0, 0, 77]),
        moved(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]),
        moved(PixelSpacing=[1, 1.01]),
        moved(FrameOfReferenceUID="1.2.3"),
        moved(ImagePositionPatient=None),
    ],
)
def test_what_lies_elsewhere_is_not_drawn_over(volume: Volume, change: Callable[[Dataset], Dataset]) -> None:
    result = segmented(volume)
    ((uid, _),) = made_of(result, 1)
    image = source_of(change(next(ds for ds in FILES if ds.SOPInstanceUID == uid)))
    assert not lies_on(result, 1, image, 1)
    assert not lies_on(result, 1, image_of(result, 1), 2)


def test_an_image_is_made_of_none() -> None:
    assert made_of(source_of(FILES[0]), 1) == []


def test_segments_without_a_colour_have_one_of_ours(volume: Volume) -> None:
    some = [replace(one, description=replace(encoded.LESION, cielab=None)) for one in encoded.findings(SHAPE)]
    ds = encoded.read(encoded.encode(volume, some)["SEG"])
    for item in ds.SegmentSequence:
        del item.RecommendedDisplayCIELabValue
    result = source_of(ds)
    picture = draw_over(result, 1, image_of(result, 1), 1, Wish())
    assert (picture != picture[..., :1]).any()
