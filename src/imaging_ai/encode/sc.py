"""Pictures of findings to Secondary Captures (PS3.3 A.8.1): one RGB instance for each, in one series.

Every viewer shows single-frame Secondary Capture Image Storage; many know no multi-frame one. The pictures have text
but nothing of the patient's in it, so Burned In Annotation, which asks for that, is NO.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from imaging_ai.core.finding import Code, Picture
from imaging_ai.core.volume import Volume
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.planes import laterality, source_attributes
from imaging_ai.encode.provenance import Provenance, code_item, instance_item, serialize
from imaging_ai.encode.source import text
from imaging_ai.errors import ResultInvalid

__all__ = ["encode_sc"]

_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_SEGMENTATION = Code("113076", "DCM", "Segmentation")


def encode_sc(volume: Volume, pictures: Sequence[Picture], provenance: Provenance) -> Iterator[EncodedObject]:
    """Encode pictures of slices of `volume`, in their order."""
    for number, picture in enumerate(pictures, 1):
        ds = _image(picture, volume)
        provenance.complete(ds, "SC", number=number)
        ds.update(source_attributes(provenance))
        ds.pop("PositionReferenceIndicator", None)  # the picture itself lies nowhere in the patient
        ds.ImageLaterality = laterality(provenance)
        ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
        yield EncodedObject("SC", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, serialize(ds))


def _image(picture: Picture, volume: Volume) -> Dataset:
    if picture.pixels.ndim != 3 or picture.pixels.shape[2] != 3 or picture.pixels.dtype != np.uint8:
        raise ResultInvalid("a picture is not red, green and blue of 8 bits")
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = SecondaryCaptureImageStorage, "OT"
    ds.ImageType, ds.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    ds.PatientOrientation = list(volume.grid.patient_orientation)
    ds.ImageComments = text(picture.caption, 1024)
    drawn = picture.shows.meaning if picture.shows else "Findings"
    ds.DerivationDescription = text(f"{drawn} drawn over the source image: {picture.caption}", 1024)
    ds.DerivationCodeSequence = [code_item(picture.shows or _SEGMENTATION)]
    ds.SourceImageSequence = [_source(volume, picture.slice)]
    ds.ReferencedSeriesSequence = [_series(ds.SourceImageSequence[0], volume)]
    ds.BurnedInAnnotation = "NO"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    pixels = np.ascontiguousarray(picture.pixels).tobytes()
    ds.PixelData = pixels + bytes(len(pixels) % 2)
    ds["PixelData"].VR = "OB"
    return ds


def _source(volume: Volume, k: int) -> Dataset:
    """Refer to the frame that a slice was read from."""
    frame = volume.sources[k]
    item = instance_item(frame.sop_class_uid, frame.sop_instance_uid)
    if frame.multi_frame:
        item.ReferencedFrameNumber = frame.frame_number
    item.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    return item


def _series(image: Dataset, volume: Volume) -> Dataset:
    """List that instance under its series (PS3.3 C.12.2, Common Instance Reference)."""
    series = Dataset()
    series.SeriesInstanceUID = str(volume.headers[0].SeriesInstanceUID)
    series.ReferencedInstanceSequence = [instance_item(image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID)]
    return series
