"""What the voxels of a series measure, and PET activity to standardized uptake values.

SUV by body weight is activity (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the time that the
activity is corrected to (PS3.3 C.8.9.1.1.3 Units, C.8.9.4 Decay Correction; QIBA FDG-PET/CT profile).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

from imaging_ai.core.finding import Code
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.numbers import number, positive

__all__ = ["ACTIVITY", "HOUNSFIELD", "SUV_BODY_WEIGHT", "unit_and_factor"]

HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
ACTIVITY = Code("Bq/ml", "UCUM", "Becquerels/milliliter")
SUV_BODY_WEIGHT = Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")
_SUV = {
    "": SUV_BODY_WEIGHT,
    "BW": SUV_BODY_WEIGHT,
    "LBM": Code("g/ml{SUVlbm}", "UCUM", "Standardized Uptake Value lean body mass (James)"),
    "LBMJAMES128": Code(
        "g/ml{SUVlbm(James128)}", "UCUM", "Standardized Uptake Value lean body mass (James 128 multiplier)"
    ),
    "LBMJANMA": Code("g/ml{SUVlbm(Janma)}", "UCUM", "Standardized Uptake Value lean body mass (Janma)"),
    "IBW": Code("g/ml{SUVibw}", "UCUM", "Standardized Uptake Value ideal body weight"),
}
_PHILIPS_SUV_FACTOR = (0x7053, 0x1000)

#: Less than this in Bq was written in MBq, as it was before the standard said Bq.
_LEAST_DOSE = 1e5
#: After more half-lives nothing is left to be seen: the half-life was written in minutes, or a clock was wrong.
_MOST_HALF_LIVES = 15
#: A DT to the minute; what stops at the day or the hour is no time of injection.
_TO_THE_MINUTE = re.compile(r"\d{12}")


def unit_and_factor(headers: Sequence[Dataset]) -> tuple[Code | None, float, str]:
    """Return the unit of the voxels once multiplied by the factor, the factor, and a note ("" when all is plain)."""
    first = headers[0]
    modality = first.get("Modality")
    if modality == "CT":
        if any(_not_rescaled(ds, "RescaleIntercept") for ds in headers):
            return None, 1.0, "Rescale Intercept is missing: the values are not known to be Hounsfield units"
        kinds = {str(_rescaling(ds).get("RescaleType") or "HU") for ds in headers}
        return (HOUNSFIELD if kinds == {"HU"} else None), 1.0, ""
    if modality != "PT":
        return None, 1.0, ""
    if any(_not_rescaled(ds, "RescaleSlope") for ds in headers):
        return None, 1.0, "Rescale Slope is missing: the values have no unit"
    units = {str(ds.get("Units") or "") for ds in headers}
    if len(units) > 1:
        raise SeriesRefused("mixed-units", f"Units differ within the series: {', '.join(sorted(units))}")
    match units.pop():
        case "GML":
            kind = str(first.get("SUVType") or "")
            return _SUV.get(kind), 1.0, "" if kind in _SUV else "the SUV Type is not known: the values have no unit"
        case "BQML":
            factor, why_not = _suv_factor(headers)
            return (SUV_BODY_WEIGHT, factor, "") if factor else (ACTIVITY, 1.0, f"SUV is not computed: {why_not}")
        case "CNTS" if factor := positive(first, _PHILIPS_SUV_FACTOR):
            return SUV_BODY_WEIGHT, factor, ""
        case other:
            return None, 1.0, f"Units are {other or 'not given'}: SUV is not computed"


def _suv_factor(headers: Sequence[Dataset]) -> tuple[float, str]:
    """Return g/ml per Bq/ml, or 0 and what is missing (never a value: weight and dose are the patient's)."""
    first = headers[0]
    weight = positive(first, "PatientWeight")
    injections = first.get("RadiopharmaceuticalInformationSequence") or [Dataset()]
    if len(injections) > 1:
        return 0.0, "several radiopharmaceuticals were given"
    dose_item = injections[0]
    dose = positive(dose_item, "RadionuclideTotalDose")
    half_life = positive(dose_item, "RadionuclideHalfLife")
    correction = str(first.get("DecayCorrection") or "")
    for keyword, value in (("PatientWeight", weight), ("RadionuclideTotalDose", dose)):
        if value <= 0:
            return 0.0, f"{keyword} is missing"
    if dose < _LEAST_DOSE:
        return 0.0, "RadionuclideTotalDose is too little to be in Bq"
    if "ATTN" not in (first.get("CorrectedImage") or ()):
        return 0.0, "the images are not corrected for attenuation"
    if correction == "ADMIN":
        return weight * 1000 / dose, ""
    if correction != "START":
        return 0.0, "the images are not corrected for decay to a known time"
    injected, scanned = _injection_time(dose_item, first), _scan_time(headers)
    if half_life <= 0 or injected is None or scanned is None:
        return 0.0, "half-life, injection time or scan time is missing"
    if injected > scanned and "RadiopharmaceuticalStartDateTime" not in dose_item:
        injected -= timedelta(days=1)  # injected before midnight, scanned after it
    elapsed = (scanned - injected).total_seconds()
    if not 0 <= elapsed <= 24 * 3600:
        return 0.0, "the scan does not follow the injection within a day"
    if elapsed > _MOST_HALF_LIVES * half_life:
        return 0.0, f"the scan follows the injection by more than {_MOST_HALF_LIVES} half-lives"
    decayed = float(dose * 2 ** (-elapsed / half_life))
    return weight * 1000 / decayed, ""


def _injection_time(dose: Dataset, first: Dataset) -> datetime | None:
    if start := dose.get("RadiopharmaceuticalStartDateTime"):
        return _local(str(start), first)
    return _moment(first.get("SeriesDate"), dose.get("RadiopharmaceuticalStartTime"))


def _local(start: str, first: Dataset) -> datetime | None:
    """Return a DT in the zone of the series' other times; one with an offset is taken for that where none is named."""
    try:
        moment = DT(start) if _TO_THE_MINUTE.match(start) else None
        zone = DT(f"20000101120000{first.get('TimezoneOffsetFromUTC') or ''}")
    except (ValueError, TypeError):
        return None
    if moment is None or zone is None:
        return None
    if moment.tzinfo is not None and zone.tzinfo is not None:
        moment = moment.astimezone(zone.tzinfo)
    return moment.replace(tzinfo=None)


def _rescaling(header: Dataset) -> Dataset:
    """Return what says how stored values are rescaled: of an enhanced instance its first frame (C.7.6.16.2.9)."""
    for groups in (header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")):
        if groups and (rescaled := groups[0].get("PixelValueTransformationSequence")):
            return rescaled[0]  # type: ignore[no-any-return]
    return header


def _not_rescaled(header: Dataset, keyword: str) -> bool:
    """Say whether stored values are all that there is, where the standard wants them rescaled (type 1)."""
    return number(_rescaling(header), keyword) is None and "ModalityLUTSequence" not in header


def _scan_time(headers: Sequence[Dataset]) -> datetime | None:
    """Return the time that START refers to: the series', unless that was written later, when made anew."""
    started = _moment(headers[0].get("SeriesDate"), headers[0].get("SeriesTime"))
    acquired = [m for ds in headers if (m := _moment(ds.get("AcquisitionDate"), ds.get("AcquisitionTime")))]
    earliest = min(acquired, default=None)
    if started is None or (earliest is not None and started > earliest):
        return earliest
    return started


def _moment(date: str | None, time: str | None) -> datetime | None:
    try:
        day, clock = DA(date), TM(time)
    except ValueError:
        return None
    return datetime.combine(day, clock) if day and clock else None
