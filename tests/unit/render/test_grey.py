"""The grayscale pipeline, against its formulas, pydicom's and, over real files, DCMTK's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

import phantoms
from imaging_ai.render.grey import Grayscale, LookupTable, Rescale, Window
from imaging_ai.render.picture import draw
from imaging_ai.render.wish import Wish
from rendering import source_of

RAMP = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


def image(stored: np.ndarray[Any, Any], **attributes: Any) -> Dataset:
    """Write stored values as a CT whose window and rescale are those given."""
    (ds,) = phantoms.series(np.zeros((1, *stored.shape), np.float32), name="grey")
    ds.PixelData = stored.tobytes()
    ds.BitsAllocated = stored.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = ds.BitsAllocated, ds.BitsAllocated - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        ds.pop(keyword, None)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def a_file_of(folder: Path) -> Path:
    """Find an image among the files of a series."""
    return next(
        one for one in sorted(folder.glob("[!L]*")) if one.is_file() and "PixelData" in dcmread(one, force=True)
    )


def levels(ds: Dataset, wish: Wish | None = None, frame: int = 1) -> np.ndarray[Any, Any]:
    return np.asarray(draw(source_of(ds), frame, wish or Wish())).astype(int)


def of_pydicom(ds: Dataset) -> np.ndarray[Any, Any]:
    """What pydicom makes of it, as levels."""
    values = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(float)
    if "VOILUTSequence" in ds:
        return values * 255 / ((1 << ds.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    low, high = 0.0, float((1 << ds.BitsStored) - 1)
    if ds.PixelRepresentation:
        low, high = -float(1 << (ds.BitsStored - 1)), float((1 << (ds.BitsStored - 1)) - 1)
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    return (values - low) / (high - low) * 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (0.5, 2)])
def test_windows_are_those_of_pydicom(function: str, center: float, width: float) -> None:
    ds = image(
        RAMP, WindowCenter=center, WindowWidth=width, VOILUTFunction=function, RescaleSlope=1, RescaleIntercept=-24
    )
    assert np.abs(levels(ds) - of_pydicom(ds)).max() <= 0.51


def test_a_window_one_wide_is_a_threshold() -> None:
    shades = Window(10, 1).shades(np.asarray([9.0, 9.5, 9.6, 10.0]))
    assert shades.tolist() == [0, 0, 1, 1]


def test_sigmoid_far_from_its_center_does_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert Window(0, 1e-9, "sigmoid").shades(np.asarray([-1e9, 1e9])).tolist() == [0, 1]


def test_the_first_of_several_windows_is_taken() -> None:
    several = image(RAMP, WindowCenter=[40, 500], WindowWidth=[400, 2000])
    assert np.array_equal(levels(several), levels(image(RAMP, WindowCenter=40, WindowWidth=400)))


def test_a_window_that_is_asked_for_replaces_that_of_the_data() -> None:
    ds = image(RAMP, WindowCenter=40, WindowWidth=400)
    wished = levels(ds, Wish(window=Window(-600, 1500)))
    assert np.array_equal(wished, levels(image(RAMP, WindowCenter=-600, WindowWidth=1500)))


def test_a_voi_lut_comes_before_a_window_and_is_that_of_pydicom() -> None:
    item = Dataset()
    item.LUTDescriptor = [1024, -512, 12]
    item.add_new("LUTData", "US", [value * value // 256 for value in range(1024)])
    item["LUTDescriptor"].VR = "SS"
    ds = image(RAMP, WindowCenter=40, WindowWidth=400, VOILUTSequence=Sequence([item]))
    assert np.abs(levels(ds) - of_pydicom(ds)).max() <= 0.51


def test_a_modality_lut_comes_before_the_window() -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", np.arange(0, 512, 2, dtype="<u2").tobytes())
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = image(stored, ModalityLUTSequence=Sequence([item]), WindowCenter=256, WindowWidth=256)
    ds["ModalityLUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    expected = np.clip(((np.arange(256) * 2 - 255.5) / 255 + 0.5) * 255, 0, 255).reshape(16, 16)
    assert np.abs(levels(ds) - expected).max() <= 0.51


def test_monochrome1_is_inverted() -> None:
    ds = image(RAMP, WindowCenter=40, WindowWidth=400)
    inverted = image(RAMP, WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(levels(inverted), 255 - levels(ds))


def test_without_a_window_the_lowest_value_is_black_and_the_highest_white() -> None:
    shown = levels(image(np.asarray([[-100, 0], [50, 300]], np.int16)))
    assert shown.tolist() == [[0, 64], [96, 255]]


def test_zero_counts_for_the_range_as_any_value() -> None:
    assert levels(image(np.asarray([[0, 50], [75, 100]], np.int16))).tolist() == [[0, 128], [191, 255]]


def test_a_first_value_below_zero_is_understood_whatever_its_representation_says() -> None:
    shown = []
    for first in (-512, 65024):
        item = Dataset()
        item.LUTDescriptor = [1024, first, 12]
        item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
        item.add_new("LUTData", "US", [value * 4 for value in range(1024)])
        shown.append(levels(image(RAMP, VOILUTSequence=Sequence([item]))))
    assert np.array_equal(*shown)
    assert len(np.unique(shown[0])) == 256


def test_padding_does_not_count_for_the_range() -> None:
    stored = np.asarray([[-2000, 0], [50, 100]], np.int16)
    assert levels(image(stored, PixelPaddingValue=-2000)).tolist() == [[0, 0], [128, 255]]
    ranged = image(np.asarray([[-2000, -1990], [0, 100]], np.int16))
    ranged.PixelPaddingValue, ranged.PixelPaddingRangeLimit = -2000, -1980
    assert levels(ranged).tolist() == [[0, 0], [0, 255]]


def test_eight_bits_without_a_window_stay_as_they_are() -> None:
    stored = np.asarray([[3, 20], [100, 200]], np.uint8)
    assert levels(image(stored)).tolist() == stored.tolist()


def test_an_image_of_one_value_and_one_of_padding_only_are_rendered() -> None:
    flat = np.full((4, 4), 7, np.int16)
    assert levels(image(flat)).shape == (4, 4)
    assert levels(image(flat, PixelPaddingValue=7)).shape == (4, 4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": 40, "WindowWidth": -5},
        {"RescaleSlope": 0},
        {"WindowWidth": 5},
    ],
)
def test_attributes_that_make_no_sense_count_as_absent(attributes: dict[str, Any]) -> None:
    assert levels(image(RAMP, **attributes))[-1, -1] == 255


def test_large_and_small_frames_go_through_the_same_transformation() -> None:
    gray = Grayscale(Rescale(2, -5), Window(40, 400), inverted=True)
    large = np.tile(RAMP, (8, 8))
    assert np.array_equal(gray.levels(large)[:64, :64], gray.levels(RAMP))


@pytest.mark.parametrize("bits", [1, 8, 9, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_the_table_of_so_many_bits_says_what_is_computed_of_each_value(bits: int, *, signed: bool) -> None:
    gray = Grayscale(Rescale(1.5, -7), Window(300, 2500, "sigmoid"))
    low = -(1 << (bits - 1)) if signed else 0
    values = np.resize(np.arange(low, low + (1 << bits)).astype(np.int16 if signed else np.uint16), (256, 256))
    assert np.array_equal(gray.levels(values, bits), gray.levels(values.astype(np.int32)))


def test_a_lookup_table_is_clamped_at_both_ends() -> None:
    table = LookupTable(np.asarray([10, 20, 30], np.uint16), first=5, bits=8)
    assert table.of(np.asarray([-1e30, 4, 5, 6, 7, 8, np.nan, np.inf])).tolist() == [10, 10, 10, 20, 30, 30, 10, 30]


def test_frames_of_an_enhanced_image_have_windows_and_rescales_of_their_own() -> None:
    ds = phantoms.enhanced(np.tile(np.arange(256, dtype=np.float32).reshape(16, 16), (2, 1, 1)))
    for item, (slope, center) in zip(ds.PerFrameFunctionalGroupsSequence, ((1, 128), (2, 256)), strict=True):
        values, window = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = center, 256
        item.PixelValueTransformationSequence = Sequence([values])
        item.FrameVOILUTSequence = Sequence([window])
    first, second = levels(ds, frame=1), levels(ds, frame=2)
    assert np.abs(first.ravel() - np.arange(256)).max() <= 1
    assert np.abs(second.ravel() - np.clip(np.arange(256) * 2 - 128, 0, 255)).max() <= 1


def test_functional_groups_that_are_shared_count_for_every_frame() -> None:
    ds = phantoms.enhanced(np.tile(np.arange(256, dtype=np.float32).reshape(16, 16), (2, 1, 1)))
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 10, 2
    ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = Sequence([window])
    assert sorted(set(levels(ds, frame=2).ravel())) == [0, 255]


def test_floating_point_maps_show_their_finite_range() -> None:
    values = np.asarray([[0.0, 1.0], [np.nan, 4.0]], np.float32)
    ds = image(values)
    del ds.PixelData
    ds.FloatPixelData, ds.BitsAllocated = values.tobytes(), 32
    del ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    assert levels(ds).tolist() == [[0, 64], [0, 255]]


_DCMTK_READS = [
    "JPEG-LL.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "OBXXXX1A_rle_2frame.dcm",
    "OT-PAL-8-face.dcm",
    "SC_rgb_16bit_2frame.dcm",
    "SC_rgb_dcmtk_ebcr_dcmd.dcm",
    "SC_ybr_full_uncompressed.dcm",
    "bad_sequence.dcm",
    "color-pl.dcm",
    "emri_small.dcm",
    "emri_small_RLE.dcm",
    "emri_small_big_endian.dcm",
    "mlut_18.dcm",
    "vlut_04.dcm",
]
_SERIES = ["ct-gantry-tilt/S2010", "ct-liver-seg", "mr-head-t1"]


@pytest.mark.service
@pytest.mark.parametrize("name", [*_DCMTK_READS, *_SERIES])
def test_real_files_are_rendered_as_dcmtk_renders_them(real_data: Path, tmp_path: Path, name: str) -> None:
    from services import require_program

    path = real_data / "syntaxes" / name
    if name in _SERIES:
        path = a_file_of(real_data / name)
    ds = dcmread(path, stop_before_pixels=True, force=True)
    window = ["+Wl", "1"] if "VOILUTSequence" in ds else ["+Wi", "1"] if "WindowCenter" in ds else []
    if not window and ds.BitsStored > 8:
        window = ["+Wm"]
    output = tmp_path / "dcmtk.ppm"
    subprocess.run([require_program("dcmj2pnm"), *window, path, output], check=True, capture_output=True)
    theirs = np.asarray(Image.open(output)).astype(int)
    ours = np.asarray(draw(source_of(path.read_bytes()), 1, Wish())).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= (2 if "ybr" in name else 1)


@pytest.mark.parametrize("name", ["ct-gantry-tilt/S2010", "ct-liver-seg", "sts/STS_004/CT/image"])
def test_real_windows_are_those_of_pydicom(real_data: Path, name: str) -> None:
    ds = dcmread(a_file_of(real_data / name))
    if "WindowCenter" not in ds:
        ds.WindowCenter, ds.WindowWidth = 40, 400
    assert np.abs(levels(ds) - of_pydicom(ds)).max() <= 1
