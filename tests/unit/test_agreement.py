"""How far two answers agree: bytes, voxels, numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import encoded
from imaging_ai.agreement import Agreement, compare
from imaging_ai.core.finding import Finding
from imaging_ai.core.volume import Volume


@pytest.fixture(scope="module")
def volume() -> Volume:
    return encoded.phantom_volume((8, 11, 9))


def files(volume: Volume, some: list[Finding] | None = None, **options: object) -> list[bytes]:
    return [one.data for one in encoded.encode(volume, some, **options).values()]


def smaller(finding: Finding) -> Finding:
    """Leave the first of the slices of a finding out."""
    mask = finding.mask.copy()
    mask[int(np.flatnonzero(mask.any(axis=(1, 2)))[0])] = False
    return replace(finding, region=type(finding.region).of(mask))


def test_the_same_bytes_are_identical_in_any_order(volume: Volume) -> None:
    one = files(volume)
    assert compare(one, reversed(one)) == Agreement(identical=True)
    assert compare(one, one).sentence() == "identical, byte for byte"


def test_the_same_findings_of_another_job_agree_without_being_identical(volume: Volume) -> None:
    agreement = compare(files(volume), files(volume, job_uid="1.2.3.4.5"))
    assert not agreement.identical
    assert set(agreement.dice.values()) == {1.0}
    assert agreement.differences and set(agreement.differences.values()) == {0.0}
    assert agreement.only_in_one == ()


def test_voxels_that_differ_lower_the_dice_coefficient_of_their_segment(volume: Volume) -> None:
    (one,) = encoded.findings(volume.grid.shape, found=1, absent=0)
    other = smaller(one)
    ours, theirs = int(one.mask.sum()), int(other.mask.sum())
    agreement = compare(files(volume, [one]), files(volume, [other]))
    (dice,) = agreement.dice.values()
    assert dice == pytest.approx(2 * theirs / (ours + theirs)) and dice < 1


def test_what_only_one_found_has_no_overlap_and_is_named(volume: Volume) -> None:
    found = encoded.findings(volume.grid.shape, found=1, absent=0)
    nothing = encoded.findings(volume.grid.shape, found=0, absent=1)
    agreement = compare(files(volume, found), files(volume, nothing))
    assert list(agreement.dice.values()) == [0.0]
    assert any("Volume" in name for name in agreement.only_in_one)
    assert "only in one" in agreement.sentence()


def test_numbers_are_compared_with_those_of_the_same_finding_and_unit(volume: Volume) -> None:
    (one,) = encoded.findings(volume.grid.shape, found=1, absent=0)
    first, *others = one.measurements
    grown = replace(one, measurements=(replace(first, value=first.value + 2.5), *others))
    differences = compare(files(volume, [one]), files(volume, [grown])).differences
    by_size = sorted(differences.items(), key=lambda each: -each[1])
    assert by_size[0][1] == pytest.approx(2.5)
    assert first.quantity.meaning in by_size[0][0] and one.tracking_identifier in by_size[0][0]
    assert {value for _, value in by_size[1:]} <= {0.0}


def test_maps_are_compared_voxel_by_voxel(volume: Volume) -> None:
    heat = encoded.probability(volume)
    values = heat.values.copy()
    values[3, 4, 5] = max(0.0, values[3, 4, 5] - 0.25)
    kinds = ("SEG", "SR", "PM")
    agreement = compare(
        files(volume, kinds=kinds, maps=[heat]), files(volume, kinds=kinds, maps=[replace(heat, values=values)])
    )
    assert agreement.differences[f"the map {heat.description}"] == pytest.approx(0.25, abs=1e-5)
