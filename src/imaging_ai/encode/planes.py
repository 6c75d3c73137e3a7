"""What the multi-frame objects share: where their frames lie and which source frames they come from (PS3.3 C.7.6.16).

Frames lie on planes of the source, so positions and spacings are the source's own digits. What grows with the source,
the item of each frame, is written by hand (`explicit.py`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from pydicom import Dataset
from pydicom.config import disable_value_validation

from imaging_ai.core.finding import Code
from imaging_ai.core.geometry import SourceFrame
from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import element, item, sequence
from imaging_ai.encode.iod import module
from imaging_ai.encode.provenance import Provenance, instance_item
from imaging_ai.encode.source import as_written, clean, decimal_string, functional_group
from imaging_ai.errors import ResultInvalid

__all__ = ["code_bytes", "laterality", "place", "plane_groups", "shared_groups", "source_attributes"]

_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")


def place(ds: Dataset, volume: Volume, provenance: Provenance) -> None:
    """Write into `ds` the grid, its Frame of Reference, and every source instance."""
    ds.update(source_attributes(provenance))
    ds.FrameOfReferenceUID = volume.grid.frame_of_reference_uid
    ds.Rows, ds.Columns = volume.grid.rows, volume.grid.columns
    ds.ReferencedSeriesSequence = _referenced_series(provenance)
    ds.SourceImageSequence = [
        ref for series in ds.ReferencedSeriesSequence for ref in series.ReferencedInstanceSequence
    ]


def source_attributes(provenance: Provenance) -> Dataset:
    """Return what the source tells of order, anatomy, position and lossy compression, as far as it is valid."""
    series, image = module("general-series"), module("general-image")
    wanted = {name: series[name] for name in ("RequestAttributesSequence", "BodyPartExamined")}
    for name in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        wanted[name] = image[name]
    wanted["PositionReferenceIndicator"] = module("frame-of-reference")["PositionReferenceIndicator"]
    kept = clean(provenance.header, wanted) or Dataset()
    if kept.get("LossyImageCompression") != "01":
        kept.LossyImageCompression = "00"
    return kept


def laterality(provenance: Provenance) -> str:
    """Return the side that the source shows (R, L, or B for both), U (unpaired) where it does not tell."""
    header = provenance.header
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or ())[:1]]
    groups += (header.get("SharedFunctionalGroupsSequence") or ())[:1]
    anatomy = [group.FrameAnatomySequence[0] for group in groups if group.get("FrameAnatomySequence")]
    told = [*(one.get("FrameLaterality") for one in anatomy), header.get("ImageLaterality"), header.get("Laterality")]
    return next((str(side) for side in told if side in ("R", "L", "B")), "U")


def shared_groups(volume: Volume, *, verbatim: bool = False) -> Dataset:
    """Return orientation and pixel measures, in the source's own digits.

    `verbatim` keeps those of the orientation also where the source has more of them than a Decimal String may have.
    """
    header, frame = volume.headers[0], volume.sources[0]
    orientation, measures = Dataset(), Dataset()
    digits = as_written if verbatim else decimal_string
    cosines = functional_group(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient", digits)
    with disable_value_validation():
        orientation.ImageOrientationPatient = list(cosines)
    measures.PixelSpacing = list(functional_group(header, frame, "PixelMeasuresSequence", "PixelSpacing"))
    spacing = _distance_along_normal(volume)
    thickness = functional_group(header, frame, "PixelMeasuresSequence", "SliceThickness")
    measures.SliceThickness = thickness[0] if thickness and float(thickness[0]) > 0 else decimal_string(spacing)
    if volume.grid.slices > 1:
        measures.SpacingBetweenSlices = decimal_string(spacing)
    groups = Dataset()
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    return groups


def plane_groups(volume: Volume, slices: Collection[int], derivation: Code) -> dict[int, tuple[bytes, bytes]]:
    """Return Derivation Image Sequence and Plane Position Sequence of each of these slices."""
    headers = {str(header.SOPInstanceUID): header for header in volume.headers}
    return {k: _plane(headers, volume.sources[k], derivation) for k in slices}


def code_bytes(code: Code) -> bytes:
    """Return `code` as an item of a code sequence, encoded."""
    return item(
        element(0x00080100, "SH", code.value.encode()),
        element(0x00080102, "SH", code.scheme_designator.encode()),
        element(0x00080104, "LO", code.meaning.encode()),
    )


def _plane(headers: dict[str, Dataset], source: SourceFrame, derivation: Code) -> tuple[bytes, bytes]:
    position = functional_group(
        headers[source.sop_instance_uid], source, "PlanePositionSequence", "ImagePositionPatient"
    )
    if len(position) != 3:
        raise ResultInvalid("the source has no Image Position (Patient): what lies on it cannot be placed")
    reference = [
        element(0x00081150, "UI", source.sop_class_uid.encode()),
        element(0x00081155, "UI", source.sop_instance_uid.encode()),
    ]
    if source.multi_frame:
        reference.append(element(0x00081160, "IS", str(source.frame_number).encode()))
    purpose = sequence(0x0040A170, code_bytes(_SOURCE_IMAGE))
    image = item(*reference, element(0x0028135A, "CS", b"YES"), purpose)
    derived = item(sequence(0x00082112, image), sequence(0x00089215, code_bytes(derivation)))
    plane = item(element(0x00200032, "DS", "\\".join(position).encode()))
    return sequence(0x00089124, derived), sequence(0x00209113, plane)


def _distance_along_normal(volume: Volume) -> float:
    """Return the distance of neighbouring planes, which is less than that of their origins in a sheared stack."""
    row, column, step = (volume.grid.affine[:3, axis] for axis in range(3))
    normal = np.cross(row, column)
    return round(float(abs(step @ normal) / np.linalg.norm(normal)), 9)


def _referenced_series(provenance: Provenance) -> list[Dataset]:
    """List every source instance under its series (PS3.3 C.12.2, Common Instance Reference)."""
    result = []
    for (_, series_instance_uid), instances in provenance.source_instances().items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedInstanceSequence = [instance_item(*instance) for instance in instances]
        result.append(series)
    return result
