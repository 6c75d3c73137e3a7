"""Promise 4: what is not valid does not leave (PS3.3 for the attributes, PS3.5 for the values).

`check` looks at the bytes that would leave, not at what the encoder meant. It asks: are the attributes of the IOD there
and their values of the right kind, is the patient the source's, does every reference resolve, is the geometry the
source's, and is there what viewers are known to need. It is quick, so that every object passes through it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping

from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from imaging_ai.core.finding import ResultKind
from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import first_from, read_elements
from imaging_ai.encode.iod import Attribute, mandatory_modules, module
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import invalid, require
from imaging_ai.encode.source import IDENTITY, patient_and_study, plain, require_valid
from imaging_ai.encode.validate_images import check_pm, check_sc
from imaging_ai.encode.validate_planes import PER_FRAME_GROUPS
from imaging_ai.encode.validate_seg import LABEL_MAP_SEGMENTATION, check_seg
from imaging_ai.encode.validate_sr import check_ko, check_sr

__all__ = ["check"]

_CLASSES: Mapping[ResultKind, tuple[str, ...]] = {
    "SEG": (SegmentationStorage, LABEL_MAP_SEGMENTATION),
    "SR": (Comprehensive3DSRStorage,),
    "KO": (KeyObjectSelectionDocumentStorage,),
    "PM": (ParametricMapStorage,),
    "SC": (SecondaryCaptureImageStorage,),
}

#: Modality where it is not what we call the kind: so no rule takes a picture of a CT for a CT.
_MODALITY: Mapping[ResultKind, str] = {"PM": "OT", "SC": "OT"}

#: What a kind takes over from its source to the letter, be it valid or not.
_VERBATIM: Mapping[ResultKind, tuple[str, ...]] = {"PM": (*IDENTITY, "ImageOrientationPatient")}

#: What we want of every object beyond its IOD: IHE AIR, and promise 10.
_WANTED = (
    "SpecificCharacterSet",
    "SeriesDescription",
    "SeriesNumber",
    "InstanceNumber",
    "ContentQualification",
    "ContributingEquipmentSequence",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceUID",
    "InstanceCreationDate",
    "InstanceCreationTime",
)

#: Modules and attributes that have checks of their own: the tables would ask every row of every item.
_CONTENT = frozenset({"sr-document-content", "key-object-document"})
_ELSEWHERE = frozenset({"PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"})

_FIXED: Mapping[str, tuple[str, ...]] = {
    "SpecificCharacterSet": ("ISO_IR 192",),
    "ContentQualification": ("PRODUCT", "RESEARCH", "SERVICE"),
}


_PREAMBLE = 128 + 4 + 12  # and the element that says how long the File Meta Information is

#: What pydicom raises over bytes that it cannot understand.
_STUMBLES = (
    ArithmeticError,
    BytesLengthException,
    AttributeError,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def check(obj: EncodedObject, volume: Volume) -> None:
    """Check an object against the standard and against its source.

    Raises
    ------
    ResultInvalid
        Naming the attribute and what is wrong with it, never a value of the patient's.
    """
    try:
        with disable_value_validation():  # we judge the values ourselves; pydicom would print them
            ds, end = _read(obj)
            _check_attributes(ds, _CLASSES[obj.kind][0], _VERBATIM.get(obj.kind, IDENTITY))
            _check_subject(ds, volume)
            if obj.kind == "SEG":
                check_seg(ds, obj, volume, end)
            elif obj.kind == "SR":
                check_sr(ds, obj, volume)
            elif obj.kind == "PM":
                check_pm(ds, obj, volume, end)
            elif obj.kind == "SC":
                check_sc(ds, volume, obj.data, end)
            else:
                check_ko(ds, obj, volume)
    except _STUMBLES as error:
        raise invalid("the data set", f"cannot be understood ({type(error).__name__})") from error


def _read(obj: EncodedObject) -> tuple[Dataset, int]:
    """Read the object up to its frames, or to the pixels of one; return it, and where the reading ended."""
    (meta_length,) = struct.unpack_from("<I", obj.data, _PREAMBLE - 4)
    start = _PREAMBLE + meta_length
    require(start <= len(obj.data), "FileMetaInformationGroupLength", "longer than the file")
    end = first_from(obj.data, start, PER_FRAME_GROUPS)
    head = bytes(obj.data[:end])
    ds = dcmread(io.BytesIO(head))
    meta = ds.file_meta
    explicit = meta.get("TransferSyntaxUID") == ExplicitVRLittleEndian
    require(explicit, "TransferSyntaxUID", "not Explicit VR Little Endian")
    read_elements(head, start, end)  # pydicom takes an object that ends too early
    require(obj.kind in _CLASSES, "SOPClassUID", f"no rules for a result of the kind {obj.kind}")
    for keyword, told in (("SOPClassUID", obj.sop_class_uid), ("SOPInstanceUID", obj.sop_instance_uid)):
        require(ds.get(keyword) == told, keyword, "not what the encoder announced")
        require(meta.get(f"MediaStorage{keyword}") == told, f"MediaStorage{keyword}", "differs from the data set")
    require(ds.SOPClassUID in _CLASSES[obj.kind], "SOPClassUID", f"not the class of a {obj.kind}")
    modality = _MODALITY.get(obj.kind, obj.kind)
    require(ds.get("Modality") == modality, "Modality", f"not {modality}")
    require(ds.get("SeriesInstanceUID") == obj.series_instance_uid, "SeriesInstanceUID", "not what was announced")
    return ds, end


def _check_attributes(ds: Dataset, sop_class_uid: str, verbatim: tuple[str, ...]) -> None:
    """Check presence by the tables of the IOD, which is that of `sop_class_uid`, and every value by its VR."""
    for name in mandatory_modules(sop_class_uid):
        if name not in _CONTENT:
            _check_module(ds, module(name), "")
    for keyword in _WANTED:
        require(not _empty(ds, keyword), keyword, "missing")
    for keyword, values in _FIXED.items():
        require(ds.get(keyword) in values, keyword, "not one of the values in use here")
    require(
        any(item.get("DeviceUID") == ds.DeviceUID for item in ds.ContributingEquipmentSequence),
        "ContributingEquipmentSequence",
        "does not name the model's device",
    )
    for path, element in _elements(ds, ""):
        _check_element(path, element, verbatim)


def _check_module(ds: Dataset, attributes: Mapping[str, Attribute], where: str) -> None:
    for keyword, attribute in attributes.items():
        if keyword in _ELSEWHERE or (keyword in IDENTITY and not where):
            continue
        path = f"{where}{keyword}"
        if attribute.type == "1":
            require(not _empty(ds, keyword), path, "missing or empty, and required (type 1)")
        elif attribute.type == "2":
            require(keyword in ds, path, "missing (type 2)")
        if attribute.items and keyword in ds:
            for number, item in enumerate(ds[keyword].value, 1):
                _check_module(item, attribute.items, f"{path}[{number}].")


def _empty(ds: Dataset, keyword: str) -> bool:
    if keyword not in ds:
        return True
    value = ds[keyword].value
    if isinstance(value, int | float):
        return False
    return not value or (isinstance(value, MultiValue) and not any(str(each) for each in value))


def _elements(ds: Dataset, where: str) -> Iterator[tuple[str, DataElement]]:
    """Yield every element with its path, those of items too."""
    for element in ds:
        path = f"{where}{element.keyword or element.tag}"
        yield path, element
        if element.VR == "SQ":
            for number, item in enumerate(element.value, 1):
                yield from _elements(item, f"{path}[{number}].")


def _check_element(path: str, element: DataElement, verbatim: tuple[str, ...]) -> None:
    keyword = keyword_for_tag(element.tag)
    require(bool(keyword), path, "not an attribute of the standard")
    require(element.VR in dictionary_VR(element.tag), path, f"has the value representation {element.VR}")
    if element.VR == "SQ":
        if keyword.endswith("CodeSequence"):
            for item in element.value:
                _check_code(path, item)
        return
    if keyword in verbatim:
        return
    value = plain(element.value)
    for each in value if isinstance(value, list) else [value]:
        try:
            require_valid(keyword, element.VR, each)
        except ValueError:
            raise invalid(path, f"the value is not a valid {element.VR}") from None


def _check_code(path: str, item: Dataset) -> None:
    has_value = bool(item.get("CodeValue")) != bool(item.get("LongCodeValue"))
    complete = has_value and item.get("CodingSchemeDesignator") and item.get("CodeMeaning")
    require(bool(complete), path, "a coded concept without value, scheme or meaning")


def _check_subject(ds: Dataset, volume: Volume) -> None:
    """Check that patient and study are the source's: a result in another patient's folder is the worst of all."""
    for element in patient_and_study(volume.headers[0]):
        keyword = element.keyword
        require(keyword in ds and ds[keyword].value == element.value, keyword, "differs from the source")
