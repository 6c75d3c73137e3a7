"""The router: takes the studies with complete series, applies the rules, and leaves jobs in the ledger.

Reading headers and deciding happen outside of any transaction. Settling the series, scheduling its jobs and noting why
nothing ran are one transaction, so that a series never settles without them, whatever is killed. Two routers at once
make each job once: a series is claimed by one of them, and the same work has the same dedupe key.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Table, func, select
from sqlmodel import Session

from imaging_ai.archive.archive import Archive
from imaging_ai.catalog import Catalog
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.core.job import Failure, JobRequest, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InstanceRow, SeriesRow, StudyRow
from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.logs import bound
from imaging_ai.queue.ledger import Ledger
from imaging_ai.route.attributes import completed
from imaging_ai.route.completeness import claim_due, due_studies, next_due, put_off
from imaging_ai.route.plan import Decision, Run, Skip, keywords_of, looks_around, plan
from imaging_ai.route.rules import Rule

__all__ = ["Router"]

logger = logging.getLogger(__name__)

_SERIES: Table = SeriesRow.metadata.tables["series"]
_STUDY: Table = StudyRow.metadata.tables["study"]
_INSTANCE: Table = InstanceRow.metadata.tables["instance"]

#: How long a study that could not be routed is left alone, in seconds.
_PAUSE = 30.0
_LONGEST_REASON = 4000


@dataclass(frozen=True, slots=True)
class _Series:
    """A series of the study at hand, as the index has it."""

    id: int
    series_instance_uid: str
    origin: str
    state: str
    settle_at: float
    source: str
    instance_count: int

    @property
    def is_receiving(self) -> bool:
        return self.state == "RECEIVING"

    @property
    def is_input(self) -> bool:
        """Whether rules decide on it: not on our own results, nor where the only instance went to another series."""
        return self.origin != "result" and self.instance_count > 0


class Router:
    """Makes jobs of complete series by the rules; any number of routers may run."""

    def __init__(
        self, database: Database, archive: Archive, ledger: Ledger, catalog: Catalog, rules: Sequence[Rule]
    ) -> None:
        self._database = database
        self._archive = archive
        self._ledger = ledger
        self._catalog = catalog
        self._rules = tuple(rules)

    def route_due(self, now: float | None = None) -> int:
        """Route every study that has a complete series; return how many jobs that made.

        Safe to call at any time, from anywhere, twice.
        """
        now = time.time() if now is None else now
        with self._database.read() as session:
            studies = due_studies(session, now)
        made = 0
        for study_instance_uid in studies:
            with bound(study=study_instance_uid):
                made += self._route_guarded(study_instance_uid, now)
        return made

    def next_settle(self) -> float | None:
        """Return when the next series will be complete unless more arrives; None when none is being received."""
        with self._database.read() as session:
            return next_due(session)

    def _route_guarded(self, study_instance_uid: str, now: float) -> int:
        try:
            return self._route(study_instance_uid, now)
        except DatabaseUnavailable:
            raise
        except Exception:  # the edge of one study: it must not keep the others from being routed
            logger.exception("the study could not be routed; trying again in %.0f s", _PAUSE)
            with self._database.write() as session:
                series = _series_of(session, study_instance_uid)
                put_off(session, [one.id for one in series], now, now + _PAUSE)
            return 0

    def _route(self, study_instance_uid: str, now: float) -> int:
        with self._database.read() as session:
            series = _series_of(session, study_instance_uid)
        due = [one for one in series if one.is_receiving and one.settle_at <= now]
        arriving = [one for one in series if one.is_receiving and one.settle_at > now]
        seen = series if looks_around(self._rules, self._catalog) else due
        decisions = plan(
            self._rules,
            [self._summary(one, study_instance_uid) for one in seen if one.is_input],
            self._catalog,
            due=[one.series_instance_uid for one in due],
            receiving=[one.series_instance_uid for one in arriving],
        )
        early = {
            decision.series_instance_uid for decision in decisions if isinstance(decision, Skip) and decision.waits
        }
        ready = [one for one in due if one.series_instance_uid not in early]
        with self._database.write() as session:
            if early:
                waiting = [one.id for one in due if one.series_instance_uid in early]
                put_off(session, waiting, now, max(one.settle_at for one in arriving))
            revisions = claim_due(session, now, [one.id for one in ready])
            claimed = [one for one in ready if one.id in revisions]
            return self._settle(session, study_instance_uid, series, claimed, decisions)

    def _summary(self, series: _Series, study_instance_uid: str) -> SeriesSummary:
        indexed = self._archive.summary(series.series_instance_uid, study_instance_uid)
        sent_by = {"SourceApplicationEntityTitle": series.source}
        indexed = replace(indexed, attributes=sent_by | indexed.attributes)
        return completed(self._archive, indexed, keywords_of(self._rules, self._catalog))

    def _settle(
        self,
        session: Session,
        study_instance_uid: str,
        series: Sequence[_Series],
        claimed: Sequence[_Series],
        decisions: Sequence[Decision],
    ) -> int:
        """Leave in the ledger what was decided on the series that this router claimed; return the new jobs."""
        uids = {one.series_instance_uid for one in claimed}
        ids = {one.series_instance_uid: one.id for one in series}
        runs = [decision for decision in decisions if isinstance(decision, Run)]
        made = 0
        for run in runs:
            if uids.isdisjoint(one.series_instance_uid for one in run.series):
                continue
            request = _request(session, study_instance_uid, run, ids)
            if self._ledger.schedule(session, request) is not None:
                made += 1
                logger.info("rule %r runs model %r", run.rule, run.model.name)
        taken = {one.series_instance_uid for run in runs for one in run.series}
        for idle in claimed:
            if idle.is_input and idle.series_instance_uid not in taken:
                self._note(session, study_instance_uid, idle, decisions)
        return made

    def _note(self, session: Session, study_instance_uid: str, series: _Series, decisions: Sequence[Decision]) -> None:
        """Record why nothing ran on a series."""
        sentences = [
            str(decision)
            for decision in decisions
            if isinstance(decision, Skip) and decision.series_instance_uid == series.series_instance_uid
        ]
        reason = ". ".join(sentences) or "there are no rules; add [[rules]] to the settings"
        inputs, _, revision = _inputs(session, [series.id])
        request = JobRequest(
            dedupe_key=_key("nothing", study_instance_uid, series.series_instance_uid, str(revision)),
            study_instance_uid=study_instance_uid,
            series_instance_uids=(series.series_instance_uid,),
            inputs=inputs,
            revision=revision,
        )
        failure = Failure(Stage.ROUTE, "no-rule-matched", reason[:_LONGEST_REASON], permanent=True)
        self._ledger.note(session, request, failure)


def _series_of(session: Session, study_instance_uid: str) -> list[_Series]:
    columns = (
        _SERIES.c[name]
        for name in ("id", "series_instance_uid", "origin", "state", "settle_at", "source", "instance_count")
    )
    rows = session.connection().execute(
        select(*columns)
        .join(_STUDY, _STUDY.c.id == _SERIES.c.study_id)
        .where(_STUDY.c.study_instance_uid == study_instance_uid)
        .order_by(_SERIES.c.id)
    )
    return [_Series(*row) for row in rows]


def _request(session: Session, study_instance_uid: str, run: Run, ids: Mapping[str, int]) -> JobRequest:
    uids = [one.series_instance_uid for one in run.series]
    inputs, contents, revision = _inputs(session, [ids[uid] for uid in uids])
    parameters = dict(run.parameters)
    if run.channels:
        parameters["channels"] = dict(zip(run.channels, uids, strict=True))
    return JobRequest(
        dedupe_key=_key(run.model.digest, run.rule, *contents),
        study_instance_uid=study_instance_uid,
        series_instance_uids=tuple(uids),
        inputs=inputs,
        revision=revision,
        rule=run.rule,
        model=run.model.name,
        model_digest=run.model.digest,
        queue=run.model.queue,
        destinations=run.destinations,
        priority=run.priority,
        parameters=parameters,
    )


def _inputs(session: Session, series_ids: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the SOP Instance UIDs of some series now, where their bytes lie, and the sum of the series' revisions.

    A SOP Instance UID whose content was replaced is other work, and its bytes lie elsewhere.
    """
    connection = session.connection()
    rows = connection.execute(
        select(_INSTANCE.c.sop_instance_uid, _INSTANCE.c.blob_key, _INSTANCE.c.blob_offset)
        .where(_INSTANCE.c.series_id.in_(series_ids))
        .order_by(_INSTANCE.c.sop_instance_uid)
    ).all()
    revision = connection.scalar(select(func.sum(_SERIES.c.revision)).where(_SERIES.c.id.in_(series_ids)))
    contents = tuple(f"{row.sop_instance_uid} {row.blob_key} {row.blob_offset}" for row in rows)
    return tuple(row.sop_instance_uid for row in rows), contents, int(revision or 0)


def _key(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
