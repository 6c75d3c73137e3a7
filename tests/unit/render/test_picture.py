"""Cropping, scaling, writing on pictures, and the files they become."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset

import phantoms
from imaging_ai.errors import BadParameterError, NotAcceptable, NotFound, TooLarge
from imaging_ai.render.formats import FORMATS, encode, encode_moving
from imaging_ai.render.grey import Grayscale, Rescale, Window
from imaging_ai.render.picture import draw, pixel_aspect
from imaging_ai.render.profiles import in_profile
from imaging_ai.render.wish import Region, Viewport, Wish
from rendering import source_of

GRID = np.add.outer(np.arange(20) * 10, np.arange(24)).astype(np.float32)


def instance(voxels: np.ndarray[Any, Any] = GRID, **attributes: Any) -> Dataset:
    """Write a slice whose window leaves its values as they are."""
    (ds,) = phantoms.series(voxels[None], name="picture")
    ds.WindowCenter, ds.WindowWidth = 128, 256
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def drawn(wish: Wish, **attributes: Any) -> np.ndarray[Any, Any]:
    return np.asarray(draw(source_of(instance(**attributes)), 1, wish)).astype(int)


def test_without_a_viewport_the_matrix_is_that_of_the_image() -> None:
    assert np.abs(drawn(Wish()) - GRID).max() <= 1
    assert drawn(Wish(), PixelSpacing=[2, 1]).shape == GRID.shape


def test_a_region_is_cropped_and_its_default_ends_are_those_of_the_image() -> None:
    whole = drawn(Wish())
    assert np.array_equal(drawn(Wish(region=Region(3, 4, 5, 6))), whole[4:10, 3:8])
    assert np.array_equal(drawn(Wish(region=Region(3, 4))), whole[4:, 3:])
    assert np.array_equal(drawn(Wish(region=Region(20, 15, 100, 100))), whole[15:, 20:])


def test_a_normalized_region_is_a_part_of_the_image() -> None:
    part = Region(0.5, 0.25, 0.5, 0.5, normalized=True)
    assert np.array_equal(drawn(Wish(region=part)), drawn(Wish())[5:15, 12:])


def test_a_region_outside_of_the_image_is_refused_by_the_name_of_its_parameter() -> None:
    with pytest.raises(BadParameterError) as refused:
        drawn(Wish(region=Region(24, 0), region_name="region"))
    assert refused.value.parameter == "region"


def test_the_default_window_is_that_of_the_whole_frame_whatever_the_region() -> None:
    ds = instance()
    del ds.WindowCenter, ds.WindowWidth
    source = source_of(ds)
    whole, part = (np.asarray(draw(source, 1, Wish(region=region))) for region in (None, Region(2, 2, 4, 4)))
    assert np.array_equal(part, whole[2:6, 2:6])


def test_flips_turn_the_region_round() -> None:
    whole = drawn(Wish())
    assert np.array_equal(drawn(Wish(region=Region(flip_horizontally=True))), whole[:, ::-1])
    assert np.array_equal(drawn(Wish(region=Region(flip_vertically=True))), whole[::-1])


@pytest.mark.parametrize(
    ("viewport", "size"),
    [
        (Viewport(48, 400), (48, 40)),
        (Viewport(400, 40), (48, 40)),
        (Viewport(12, 10), (12, 10)),
        (Viewport(None, 10), (12, 10)),
        (Viewport(12, None), (12, 10)),
        (Viewport(1, 1), (1, 1)),
    ],
)
def test_pictures_are_as_large_as_the_viewport_permits(viewport: Viewport, size: tuple[int, int]) -> None:
    assert draw(source_of(instance()), 1, Wish(viewport=viewport)).shape == size[::-1]


def test_pixels_that_are_not_square_are_scaled_to_their_proportions() -> None:
    high = source_of(instance(PixelSpacing=[2, 1]))
    assert pixel_aspect(high, 1) == 2
    assert draw(high, 1, Wish(viewport=Viewport(24, 100))).shape == (40, 24)
    ds = instance()
    del ds.PixelSpacing
    ds.PixelAspectRatio = [1, 2]
    assert draw(source_of(ds), 1, Wish(viewport=Viewport(48, 100))).shape == (20, 48)


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1], [1], [1e-9, 1e9]])
def test_a_spacing_that_makes_no_sense_counts_as_square(spacing: list[float]) -> None:
    assert pixel_aspect(source_of(instance(PixelSpacing=spacing)), 1) == 1


def test_a_viewport_that_would_take_too_much_memory_is_refused() -> None:
    with pytest.raises(BadParameterError):
        drawn(Wish(viewport=Viewport(65536, 65536)))


def test_frames_that_claim_to_be_huge_are_refused_before_they_are_read() -> None:
    ds = instance()
    ds.Rows = ds.Columns = 65535
    with pytest.raises((TooLarge, NotAcceptable)):
        draw(source_of(ds), 1, Wish())


def test_there_are_only_so_many_frames() -> None:
    with pytest.raises(NotFound):
        draw(source_of(instance()), 2, Wish())


def test_damaged_pixel_data_is_refused() -> None:
    ds = instance()
    ds.PixelData = ds.PixelData[:100]
    with pytest.raises(NotAcceptable):
        draw(source_of(ds), 1, Wish())


def test_text_is_written_only_where_it_is_asked_for() -> None:
    large = Viewport(480, 400)
    attributes = {"PatientName": "Doe^Jane", "SeriesDescription": "Thorax"}
    plain = drawn(Wish(viewport=large), **attributes)
    for wanted, written, untouched in (
        ("patient", plain[:100], plain[-100:]),
        ("technique", plain[-100:], plain[:100]),
    ):
        shown = drawn(Wish(viewport=large, annotations=(wanted,)), **attributes)  # type: ignore[list-item]
        top = wanted == "patient"
        assert not np.array_equal(shown[:100] if top else shown[-100:], written)
        assert np.array_equal(shown[-100:] if top else shown[:100], untouched)


def test_text_of_any_script_and_length_and_on_any_size_is_written() -> None:
    for name in ("Yamada^Tarou=山田^太郎=やまだ^たろう", "x" * 64, "^^^^", "\u202eabc"):
        for viewport in (Viewport(1, 1), Viewport(300, 300)):
            drawn(Wish(viewport=viewport, annotations=("patient", "technique")), PatientName=name)


def test_every_format_can_be_read_back() -> None:
    picture = draw(source_of(instance()), 1, Wish())
    for media_type, name in FORMATS.items():
        for shown in (picture, np.repeat(picture[..., np.newaxis], 3, axis=-1)):
            read = Image.open(io.BytesIO(encode(shown, media_type)))
            assert (read.format, read.size) == (name, (24, 20))
            assert np.abs(np.asarray(read.convert("L")).astype(int) - picture).max() <= 8


def test_less_quality_is_less_data() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for media_type in ("image/jpeg", "image/jp2"):
        sizes = [len(encode(noise, media_type, quality=quality)) for quality in (1, 50, 90, 100)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1], media_type


def test_a_moving_image_has_all_frames_and_their_time() -> None:
    pictures = [np.full((8, 8), level, np.uint8) for level in (0, 100, 200)]
    moving = Image.open(io.BytesIO(encode_moving(iter(pictures), 40)))
    assert (moving.n_frames, moving.info["duration"], moving.info["loop"]) == (3, 40, 0)


@pytest.mark.parametrize(
    ("name", "description"), [("srgb", "sRGB"), ("adobergb", "Adobe RGB (1998)"), ("rommrgb", "ROMM RGB")]
)
def test_profiles_are_named_and_can_be_used(name: str, description: str) -> None:
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    converted, profile = in_profile(red, source_of(instance()), name)  # type: ignore[arg-type]
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert description in ImageCms.getProfileDescription(opened)
    back = ImageCms.profileToProfile(Image.fromarray(converted), opened, ImageCms.createProfile("sRGB"))
    assert back is not None
    assert np.abs(np.asarray(back).astype(int) - red).max() <= 4


def test_pure_red_of_srgb_is_what_it_is_known_to_be_in_the_wider_spaces() -> None:
    red, source = np.full((2, 2, 3), (255, 0, 0), np.uint8), source_of(instance())
    adobe, romm = (in_profile(red, source, name)[0][0, 0].astype(int) for name in ("adobergb", "rommrgb"))
    assert np.abs(adobe - (219, 0, 0)).max() <= 2
    assert np.abs(romm - (179, 70, 26)).max() <= 3


def test_the_profile_of_the_instance_is_given_and_a_damaged_one_refused() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    unchanged, none = in_profile(red, source_of(instance()), "no")
    assert unchanged is red and none == b""
    damaged = source_of(instance(ICCProfile=b"nonsense"))
    assert in_profile(red, damaged, "yes")[1] == b"nonsense"
    with pytest.raises(NotAcceptable):
        in_profile(red, damaged, "srgb")


@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": 0},
        {"SamplesPerPixel": 2},
        {"BitsAllocated": 12},
        {"BitsStored": 20},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"RescaleSlope": "1e300", "WindowWidth": "1e300"},
        {"RescaleSlope": "1e300", "RescaleIntercept": "-1e300", "WindowCenter": "0.5", "WindowWidth": "1"},
        {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": -5},
        {"RedPaletteColorLookupTableDescriptor": [1, 2], "PixelPresentation": "COLOR"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "SegmentationType": "LABELMAP"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 0},
        {"RepresentativeFrameNumber": 99},
    ],
)
def test_attributes_that_contradict_each_other_are_rendered_or_refused(attributes: dict[str, Any]) -> None:
    ds = instance()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    try:
        picture = draw(source_of(ds), 1, Wish(annotations=("technique",)))
    except (NotAcceptable, TooLarge):
        return
    assert picture.dtype == np.uint8


def test_a_few_bytes_that_claim_a_large_frame_take_no_memory() -> None:
    ds = instance()
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    ds.Rows = ds.Columns = 16384
    tracemalloc.start()
    with pytest.raises(TooLarge):
        draw(source_of(ds), 1, Wish())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_large_frames_of_many_bits_are_computed_piece_by_piece() -> None:
    stored = np.arange(1 << 21, dtype=np.uint32).reshape(1 << 10, 1 << 11) * 1024
    gray = Grayscale(Rescale(), Window.spanning(0, float(stored.max())))
    tracemalloc.start()
    levels = gray.levels(stored)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (levels[0, 0], levels[-1, -1]) == (0, 255)
    assert peak < 2 * stored.size * 8 + levels.nbytes + (8 << 20)
