"""Retention: which series are removed when they are old enough, by rules of the settings.

    [[retention]]
    name = "results of research models"
    when = { Modality = "SEG" }          on the series, as in rules (core.matching), of what the index keeps
    origin = "result"                    "received", "result" or "any" (default)
    keep_days = 90                       since the last instance of the series came; left out: for ever

The first rule that matches a series decides; a series that none matches is kept. What is older than its rule says is
removed, unless its study is on hold, a job on it has not ended, or a result of it still waits to be delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Select, exists, select
from sqlmodel import Session

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.find import INSTANCE, SERIES, STUDY, summarised
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.core.job import DeliveryState, JobState
from imaging_ai.core.matching import Conditions
from imaging_ai.core.tables import name_of
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow, HoldRow, JobRow
from imaging_ai.errors import ConfigError, NotFound, WrongState
from imaging_ai.keeping.removal import Removal

__all__ = ["Due", "Retention", "RetentionRule", "parse_retention"]

_log = logging.getLogger(__name__)

_JOB = JobRow.metadata.tables["job"]
_DELIVERY = DeliveryRow.metadata.tables["delivery"]
_HOLD = HoldRow.metadata.tables["hold"]

Origin = Literal["received", "result", "any"]

_KEYS = ("name", "when", "origin", "keep_days")
_DAY = 86_400.0
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which series are removed how long after their last instance came; `keep_seconds` None: never."""

    name: str
    when: Conditions
    origin: Origin
    keep_seconds: float | None

    def matches(self, series: SeriesSummary, origin: str) -> bool:
        """Say whether this rule decides about a series that is `received` or a `result`."""
        if self.origin not in ("any", origin):
            return False
        return not self.when.mismatches(series.attributes, series.instances)

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], where: str) -> RetentionRule:
        """Read one `[[retention]]` table.

        Raises
        ------
        ConfigError
            If anything in it is unknown, missing or unreadable, or asks for what the index does not keep.
        """
        name = name_of(mapping, _KEYS, where, what="retention rule", example="research results")
        where = f"{where}: retention rule {name!r}"
        origin = mapping.get("origin", "any")
        if origin not in get_args(Origin):
            raise ConfigError(f"{where}: origin is {origin!r}; choose {', '.join(get_args(Origin))}")
        days = mapping.get("keep_days")
        if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or days <= 0):
            raise ConfigError(
                f"{where}: keep_days is {days!r}; give more than 0 days, or leave it out to keep for ever"
            )
        when = mapping.get("when", {})
        if not isinstance(when, Mapping):
            raise ConfigError(f"{where}: when must be a table, as in when = {{ … }}")
        conditions = Conditions.parse(when, f"{where}: when")
        if strange := sorted(conditions.keywords - summarised()):
            raise ConfigError(
                f"{where}: when: {strange[0]} is not in the index; known are {', '.join(sorted(summarised()))}"
            )
        return cls(name, conditions, origin, None if days is None else float(days) * _DAY)


def parse_retention(tables: Sequence[Mapping[str, Any]], where: str) -> tuple[RetentionRule, ...]:
    """Read every `[[retention]]` table. Raises `ConfigError`."""
    return tuple(RetentionRule.parse(one, f"{where}: retention[{number}]") for number, one in enumerate(tables, 1))


@dataclass(frozen=True, slots=True)
class Due:
    """A series that is to be removed, by which rule, and how long nothing must have come to it."""

    study_instance_uid: str
    series_instance_uid: str
    rule: str
    silent_since: float

    def require_silence(self, session: Session) -> None:
        """Raise `WrongState` if something has come to the series since."""
        grown = select(SERIES.c.id).where(
            SERIES.c.series_instance_uid == self.series_instance_uid, SERIES.c.last_received_at > self.silent_since
        )
        if session.connection().execute(grown).first() is not None:
            raise WrongState("the series has grown since it was found to be old enough")


class Retention:
    """Finds the series that are due, and removes them."""

    def __init__(
        self,
        rules: Sequence[RetentionRule],
        archive: Archive,
        removal: Removal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules, self._archive, self._removal, self._clock = rules, archive, removal, clock

    def due(self) -> Iterator[Due]:
        """Give the series that are due, in the order in which they came."""
        keep = [rule.keep_seconds for rule in self._rules if rule.keep_seconds is not None]
        if not keep:
            return
        now, after = self._clock(), 0
        while rows := _page(self._archive.database, now - min(keep), after):
            after = rows[-1].id
            for row in rows:
                rule = self._rule_of(row)
                if rule and rule.keep_seconds is not None and row.last_received_at <= now - rule.keep_seconds:
                    silent_since = now - rule.keep_seconds
                    yield Due(row.study_instance_uid, row.series_instance_uid, rule.name, silent_since)

    def purge(self, most: int | None = None) -> int:
        """Remove what is due, `most` series at most; return how many series were removed."""
        removed = 0
        for one in self.due():
            if removed == most:
                break
            place = (one.study_instance_uid, one.series_instance_uid)
            try:
                self._removal.remove(
                    place,
                    action="purge-series",
                    actor="retention",
                    detail=f"rule {one.rule}",
                    require=one.require_silence,
                )
            except (NotFound, WrongState):  # somebody was faster
                continue
            removed += 1
        if removed:
            _log.info("retention: %d series removed", removed)
        return removed

    def _rule_of(self, row: Any) -> RetentionRule | None:
        try:
            series = self._archive.summary(row.series_instance_uid, row.study_instance_uid)
        except NotFound:
            return None
        return next((rule for rule in self._rules if rule.matches(series, row.origin)), None)


def _page(database: Database, before: float, after: int) -> Sequence[Any]:
    """Return series whose last instance came before a moment and that nothing keeps, by the number of their row."""
    with database.read() as session:
        return session.connection().execute(_query(before, after)).all()


def _query(before: float, after: int) -> Select[Any]:
    on_hold = exists().where(_HOLD.c.study_instance_uid == STUDY.c.study_instance_uid, _HOLD.c.lifted_at.is_(None))
    worked_on = exists().where(
        _JOB.c.study_instance_uid == STUDY.c.study_instance_uid,
        _JOB.c.state.in_((JobState.SCHEDULED.value, JobState.IN_PROGRESS.value)),
    )
    unsent = (DeliveryState.WAITING.value, DeliveryState.SENDING.value, DeliveryState.SENT.value)
    undelivered = exists().where(
        INSTANCE.c.series_id == SERIES.c.id,
        INSTANCE.c.sop_instance_uid == _DELIVERY.c.sop_instance_uid,
        _DELIVERY.c.state.in_(unsent),
    )
    return (
        select(
            SERIES.c.id,
            SERIES.c.series_instance_uid,
            SERIES.c.origin,
            SERIES.c.last_received_at,
            STUDY.c.study_instance_uid,
        )
        .join(STUDY, STUDY.c.id == SERIES.c.study_id)
        .where(SERIES.c.id > after, SERIES.c.last_received_at <= before, SERIES.c.state == "SETTLED")
        .where(~on_hold, ~worked_on, ~undelivered)
        .order_by(SERIES.c.id)
        .limit(_AT_ONCE)
    )
