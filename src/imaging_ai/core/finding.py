"""What a model found, in the standard's words and before any DICOM encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.box import PatientBox, Point
from imaging_ai.core.region import Region

__all__ = [
    "Algorithm",
    "ClassDescription",
    "Code",
    "Evaluation",
    "Finding",
    "Measurement",
    "ParametricMap",
    "Picture",
    "ResultKind",
    "SegmentDescription",
    "SegmentationType",
]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, scheme designator (SCT, DCM, UCUM, …) and meaning."""

    value: str
    scheme_designator: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The model that made a result (PS3.3 10.16, TID 4019), pinned by the digest of its whole bundle.

    `device_uid` changes whenever the weights do (IHE AIR, Contributing Equipment).
    """

    name: str
    version: str
    manufacturer: str
    family: Code
    digest: str
    device_uid: str
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentDescription:
    """One thing a model can segment (PS3.3 C.8.20.2): label, coded category and type, colour (CIELab)."""

    label: str
    property_category: Code
    property_type: Code
    anatomic_region: Code | None = None
    cielab: tuple[float, float, float] | None = None
    min_volume_ml: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its coded quantity and UCUM unit; `derivation` e.g. Mean, Standard Deviation.

    `ends` are the two ends of a distance, in LPS+ millimetres.
    """

    quantity: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None
    ends: tuple[Point, Point] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One segment of a result: what it is, where it is, what was measured on it.

    `region` has no voxel when nothing was found; `segment_number`, that in the SEG, is 0 then. The tracking identifiers
    are shared by the SEG segment and the SR measurement group.
    """

    segment_number: int
    description: SegmentDescription
    region: Region
    tracking_identifier: str
    tracking_uid: str
    measurements: tuple[Measurement, ...] = ()

    @property
    def found(self) -> bool:
        """Whether anything was found."""
        return self.region.found

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask of the whole grid, ``(slices, rows, columns)``, made anew at each call."""
        return self.region.whole()


@dataclass(frozen=True, slots=True)
class ClassDescription:
    """One thing that a classifier or a detector can say: a coded finding, and from which probability on it is there."""

    label: str
    finding: Code
    threshold: float = 0.5
    finding_site: Code | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier says of a series, or of single instances (TID 1501); or a detector, of a box in the patient.

    `probability` is from 0 to 1; unless `calibrated` it is no more than the network's score. `instances` are the SOP
    Instance UIDs that it is about; empty for the whole series (or study), of a `box` the slice nearest to its centre.
    `measurements` are of the box.
    """

    description: ClassDescription
    probability: float
    tracking_identifier: str
    tracking_uid: str
    instances: tuple[str, ...] = ()
    calibrated: bool = True
    box: PatientBox | None = None
    measurements: tuple[Measurement, ...] = ()

    @property
    def present(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.description.threshold

    def as_tree(self) -> dict[str, object]:
        """Say the same in what JSON is made of."""
        what = self.description
        return {
            "label": what.label,
            "finding": [what.finding.value, what.finding.scheme_designator, what.finding.meaning],
            "present": self.present,
            "probability": self.probability,
            "threshold": what.threshold,
            "calibrated": self.calibrated,
            "instances": list(self.instances),
            "tracking_identifier": self.tracking_identifier,
            "tracking_uid": self.tracking_uid,
            **({"box": self.box.as_tree()} if self.box else {}),
        }


@dataclass(frozen=True, slots=True, eq=False)
class ParametricMap:
    """A number for every voxel of a grid (PS3.3 A.75): what it is, in which unit, and how it came about.

    `values` is float32 ``(slices, rows, columns)`` within `limits`. `name` (at most 16 characters) tells the maps of
    one job apart; `description` says in at most 64 what is mapped, `derivation` at length how.
    """

    name: str
    values: NDArray[np.float32]
    limits: tuple[float, float]
    quantity: Code
    unit: Code
    description: str
    derivation: str
    method: Code | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture of findings for viewers that show nothing else: RGB ``(rows, columns, 3)``, of one slice of a grid.

    `shows` is what is drawn over the image where that is a map, else findings are.
    """

    pixels: NDArray[np.uint8]
    slice: int
    caption: str
    shows: Code | None = None


ResultKind = Literal["SEG", "SR", "PM", "SC", "KO"]

#: How a SEG has its voxels (PS3.3 C.8.20.2): a bit for each segment, one label map, or a probability for each segment.
SegmentationType = Literal["binary", "labelmap", "fractional"]
