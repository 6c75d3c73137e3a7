"""Boxes to measurement groups (PS3.16): where a detector found what, how large it is, how sure the detector is.

A box is a region "Bounded by" (75958009, SCT) its coordinates, which TID 1410 and 1411 call its Geometric Purpose
(CP 1852, CID 219), so that no one takes it for the outline of the thing itself. A box through several slices is a
volume (TID 1411): a Volume Surface of one polygon on each slice (SCOORD3D), which may be oblique as the images are; a
box on one slice is an Image Region (TID 1410), of images without a place in the patient in pixels (SCOORD). A segment
of all voxels in the box would say that they are the finding.

OHIF takes over only outlines that hang on a number, named by its own tool, from a document of nothing else: that one
has of each box the outline nearest to its centre, with its area (TID 1501, TID 320).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from highdicom import sr as hdsr
from numpy.typing import NDArray

from imaging_ai.core.box import PatientBox
from imaging_ai.core.finding import Code, Evaluation, Measurement
from imaging_ai.core.volume import Volume
from imaging_ai.encode.provenance import code_item
from imaging_ai.errors import ResultInvalid

__all__ = ["BoxGroup", "Coordinates", "box_group", "outline_of"]

BoxGroup: TypeAlias = (
    hdsr.PlanarROIMeasurementsAndQualitativeEvaluations | hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations
)

Coordinates: TypeAlias = hdsr.CoordinatesForMeasurement | hdsr.CoordinatesForMeasurement3D

#: The tracking identifiers by which OHIF knows outlines of its own tools, of four corners and of others.
_RECTANGLE, _FREEHAND = (f"Cornerstone3DTools@^0.1.0:{tool}" for tool in ("RectangleROI", "PlanarFreehandROI"))

_CORNERS = 4

_BOUNDED_BY = Code("75958009", "SCT", "Bounded by")
_AREA = Code("42798000", "SCT", "Area")
_SQUARE_MILLIMETRE = Code("mm2", "UCUM", "square millimeter")
_PIXELS = Code("{pixels}", "UCUM", "pixels")


def box_group(box: PatientBox, volume: Volume, common: Mapping[str, Any]) -> BoxGroup:
    """Describe what was found in a box, on the images of a volume; `common` is what it says as any other group does.

    Raises
    ------
    ResultInvalid
        If the box lies beyond the images.
    """
    said = {**common, "geometric_purpose": code_item(_BOUNDED_BY)}
    if not volume.located:
        region = hdsr.ImageRegion(**_on_image(box, volume))
        return hdsr.PlanarROIMeasurementsAndQualitativeEvaluations(**said, referenced_region=region)
    uid, polygon = volume.grid.frame_of_reference_uid, hdsr.GraphicTypeValues3D.POLYGON
    outlines = list(_outlines(box, volume).values())
    if len(outlines) == 1:
        placed = hdsr.ImageRegion3D(graphic_type=polygon, graphic_data=outlines[0], frame_of_reference_uid=uid)
        return hdsr.PlanarROIMeasurementsAndQualitativeEvaluations(**said, referenced_region=placed)
    series = hdsr.SourceSeriesForSegmentation(str(volume.headers[0].SeriesInstanceUID))
    surface = hdsr.VolumeSurface(
        graphic_type=polygon, graphic_data=outlines, frame_of_reference_uid=uid, source_series=series
    )
    return hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations(**said, referenced_volume_surface=surface)


def outline_of(evaluation: Evaluation, volume: Volume) -> tuple[str, Measurement, Coordinates]:
    """Return OHIF's tool for a box on the slice nearest to its centre, the area there, and the closed line around it.

    Raises
    ------
    ResultInvalid
        If the evaluation has no box, or that lies beyond the images.
    """
    if evaluation.box is None:
        raise ResultInvalid(f"{evaluation.tracking_identifier} has no box to draw")
    if not volume.located:
        there = _on_image(evaluation.box, volume)
        flat = np.pad(there["graphic_data"], ((0, 0), (0, 1)))
        return _RECTANGLE, Measurement(_AREA, _area(flat), _PIXELS), hdsr.CoordinatesForMeasurement(**there)
    outlines = _outlines(evaluation.box, volume)
    middle = evaluation.box.nearest_slice(volume.grid)
    points = outlines[min(outlines, key=lambda k: abs(k - middle))]
    line = hdsr.CoordinatesForMeasurement3D(
        graphic_type=hdsr.GraphicTypeValues3D.POLYLINE,
        graphic_data=points,
        frame_of_reference_uid=volume.grid.frame_of_reference_uid,
    )
    tool = _RECTANGLE if len(points) == _CORNERS + 1 else _FREEHAND
    return tool, Measurement(_AREA, _area(points), _SQUARE_MILLIMETRE), line


def _on_image(box: PatientBox, volume: Volume) -> dict[str, Any]:
    """Return the outline of a box on the one image that it lies on, in its pixels."""
    k = min(_outlines(box, volume))
    frame = volume.sources[k]
    numbers = [frame.frame_number] if frame.multi_frame else None
    image = hdsr.SourceImageForRegion(frame.sop_class_uid, frame.sop_instance_uid, numbers)
    return {
        "graphic_type": hdsr.GraphicTypeValues.POLYLINE,
        "graphic_data": box.in_pixels(volume.grid)[k],
        "source_image": image,
    }


def _area(points: NDArray[np.float64]) -> float:
    """Return the area of a closed polygon ``(corner, xyz)`` that is flat."""
    away = points[1:] - points[0]
    return float(np.linalg.norm(np.cross(away[:-1], away[1:]).sum(axis=0))) / 2


def _outlines(box: PatientBox, volume: Volume) -> dict[int, NDArray[np.float64]]:
    if not (outlines := box.outlines(volume.grid)):
        raise ResultInvalid("a box lies beyond the images that it was found in")
    return outlines
