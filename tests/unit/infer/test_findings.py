"""Predictions to findings: pieces, names, identifiers, and measurements against known truth."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import phantoms
from imaging_ai.catalog import Measurements, ModelEntry
from imaging_ai.core.finding import Finding, SegmentDescription
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed
from imaging_ai.infer.measure import long_axis, measure
from imaging_ai.infer.segment import find
from imaging_ai.infer.volume import read_volume

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]
SHAPE = (20, 50, 60)
SPACING = (2.0, 1.0, 0.8)


def values(finding: Finding) -> dict[str, float]:
    return {(m.derivation or m.quantity).meaning: m.value for m in finding.measurements}


def with_segments(entry: ModelEntry, *labels: str, **options: Any) -> ModelEntry:
    """Give an entry the segments 1, 2, … and other measurement options."""
    smallest = options.pop("min_volume_ml", 0.0)
    first = entry.segments[0]
    descriptions = tuple(
        SegmentDescription(label, first.property_category, first.property_type, min_volume_ml=smallest)
        for label in labels
    )
    return dataclasses.replace(
        entry,
        segments=descriptions,
        segment_values=tuple(range(1, len(labels) + 1)),
        measurements=Measurements(**options),
    )


def balls(*radii: float) -> NDArray[np.uint8]:
    """Put balls of so many millimetres into a row."""
    image = np.zeros(SHAPE, np.uint8)
    for k, radius in enumerate(radii):
        center = (8.0, 15.0, 8.0 + 22.0 * k)
        image |= phantoms.ball(SHAPE, center=center, radius=radius, spacing=SPACING, inside=1).astype(np.uint8)
    return image


@pytest.fixture
def volume(make_volume: MakeVolume) -> Volume:
    ramp = np.broadcast_to(np.arange(SHAPE[2], dtype=np.float32) * 10, SHAPE).copy()
    return make_volume(ramp, spacing=SPACING)


def test_a_ball_has_its_volume_diameter_and_intensity(make_entry: MakeEntry, volume: Volume) -> None:
    labels = phantoms.ball(SHAPE, radius=14, spacing=SPACING, inside=1).astype(np.uint8)
    [finding] = find(labels, volume, make_entry(), "1.2.3")
    measured = values(finding)
    inside = volume.voxels[labels > 0]
    assert measured["Volume"] == pytest.approx(labels.sum() * 1.6 / 1000)
    assert measured["Volume"] == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.03)
    assert measured["Long axis"] == pytest.approx(28, abs=0.8)
    assert measured["Mean"] == pytest.approx(inside.mean(dtype=np.float64))
    assert measured["Standard Deviation"] == pytest.approx(inside.std(dtype=np.float64))
    assert measured["Maximum"] == inside.max()
    assert [(m.quantity.meaning, m.unit.value) for m in finding.measurements] == [
        ("Volume", "ml"),
        ("Attenuation Coefficient", "[hnsf'U]"),
        ("Attenuation Coefficient", "[hnsf'U]"),
        ("Attenuation Coefficient", "[hnsf'U]"),
        ("Long axis", "mm"),
    ]
    assert np.array_equal(finding.mask, labels > 0)


def test_a_tilted_stack_has_the_volume_of_its_sheared_voxels(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    labels = np.ones((6, 10, 10), np.uint8)
    tilted = make_volume(labels.astype(np.float32), tilt_degrees=30.0)
    [finding] = find(labels, tilted, make_entry(), "1.2.3")
    assert values(finding)["Volume"] == pytest.approx(600 * 2 / 1000)


def test_intensities_without_a_unit_are_signal(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    mr = make_volume(phantoms.corner(SHAPE), modality="MR")
    [finding] = find((mr.voxels > 150).astype(np.uint8), mr, make_entry(), "1.2.3")
    mean = finding.measurements[1]
    assert (mean.quantity.meaning, mean.unit.value, mean.value) == ("MR signal intensity", "1", 300)


def test_the_peak_is_the_mean_of_one_millilitre(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    image = phantoms.ball(SHAPE, radius=13, spacing=SPACING, inside=8)
    image[9, 25, 30] = 1000
    hot = make_volume(image, spacing=SPACING)
    entry = with_segments(make_entry(), "Lesion", report=("peak", "max"))
    [finding] = find((image > 1).astype(np.uint8), hot, entry, "1.2.3")
    measured = values(finding)
    assert measured["Maximum"] == 1000
    assert measured["Peak Value Within ROI"] == pytest.approx(8 + 992 * 1.6 / 1000, rel=0.05)


def test_what_is_not_found_is_said(make_entry: MakeEntry, volume: Volume) -> None:
    [finding] = find(np.zeros(SHAPE, np.uint8), volume, make_entry(), "1.2.3")
    assert not finding.found
    assert finding.mask.shape == SHAPE
    assert values(finding) == {"Volume": 0.0}


def test_each_label_is_a_finding(make_entry: MakeEntry, volume: Volume) -> None:
    labels = balls(8, 6)
    labels[:, :, 20:] *= 3
    entry = with_segments(make_entry(), "Spleen", "Liver", "Kidney")
    findings = find(labels, volume, entry, "1.2.3")
    assert [(f.segment_number, f.tracking_identifier, f.found) for f in findings] == [
        (1, "Spleen", True),
        (0, "Liver", False),
        (2, "Kidney", True),  # as in the SEG
    ]
    assert np.array_equal(findings[2].mask, labels == 3)


def test_overlapping_channels_are_findings_by_their_index(make_entry: MakeEntry, volume: Volume) -> None:
    masks = np.stack([balls(8, 6) > 0, balls(0, 6) > 0])
    entry = dataclasses.replace(with_segments(make_entry(), "Whole", "Core"), segment_values=(0, 1))
    whole, core = find(masks, volume, entry, "1.2.3")
    assert np.array_equal(whole.mask, masks[0]) and np.array_equal(core.mask, masks[1])
    with pytest.raises(ModelFailed, match="2 channels, segment 'Core' is 2"):
        find(masks, volume, dataclasses.replace(entry, segment_values=(0, 2)), "1.2.3")
    with pytest.raises(ModelFailed, match="label map"):
        find(masks[0].astype(np.uint8), volume, entry, "1.2.3")


def test_lesions_are_numbered_from_the_largest(make_entry: MakeEntry, volume: Volume) -> None:
    entry = with_segments(make_entry(), "Lesion", instances="components")
    labels = balls(4, 8, 6)
    findings = find(labels, volume, entry, "1.2.3")
    assert [f.tracking_identifier for f in findings] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    volumes = [values(f)["Volume"] for f in findings]
    assert volumes == sorted(volumes, reverse=True)
    assert np.array_equal(sum(f.mask.astype(np.uint8) for f in findings), labels)


def test_no_more_lesions_than_wanted(make_entry: MakeEntry, volume: Volume) -> None:
    entry = with_segments(make_entry(), "Lesion", instances="components", max_findings=2)
    told: list[str] = []
    assert len(find(balls(4, 8, 6), volume, entry, "1.2.3", told.append)) == 2
    assert told == ["Lesion: of 3 pieces the largest 2 are findings (max_findings), no others"]


@pytest.mark.parametrize("instances", ["label", "components"])
def test_small_pieces_are_dropped(make_entry: MakeEntry, volume: Volume, instances: str) -> None:
    entry = with_segments(make_entry(), "Lesion", instances=instances, min_volume_ml=1.0)
    [finding] = find(balls(2, 8, 3), volume, entry, "1.2.3")
    assert finding.tracking_identifier == "Lesion"
    assert np.array_equal(finding.mask, balls(0, 8) & (balls(2, 8, 3) > 0) & (np.arange(SHAPE[2]) > 15))
    [nothing] = find(balls(2, 3), volume, entry, "1.2.3")
    assert not nothing.found


def test_tracking_identifiers_belong_to_the_job(make_entry: MakeEntry, volume: Volume) -> None:
    entry = with_segments(make_entry(), "Lesion", "Other", instances="components")
    labels = balls(8, 6)
    first, again, other = (find(labels, volume, entry, job) for job in ("1.2.3", "1.2.3", "1.2.4"))
    assert [f.tracking_uid for f in first] == [f.tracking_uid for f in again]
    assert len({f.tracking_uid for f in (*first, *other)}) == 6


def test_an_answer_on_another_grid_fails(make_entry: MakeEntry, volume: Volume) -> None:
    with pytest.raises(ModelFailed, match="its source"):
        find(np.zeros((3, 4, 5), np.uint8), volume, make_entry(), "1.2.3")


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(5))
def test_the_long_axis_is_the_longest_of_all_pairs_of_a_piece(seed: int, spacing: tuple[float, float]) -> None:
    mask = np.random.default_rng(seed).random((2, 9, 11)) < 0.3
    halves = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    longest = 0.0
    for plane in mask:
        pieces, count = ndimage.label(plane, np.ones((3, 3)))
        for number in range(1, count + 1):
            points = (np.argwhere(pieces == number)[:, None] + halves).reshape(-1, 2) * spacing
            pairs = itertools.combinations(points, 2)
            longest = max(longest, *(float(np.linalg.norm(one - other)) for one, other in pairs))
    assert long_axis(mask, spacing) == pytest.approx(longest)


def test_the_long_axis_does_not_bridge_what_lies_apart_in_a_slice() -> None:
    mask = np.zeros((3, 9, 30), np.bool_)
    mask[1, 2, 1:5] = mask[1, 6, 20:27] = True
    assert long_axis(mask, (1.0, 1.0)) == pytest.approx(7)


@pytest.mark.parametrize(
    "how",
    [
        {"spacing": (4.0, 0.7, 1.3)},
        {"orientation": phantoms.OBLIQUE, "spacing": (2.0, 0.5, 0.9)},
        {"tilt_degrees": -18.5, "spacing": (5.0, 0.9, 0.6)},
        {"orientation": phantoms.CORONAL, "reverse": True},
    ],
    ids=str,
)
def test_the_ends_of_the_long_axis_lie_in_the_patient_as_far_apart_as_it_is_long(how: dict[str, Any]) -> None:
    image = np.zeros((6, 20, 24), np.float32)
    image[3, 4:9, 5:17] = image[4, 12, 12] = 300
    datasets = phantoms.series(image, **how)
    volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    (axis,) = measure(Region.of(volume.voxels > 150), volume, ["long_axis"])
    assert axis.ends is not None
    ends = np.array(axis.ends)
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(axis.value, rel=1e-4)
    _, row_spacing, column_spacing = volume.grid.spacing
    assert axis.value == pytest.approx(
        max(np.hypot(4 * row_spacing, 12 * column_spacing), np.hypot(5 * row_spacing, 11 * column_spacing))
    )
    columns, rows, slices, _ = np.linalg.inv(volume.grid.affine) @ np.vstack([ends.T, np.ones(2)])
    bright = np.flatnonzero(volume.voxels[:, 4, 5:17].any(axis=1))
    assert slices == pytest.approx([*bright, *bright])
    places = sorted([columns.min(), columns.max(), rows.min(), rows.max()])
    assert places == pytest.approx([4, 4.5, 8, 16.5]) or places == pytest.approx([3.5, 5, 8.5, 16])


def test_one_voxel_is_as_long_as_its_longer_side() -> None:
    mask = np.zeros((3, 5, 5), np.bool_)
    assert long_axis(mask, (0.7, 0.9)) == 0
    mask[1, 2, 2] = True
    assert long_axis(mask, (0.7, 0.9)) == pytest.approx(0.9)
