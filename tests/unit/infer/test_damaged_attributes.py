"""Any one attribute of a series damaged: a volume with valid results, or a refusal with its reason; never a crash."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

import encoded
import phantoms
from imaging_ai.encode import check
from imaging_ai.errors import ResultInvalid, SeriesRefused
from imaging_ai.infer.numbers import number, positive
from imaging_ai.infer.volume import read_volume

Path = tuple[BaseTag, ...]

SERIES: dict[str, Callable[[], list[Dataset]]] = {
    "PT": lambda: phantoms.pet_series(np.abs(phantoms.ball((3, 8, 8), inside=8))),
    "enhanced MR": lambda: [phantoms.enhanced(phantoms.ball((3, 8, 8)))],
}
#: Words, nothing, no number.
VALUES = (b"ZZMARKER", b"", b"nan ")
#: What the gate refuses before any model sees it.
GATED = {0x00080016, 0x00080018, 0x0020000D, 0x0020000E}


def attributes(ds: Dataset, above: Path = ()) -> Iterator[Path]:
    for element in ds:
        yield (*above, element.tag)
        if element.VR == "SQ" and element.value:
            yield from attributes(element.value[0], (*above, element.tag))


def damage(ds: Dataset, path: Path, value: bytes) -> None:
    for tag in path[:-1]:
        ds = ds[tag].value[0]
    vr = ds[path[-1]].VR
    if vr == "SQ":
        ds[path[-1]] = DataElement(path[-1], "SQ", [])
    else:
        ds[path[-1]] = RawDataElement(path[-1], vr, len(value), value, 0, False, True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(VALUES)))
@pytest.mark.parametrize("kind", SERIES)
def test_no_damaged_attribute_makes_reading_or_encoding_fail_otherwise(kind: str, number: int) -> None:
    make = SERIES[kind]
    for place, path in enumerate(attributes(make()[0])):
        if path[-1] in GATED or path[-1].group == 0x7FE0:
            continue
        datasets = make()
        for ds in datasets:
            damage(ds, path, VALUES[number])
        try:
            volume = read_volume(phantoms.to_bytes(ds) for ds in datasets)
            if (place + number) % len(VALUES) == 0:  # encoding takes ten times as long: each attribute with one value
                for result in encoded.encode(volume).values():
                    check(result, volume)
        except (SeriesRefused, ResultInvalid) as refusal:
            assert "MARKER" not in refusal.message


def test_numbers_are_told_from_what_is_none() -> None:
    ds = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in (("SliceThickness", b"2.5 "), ("PatientWeight", b"heavy "), ("RescaleSlope", b"-1")):
            element = Dataset()
            setattr(element, keyword, None)
            tag = next(iter(element)).tag
            ds[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
        assert number(ds, "SliceThickness") == positive(ds, "SliceThickness") == 2.5
        assert number(ds, "RescaleIntercept") is None
        assert math.isnan(number(ds, "PatientWeight") or 0.0)
        assert positive(ds, "PatientWeight") == positive(ds, "RescaleSlope") == positive(ds, "Rows") == 0.0
