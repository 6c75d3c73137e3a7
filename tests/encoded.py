"""Findings and results to test with: a model that never was, and boxes that it found."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

import phantoms
from imaging_ai.core.explanation import Explanation
from imaging_ai.core.finding import (
    Algorithm,
    ClassDescription,
    Code,
    Evaluation,
    Finding,
    Measurement,
    ParametricMap,
    Picture,
    SegmentDescription,
)
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, Predecessor, encode_results
from imaging_ai.explain.pictures import key_slices
from imaging_ai.infer.measure import measure
from imaging_ai.infer.volume import read_volume

CREATED_AT = 1_700_000_000.25
JOB_UID = derive_uid("test", "job")

MODEL = Algorithm(
    name="Lesion finder",
    version="1.2.0",
    manufacturer="imaging-ai tests",
    family=Code("123109", "DCM", "Artificial Intelligence"),
    digest="ab" * 32,
    device_uid=derive_uid("test", "device"),
    parameters=(("overlap", "0.5"), ("window", "96")),
)
LESION = SegmentDescription(
    label="Lesion",
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    property_type=Code("52988006", "SCT", "Lesion"),
    anatomic_region=Code("10200004", "SCT", "Liver"),
    cielab=(60.0, 50.0, -20.0),
)
CAM = Code("130403", "DCM", "Gradient-weighted class activation")
VOLUME = Measurement(Code("118565006", "SCT", "Volume"), 12.345678901234, Code("ml", "UCUM", "milliliter"))
MEAN = Measurement(
    Code("112031", "DCM", "Attenuation Coefficient"),
    -1 / 3,
    Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    derivation=Code("373098007", "SCT", "Mean"),
)


def phantom_volume(shape: tuple[int, int, int] = (8, 12, 10), **series: object) -> Volume:
    """Read a CT phantom the way a worker would."""
    return read_volume(phantoms.series(phantoms.ball(shape), **series))  # type: ignore[arg-type]


def box(shape: Sequence[int], number: int, *, overlap: bool = False) -> NDArray[np.bool_]:
    """Make a box that lies in no symmetric place; boxes of other numbers lie beside it, unless they are to overlap."""
    mask = np.zeros(tuple(shape), np.bool_)
    slices, rows, columns = shape
    first = min(number, max(slices - 2, 0))
    left = 0 if overlap else number * columns // 5
    mask[first : first + 2 + number, rows // 4 : rows // 2 + number, left : left + max(columns // 6, 1)] = True
    return mask


def findings(shape: Sequence[int], found: int = 2, absent: int = 1, *, overlap: bool = False) -> list[Finding]:
    """Make findings; those that are absent stand between the others, as a model's segments would."""
    order = [True] * min(found, 1) + [False] * absent + [True] * max(found - 1, 0)
    return [
        Finding(
            segment_number=number + 1,
            description=LESION,
            region=Region.of(box(shape, number, overlap=overlap) if is_found else np.zeros(tuple(shape), np.bool_)),
            tracking_identifier=f"Lesion {number + 1}",
            tracking_uid=derive_uid("test", "tracking", str(number)),
            measurements=(VOLUME, MEAN) if is_found else (),
        )
        for number, is_found in enumerate(order)
    ]


def predecessors(volume: Volume) -> tuple[Predecessor, Predecessor]:
    """Name a SEG and an SR of an earlier run."""
    study = str(volume.headers[0].StudyInstanceUID)
    return (
        Predecessor(study, derive_uid("old", "1"), "1.2.840.10008.5.1.4.1.1.66.4", derive_uid("old", "SEG")),
        Predecessor(study, derive_uid("old", "2"), "1.2.840.10008.5.1.4.1.1.88.34", derive_uid("old", "SR")),
    )


def with_long_axes(some: Sequence[Finding], volume: Volume) -> list[Finding]:
    """Add the longest diameter to what was found, as it is measured."""
    return [
        replace(one, measurements=(*one.measurements, *measure(one.region, volume, ["long_axis"])))
        if one.found
        else one
        for one in some
    ]


def probability(volume: Volume, **options: object) -> ParametricMap:
    """Make a map of values that all differ, so that any of them in a wrong place shows."""
    values = np.linspace(0, 1, int(np.prod(volume.grid.shape)), dtype=np.float32).reshape(volume.grid.shape)
    described: dict[str, object] = {
        "name": "probability",
        "values": values,
        "limits": (0.0, 1.0),
        "quantity": Code("110854", "DCM", "Fractional Probabilistic Segmentation"),
        "unit": Code("1", "UCUM", "no units"),
        "description": "Probability of Lesion",
        "derivation": "Softmax of the network",
        **options,
    }
    return ParametricMap(**described)  # type: ignore[arg-type]


def explanation(volume: Volume, uid: str, number: int = 1, slices: tuple[int, ...] = (2, 0)) -> Explanation:
    """Make the explanation of what has a tracking UID."""
    picture = Picture(np.zeros((4, 4, 3), np.uint8), slices[0], "Grad-CAM of Lesion", CAM)
    mapped = probability(volume, name=f"grad-cam {number}", quantity=CAM)
    return Explanation(uid, f"Lesion {number}", "grad-cam", mapped, slices, (picture,))


def evaluations(volume: Volume) -> list[Evaluation]:
    """Say of a class that it is there, in the series and in one of its instances."""
    bleeding = ClassDescription("Bleeding", Code("50960005", "SCT", "Hemorrhage"), 0.4)
    instance = volume.sources[0].sop_instance_uid
    return [
        Evaluation(bleeding, 0.9, "Bleeding", derive_uid("test", "class"), (), True),
        Evaluation(bleeding, 0.7, "Bleeding, image 1", derive_uid("test", "class", "1"), (instance,), True),
    ]


def encode(volume: Volume, some: Sequence[Finding] | None = None, **options: object) -> dict[str, EncodedObject]:
    """Encode with the defaults of the tests; return the objects by kind, further ones of a kind as `SR 2`, …"""
    arguments: dict[str, object] = {"job_uid": JOB_UID, "created_at": CREATED_AT, **options}
    some = findings(volume.grid.shape) if some is None else some
    named: dict[str, EncodedObject] = {}
    for obj in encode_results(volume, some, MODEL, **arguments):  # type: ignore[arg-type]
        number = sum(key.split()[0] == obj.kind for key in named) + 1
        named[obj.kind if number == 1 else f"{obj.kind} {number}"] = obj
    return named


#: Every kind of object that `encode_all` makes at least one of; the second report is the one of lines.
KINDS = ("SEG", "SR", "SR 2", "PM", "SC", "KO")


def encode_all(volume: Volume, some: Sequence[Finding] | None = None) -> dict[str, EncodedObject]:
    """Encode every kind of object that there is."""
    some = with_long_axes(findings(volume.grid.shape) if some is None else some, volume)
    heat = probability(volume)
    return encode(
        volume,
        some,
        kinds=("SEG", "SR", "PM", "SC", "KO"),
        lines=True,
        maps=[heat],
        pictures=key_slices(volume, some, "Lesion finder 1.2.0", heat, most=2),
        supersedes=predecessors(volume),
    )


def read(obj: EncodedObject) -> Dataset:
    """Read an object back."""
    return dcmread(io.BytesIO(obj.data))


def read_files(paths: Iterable[Path]) -> Volume:
    """Read a real series from its files."""
    return read_volume(path.read_bytes() for path in sorted(paths))
