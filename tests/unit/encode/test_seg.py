"""A SEG says where the findings are, in the source's own geometry, exactly as highdicom's would."""

from __future__ import annotations

import io
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

import encoded
import phantoms
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.encode.provenance import trace
from imaging_ai.encode.seg import encode_seg
from imaging_ai.encode.seg_pixels import binary
from imaging_ai.encode.validate_seg import LABEL_MAP_SEGMENTATION
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume


def masks_of(seg: EncodedObject, volume: Volume) -> np.ndarray:
    """Read the masks as highdicom does, `[slice, row, column, segment]`."""
    image = hd.seg.segread(io.BytesIO(seg.data))
    uids = [source.sop_instance_uid for source in volume.sources]
    if volume.sources[0].multi_frame:
        numbers = [source.frame_number for source in volume.sources]
        return image.get_pixels_by_source_frame(uids[0], numbers, assert_missing_frames_are_empty=True)
    return image.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)


def by_highdicom(volume: Volume, found: list[np.ndarray], seg: Dataset) -> hd.seg.Segmentation:
    """Make the same SEG with highdicom alone."""
    return hd.seg.Segmentation(
        list(volume.headers),
        np.stack(found, axis=-1).astype(np.uint8),
        "BINARY",
        [hd.seg.SegmentDescription.from_dataset(item) for item in seg.SegmentSequence],
        series_instance_uid=seg.SeriesInstanceUID,
        series_number=seg.SeriesNumber,
        sop_instance_uid=seg.SOPInstanceUID,
        instance_number=1,
        manufacturer=seg.Manufacturer,
        manufacturer_model_name=seg.ManufacturerModelName,
        software_versions=list(seg.SoftwareVersions),
        device_serial_number=seg.DeviceSerialNumber,
    )


@pytest.mark.parametrize("shape", [(8, 12, 10), (8, 11, 9), (5, 7, 3), (1, 5, 5), (17, 16, 16)])
def test_masks_come_back_as_they_were_whatever_the_size_of_a_frame(shape: tuple[int, int, int]) -> None:
    volume = encoded.phantom_volume(shape) if shape[0] > 1 else one_plane(shape)
    some = encoded.findings(shape, found=2, absent=1)
    seg = encoded.encode(volume, some)["SEG"]
    expected = np.stack([finding.mask for finding in some if finding.found], axis=-1)
    assert np.array_equal(masks_of(seg, volume), expected)
    check(seg, volume)


def one_plane(shape: tuple[int, int, int]) -> Volume:
    """Cut a volume down to its first plane."""
    whole = encoded.phantom_volume((4, *shape[1:]))
    grid = replace(whole.grid, slices=1)
    return replace(whole, grid=grid, sources=whole.sources[:1], headers=whole.headers[:1])


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"orientation": phantoms.OBLIQUE},
        {"orientation": phantoms.SAGITTAL, "spacing": (1.5, 0.7, 0.9)},
        {"tilt_degrees": -18.5},
        {"reverse": True},
    ],
    ids=["axial", "oblique", "sagittal, not square", "gantry tilt", "written backwards"],
)
def test_the_object_is_the_one_that_highdicom_makes(geometry: dict[str, object]) -> None:
    volume = encoded.phantom_volume((9, 11, 9), **geometry)
    some = encoded.findings((9, 11, 9), found=3, absent=0)
    ours = encoded.read(encoded.encode(volume, some)["SEG"])
    theirs = by_highdicom(volume, [finding.mask for finding in some], ours)
    for keyword in ("SegmentSequence", "ReferencedSeriesSequence", "SourceImageSequence", "SegmentsOverlap"):
        assert ours[keyword].value == theirs[keyword].value, keyword
    for keyword in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "FrameOfReferenceUID", "StudyInstanceUID"):
        assert ours[keyword].value == theirs[keyword].value, keyword
    assert placed_frames(ours) == placed_frames(theirs)


def placed_frames(ds: Dataset) -> dict[tuple[int, str], tuple[list[float], Dataset, bytes]]:
    """Return by segment and source instance: position, derivation and bits of each frame."""
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    size = ds.Rows * ds.Columns
    frames = {}
    for index, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups = item if "SegmentIdentificationSequence" in item else ds.SharedFunctionalGroupsSequence[0]
        derivation = item.DerivationImageSequence[0]
        key = (
            int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            str(derivation.SourceImageSequence[0].ReferencedSOPInstanceUID),
        )
        position = [float(x) for x in item.PlanePositionSequence[0].ImagePositionPatient]
        frames[key] = position, derivation, bits[index * size : (index + 1) * size].tobytes()
    return frames


def test_position_orientation_and_spacing_are_the_sources_own_digits() -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for k, ds in enumerate(datasets):
        ds.ImageOrientationPatient = ["1.00000", "0.0", "-0.0", "0", "1e0", "0.000"]
        ds.ImagePositionPatient = ["-30.50", "+40.0", f"{2 * k}.000000"]
        ds.PixelSpacing = ["1.000", "1.0"]
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    seg = encoded.read(encoded.encode(volume)["SEG"])
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert [str(x) for x in orientation] == ["1.00000", "0.0", "-0.0", "0", "1e0", "0.000"]
    assert [str(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing] == ["1.000", "1.0"]
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert [str(x) for x in position] == ["-30.50", "+40.0", "0.000000"]


def test_a_sheared_stack_keeps_the_positions_of_its_planes_and_their_distance_along_the_normal() -> None:
    volume = encoded.phantom_volume((6, 8, 8), tilt_degrees=-18.5, spacing=(2.0, 1.0, 1.0))
    seg = encoded.read(encoded.encode(volume)["SEG"])
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 2.0
    headers = {header.SOPInstanceUID: header for header in volume.headers}
    for item in seg.PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert item.PlanePositionSequence[0].ImagePositionPatient == headers[source].ImagePositionPatient


def test_a_multi_frame_source_is_referred_to_by_frame() -> None:
    shape = (6, 8, 8)
    order = [3, 0, 5, 1, 4, 2]
    volume = read_volume([phantoms.to_bytes(phantoms.enhanced(phantoms.ball(shape), order=order))])
    some = encoded.findings(shape)
    obj = encoded.encode(volume, some)["SEG"]
    check(obj, volume)
    assert np.array_equal(masks_of(obj, volume), np.stack([f.mask for f in some if f.found], axis=-1))
    first = encoded.read(obj).PerFrameFunctionalGroupsSequence[0]
    image = first.DerivationImageSequence[0].SourceImageSequence[0]
    assert image.ReferencedFrameNumber == order.index(0) + 1


def test_frames_without_a_voxel_are_left_out_and_segments_are_numbered_anew() -> None:
    volume = encoded.phantom_volume((8, 12, 10))
    some = encoded.findings((8, 12, 10), found=2, absent=1)
    seg = encoded.read(encoded.encode(volume, some)["SEG"])
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2]
    assert [item.TrackingID for item in seg.SegmentSequence] == ["Lesion 1", "Lesion 3"]
    assert seg.NumberOfFrames == sum(int(f.mask.any(axis=(1, 2)).sum()) for f in some)


def test_overlapping_segments_are_kept_apart_and_said_to_overlap() -> None:
    volume = encoded.phantom_volume((8, 12, 10))
    some = encoded.findings((8, 12, 10), found=2, absent=0, overlap=True)
    obj = encoded.encode(volume, some)["SEG"]
    assert encoded.read(obj).SegmentsOverlap == "YES"
    assert np.array_equal(masks_of(obj, volume), np.stack([f.mask for f in some], axis=-1))
    apart = encoded.encode(volume, encoded.findings((8, 12, 10), found=2, absent=0))["SEG"]
    assert encoded.read(apart).SegmentsOverlap == "NO"


def test_a_segment_says_what_it_is_and_which_model_says_so() -> None:
    volume = encoded.phantom_volume((8, 12, 10))
    segment = encoded.read(encoded.encode(volume)["SEG"]).SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    identification = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("Lesion finder", "1.2.0")
    assert list(segment.RecommendedDisplayCIELabValue) == list(hd.color.CIELabColor(60.0, 50.0, -20.0).value)


def test_a_model_without_colours_gets_colours_that_differ() -> None:
    shape = (8, 12, 10)
    plain = replace(encoded.LESION, cielab=None)
    some = [replace(finding, description=plain) for finding in encoded.findings(shape, found=3, absent=0)]
    seg = encoded.read(encoded.encode(encoded.phantom_volume(shape), some)["SEG"])
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in seg.SegmentSequence}) == 3


def test_a_label_map_has_each_voxels_segment_and_no_background_among_the_segments() -> None:
    shape = (8, 11, 9)
    volume, some = encoded.phantom_volume(shape), encoded.findings(shape, found=3, absent=1)
    obj = encoded.encode(volume, some, segmentation="labelmap")["SEG"]
    check(obj, volume)
    ds = encoded.read(obj)
    assert (ds.SOPClassUID, ds.SegmentationType) == (LABEL_MAP_SEGMENTATION, "LABELMAP")
    assert [item.SegmentNumber for item in ds.SegmentSequence] == [1, 2, 3]
    found = [finding.mask for finding in some if finding.found]
    assert np.array_equal(masks_of(obj, volume), np.stack(found, axis=-1))
    assert ds.NumberOfFrames == np.any(found, axis=(0, 2, 3)).sum()


def test_three_hundred_segments_are_a_label_map_of_sixteen_bits() -> None:
    shape = (4, 20, 20)
    volume = encoded.phantom_volume(shape)
    (one,) = encoded.findings(shape, found=1, absent=0)
    labels = np.zeros(shape, np.uint16)
    labels[1:, 2:12, 3:13] = np.arange(1, 301).reshape(3, 10, 10)
    some = [
        replace(one, region=Region.of(labels == n), tracking_uid=f"1.2.{n}", tracking_identifier=f"Lesion {n}")
        for n in range(1, 301)
    ]
    obj = encoded.encode(volume, some, kinds=("SEG", "SR"), segmentation="labelmap")["SEG"]
    check(obj, volume)
    ds = encoded.read(obj)
    assert ds.BitsAllocated == 16
    assert np.array_equal(ds.pixel_array, labels[labels.any(axis=(1, 2))])


def test_segments_that_overlap_are_no_label_map_but_bits() -> None:
    volume = encoded.phantom_volume((8, 12, 10))
    some = encoded.findings((8, 12, 10), found=2, absent=0, overlap=True)
    obj = encoded.encode(volume, some, segmentation="labelmap")["SEG"]
    check(obj, volume)
    assert encoded.read(obj).SegmentationType == "BINARY"
    assert np.array_equal(masks_of(obj, volume), np.stack([f.mask for f in some], axis=-1))


@pytest.mark.parametrize("shape", [(8, 12, 10), (5, 7, 3)])
def test_a_fractional_one_has_the_probability_within_the_segment(shape: tuple[int, int, int]) -> None:
    volume, some = encoded.phantom_volume(shape), encoded.findings(shape, found=1, absent=0)
    chances = encoded.probability(volume).values
    obj = encoded.encode(volume, some, segmentation="fractional", probability=chances)["SEG"]
    check(obj, volume)
    image = hd.seg.segread(io.BytesIO(obj.data))
    uids = [source.sop_instance_uid for source in volume.sources]
    read = image.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True, rescale_fractional=True)
    inside = some[0].mask
    assert np.abs(read[inside, 0] - chances[inside]).max() <= 0.51 / 255
    assert not read[~inside].any()
    assert (image.SegmentationFractionalType, image.MaximumFractionalValue) == ("PROBABILITY", 255)


def test_what_is_improbable_and_yet_of_the_segment_is_not_nothing() -> None:
    volume, some = encoded.phantom_volume((8, 12, 10)), encoded.findings((8, 12, 10), found=1, absent=0)
    seg = encoded.encode(volume, some, segmentation="fractional", probability=np.zeros((8, 12, 10), np.float32))["SEG"]
    assert np.array_equal(encoded.read(seg).pixel_array > 0, some[0].mask[some[0].region.slices])


def test_a_fractional_one_without_a_probability_is_refused() -> None:
    with pytest.raises(ResultInvalid, match="probability"):
        encoded.encode(encoded.phantom_volume(), segmentation="fractional")


def test_an_instance_is_not_made_that_would_be_longer_than_any_can_be() -> None:
    shape = (1, 1 << 16, 1 << 16)
    box = (slice(0, 1), slice(0, 1), slice(0, 1))
    everywhere = [Region(shape, box, np.ones((1, 1, 1), np.bool_))] * 9
    assert binary(everywhere).length > 0xFFFFFFFE
    (one,) = encoded.findings((8, 12, 10), found=1, absent=0)
    provenance = trace(
        (encoded.phantom_volume(),),
        encoded.MODEL,
        job_uid="1.2",
        created_at=0,
        content_qualification="RESEARCH",
        supersedes=(),
    )
    with pytest.raises(ResultInvalid, match="4 GB"):
        encode_seg(encoded.phantom_volume(), [replace(one, region=everywhere[0])] * 9, provenance, "labelmap")


@pytest.mark.parametrize("segmentation", ["binary", "labelmap", "fractional"])
@pytest.mark.parametrize("columns", [16, 9], ids=["whole bytes", "bits"])
def test_a_segment_in_two_parts_leaves_out_the_planes_between_them(segmentation: str, columns: int) -> None:
    shape = (9, 10, columns)
    volume = encoded.phantom_volume(shape)
    (one,) = encoded.findings(shape, found=1, absent=0)
    mask = np.zeros(shape, np.bool_)
    mask[1, 2:4, 3:6], mask[6:8, 5:9, 1:8] = True, True
    some = [replace(one, region=Region.of(mask))]
    chances = np.ones(shape, np.float32)
    obj = encoded.encode(volume, some, segmentation=segmentation, probability=chances)["SEG"]
    check(obj, volume)
    assert encoded.read(obj).NumberOfFrames == 3
    assert np.array_equal(masks_of(obj, volume)[..., 0] > 0, mask)


@pytest.mark.parametrize("keyword", ["Laterality", "ImageLaterality"])
@pytest.mark.parametrize(("side", "told"), [("R", "R"), ("L", "L"), ("U", None), ("X", None)])
def test_the_side_that_is_seen_is_not_lost(keyword: str, side: str, told: str | None) -> None:
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        setattr(ds, keyword, side)
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    objects = encoded.encode_all(volume)
    for obj in objects.values():
        check(obj, volume)
    assert encoded.read(objects["SEG"]).get("Laterality") == told
    assert encoded.read(objects["SC"]).ImageLaterality == (told or "U")
    (anatomy,) = encoded.read(objects["PM"]).SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert anatomy.FrameLaterality == (told or "U")
