"""Series to volumes: what is put in comes out, in order and in place, or is refused with its reason."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

import phantoms
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.volume import read_volume

SHAPE = (9, 20, 26)


@pytest.fixture
def truth() -> NDArray[np.float32]:
    image = phantoms.corner(SHAPE, inside=700, outside=-1000)
    image += np.arange(SHAPE[0], dtype=np.float32)[:, None, None]
    return image


def refused(datasets: list[Dataset]) -> SeriesRefused:
    with pytest.raises(SeriesRefused) as refusal:
        read_volume(datasets)
    return refusal.value


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"reverse": True},
        {"orientation": phantoms.CORONAL},
        {"orientation": phantoms.SAGITTAL},
        {"orientation": phantoms.FLIPPED, "spacing": (5.0, 0.4, 0.7)},
        {"orientation": phantoms.OBLIQUE, "spacing": (1.2, 0.5, 0.75)},
        {"tilt_degrees": -18.5},
        {"bits_stored": 12, "signed": False, "intercept": -1024.0},
        {"bits_stored": 12, "signed": True},
        {"slope": -1.0, "intercept": 100.0},
        {"monochrome1": True},
        {"transfer_syntax_uid": RLELossless},
        {"transfer_syntax_uid": JPEGLSLossless, "bits_stored": 12, "signed": False, "intercept": -1024.0},
    ],
    ids=str,
)
def test_a_ct_comes_back_voxel_by_voxel_and_in_its_place(truth: NDArray[np.float32], how: dict[str, object]) -> None:
    datasets = phantoms.series(truth, **how)  # type: ignore[arg-type]
    random.Random(1).shuffle(datasets)
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    placed = {k: how[k] for k in ("spacing", "orientation", "tilt_degrees") if k in how}
    expected = phantoms.affine(**{"spacing": (2.0, 1.0, 1.0), **placed})  # type: ignore[arg-type]
    assert np.array_equal(volume.voxels, truth)
    assert np.allclose(volume.grid.affine, expected, atol=1e-4)
    assert volume.grid.shape == SHAPE
    assert volume.unit is not None and volume.unit.value == "[hnsf'U]"
    assert volume.notes == ()


def test_sources_and_headers_follow_the_slices(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    volume = read_volume(datasets[::-1])
    assert [source.sop_instance_uid for source in volume.sources] == [ds.SOPInstanceUID for ds in datasets]
    assert [header.SOPInstanceUID for header in volume.headers] == [ds.SOPInstanceUID for ds in datasets]
    assert all("PixelData" not in header for header in volume.headers)
    assert all("PixelData" in ds for ds in datasets), "what the caller gave is left alone"
    assert not any(source.multi_frame for source in volume.sources)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_an_enhanced_instance_is_a_volume(modality: str) -> None:
    truth = phantoms.corner(SHAPE, inside=700, outside=10)
    order = [4, 0, 8, 1, 7, 2, 6, 3, 5]
    ds = phantoms.enhanced(
        truth, modality=modality, orientation=phantoms.CORONAL, order=order, slope=2.0, intercept=10.0
    )
    volume = read_volume([phantoms.to_bytes(ds)])
    assert np.array_equal(volume.voxels, truth)
    assert np.allclose(volume.grid.affine, phantoms.affine((2.0, 1.0, 1.0), phantoms.CORONAL), atol=1e-4)
    assert [source.frame_number for source in volume.sources] == [order.index(k) + 1 for k in range(SHAPE[0])]
    assert all(source.multi_frame for source in volume.sources)
    assert len(volume.headers) == 1


def test_each_slice_of_a_pet_has_its_own_slope() -> None:
    suv = phantoms.ball((8, 20, 20), radius=12, spacing=(3, 4, 4), inside=8.0, outside=1.0)
    volume = read_volume(phantoms.pet_series(suv, weight_kg=82.0, dose_bq=310e6, minutes=75.0))
    assert volume.unit is not None and volume.unit.value == "g/ml{SUVbw}"
    assert np.allclose(volume.voxels, suv, rtol=1e-3)


def test_without_a_weight_a_pet_stays_activity_and_says_so() -> None:
    datasets = phantoms.pet_series(phantoms.corner(SHAPE, inside=5, outside=1))
    for ds in datasets:
        del ds.PatientWeight
    volume = read_volume(datasets)
    assert volume.unit is not None and volume.unit.value == "Bq/ml"
    assert volume.voxels.max() > 1000
    assert volume.notes == ("SUV is not computed: PatientWeight is missing",)


def test_monochrome1_is_turned_over_where_values_have_no_absolute_meaning() -> None:
    truth = phantoms.corner(SHAPE, inside=700, outside=10)
    datasets = phantoms.series(truth, modality="MR", monochrome1=True, signed=False, bits_stored=12)
    assert np.array_equal(read_volume(datasets).voxels, 4095 - truth)


def test_padding_is_as_little_as_the_least(truth: NDArray[np.float32]) -> None:
    truth[:, 0, :] = -2000
    datasets = phantoms.series(truth)
    for ds in datasets:
        ds.add_new("PixelPaddingValue", "SS", -2000)
    volume = read_volume(datasets)
    assert volume.voxels.min() == volume.voxels[0, 0, 0] == -1000


@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63536)])
def test_padding_of_signed_pixels_is_known_whatever_its_vr_says(
    truth: NDArray[np.float32], vr: str, value: int
) -> None:
    truth[:, 0, :] = -2000
    datasets = phantoms.series(truth)
    for ds in datasets:
        ds.add_new("PixelPaddingValue", vr, value)
    assert read_volume([phantoms.to_bytes(ds) for ds in datasets]).voxels.min() == -1000


def test_a_modality_lut_is_applied(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(np.abs(truth) % 4, modality="MR", signed=False)
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [4, 0, 16], "US", [5, 7, 11, 13]
    for ds in datasets:
        ds.ModalityLUTSequence = [lut]
    assert np.array_equal(read_volume(datasets).voxels, np.array([5, 7, 11, 13])[(np.abs(truth) % 4).astype(int)])


def test_color_has_three_channels(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth, modality="MR")
    rgb = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    for ds, plane in zip(datasets, rgb, strict=True):
        ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration = "RGB", 3, 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, plane.tobytes()
    assert np.array_equal(read_volume(datasets).voxels, rgb)


@pytest.mark.parametrize("absent", ["LUTDescriptor", "LUTData"])
def test_a_modality_lut_that_lacks_something_is_refused(truth: NDArray[np.float32], absent: str) -> None:
    datasets = phantoms.series(np.abs(truth) % 4, modality="MR", signed=False)
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [4, 0, 16], "US", [5, 7, 11, 13]
    delattr(lut, absent)
    for ds in datasets:
        ds.ModalityLUTSequence = [lut]
    assert refused(datasets).reason == "bad-rescale"


@pytest.mark.parametrize("most", [255, 65535])
def test_a_palette_gives_colours_of_8_bits(truth: NDArray[np.float32], most: int) -> None:
    datasets = phantoms.series(np.abs(truth) % 4, modality="MR", signed=False)
    table = (np.array([0, 0.25, 0.5, 1]) * most).astype("<u2")
    for ds in datasets:
        ds.PhotometricInterpretation = "PALETTE COLOR"
        for name in ("Red", "Green", "Blue"):
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
            setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    voxels = read_volume([phantoms.to_bytes(ds) for ds in datasets]).voxels
    expected = np.array([0, 63, 127, 255])[(np.abs(truth) % 4).astype(int)]
    assert np.array_equal(voxels, np.repeat(expected[..., None], 3, axis=-1))


def test_a_localizer_in_the_series_is_left_out(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    volume = read_volume([phantoms.localizer(datasets[0]), *datasets])
    assert np.array_equal(volume.voxels, truth)
    assert volume.notes == ("1 localizer frames are left out",)


def test_a_few_strays_without_position_or_pixels_are_left_out() -> None:
    datasets = phantoms.series(phantoms.corner((20, 8, 8)))
    page, report = phantoms.series(np.zeros((1, 8, 8), np.float32), name="page"), Dataset()
    page[0].SeriesInstanceUID = datasets[0].SeriesInstanceUID
    del page[0].ImagePositionPatient
    volume = read_volume([*datasets, *page, report])
    assert volume.grid.slices == 20
    assert volume.notes == (
        "1 instances without pixel data are left out",
        "1 instances without a position in the patient are left out",
    )


def test_copies_of_a_slice_are_one_slice(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    volume = read_volume([*datasets, *phantoms.series(truth)[3:5]])
    assert np.array_equal(volume.voxels, truth)
    assert volume.notes == ("2 copies of other frames are left out",)


def test_a_single_slice_is_as_thick_as_it_says(truth: NDArray[np.float32]) -> None:
    (ds,) = phantoms.series(truth[:1], spacing=(4.0, 1.0, 1.0))
    ds.SpacingBetweenSlices = 20.0  # to where the next would lie
    volume = read_volume([ds])
    assert volume.grid.spacing == pytest.approx((4.0, 1.0, 1.0))


def test_a_single_slice_that_does_not_say_how_thick_it_is_is_noted(truth: NDArray[np.float32]) -> None:
    (ds,) = phantoms.series(truth[:1])
    del ds.SliceThickness
    (note,) = read_volume([ds]).notes
    assert "does not say how thick it is" in note


def test_rounded_positions_are_even(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth, spacing=(1.25, 1.0, 1.0))
    for ds in datasets:
        ds.ImagePositionPatient = [round(float(v), 1) for v in ds.ImagePositionPatient]
    assert read_volume(datasets).grid.spacing[0] == pytest.approx(1.25, abs=0.01)


def test_missing_slices_are_refused_and_counted(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    refusal = refused(datasets[:3] + datasets[5:])
    assert refusal.reason == "missing-slices"
    assert "about 2 slices are missing in 1 places, the first after slice 3 of 7 (spacing 2 mm)" in refusal.message


def test_uneven_spacing_is_refused(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    datasets[4].ImagePositionPatient[2] += 0.5
    assert refused(datasets).reason == "uneven-spacing"


def test_a_stack_that_leaves_its_line_is_refused(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    datasets[4].ImagePositionPatient[0] += 3
    assert refused(datasets).reason == "uneven-spacing"


def test_phases_at_the_same_positions_are_refused_by_what_tells_them_apart(truth: NDArray[np.float32]) -> None:
    early, late = phantoms.series(truth), phantoms.series(truth + 50, name="late")
    for phase, datasets in ((1, early), (2, late)):
        for ds in datasets:
            ds.TemporalPositionIdentifier, ds.SeriesInstanceUID = phase, early[0].SeriesInstanceUID
            ds.FrameOfReferenceUID = early[0].FrameOfReferenceUID
    refusal = refused([*early, *late])
    assert refusal.reason == "repeated-positions"
    assert "18 frames at about 9 positions; they differ in TemporalPositionIdentifier" in refusal.message


def test_two_orientations_are_refused(truth: NDArray[np.float32]) -> None:
    axial, coronal = phantoms.series(truth), phantoms.series(truth, name="c", orientation=phantoms.CORONAL)
    for ds in coronal:
        ds.SeriesInstanceUID = axial[0].SeriesInstanceUID
    assert refused([*axial, *coronal]).reason == "mixed-orientations"


def test_two_sizes_are_refused(truth: NDArray[np.float32]) -> None:
    large, small = phantoms.series(truth), phantoms.series(truth[:, :10, :10], name="s")
    for ds in small:
        ds.SeriesInstanceUID = large[0].SeriesInstanceUID
    assert refused([*large, *small]).reason == "mixed-sizes"


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("SeriesInstanceUID", "1.2.3", "mixed-series"),
        ("StudyInstanceUID", "1.2.3", "mixed-studies"),
        ("PatientID", "SOMEBODY ELSE", "mixed-patients"),
        ("FrameOfReferenceUID", "1.2.3", "mixed-frames-of-reference"),
    ],
)
def test_one_of_another_kind_is_refused(truth: NDArray[np.float32], keyword: str, value: str, reason: str) -> None:
    datasets = phantoms.series(truth)
    setattr(datasets[2], keyword, value)
    assert refused(datasets).reason == reason


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("PixelSpacing", [0, 1]),
        ("PixelSpacing", None),
    ],
)
def test_a_series_without_geometry_is_refused(truth: NDArray[np.float32], keyword: str, value: object) -> None:
    datasets = phantoms.series(truth)
    for ds in datasets:
        setattr(ds, keyword, value)
    refusal = refused(datasets)
    assert refusal.reason == "no-geometry"
    assert keyword in refusal.message


def test_a_mosaic_is_refused(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth[:1], modality="MR")
    datasets[0].ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    assert refused(datasets).reason == "mosaic"


def test_truncated_pixels_are_refused(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    datasets[3].PixelData = datasets[3].PixelData[:-40]
    assert refused(datasets).reason == "unreadable-pixels"


@pytest.mark.parametrize(("photometric", "samples"), [("MONOCHROME2", 3), ("RGB", 1), ("RGB", 4), ("HSV", 3)])
def test_samples_that_do_not_go_with_the_photometric_interpretation_are_refused(
    truth: NDArray[np.float32], photometric: str, samples: int
) -> None:
    datasets = phantoms.series(np.repeat(truth, samples, axis=2))
    for ds in datasets:
        ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration = photometric, samples, 0
        ds.Columns //= samples
    refusal = refused(datasets)
    assert refusal.reason == "unreadable-pixels"
    assert f"{samples} samples do not go with the Photometric Interpretation" in refusal.message


def test_what_is_no_dicom_is_refused() -> None:
    with pytest.raises(SeriesRefused) as refusal:
        read_volume([b"not a DICOM file"])
    assert refusal.value.reason == "unreadable-instance"


def test_a_series_without_images_is_refused() -> None:
    assert refused([Dataset()]).reason == "no-images"


def test_a_refusal_names_no_patient(truth: NDArray[np.float32]) -> None:
    datasets = phantoms.series(truth)
    refusal = refused(datasets[:3] + datasets[5:])
    assert "Phantom" not in refusal.message and "PHANTOM" not in refusal.message
