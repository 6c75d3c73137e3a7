"""Measurements on a finding: volume, intensity, longest diameter in the plane of the slices.

Volumes are summed voxels (CID 7474); intensities are those of the voxels inside, in the unit of the series, named by
what the series shows (CID 7469) with the statistic as derivation (CID 7464). The longest diameter is that of the
outline that runs between the outermost voxels of one connected piece and their neighbours, exact for the given mask:
what lies apart in a slice is not bridged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from imaging_ai.core.box import PatientBox
from imaging_ai.core.finding import Code, Measurement
from imaging_ai.core.region import Box, Region
from imaging_ai.core.volume import Volume

__all__ = ["long_axis", "measure", "measure_box"]

_VOLUME = Code("118565006", "SCT", "Volume")
_SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
_LONG_AXIS = Code("103339001", "SCT", "Long axis")
_MILLILITRE = Code("ml", "UCUM", "ml")
_MILLIMETRE = Code("mm", "UCUM", "mm")
_NO_UNIT = Code("1", "UCUM", "no units")

#: What the voxels show, by their unit.
_SHOWN = {
    "[hnsf'U]": Code("112031", "DCM", "Attenuation Coefficient"),
    "g/ml{SUVbw}": Code("126401", "DCM", "SUVbw"),
    "g/ml{SUVlbm}": Code("126402", "DCM", "SUVlbm"),
    "g/ml{SUVlbm(James128)}": Code("126406", "DCM", "SUVlbm(James128)"),
    "g/ml{SUVlbm(Janma)}": Code("126405", "DCM", "SUVlbm(Janma)"),
    "g/ml{SUVibw}": Code("126404", "DCM", "SUVibw"),
    "Bq/ml": Code("110821", "DCM", "Nuclear Medicine Tomographic Activity"),
}
_MR_SIGNAL = Code("110852", "DCM", "MR signal intensity")

_STATISTICS: dict[str, tuple[Code, Callable[[NDArray[np.float64]], float]]] = {
    "mean": (Code("373098007", "SCT", "Mean"), lambda inside: float(inside.mean())),
    "sd": (Code("386136009", "SCT", "Standard Deviation"), lambda inside: float(inside.std())),
    "min": (Code("255605001", "SCT", "Minimum"), lambda inside: float(inside.min())),
    "max": (Code("56851009", "SCT", "Maximum"), lambda inside: float(inside.max())),
}
_SIDES = (
    Code("103355008", "SCT", "Width"),
    Code("121207", "DCM", "Height"),
    Code("131197000", "SCT", "Depth"),
)
_PEAK = Code("126031", "DCM", "Peak Value Within ROI")
#: Radius of a ball of one millilitre.
_PEAK_RADIUS_MM = 6.2035

#: Voxels of a slice that touch with a corner belong together.
_TOUCHING = np.ones((3, 3), np.bool_)


def measure_box(box: PatientBox) -> tuple[Measurement, ...]:
    """Measure the sides of a box (CID 7470): along the rows, down the columns, across the slices."""
    return tuple(Measurement(code, side, _MILLIMETRE) for code, side in zip(_SIDES, box.size, strict=True))


def measure(region: Region, volume: Volume, report: Sequence[str]) -> tuple[Measurement, ...]:
    """Measure what `report` names; a region without a voxel has only a volume of 0."""
    count = region.voxels
    millilitres = count * volume.grid.voxel_volume / 1000
    found = [Measurement(_VOLUME, millilitres, _MILLILITRE, method=_SUM_OF_VOXELS)] if "volume" in report else []
    if count == 0:
        return tuple(found)
    unit = volume.unit or _NO_UNIT
    shown = _SHOWN.get(unit.value, _MR_SIGNAL if volume.modality == "MR" else None)
    if volume.voxels.ndim == 3:
        inside = volume.voxels[region.box][region.inside].astype(np.float64)
        for name in report:
            if name in _STATISTICS:
                statistic, of = _STATISTICS[name]
                found.append(_intensity(shown, statistic, of(inside), unit))
            elif name == "peak":
                found.append(_intensity(shown, _PEAK, _peak(region, volume), unit))
    if "long_axis" in report:
        length, ends = _longest(region.inside, volume.grid.spacing[1:])
        first, second = volume.grid.to_patient(ends + [side.start for side in region.box]).tolist()
        found.append(Measurement(_LONG_AXIS, length, _MILLIMETRE, ends=(tuple(first), tuple(second))))
    return tuple(found)


def _intensity(shown: Code | None, statistic: Code, value: float, unit: Code) -> Measurement:
    """Name a statistic of what the voxels show; where that is not known, the statistic is all there is to say."""
    return Measurement(shown, value, unit, statistic) if shown else Measurement(statistic, value, unit)


def long_axis(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Return the longest diameter of any connected piece within any one slice, in millimetres; 0 for an empty mask."""
    return _longest(mask, spacing)[0]


def _longest(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[float, NDArray[np.float64]]:
    """Return that diameter, and its ends as (slice, row, column)."""
    longest, ends = 0.0, np.zeros((2, 3))
    tall: NDArray[np.bool_] = np.any(mask, axis=2)
    wide: NDArray[np.bool_] = np.any(mask, axis=1)
    for k in np.flatnonzero(tall.any(axis=1)).tolist():
        if _diagonal((_span(tall[k]), _span(wide[k])), spacing) <= longest:
            continue
        pieces, _ = ndimage.label(mask[k], _TOUCHING)
        for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), start=1):
            if _diagonal((rows, columns), spacing) > longest:
                length, pair = _diameter(pieces[rows, columns] == number, spacing)
                if length > longest:
                    longest, ends = length, np.column_stack([(k, k), pair + np.array([rows.start, columns.start])])
    return longest, ends


def _span(present: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(present)
    return slice(int(where[0]), int(where[-1]) + 1)


def _diagonal(box: Box, spacing: tuple[float, float]) -> float:
    """Return what no two points within a box are farther apart than."""
    return float(np.hypot(*((side.stop - side.start) * step for side, step in zip(box, spacing, strict=True))))


def _diameter(piece: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[float, NDArray[np.float64]]:
    """Return the longest distance within a piece that fills its box, and its ends as (row, column)."""
    outline = _outline(piece)
    corners = outline[ConvexHull(outline * spacing).vertices]
    distances = squareform(pdist(corners * spacing))
    pair = np.unravel_index(int(distances.argmax()), distances.shape)
    return float(distances.max()), corners[list(pair)]


def _outline(piece: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the points half a voxel beyond the first and last voxel of every row and column: all that is extreme."""
    rows, columns = np.arange(piece.shape[0]), np.arange(piece.shape[1])
    left, right = piece.argmax(axis=1), piece.shape[1] - 1 - piece[:, ::-1].argmax(axis=1)
    top, bottom = piece.argmax(axis=0), piece.shape[0] - 1 - piece[::-1].argmax(axis=0)
    sides = [(rows, left - 0.5), (rows, right + 0.5), (top - 0.5, columns), (bottom + 0.5, columns)]
    return np.concatenate([np.stack(side, axis=1) for side in sides]).astype(np.float64)


def _peak(region: Region, volume: Volume) -> float:
    """Return the largest mean within a ball of 1 ml whose centre lies in the region."""
    grid = volume.grid
    reach = [max(1, int(np.ceil(_PEAK_RADIUS_MM / step))) for step in grid.spacing]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1.0) for r in reach), indexing="ij"), axis=-1)
    distance = np.linalg.norm(offsets[..., ::-1] @ grid.affine[:3, :3].T, axis=-1)
    ball = (distance <= _PEAK_RADIUS_MM).astype(np.float64)
    ends = [
        (max(0, side.start - r), min(size, side.stop + r))
        for side, r, size in zip(region.box, reach, grid.shape, strict=True)
    ]
    values = volume.voxels[tuple(slice(*end) for end in ends)].astype(np.float64)
    total = ndimage.correlate(values, ball, mode="constant")
    weight = ndimage.correlate(np.ones_like(values), ball, mode="constant")
    centres = tuple(
        slice(side.start - start, side.stop - start) for side, (start, _) in zip(region.box, ends, strict=True)
    )
    return float((total / weight)[centres][region.inside].max())
