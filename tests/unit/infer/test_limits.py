"""The limits of a model: each is kept, and what lies within passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import phantoms
from imaging_ai.catalog import Limits, ModelEntry
from imaging_ai.core.volume import Volume
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.limits import check_limits

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]


@pytest.mark.parametrize(
    ("limits", "how", "reason", "message"),
    [
        ({"min_slices": 20}, {}, "too-few-slices", "10 slices, at least 20 are needed"),
        ({"max_slices": 5}, {}, "too-many-slices", "10 slices, at most 5"),
        ({"min_coverage_mm": 30}, {}, "too-little-coverage", "20.0 mm are covered, at least 30"),
        ({"slice_spacing_mm": (0.5, 1.5)}, {}, "slice-spacing", "slice spacing 2 mm, wanted 0.5 to 1.5 mm"),
        ({"pixel_spacing_mm": (0.2, 0.8)}, {}, "pixel-spacing", "pixel spacing 1 mm"),
        ({"orientation": ("axial",)}, {"orientation": phantoms.CORONAL}, "orientation", "the slices are coronal"),
        ({"orientation": ("axial",)}, {"orientation": phantoms.SAGITTAL}, "orientation", "the slices are sagittal"),
        ({"max_tilt_degrees": 10}, {"tilt_degrees": -18.5}, "gantry-tilt", "tilted by 18.5 degrees"),
        ({"unit": "g/ml{SUVbw}"}, {}, "unit", r"the values are in \[hnsf'U\], wanted g/ml\{SUVbw\}"),
        ({"unit": "[hnsf'U]"}, {"modality": "MR"}, "unit", "no known unit"),
    ],
)
def test_a_series_beyond_a_limit_is_refused(
    make_entry: MakeEntry,
    make_volume: MakeVolume,
    limits: dict[str, Any],
    how: dict[str, Any],
    reason: str,
    message: str,
) -> None:
    entry = dataclasses.replace(make_entry(), refuse=Limits(**limits))
    with pytest.raises(SeriesRefused, match=f"threshold does not read this series: .*{message}") as refusal:
        check_limits(make_volume(phantoms.corner((10, 20, 20)), **how), entry)
    assert refusal.value.reason == reason


def test_a_series_within_all_limits_passes(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    limits = Limits(
        min_slices=10,
        max_slices=10,
        min_coverage_mm=20,
        slice_spacing_mm=(2, 2),
        pixel_spacing_mm=(1, 1),
        orientation=("axial", "coronal"),
        max_tilt_degrees=20,
        unit="[hnsf'U]",
    )
    entry = dataclasses.replace(make_entry(), refuse=limits)
    check_limits(make_volume(phantoms.corner((10, 20, 20)), tilt_degrees=0.0), entry)


def test_the_older_spelling_of_suv_is_the_same_unit(make_entry: MakeEntry) -> None:
    from imaging_ai.infer.volume import read_volume

    entry = dataclasses.replace(make_entry(), refuse=Limits(unit="{SUVbw}g/ml"))
    check_limits(read_volume(phantoms.pet_series(phantoms.corner((10, 20, 20), inside=5, outside=1))), entry)
