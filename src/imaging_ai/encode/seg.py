"""Findings to a Segmentation (PS3.3 A.51): BINARY, FRACTIONAL or LABELMAP, on the source's grid.

highdicom makes the object for two by two pixels, so that modules, segments and codes are its own and its work does not
grow with the source. The two things that do grow, the item of each frame and the pixels, are written here by hand, into
one piece of memory whose pages are touched only where there is something: most of a hundred organs is nothing.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from imaging_ai.core.colour import DISPLAY_COLOURS
from imaging_ai.core.finding import Algorithm, Code, Finding, SegmentationType
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import element, item, sequence
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.planes import laterality, place, plane_groups, shared_groups
from imaging_ai.encode.provenance import Provenance, code_item, serialize, stand_in
from imaging_ai.encode.seg_pixels import ALL_SEGMENTS, Pixels, binary, fractional, labelmap, overlap
from imaging_ai.encode.source import text
from imaging_ai.errors import ResultInvalid

__all__ = ["encode_seg"]

_SEGMENTATION = Code("113076", "DCM", "Segmentation")
_LONGEST_VALUE = 0xFFFFFFFE


def encode_seg(
    volume: Volume,
    found: Sequence[Finding],
    provenance: Provenance,
    wanted: SegmentationType = "binary",
    probability: NDArray[np.float32] | None = None,
) -> EncodedObject:
    """Encode the findings that were found, as segments 1, 2, … in their order; empty frames are left out.

    Segments that overlap are BINARY where a label map is wanted, which cannot hold them.

    Parameters
    ----------
    probability
        Of each voxel of the grid, from 0 to 1; FRACTIONAL has that of the voxels within each segment.

    Raises
    ------
    ResultInvalid
        If the result is too large for an instance, or FRACTIONAL and without a probability.
    """
    regions = [finding.region for finding in found]
    overlapping = overlap(regions)
    if wanted == "fractional":
        if probability is None:
            raise ResultInvalid("a fractional segmentation needs the probability of each voxel")
        pixels = fractional(regions, probability)
    else:
        pixels = labelmap(regions) if wanted == "labelmap" and not overlapping else binary(regions)
    if pixels.length > _LONGEST_VALUE:
        raise ResultInvalid("the segments need more than 4 GB, which no instance can hold")
    ds = _skeleton(found, provenance, pixels)
    provenance.complete(ds, "SEG")
    place(ds, volume, provenance)
    if (side := laterality(provenance)) in ("R", "L"):
        ds.Laterality = side
    for keyword, value in pixels.attributes.items():
        setattr(ds, keyword, value)
    ds.NumberOfFrames = sum(len(slices) for _, slices in pixels.frames)
    ds.SegmentsOverlap = "YES" if overlapping else "NO"
    ds.SharedFunctionalGroupsSequence = [shared_groups(volume)]
    organization = derive_uid(provenance.job_uid, "SEG", "dimensions")
    for dimension in (*ds.DimensionIndexSequence, *ds.DimensionOrganizationSequence):
        dimension.DimensionOrganizationUID = organization
    data = _file(serialize(ds) + sequence(0x52009230, *_per_frame_groups(volume, pixels)), pixels)
    return EncodedObject(
        "SEG", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, data, provenance.further_instances
    )


def _file(head: bytes, pixels: Pixels) -> memoryview:
    """Return the whole file, its pixels behind `head`."""
    head += struct.pack("<HH2sHI", 0x7FE0, 0x0010, pixels.vr.encode(), 0, pixels.length)
    memory = mmap.mmap(-1, len(head) + pixels.length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[: len(head)] = head
    pixels.write(np.frombuffer(memory, np.uint8, pixels.length, len(head)))
    return memoryview(memory).toreadonly()


def _skeleton(found: Sequence[Finding], provenance: Provenance, pixels: Pixels) -> Dataset:
    """Let highdicom make everything that does not depend on the size of the source."""
    segmentation_type = hd.seg.SegmentationTypeValues(pixels.attributes["SegmentationType"])
    labelled = segmentation_type == hd.seg.SegmentationTypeValues.LABELMAP
    ds = hd.seg.Segmentation(
        source_images=[stand_in(provenance.study_instance_uid, "1.2", CTImageStorage, "1.2.3")],
        pixel_array=np.ones((1, 2, 2) if labelled else (1, 2, 2, len(found)), np.uint8),
        segmentation_type=segmentation_type,
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
    # highdicom describes the background too, and viewers (OHIF) then give each segment the colour of the one before it
    ds.SegmentSequence = [segment for segment in ds.SegmentSequence if segment.SegmentNumber != ALL_SEGMENTS]
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


def _per_frame_groups(volume: Volume, pixels: Pixels) -> Iterator[bytes]:
    """Yield the item of each frame (PS3.3 C.7.6.16): source, dimension indices, position, segment.

    All frames on one plane differ in two numbers only, so their items are put together from pieces.
    """
    used = np.unique(np.concatenate([slices for _, slices in pixels.frames])).tolist()
    by_segment = pixels.frames[0][0] != ALL_SEGMENTS
    indices = struct.Struct("<II" if by_segment else "<I")
    content = sequence(0x00209111, item(element(0x00209157, "UL", bytes(indices.size))))
    opened: dict[int, tuple[bytes, int, bytes]] = {}
    for rank, (k, (derivation, position)) in enumerate(plane_groups(volume, used, _SEGMENTATION).items(), 1):
        whole = item(derivation, content, position, _segment_group(1) if by_segment else b"")
        opened[k] = whole[: 8 + len(derivation) + len(content) - indices.size], rank, position
    for number, slices in pixels.frames:
        group = _segment_group(number) if by_segment else b""
        for k in slices.tolist():
            opening, rank, position = opened[k]
            yield opening + indices.pack(*((number, rank) if by_segment else (rank,))) + position + group


def _segment_group(number: int) -> bytes:
    return sequence(0x0062000A, item(element(0x0062000B, "US", struct.pack("<H", number))))
