"""Units: what the standard's tags say, and SUV only when all that it needs is there."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.suv import unit_and_factor

HALF_LIFE = 6588.0


def pet(**changes: object) -> list[Dataset]:
    dose = Dataset()
    dose.RadiopharmaceuticalStartTime = "110000"
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = 400e6, HALF_LIFE
    ds = Dataset()
    ds.Modality, ds.Units, ds.DecayCorrection, ds.CorrectedImage = "PT", "BQML", "START", ["ATTN", "DECY"]
    ds.PatientWeight = 80.0
    ds.RescaleSlope, ds.RescaleIntercept = 1.5, 0
    ds.SeriesDate = ds.AcquisitionDate = "20240102"
    ds.SeriesTime = ds.AcquisitionTime = "120000"
    for keyword, value in changes.items():
        target = dose if keyword.startswith("Radio") else ds
        if value is None:
            delattr(target, keyword)
        else:
            setattr(target, keyword, value)
    ds.RadiopharmaceuticalInformationSequence = [dose]
    return [ds]


def at(hours: float) -> float:
    """SUV per Bq/ml when the scan begins `hours` after the injection."""
    return float(80000 / (400e6 * 2 ** (-hours * 3600 / HALF_LIFE)))


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        ({}, 1),
        ({"DecayCorrection": "ADMIN"}, 0),
        ({"RadiopharmaceuticalStartDateTime": "20240102103000.000000"}, 1.5),
        ({"RadiopharmaceuticalStartDateTime": "20240102103000+0100"}, 1.5),
        ({"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "003000", "AcquisitionTime": "003000"}, 1),
        ({"RadiopharmaceuticalStartDateTime": "20240102093000+0000", "TimezoneOffsetFromUTC": "+0100"}, 1.5),
        ({"RadiopharmaceuticalStartDateTime": "20240102103000", "TimezoneOffsetFromUTC": "+0100"}, 1.5),
        ({"SeriesTime": "150000"}, 1),  # the series was made anew later: the acquisition counts
        ({"AcquisitionTime": "121500"}, 1),  # a later bed position: the series' start counts
        ({"SeriesTime": None, "SeriesDate": "20240102"}, 1),
    ],
    ids=str,
)
def test_activity_becomes_suv_by_the_decayed_dose(changes: dict[str, object], hours: float) -> None:
    unit, factor, note = unit_and_factor(pet(**changes))
    assert unit is not None and unit.value == "g/ml{SUVbw}"
    assert factor == pytest.approx(at(hours))
    assert note == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PatientWeight": None}, "PatientWeight is missing"),
        ({"PatientWeight": 0}, "PatientWeight is missing"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideHalfLife": None}, "half-life, injection time or scan time is missing"),
        ({"RadiopharmaceuticalStartTime": None}, "half-life, injection time or scan time is missing"),
        ({"RadiopharmaceuticalStartDateTime": "20240102"}, "half-life, injection time or scan time is missing"),
        ({"RadiopharmaceuticalStartDateTime": "2024010211"}, "half-life, injection time or scan time is missing"),
        ({"RadiopharmaceuticalStartDateTime": "202401029999"}, "half-life, injection time or scan time is missing"),
        ({"RadionuclideTotalDose": 400.0}, "too little to be in Bq"),  # MBq
        ({"RadionuclideHalfLife": 109.8}, "more than 15 half-lives"),  # minutes
        ({"CorrectedImage": ["DECY"]}, "not corrected for attenuation"),
        ({"DecayCorrection": "NONE"}, "not corrected for decay"),
        ({"RadiopharmaceuticalStartDateTime": "20240103120000"}, "does not follow the injection"),
    ],
    ids=str,
)
def test_what_suv_needs_and_lacks_is_said_without_its_value(changes: dict[str, object], why: str) -> None:
    unit, factor, note = unit_and_factor(pet(**changes))
    assert unit is not None and (unit.value, factor) == ("Bq/ml", 1.0)
    assert why in note
    assert "80" not in note


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"Units": "GML"}, "g/ml{SUVbw}"),
        ({"Units": "GML", "SUVType": "LBM"}, "g/ml{SUVlbm}"),
        ({"Units": "GML", "SUVType": "BSA"}, None),
        ({"Units": "CNTS"}, None),
        ({"RescaleSlope": None}, None),
        ({"Modality": "CT", "RescaleIntercept": None}, None),
        ({"Modality": "CT"}, "[hnsf'U]"),
        ({"Modality": "CT", "RescaleType": "US"}, None),
        ({"Modality": "MR"}, None),
    ],
    ids=str,
)
def test_other_units_are_left_as_they_are(changes: dict[str, object], value: str | None) -> None:
    unit, factor, _ = unit_and_factor(pet(**changes))
    assert (unit.value if unit else None, factor) == (value, 1.0)


def test_counts_with_the_suv_factor_of_philips_are_suv() -> None:
    datasets = pet(Units="CNTS")
    datasets[0].add_new((0x7053, 0x0010), "LO", "Philips PET Private Group")
    datasets[0].add_new((0x7053, 0x1000), "DS", "0.0005")
    unit, factor, _ = unit_and_factor(datasets)
    assert unit is not None and (unit.value, factor) == ("g/ml{SUVbw}", 0.0005)


def test_units_that_differ_within_a_series_are_refused() -> None:
    with pytest.raises(SeriesRefused, match="BQML, GML"):
        unit_and_factor([*pet(), *pet(Units="GML")])


def test_the_values_of_an_enhanced_ct_are_what_its_frames_say() -> None:
    ds, rescaled, shared = Dataset(), Dataset(), Dataset()
    ds.Modality = "CT"
    rescaled.RescaleSlope, rescaled.RescaleIntercept = 1, -1024
    shared.PixelValueTransformationSequence = [rescaled]
    ds.SharedFunctionalGroupsSequence = [shared]
    for kind, unit in (("HU", "[hnsf'U]"), ("MGML", None), ("", "[hnsf'U]")):  # MGML: mg/ml, of iodine
        rescaled.RescaleType = kind
        found, _, _ = unit_and_factor([ds])
        assert (found.value if found else None) == unit


def test_of_two_radiopharmaceuticals_nobody_knows_which_is_seen() -> None:
    (ds,) = pet()
    ds.RadiopharmaceuticalInformationSequence = [*ds.RadiopharmaceuticalInformationSequence] * 2
    unit, _, note = unit_and_factor([ds])
    assert unit is not None and unit.value == "Bq/ml"
    assert note == "SUV is not computed: several radiopharmaceuticals were given"
