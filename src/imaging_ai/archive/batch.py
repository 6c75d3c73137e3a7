"""The statements that put a batch of arrived instances into the index, in one transaction.

Plain statements on the driver's own cursor, the same text for SQLite and PostgreSQL: at a thousand instances a
second the object-relational layer would cost more than the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from imaging_ai import audit
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.core.names import name_key
from imaging_ai.core.order import day_key
from imaging_ai.errors import DatabaseUnavailable

__all__ = ["Arrival", "Batch", "Held", "KnownRows", "Visit"]

_STUDY = [
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "study_date",
    "study_time",
    "accession_number",
    "study_id",
    "study_description",
    "referring_physician_name",
]
#: Names as searches compare them.
_NAME_KEYS = {"patient_name_key": "patient_name", "referring_physician_name_key": "referring_physician_name"}
_SERIES = [
    "modality",
    "series_number",
    "series_description",
    "series_date",
    "series_time",
    "body_part_examined",
    "protocol_name",
    "manufacturer",
    "manufacturer_model_name",
    "station_name",
    "institution_name",
    "performed_procedure_step_start_date",
    "performed_procedure_step_start_time",
    "timezone_offset_from_utc",
    "frame_of_reference_uid",
]
_INSTANCE = [
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "instance_number",
    "rows",
    "columns",
    "number_of_frames",
    "bits_allocated",
    "image_type",
]


def _insert(table: str, columns: Sequence[str], then: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)}) {then}"  # noqa: S608


_PUT_STUDY = _insert(
    "study",
    ["study_instance_uid", *_STUDY, *_NAME_KEYS, "created_at", "updated_at"],
    "ON CONFLICT (study_instance_uid) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in [*_STUDY, *_NAME_KEYS, "updated_at"])
    + " RETURNING id",
)
#: The order of search results (`core.order`): a study has its day's, and its series have the study's.
_ORDER_STUDY = "UPDATE study SET sort_key = id + :day WHERE id = :id AND (sort_key IS NULL OR sort_key <> id + :day)"
_ORDER_SERIES = "UPDATE series SET study_sort_key = (SELECT sort_key FROM study WHERE id = :id) WHERE study_id = :id"
_PUT_SERIES = _insert(
    "series",
    [
        *(
            "study_id",
            "study_sort_key",
            "series_instance_uid",
            *_SERIES,
            "origin",
            "source",
            "instance_count",
            "state",
            "revision",
        ),
        *("created_at", "last_received_at", "settle_at"),
    ],
    "ON CONFLICT (study_id, series_instance_uid) DO UPDATE SET source = excluded.source RETURNING id",
).replace(":study_sort_key", "(SELECT sort_key FROM study WHERE id = :study_id)")
_PUT_INSTANCE = _insert(
    "instance",
    [*_INSTANCE, "series_id", "blob_key", "blob_offset", "blob_length", "received_at"],
    "ON CONFLICT (sop_instance_uid) DO NOTHING",
)
_TOUCH_SERIES = (
    "UPDATE series SET instance_count = instance_count + :arrived, state = 'RECEIVING', settle_at = :settle_at, "
    "last_received_at = :now, source = :source, expected_count = COALESCE(:expected, expected_count) WHERE id = :id"
)
_FIND_INSTANCE = (
    "SELECT i.blob_key, i.blob_offset, i.blob_length, i.transfer_syntax_uid, i.series_id, s.origin "
    "FROM instance i JOIN series s ON s.id = i.series_id WHERE i.sop_instance_uid = :sop_instance_uid"
)


@dataclass(slots=True)
class Visit:
    """One association or one STOW request: who brings instances, and how many of which series it has brought.

    `refused` are how many of which Series Instance UID were held with other content.
    """

    source: str
    origin_address: str
    door: str
    series: dict[int, int] = field(default_factory=dict)
    series_uids: dict[int, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """What the index holds under a SOP Instance UID."""

    blob: BlobRef
    transfer_syntax_uid: str
    series_id: int
    origin: str


@dataclass(slots=True, eq=False)
class Arrival:
    """An instance whose bytes are in place, on its way into the index."""

    header: InstanceHeader
    blob: BlobRef
    visit: Visit
    series_id: int = 0
    held: Held | None = None  # the other content that was there first
    in_doubt: bool = False  # the answer to a commit was lost
    error: BaseException | None = None


@dataclass(slots=True)
class KnownRows:
    """Rows that are known to exist: studies with what they say, series by study and UID."""

    studies: dict[str, tuple[int, tuple[object, ...]]] = field(default_factory=dict)
    series: dict[tuple[str, str], int] = field(default_factory=dict)

    def update(self, other: KnownRows) -> None:
        """Add what a committed transaction has made."""
        self.studies.update(other.studies)
        self.series.update(other.series)

    def clear(self) -> None:
        """Forget everything."""
        self.studies.clear()
        self.series.clear()


class Batch:
    """One transaction. `execute` runs a statement with named parameters.

    `made` are the rows that it made, and `events` what the audit is to say of it, to be appended last of all.
    """

    def __init__(self, execute: Callable[[str, dict[str, object]], Any], known: KnownRows, now: float, silence: float):
        self._execute = execute
        self._known = known
        self._now = now
        self._silence = silence
        self.made = KnownRows()
        self.events: list[audit.Event] = []
        self._begun: list[tuple[Visit, int]] = []

    def undo(self) -> None:
        """Take back what was noted outside of the transaction, which was rolled back."""
        for visit, series_id in self._begun:
            visit.series_uids.pop(series_id, None)

    def put(self, arrivals: Sequence[Arrival]) -> None:
        """Insert the instances, in an order that two processes cannot deadlock on."""
        touched: dict[int, list[Arrival]] = {}
        for arrival in sorted(arrivals, key=_order) if len(arrivals) > 1 else arrivals:
            if self._put(arrival):
                touched.setdefault(arrival.series_id, []).append(arrival)
        for series_id in sorted(touched):
            self._touch(series_id, touched[series_id])

    def _put(self, arrival: Arrival) -> bool:
        """Insert one instance; when its UID is taken, note what is held instead and leave every row as it is."""
        arrival.held = None
        header = arrival.header
        key = header.study_instance_uid, header.series_instance_uid
        series_id = self.made.series.get(key) or self._known.series.get(key)
        if series_id is None:
            if self._is_held(arrival):
                return False
            series_id = self._put_series(arrival)
        arrival.series_id = series_id
        values: dict[str, object] = {name: getattr(header, name) for name in _INSTANCE}
        values.update(
            series_id=series_id,
            blob_key=arrival.blob.key,
            blob_offset=arrival.blob.offset,
            blob_length=arrival.blob.length,
            received_at=self._now,
        )
        if not self._execute(_PUT_INSTANCE, values).rowcount:
            if not self._is_held(arrival):
                raise DatabaseUnavailable("the instance was deleted while it was stored again")
            return False
        self._put_study(header)
        return True

    def _is_held(self, arrival: Arrival) -> bool:
        """Look the SOP Instance UID up. Our own blob there means that an earlier commit went through unnoticed."""
        row = self._execute(_FIND_INSTANCE, {"sop_instance_uid": arrival.header.sop_instance_uid}).fetchone()
        if row is None:
            return False
        held = Held(BlobRef(row[0], row[1], row[2]), row[3], row[4], row[5])
        arrival.series_id = held.series_id
        arrival.held = None if held.blob == arrival.blob else held
        return True

    def _put_study(self, header: InstanceHeader) -> int:
        """Insert the study, or let it say what its newest instance says."""
        uid = header.study_instance_uid
        attributes = tuple([getattr(header, name) for name in _STUDY])
        known = self.made.studies.get(uid) or self._known.studies.get(uid)
        if known is not None and known[1] == attributes:
            return known[0]
        values: dict[str, object] = dict(zip(_STUDY, attributes, strict=True))
        values.update({key: name_key(getattr(header, name)) for key, name in _NAME_KEYS.items()})
        values.update(study_instance_uid=uid, created_at=self._now, updated_at=self._now)
        study_id = int(self._execute(_PUT_STUDY, values).fetchone()[0])
        if self._execute(_ORDER_STUDY, {"id": study_id, "day": day_key(header.study_date)}).rowcount:
            self._execute(_ORDER_SERIES, {"id": study_id})
        self.made.studies[uid] = study_id, attributes
        return study_id

    def _put_series(self, arrival: Arrival) -> int:
        header = arrival.header
        values: dict[str, object] = {name: getattr(header, name) for name in _SERIES}
        values.update(
            study_id=self._put_study(header),
            series_instance_uid=header.series_instance_uid,
            origin="received",
            source=arrival.visit.source,
            instance_count=0,
            state="RECEIVING",
            revision=0,
            created_at=self._now,
            last_received_at=self._now,
            settle_at=self._now + self._silence,
        )
        series_id = int(self._execute(_PUT_SERIES, values).fetchone()[0])
        self.made.series[header.study_instance_uid, header.series_instance_uid] = series_id
        return series_id

    def _touch(self, series_id: int, arrivals: list[Arrival]) -> None:
        """Count the arrivals, put the end of the silence off, and note in the audit who began to bring the series."""
        newest = arrivals[-1]
        values: dict[str, object] = {
            "arrived": len(arrivals),
            "settle_at": self._now + self._silence,
            "now": self._now,
            "source": newest.visit.source,
            "expected": _expected(newest.header),
            "id": series_id,
        }
        self._execute(_TOUCH_SERIES, values)
        for arrival in arrivals:
            visit = arrival.visit
            if series_id not in visit.series_uids:
                visit.series_uids[series_id] = arrival.header.series_instance_uid
                self._begun.append((visit, series_id))
                self.events.append(_began(arrival))


def _began(arrival: Arrival) -> audit.Event:
    visit, uid = arrival.visit, arrival.header.series_instance_uid
    return audit.event(
        "begin-transferring-instances",
        object_type="series",
        object_uid=uid,
        actor=visit.source,
        origin=visit.origin_address,
        detail=visit.door,
    )


def _order(arrival: Arrival) -> tuple[str, str, str]:
    header = arrival.header
    return header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid


def _expected(header: InstanceHeader) -> int | None:
    """Say how many instances the series should have, from Images in Acquisition, which counts frames."""
    images = header.images_in_acquisition
    if not images or images < 1:
        return None
    return -(-images // max(header.number_of_frames or 1, 1))
