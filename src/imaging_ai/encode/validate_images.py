"""What is checked of a Parametric Map and of a Secondary Capture."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from pydicom import Dataset

from imaging_ai.core.volume import Volume
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import require
from imaging_ai.encode.source import as_written, functional_group
from imaging_ai.encode.validate_planes import (
    check_grid,
    check_series,
    on_planes,
    only,
    pixels_at,
    read_frames,
    value,
)

__all__ = ["check_pm", "check_sc"]

_MAP: Mapping[str, object] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelPresentation": "MONOCHROME",
    "PresentationLUTShape": "IDENTITY",
    "BitsAllocated": 32,
    "BurnedInAnnotation": "NO",
    "RecognizableVisualFeatures": "NO",
}
_CAPTURE: Mapping[str, object] = {
    "ConversionType": "WSD",
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": 0,
    "PixelRepresentation": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "BurnedInAnnotation": "NO",
}
_GROUPS = ("RealWorldValueMappingSequence", "ParametricMapFrameTypeSequence", "FrameVOILUTSequence")


def check_pm(ds: Dataset, obj: EncodedObject, volume: Volume, end: int) -> None:
    """Check a map whose elements before the frames are in `ds`, and whose frames begin at byte `end`."""
    _check_fixed(ds, _MAP)
    derived = list(ds.ImageType)[:2] == ["DERIVED", "PRIMARY"] and len(ds.ImageType) == 4
    require(derived, "ImageType", "not DERIVED, PRIMARY, flavor and contrast")
    check_grid(ds, volume)
    groups = ds.SharedFunctionalGroupsSequence[0]
    for sequence in _GROUPS:
        require(len(groups.get(sequence) or ()) == 1, sequence, "missing, or not one item")
    require(groups.ParametricMapFrameTypeSequence[0].FrameType == ds.ImageType, "FrameType", "is not the Image Type")
    _check_orientation(groups.PlaneOrientationSequence[0], volume)
    limits = _check_mapping(groups.RealWorldValueMappingSequence[0])
    check_series(ds, obj, volume)
    frames, at = read_frames(obj.data, end)
    require(ds.NumberOfFrames == len(frames), "NumberOfFrames", f"{ds.NumberOfFrames}, but {len(frames)} are described")
    planes = []
    for path, frame, k in on_planes(frames, volume):
        (index,) = struct.unpack("<I", value(only(frame, 0x00209111, path), 0x00209157, b"UL", path))
        require(index == k + 1, f"{path}DimensionIndexValues", "does not say which plane")
        planes.append(k)
    everywhere = planes == list(range(volume.grid.slices))
    require(everywhere, "PerFrameFunctionalGroupsSequence", "not one frame for each slice of the source in their order")
    require(len(ds.DimensionIndexSequence) == 1, "DimensionIndexSequence", "does not index the planes alone")
    size = len(frames) * int(ds.Rows) * int(ds.Columns)
    start = pixels_at(obj.data, at, 0x7FE00008, (b"OF",), 4 * size)
    values = np.frombuffer(obj.data, "<f4", size, start)
    within = bool(limits[0] <= values.min() and values.max() <= limits[1])
    require(within, "FloatPixelData", "has values beyond what it says, or that are no numbers")


def _check_orientation(item: Dataset, volume: Volume) -> None:
    """Check that the cosines are the source's to the last digit: OHIF places no map that has others."""
    header, frame = volume.headers[0], volume.sources[0]
    cosines = functional_group(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient", as_written)
    here = tuple(str(each).strip() for each in item.ImageOrientationPatient)
    require(here == cosines, "ImageOrientationPatient", "is not written as in the source")


def _check_mapping(item: Dataset) -> tuple[float, float]:
    """Check that the values are the quantity itself, coded; return the range that they may have."""
    path = "RealWorldValueMappingSequence[1]."
    for keyword in ("LUTLabel", "LUTExplanation", "MeasurementUnitsCodeSequence", "QuantityDefinitionSequence"):
        require(bool(item.get(keyword)), f"{path}{keyword}", "missing")
    unit = item.MeasurementUnitsCodeSequence[0].get("CodingSchemeDesignator")
    require(unit == "UCUM", f"{path}MeasurementUnitsCodeSequence", "not a UCUM unit")
    named = item.QuantityDefinitionSequence[0].get("ConceptCodeSequence")
    require(bool(named), f"{path}QuantityDefinitionSequence", "names no quantity")
    same = (item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")) == (1, 0)
    require(same, f"{path}RealWorldValueSlope", "values are not stored as they are")
    low = float(item.DoubleFloatRealWorldValueFirstValueMapped)
    high = float(item.DoubleFloatRealWorldValueLastValueMapped)
    require(low < high, f"{path}DoubleFloatRealWorldValueFirstValueMapped", "maps no range")
    return low, high


def check_sc(ds: Dataset, volume: Volume, data: bytes | memoryview, end: int) -> None:
    """Check a picture whose elements before the pixel data, which begin at byte `end`, are in `ds`."""
    _check_fixed(ds, _CAPTURE)
    require(list(ds.ImageType)[:2] == ["DERIVED", "SECONDARY"], "ImageType", "not DERIVED and SECONDARY")
    require(bool(ds.get("DerivationDescription")), "DerivationDescription", "missing")
    require(
        tuple(ds.get("PatientOrientation") or ()) == volume.grid.patient_orientation,
        "PatientOrientation",
        "differs from the source",
    )
    sources = list(ds.get("SourceImageSequence") or ())
    require(len(sources) == 1, "SourceImageSequence", "not one item")
    ref = sources[0]
    image = str(ref.ReferencedSOPClassUID), str(ref.ReferencedSOPInstanceUID)
    known = {((s.sop_class_uid, s.sop_instance_uid), s.frame_number) for s in volume.sources}
    frame_number = int(ref.get("ReferencedFrameNumber") or 1)
    require((image, frame_number) in known, "SourceImageSequence", "is no frame of the source")
    listed = [
        (series.SeriesInstanceUID, (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID))
        for series in ds.get("ReferencedSeriesSequence") or ()
        for instance in series.ReferencedInstanceSequence
    ]
    expected = [(str(volume.headers[0].SeriesInstanceUID), image)]
    require(listed == expected, "ReferencedSeriesSequence", "does not list the source image as it is")
    size = int(ds.Rows) * int(ds.Columns) * 3
    pixels_at(data, end, 0x7FE00010, (b"OB", b"OW"), size + size % 2)


def _check_fixed(ds: Dataset, table: Mapping[str, object]) -> None:
    for keyword, fixed in table.items():
        require(ds.get(keyword) == fixed, keyword, f"not {fixed}")
