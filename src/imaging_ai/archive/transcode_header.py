"""What a transcoded instance says otherwise than its source (PS3.5 8.2, PS3.3 C.7.6.1.1.5, PS3.10 7.1)."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID

from imaging_ai.archive.decoders import Image
from imaging_ai.archive.encoders import ENCODERS, NEAR
from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derive_uid

__all__ = ["LOSSY_JPEG", "describe_loss", "edits_of", "encoded_elements", "file_meta"]

#: Transfer syntaxes in which something was lost, whatever the data set says.
LOSSY_JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})


def edits_of(image: Image, interpretation: str) -> Dataset:
    """Return the attributes that every change of the pixel data sets (PS3.5 8.2)."""
    edits = Dataset()
    edits.PhotometricInterpretation = interpretation
    edits.HighBit = image.bits_stored - 1
    if image.samples > 1:
        edits.PlanarConfiguration = 0
    if image.transfer_syntax_uid in LOSSY_JPEG:
        edits.LossyImageCompression = "01"
    return edits


def describe_loss(edits: Dataset, header: bytes, predecessor: tuple[str, str], target: str, ratio: float) -> str:
    """Add what an image that was compressed with loss says of it; return the SOP Instance UID that it gets.

    `header` is what comes before the pixel data of its `predecessor`, given by SOP Class and SOP Instance UID.
    """
    tags = ["ImageType", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "SourceImageSequence"]
    ds = dcmread(BytesIO(header), stop_before_pixels=True, force=True, specific_tags=list(tags))
    method = ENCODERS[target].method
    edits.SOPInstanceUID = derive_uid("lossy", predecessor[1], target)
    edits.ImageType = ["DERIVED", *_values(ds, "ImageType")[1:]]
    edits.LossyImageCompression = "01"
    edits.LossyImageCompressionRatio = [*_values(ds, "LossyImageCompressionRatio"), f"{ratio:.2f}"]
    edits.LossyImageCompressionMethod = [*_values(ds, "LossyImageCompressionMethod"), method]
    bound = f", no value off by more than {NEAR}" if method == "ISO_14495_1" else ""
    edits.DerivationDescription = f"Compressed with loss on retrieval{bound}"
    edits.DerivationCodeSequence = [_code("113040", "Lossy Compression")]
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = predecessor
    source.PurposeOfReferenceCodeSequence = [_code("121320", "Uncompressed predecessor")]
    edits.SourceImageSequence = [*(ds.get("SourceImageSequence") or ()), source]
    return str(edits.SOPInstanceUID)


def _values(header: Dataset, keyword: str) -> list[Any]:
    value = header.get(keyword)
    return [] if value in (None, "") else [value] if isinstance(value, (str, float, int)) else list(value)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def encoded_elements(ds: Dataset) -> dict[int, bytes]:
    """Return the elements of a data set by tag, each in Explicit VR Little Endian."""
    encoded = {}
    for element in ds:
        target = DicomBytesIO()
        target.is_little_endian, target.is_implicit_VR = True, False
        write_data_element(target, element)
        encoded[int(element.tag)] = target.getvalue()
    return encoded


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble and File Meta Information of a file that is written here (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    target = DicomBytesIO()
    target.is_little_endian, target.is_implicit_VR = True, False
    write_file_meta_info(target, meta)
    return bytes(128) + b"DICM" + target.getvalue()
