"""The attributes that searches know: where each is held, and which level of the information model it belongs to.

Levels are those of PS3.4 C.6.1.1; an attribute belongs where the modules of PS3.3 C.7 put it. Attributes that nobody
lists here belong to the instance, as do private ones. Attributes with a column are searched in the index; all others
in the documents of the instances.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

__all__ = [
    "COLUMNS",
    "COMPUTED",
    "DEFAULTS",
    "MODALITIES_IN_STUDY",
    "Column",
    "Level",
    "Path",
    "creator_of",
    "has_several",
    "is_private",
    "level_of",
    "path_of",
    "vr_of",
]

#: An attribute by its tag, after the tags of the sequences around it; tags as in DICOM JSON, "00100010".
Path = tuple[str, ...]

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]{1,63}")
_MOST_NESTED = 8


class Level(IntEnum):
    """A level of the information model, from above."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    INSTANCE = 3


@dataclass(frozen=True, slots=True)
class Column:
    """Where the index has an attribute: an SQL expression on the tables study, series and instance.

    `key` holds person names as they are compared; `several` is set when values are joined by a backslash; `among` is a
    query that has the expression once for each of many values, to be found in any of them.
    """

    level: Level
    vr: str
    sql: str
    key: str = ""
    several: bool = False
    among: str = ""


_SERIES_OF_STUDY = "SELECT 1 FROM series{of_study} WHERE series.study_id = study.id AND {}"
_INSTANCES_OF_STUDY = (
    "SELECT 1 FROM series{of_study} JOIN instance ON instance.series_id = series.id "
    "WHERE series.study_id = study.id AND {}"
)
_SAME_PATIENT = "other.patient_id = study.patient_id AND other.issuer_of_patient_id = study.issuer_of_patient_id"
_STUDIES_OF_PATIENT = f"FROM study AS other WHERE {_SAME_PATIENT}"
_SERIES_OF_PATIENT = f"FROM series AS one JOIN study AS other ON other.id = one.study_id WHERE {_SAME_PATIENT}"

MODALITIES_IN_STUDY = "00080061"

COLUMNS: Mapping[str, Column] = {
    "00100010": Column(Level.PATIENT, "PN", "study.patient_name", key="study.patient_name_key"),
    "00100020": Column(Level.PATIENT, "LO", "study.patient_id"),
    "00100021": Column(Level.PATIENT, "LO", "study.issuer_of_patient_id"),
    "00100030": Column(Level.PATIENT, "DA", "study.patient_birth_date"),
    "00100040": Column(Level.PATIENT, "CS", "study.patient_sex"),
    "00201200": Column(Level.PATIENT, "IS", f"(SELECT count(*) {_STUDIES_OF_PATIENT})"),
    "00201202": Column(Level.PATIENT, "IS", f"(SELECT count(*) {_SERIES_OF_PATIENT})"),
    "00201204": Column(Level.PATIENT, "IS", f"(SELECT coalesce(sum(one.instance_count), 0) {_SERIES_OF_PATIENT})"),
    "00080020": Column(Level.STUDY, "DA", "study.study_date"),
    "00080030": Column(Level.STUDY, "TM", "study.study_time"),
    "00080050": Column(Level.STUDY, "SH", "study.accession_number"),
    "00080061": Column(Level.STUDY, "CS", "series.modality", among=_SERIES_OF_STUDY),
    "00080062": Column(Level.STUDY, "UI", "instance.sop_class_uid", among=_INSTANCES_OF_STUDY),
    "00080090": Column(Level.STUDY, "PN", "study.referring_physician_name", key="study.referring_physician_name_key"),
    "00080201": Column(Level.STUDY, "SH", "series.timezone_offset_from_utc", among=_SERIES_OF_STUDY),
    "00081030": Column(Level.STUDY, "LO", "study.study_description"),
    "0020000D": Column(Level.STUDY, "UI", "study.study_instance_uid"),
    "00200010": Column(Level.STUDY, "SH", "study.study_id"),
    "00201206": Column(Level.STUDY, "IS", "(SELECT count(*) FROM series AS one WHERE one.study_id = study.id)"),
    "00201208": Column(
        Level.STUDY,
        "IS",
        "(SELECT coalesce(sum(one.instance_count), 0) FROM series AS one WHERE one.study_id = study.id)",
    ),
    "00080021": Column(Level.SERIES, "DA", "series.series_date"),
    "00080031": Column(Level.SERIES, "TM", "series.series_time"),
    "00080060": Column(Level.SERIES, "CS", "series.modality"),
    "00080070": Column(Level.SERIES, "LO", "series.manufacturer"),
    "00080080": Column(Level.SERIES, "LO", "series.institution_name"),
    "00081010": Column(Level.SERIES, "SH", "series.station_name"),
    "0008103E": Column(Level.SERIES, "LO", "series.series_description"),
    "00081090": Column(Level.SERIES, "LO", "series.manufacturer_model_name"),
    "00180015": Column(Level.SERIES, "CS", "series.body_part_examined"),
    "00181030": Column(Level.SERIES, "LO", "series.protocol_name"),
    "0020000E": Column(Level.SERIES, "UI", "series.series_instance_uid"),
    "00200011": Column(Level.SERIES, "IS", "series.series_number"),
    "00200052": Column(Level.SERIES, "UI", "series.frame_of_reference_uid"),
    "00201209": Column(Level.SERIES, "IS", "series.instance_count"),
    "00400244": Column(Level.SERIES, "DA", "series.performed_procedure_step_start_date"),
    "00400245": Column(Level.SERIES, "TM", "series.performed_procedure_step_start_time"),
    "00080008": Column(Level.INSTANCE, "CS", "instance.image_type", several=True),
    "00080016": Column(Level.INSTANCE, "UI", "instance.sop_class_uid"),
    "00080018": Column(Level.INSTANCE, "UI", "instance.sop_instance_uid"),
    "00083002": Column(Level.INSTANCE, "UI", "instance.transfer_syntax_uid"),
    "00200013": Column(Level.INSTANCE, "IS", "instance.instance_number"),
    "00280008": Column(Level.INSTANCE, "IS", "instance.number_of_frames"),
    "00280010": Column(Level.INSTANCE, "US", "instance.rows"),
    "00280011": Column(Level.INSTANCE, "US", "instance.columns"),
    "00280100": Column(Level.INSTANCE, "US", "instance.bits_allocated"),
}

#: What the answer says of each match, and no instance does: character set, availability, address.
COMPUTED = frozenset({"00080005", "00080056", "00081190"})

#: What every match tells (PS3.18 tables 10.6.3-3, 10.6.3-4 and 10.6.3-5; patients in the manner of the others).
DEFAULTS: Mapping[Level, frozenset[str]] = {
    level: frozenset(tags.split())
    for level, tags in (
        (
            Level.PATIENT,
            "00080005 00100010 00100020 00100021 00100030 00100040 00201200 00201202 00201204",
        ),
        (
            Level.STUDY,
            "00080005 00080020 00080030 00080050 00080056 00080061 00080090 00080201 00081190 00100010 00100020 "
            "00100030 00100040 0020000D 00200010 00201206 00201208",
        ),
        (
            Level.SERIES,
            "00080005 00080060 00080201 0008103E 00081190 0020000E 00200011 00201209 00400244 00400245 00400275",
        ),
        (
            Level.INSTANCE,
            "00080005 00080016 00080018 00080056 00080201 00081190 00200013 00280008 00280010 00280011 00280100",
        ),
    )
}

#: Attributes above the instance that only documents have: modules of PS3.3 C.7.1, C.7.2, C.7.3, C.7.4 and C.7.5.
_UPPER = {
    Level.PATIENT: """
        00081120 00100022 00100024 00100026 00100027 00100028 00100032 00100033 00100034 00100035 00100101 00100102
        00100200 00100212 00100213 00100214 00100215 00100216 00100217 00100218 00100219 00100221 00100222 00100223
        00100229 00101000 00101001 00101002 00101005 00101040 00101060 00101090 00101100 00102160 00102201 00102202
        00102203 00102210 00102292 00102293 00102294 00102295 00102296 00102297 00102298 00102299 00104000 00120010
        00120020 00120021 00120030 00120031 00120040 00120042 00120062 00120063 00120064 00120081 00120082 00402001
        """,
    Level.STUDY: """
        00080051 00080054 00080096 0008009C 0008009D 00081032 00081048 00081049 00081060 00081062 00081080 00081084
        00081110 00101010 00101020 00101021 00101022 00101023 00101024 00101030 00102000 00102110 00102150 00102152
        00102154 00102180 001021A0 001021B0 001021C0 001021D0 001021F0 00102203 00120050 00120051 00120052 00120053
        00120083 00200070 0032000A 0032000C 00321000 00321001 00321030 00321031 00321032 00321033 00321034 00321060
        00321064 00321066 00321070 00324000 00380004 00380008 00380010 00380014 00380016 0038001A 0038001E 00380020
        00380021 00380050 00380060 00380062 00380064 00380100 00380300 00380400 00380500 00380502 00384000 00401002
        00401012 00401060
        """,
    Level.SERIES: """
        00080064 00080068 00080081 00080082 00081040 00081041 0008103F 00081050 00081052 00081070 00081072 00081111
        00081250 00120060 00120071 00120072 00120073 00180010 00181000 00181002 00181008 00181009 0018100A 00181020
        00181050 00181200 00181201 00181202 00185100 00189074 00200060 00201040 00280108 00280109 00400241 00400242
        00400243 00400250 00400251 00400252 00400253 00400254 00400260 00400275 00400280 00400281 00400555
        """,
}
_LEVELS = {tag: level for level, tags in reversed(_UPPER.items()) for tag in tags.split()}
_LEVELS |= {tag: column.level for tag, column in COLUMNS.items()}


def level_of(path: Path) -> Level:
    """Return the level that an attribute belongs to."""
    return _LEVELS.get(path[0], Level.INSTANCE)


def is_private(tag: str) -> bool:
    """Say whether a tag is private: its group is odd (PS3.5 7.8)."""
    return int(tag[3], 16) % 2 == 1


def creator_of(tag: str) -> str:
    """Return the tag of the private creator that a private element belongs to (PS3.5 7.8.1)."""
    return f"{tag[:4]}00{tag[4:6]}"


@lru_cache(maxsize=1 << 12)
def vr_of(tag: str) -> str:
    """Return the VR of an attribute, "UN" when nobody knows."""
    number = int(tag, 16)
    if is_private(tag):
        return "LO" if 0x10 <= number & 0xFFFF <= 0xFF else "UN"
    try:
        return str(dictionary_VR(number)).partition(" or ")[0]
    except KeyError:
        return "UN"


@lru_cache(maxsize=1 << 12)
def has_several(tag: str) -> bool:
    """Say whether an attribute may have several values."""
    try:
        return not is_private(tag) and str(dictionary_VM(int(tag, 16))) != "1"
    except KeyError:
        return False


@lru_cache(maxsize=1 << 12)
def path_of(text: str) -> Path | None:
    """Read an attribute as PS3.18 8.3.4.1 writes it: tags or keywords joined by dots. None if it names none."""
    if len(text) > 64 * _MOST_NESTED:
        return None
    tags = tuple(_tag(part) for part in text.split("."))
    if len(tags) > _MOST_NESTED or not all(tags) or any(vr_of(tag) not in ("SQ", "UN") for tag in tags[:-1]):
        return None
    return tags


def _tag(text: str) -> str:
    if _TAG.fullmatch(text):
        return text.upper() if int(text[:4], 16) > 2 else ""
    number = tag_for_keyword(text) if _KEYWORD.fullmatch(text) else None
    return "" if number is None else f"{number:08X}"
