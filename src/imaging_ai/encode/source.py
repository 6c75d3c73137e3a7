"""What results take over from their source: patient and study, cleaned, and where each plane lies.

Sources break the standard in small ways (an age of "42", a Study ID of 18 letters, a 17-digit Decimal String).
Taken over as they are, such values make our objects invalid; so what is invalid is left out, or left empty where
the standard wants the attribute (type 2). Only what says *who* and *which study* is taken over verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from pydicom import Dataset
from pydicom.config import RAISE, disable_value_validation
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import MAX_VALUE_LEN, format_number_as_ds, validate_value

from imaging_ai.core.geometry import SourceFrame
from imaging_ai.encode.iod import Attribute, module

__all__ = [
    "IDENTITY",
    "as_written",
    "clean",
    "decimal_string",
    "functional_group",
    "patient_and_study",
    "plain",
    "require_valid",
    "text",
]

#: Who and which study: taken over even when the standard would not have it so.
IDENTITY = ("PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber")

_MODULES = ("patient", "general-study", "patient-study", "clinical-trial-subject", "clinical-trial-study")

_ENUMERATED: Mapping[str, frozenset[str]] = {
    "PatientSex": frozenset({"M", "F", "O"}),
    "Laterality": frozenset({"L", "R"}),
    "PatientSexNeutered": frozenset({"ALTERED", "UNALTERED"}),
    "SmokingStatus": frozenset({"YES", "NO", "UNKNOWN"}),
    "PregnancyStatus": frozenset({"1", "2", "3", "4"}),
    "PatientIdentityRemoved": frozenset({"YES", "NO"}),
    "QualityControlSubject": frozenset({"YES", "NO"}),
    "TypeOfPatientID": frozenset({"TEXT", "RFID", "BARCODE"}),
    "LongitudinalTemporalInformationModified": frozenset({"UNMODIFIED", "MODIFIED", "REMOVED"}),
    "LossyImageCompression": frozenset({"00", "01"}),
}

#: Attributes that are valid only beside one of others (type 1C).
_ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "PatientIdentityRemoved": ("DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    "ResponsiblePerson": ("ResponsiblePersonRole",),
}

_DECIMAL_STRING = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MULTILINE = frozenset({"ST", "LT", "UT"})


def patient_and_study(header: Dataset) -> Dataset:
    """Return the Patient and Study attributes of `header` (PS3.3 C.7.1, C.7.2), decoded and cleaned."""
    result = Dataset()
    with disable_value_validation():  # we judge the values ourselves; pydicom would print them
        for name in _MODULES:
            attributes = module(name)
            if name in ("patient", "general-study") or any(keyword in header for keyword in attributes):
                result.update(clean(header, attributes) or {})
        for keyword in IDENTITY:
            if keyword in header:
                setattr(result, keyword, plain(header[keyword].value))
    return result


def clean(ds: Dataset, attributes: Mapping[str, Attribute]) -> Dataset | None:
    """Copy those `attributes` of `ds` that are valid; None when a required one (type 1) is not."""
    result = Dataset()
    for keyword, attribute in attributes.items():
        value = _valid_items(ds, attribute) if attribute.items else _valid_value(ds, keyword)
        if value:
            setattr(result, keyword, value)
        elif attribute.type == "1" and keyword not in IDENTITY:
            return None
        elif attribute.type == "2":
            setattr(result, keyword, [] if attribute.items else "")
    for keyword, others in _ONLY_WITH.items():
        if keyword in result and not any(result.get(other) for other in others):
            delattr(result, keyword)
    return result


def _valid_items(ds: Dataset, attribute: Attribute) -> list[Dataset]:
    element = ds.get(attribute.keyword)
    if not isinstance(element, Sequence) or isinstance(element, str | bytes):
        return []
    items = (clean(item, attribute.items) for item in element if isinstance(item, Dataset))
    return [item for item in items if item and (not attribute.is_code or _is_code(item))]


def _is_code(item: Dataset) -> bool:
    return bool(item.get("CodingSchemeDesignator") and (item.get("CodeValue") or item.get("LongCodeValue")))


def _valid_value(ds: Dataset, keyword: str) -> object | None:
    vr = dictionary_VR(keyword)
    try:
        value = plain(ds[keyword].value) if keyword in ds else None
        values = value if isinstance(value, list) else [value]
        if value in (None, "", []) or (len(values) > 1 and dictionary_VM(keyword) == "1"):
            return None
        for each in values:
            require_valid(keyword, vr, each)
    except (ValueError, TypeError, NotImplementedError, AttributeError, KeyError):
        return None  # the source's fault, whichever way pydicom stumbles over it
    return value


def require_valid(keyword: str, vr: str, value: object) -> None:
    """Raise ValueError when `value` is not one that the VR and the enumerated values allow (PS3.5 6.2)."""
    if value == "":
        return
    if keyword in _ENUMERATED and str(value) not in _ENUMERATED[keyword]:
        raise ValueError("not one of the enumerated values")
    if isinstance(value, str):
        validate_value(vr, value, RAISE)
        if len(value) > MAX_VALUE_LEN.get(vr, len(value)):
            raise ValueError("too long")
        if vr not in _MULTILINE and _CONTROL.search(value):
            raise ValueError("has control characters")


def plain(value: object) -> object:
    """Return text as str (decoded), several values as a list, numbers of a binary VR as they are."""
    if isinstance(value, MultiValue | list | tuple):
        return [plain(each) for each in value]
    return value if isinstance(value, int | float) and type(value) in (int, float) else _text(value)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def text(value: str, length: int) -> str:
    """Return `value` as a valid LO or SH of at most `length` characters."""
    return _CONTROL.sub(" ", value.replace("\\", "/")).strip()[:length].strip()


def decimal_string(value: object) -> str:
    """Return the source's Decimal String as it is, shortened only where it breaks the 16 characters (PS3.5 6.2)."""
    original = str(value).strip()
    if len(original) <= 16 and _DECIMAL_STRING.fullmatch(original):
        return original
    return str(format_number_as_ds(float(original)))


def as_written(value: object) -> str:
    """Return the source's Decimal String as it is, however long.

    Raises
    ------
    ValueError
        If it is no number.
    """
    original = str(value).strip()
    if not _DECIMAL_STRING.fullmatch(original):
        raise ValueError("not a Decimal String")
    return original


def functional_group(
    header: Dataset, frame: SourceFrame, sequence: str, keyword: str, digits: Callable[[object], str] = decimal_string
) -> tuple[str, ...]:
    """Return the values that describe one source frame, as Decimal Strings; empty when the source has none.

    A multi-frame source has them in its functional groups (PS3.3 C.7.6.16), of the frame or shared by all; where it
    has none, in itself.
    """
    groups: list[Dataset] = []
    if frame.multi_frame:
        number = frame.frame_number
        groups = list(header.get("PerFrameFunctionalGroupsSequence") or ())[number - 1 : number]
        groups += list(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    holders = [group[sequence].value[0] for group in groups if group.get(sequence)] or [header]
    for holder in holders:
        try:
            if (value := holder.get(keyword)) not in (None, "", []):
                values = value if isinstance(value, MultiValue | list) else [value]
                return tuple(digits(each) for each in values)
        except (ValueError, OverflowError):
            continue  # what is no number describes nothing
    return ()
