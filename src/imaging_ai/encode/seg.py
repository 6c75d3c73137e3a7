"""Findings to a Segmentation (PS3.3 A.51): BINARY, on the source's grid and in its Frame of Reference.

highdicom makes the object for two by two pixels, so that modules, segments and codes are its own and its work does not
grow with the source. The two things that do grow, the item of each frame and the bits, are written here by hand.
Other kinds of segmentation (LABELMAP, FRACTIONAL) differ in exactly these two: the choice belongs in `encode_seg`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from imaging_ai.core.colour import DISPLAY_COLOURS
from imaging_ai.core.finding import Algorithm, Code, Finding
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import element, item, sequence
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.planes import place, plane_groups, shared_groups
from imaging_ai.encode.provenance import Provenance, code_item, serialize, stand_in
from imaging_ai.encode.source import text

__all__ = ["encode_seg"]

_SEGMENTATION = Code("113076", "DCM", "Segmentation")

_WHOLE_BYTES = 8  # as many frames are whole bytes, whatever their size


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame of the result: which segment (from 1), which slice (from 0), and the slice's rank among those used."""

    segment: int
    slice: int
    rank: int


def encode_seg(volume: Volume, found: Sequence[Finding], provenance: Provenance) -> EncodedObject:
    """Encode the findings that were found, as segments 1, 2, … in their order; empty frames are left out."""
    frames = tuple(_frames(found))
    ds = _skeleton(found, provenance)
    provenance.complete(ds, "SEG")
    place(ds, volume, provenance)
    ds.NumberOfFrames = len(frames)
    rows = _rows_of_bits(found, frames)
    ds.SegmentsOverlap = "YES" if _overlap(rows, frames) else "NO"
    ds.SharedFunctionalGroupsSequence = [shared_groups(volume)]
    organization = derive_uid(provenance.job_uid, "SEG", "dimensions")
    for dimension in (*ds.DimensionIndexSequence, *ds.DimensionOrganizationSequence):
        dimension.DimensionOrganizationUID = organization
    pixels = _pixel_data(rows, volume.grid.rows * volume.grid.columns)
    data = b"".join(
        (
            serialize(ds),
            sequence(0x52009230, *_per_frame_groups(volume, frames)),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, pixels.nbytes),
            pixels.data,
        )
    )
    return EncodedObject(
        "SEG", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, data, provenance.further_instances
    )


def _skeleton(found: Sequence[Finding], provenance: Provenance) -> Dataset:
    """Let highdicom make everything that does not depend on the size of the source."""
    ds = hd.seg.Segmentation(
        source_images=[stand_in(provenance.study_instance_uid, "1.2", CTImageStorage, "1.2.3")],
        pixel_array=np.ones((1, 2, 2, len(found)), np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(number, each, provenance.algorithm) for number, each in enumerate(found, 1)],
        series_instance_uid=provenance.uid("SEG", "series"),
        series_number=1,
        sop_instance_uid=provenance.uid("SEG", "instance"),
        instance_number=1,
        manufacturer=text(provenance.algorithm.manufacturer, 64),
        manufacturer_model_name=text(provenance.algorithm.name, 64),
        software_versions=text(provenance.algorithm.version, 64),
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description=text(f"Segments found by {provenance.algorithm.name}", 64),
    )
    ds.ContentCreatorName = ""  # type 2, and left out by highdicom
    for keyword in ("PixelData", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationType"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def _segment(number: int, finding: Finding, algorithm: Algorithm) -> hd.seg.SegmentDescription:
    what = finding.description
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=text(what.label, 64),
        segmented_property_category=code_item(what.property_category),
        segmented_property_type=code_item(what.property_type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=text(algorithm.name, 64),
            family=code_item(algorithm.family),
            version=text(algorithm.version, 64),
            source=text(algorithm.manufacturer, 64),
            parameters=dict(algorithm.parameters) or None,
        ),
        tracking_uid=finding.tracking_uid,
        tracking_id=finding.tracking_identifier,
        anatomic_regions=[code_item(what.anatomic_region)] if what.anatomic_region else None,
        display_color=hd.color.CIELabColor(*(what.cielab or DISPLAY_COLOURS[(number - 1) % len(DISPLAY_COLOURS)])),
    )


def _frames(found: Sequence[Finding]) -> Iterator[_Frame]:
    used = [np.flatnonzero(finding.mask.any(axis=(1, 2))) for finding in found]
    rank = {int(k): position for position, k in enumerate(np.unique(np.concatenate(used)), 1)}
    for segment, slices in enumerate(used, 1):
        for k in slices.tolist():
            yield _Frame(segment, k, rank[k])


def _rows_of_bits(found: Sequence[Finding], frames: Sequence[_Frame]) -> NDArray[np.uint8]:
    """Return the frames as bits, the first voxel in the lowest, each frame a row of whole bytes."""
    rows = np.empty((len(frames), (found[0].mask[0].size + 7) // 8), np.uint8)
    for row, frame in zip(rows, frames, strict=True):
        row[:] = np.packbits(found[frame.segment - 1].mask[frame.slice], axis=None, bitorder="little")
    return rows


def _overlap(rows: NDArray[np.uint8], frames: Sequence[_Frame]) -> bool:
    """Say whether any voxel is in two segments."""
    union: dict[int, NDArray[np.uint8]] = {}
    for row, frame in zip(rows, frames, strict=True):
        if frame.slice not in union:
            union[frame.slice] = row
        elif (union[frame.slice] & row).any():
            return True
        else:
            union[frame.slice] = union[frame.slice] | row
    return False


def _pixel_data(rows: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return frames of `size` voxels one after the other, without padding between them (PS3.5 8.1.1)."""
    length = (len(rows) * size + 15) // 16 * 2
    if size % 8 == 0 and rows.size == length:
        return rows.reshape(-1)
    data = np.zeros(length, np.uint8)
    for first in range(0, len(rows), _WHOLE_BYTES):
        bits = np.unpackbits(rows[first : first + _WHOLE_BYTES], axis=1, count=size, bitorder="little")
        packed = np.packbits(bits, axis=None, bitorder="little")
        start = first * size // 8
        data[start : start + packed.size] = packed
    return data


def _per_frame_groups(volume: Volume, frames: Sequence[_Frame]) -> Iterator[bytes]:
    """Yield the item of each frame (PS3.3 C.7.6.16): source, dimension indices, position, segment."""
    per_slice = plane_groups(volume, {frame.slice for frame in frames}, _SEGMENTATION)
    for frame in frames:
        derivation, position = per_slice[frame.slice]
        indices = element(0x00209157, "UL", struct.pack("<II", frame.segment, frame.rank))
        segment = element(0x0062000B, "US", struct.pack("<H", frame.segment))
        yield item(
            derivation,
            sequence(0x00209111, item(indices)),
            position,
            sequence(0x0062000A, item(segment)),
        )
