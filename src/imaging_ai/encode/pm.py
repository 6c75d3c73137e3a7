"""A number for every voxel to a Parametric Map (PS3.3 A.75): 32-bit floats, on the source's grid.

As for SEG, highdicom makes the object for two by two pixels; the items of the frames are written by hand and the values
follow as they lie in memory. OHIF (3.13) puts the frames one after the other onto the slices of the series that it
shows, whatever they refer to, and only where Image Orientation (Patient) is the source's to the last digit: so there is
a frame for every slice, along the normal of the planes, and the orientation is written in the source's own digits, even
where these are more than a Decimal String may have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import highdicom as hd
import numpy as np
from highdicom.sr import CodeContentItem, CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from imaging_ai.core.finding import Code, ParametricMap
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import element, item, sequence
from imaging_ai.encode.iod import module
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.planes import laterality, place, plane_groups, shared_groups
from imaging_ai.encode.provenance import Provenance, code_item, serialize, stand_in
from imaging_ai.encode.source import clean, text
from imaging_ai.errors import ResultInvalid

__all__ = ["encode_pm"]

_METHOD = Code("370129005", "SCT", "Measurement Method")
#: How a frame came from its source (CID 7203 names no network's answer), as highdicom says it.
_DERIVATION = Code("112187", "DCM", "Unspecified method of calculation")
_BODY_PART = Code("38866009", "SCT", "Body part")
_LONGEST_VALUE = 0xFFFFFFFE


def encode_pm(volume: Volume, mapped: ParametricMap, provenance: Provenance) -> EncodedObject:
    """Encode a map that has a value for every voxel of `volume`."""
    values = np.ascontiguousarray(mapped.values, dtype="<f4")
    _check(values, mapped, volume)
    ds = _skeleton(mapped, provenance)
    provenance.complete(ds, "PM", mapped.name)
    place(ds, volume, provenance)
    ds.NumberOfFrames = volume.grid.slices
    ds.DerivationDescription = text(mapped.derivation, 1024)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.update(shared_groups(volume, verbatim=True))
    shared.FrameAnatomySequence = [_anatomy(provenance)]
    organization = derive_uid(provenance.job_uid, "PM", "dimensions", mapped.name)
    for dimension in (*ds.DimensionIndexSequence, *ds.DimensionOrganizationSequence):
        dimension.DimensionOrganizationUID = organization
    data = b"".join(
        (
            serialize(ds),
            sequence(0x52009230, *_per_frame_groups(volume)),
            struct.pack("<HH2sHI", 0x7FE0, 0x0008, b"OF", 0, values.nbytes),
            values.data,
        )
    )
    return EncodedObject(
        "PM", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, data, provenance.further_instances
    )


def _check(values: NDArray[np.float32], mapped: ParametricMap, volume: Volume) -> None:
    if values.shape != volume.grid.shape:
        raise ResultInvalid(f"a map has the shape {values.shape}, its source {volume.grid.shape}")
    if values.nbytes > _LONGEST_VALUE:
        raise ResultInvalid("a map of more than 4 GB does not fit into an instance")
    low, high = mapped.limits
    if not (low <= values.min() and values.max() <= high):  # so not with values that are no numbers either
        raise ResultInvalid(f"the map {mapped.name!r} has values that are not numbers from {low:g} to {high:g}")


def _skeleton(mapped: ParametricMap, provenance: Provenance) -> Dataset:
    """Let highdicom make everything that does not depend on the size of the source."""
    low, high = map(float, mapped.limits)
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=text(mapped.name, 16),
        lut_explanation=text(mapped.description, 64),
        unit=code_item(mapped.unit),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=code_item(mapped.quantity),
    )
    if mapped.method:
        mapping.QuantityDefinitionSequence.append(_coded(_METHOD, code_item(mapped.method)))
    ds = hd.pm.ParametricMap(
        source_images=[stand_in(provenance.study_instance_uid, "1.2", CTImageStorage, "1.2.3")],
        pixel_array=np.zeros((1, 2, 2), np.float32),
        series_instance_uid=provenance.uid("PM", "series"),
        series_number=1,
        sop_instance_uid=provenance.uid("PM", "instance"),
        instance_number=1,
        manufacturer=text(provenance.algorithm.manufacturer, 64),
        manufacturer_model_name=text(provenance.algorithm.name, 64),
        software_versions=text(provenance.algorithm.version, 64),
        device_serial_number="0",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)],
        content_label="MAP",
        content_description=text(mapped.description, 64),
        derivation=code_item(_DERIVATION),
    )
    ds.ContentCreatorName = ""  # type 2 of the macro, and left out by highdicom
    for keyword in ("FloatPixelData", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationType"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def _anatomy(provenance: Provenance) -> Dataset:
    """Say what part of the body it is, in the source's words if it has any; dcmqi reads no map without."""
    region = {"AnatomicRegionSequence": module("general-image")["AnatomicRegionSequence"]}
    kept = (clean(provenance.header, region) or Dataset()).get("AnatomicRegionSequence") or [code_item(_BODY_PART)]
    anatomy = Dataset()
    anatomy.FrameLaterality = laterality(provenance)
    anatomy.AnatomicRegionSequence = kept[:1]
    return anatomy


def _coded(name: Code, value: CodedConcept) -> CodeContentItem:
    return CodeContentItem(code_item(name), value)


def _per_frame_groups(volume: Volume) -> Iterator[bytes]:
    """Yield the item of each frame (PS3.3 C.7.6.16): source, dimension index, position."""
    for k, (derivation, position) in plane_groups(volume, range(volume.grid.slices), _DERIVATION).items():
        index = element(0x00209157, "UL", struct.pack("<I", k + 1))
        yield item(derivation, sequence(0x00209111, item(index)), position)
