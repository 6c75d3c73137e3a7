"""Work items that ask for one of our models become jobs as soon as their inputs are here (IHE AIW-I, PS3.4 CC.1.1).

The model's own conditions hold as they do for rules. What cannot run is CANCELED, with the reason, as a performer does
that has taken a step up and finds that it cannot do it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy import RowMapping, Table, select, update
from sqlmodel import Session, SQLModel

from imaging_ai.archive.archive import Archive
from imaging_ai.catalog import Catalog
from imaging_ai.core.job import JobRequest, JobState, Priority
from imaging_ai.core.matching import Conditions
from imaging_ai.db.engine import Database, after_commit
from imaging_ai.errors import DatabaseUnavailable, InputError, NotFound
from imaging_ai.logs import bound
from imaging_ai.queue.events import EventType, record, state_report
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_elements import Elements, code, elements, said
from imaging_ai.queue.workitem_inputs import readiness
from imaging_ai.queue.workitem_runs import RunRequest, priority_of, run_request
from imaging_ai.queue.workitem_views import find
from imaging_ai.queue.workitems import cancel_row
from imaging_ai.route.attributes import completed
from imaging_ai.route.plan import Run, Skip, keywords_of, plan
from imaging_ai.route.rules import Rule

__all__ = ["RequestedRuns"]

logger = logging.getLogger(__name__)

_ITEM: Table = SQLModel.metadata.tables["work_item"]
_SERIES: Table = SQLModel.metadata.tables["series"]
_INSTANCE: Table = SQLModel.metadata.tables["instance"]
_AT_ONCE = 100


class RequestedRuns:
    """Starts the runs that work items ask for. `destinations` are the names of destinations by AE title."""

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        catalog: Catalog,
        ae_title: str,
        destinations: Mapping[str, str],
        *,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._database: Database = archive.database
        self._archive = archive
        self._ledger = ledger
        self._catalog = catalog
        self._ae_title = ae_title
        self._destinations = dict(destinations)
        self._on_change = on_change

    def start_due(self) -> int:
        """Schedule a job for each work item whose inputs are here; return how many. Safe to call twice."""
        started = 0
        for row in self._waiting():
            with bound(job=row["uid"]):
                started += self._start_guarded(row)
        return started

    def _waiting(self) -> Sequence[RowMapping]:
        """Return the items whose first series is here: those whose inputs never came cost nothing."""
        arrived = select(_SERIES.c.id).where(
            _SERIES.c.series_instance_uid == _ITEM.c.series_instance_uid,
            _SERIES.c.state != "RECEIVING",
            _SERIES.c.instance_count > 0,
        )
        waiting = (
            select(_ITEM)
            .where(_ITEM.c.state == JobState.SCHEDULED, _ITEM.c.series_instance_uid != "", _ITEM.c.job_id.is_(None))
            .where(arrived.exists())
            .order_by(_ITEM.c.priority.desc(), _ITEM.c.created_at)
            .limit(_AT_ONCE)
        )
        with self._database.read() as session:
            return session.connection().execute(waiting).mappings().all()

    def _start_guarded(self, row: RowMapping) -> bool:
        try:
            return self._start(row)
        except DatabaseUnavailable:
            raise
        except Exception:  # the edge of one item: it must not keep the others from being started
            logger.exception("the work item could not be started")
            self._refuse(row["uid"], "this server failed to plan the run; its log says why")
            return False

    def _start(self, row: RowMapping) -> bool:
        dataset: Elements = msgspec.json.decode(row["dataset"])
        try:
            run = run_request(dataset, self._ae_title, self._catalog.names())
        except InputError as error:
            return self._refuse(row["uid"], error.message)
        if run is None:
            return self._refuse(row["uid"], "the model that it asks for is not installed any more")
        with self._database.read() as session:
            if readiness(session.connection(), run) != "READY":
                return False
        unknown = [title for title in run.output_ae_titles if title not in self._destinations]
        if unknown:
            return self._refuse(row["uid"], f"no destination here has the AE title {', '.join(unknown)}")
        decision = self._plan(run)
        if isinstance(decision, str):
            return self._refuse(row["uid"], decision)
        return self._schedule(row["uid"], dataset, run, decision)

    def _plan(self, run: RunRequest) -> Run | str:
        """Return the run, or why there is none."""
        rule = Rule(f"work item {run.model}", Conditions.parse({}, "work item"), (run.model,))
        summaries = [
            completed(
                self._archive, self._archive.summary(uid, run.study_instance_uid), keywords_of([rule], self._catalog)
            )
            for uid in run.series_instance_uids
        ]
        decisions = plan([rule], summaries, self._catalog)
        runs = [decision for decision in decisions if isinstance(decision, Run)]
        if len(runs) == 1 and len(runs[0].series) == len(run.series_instance_uids):
            return runs[0]
        reasons = [reason for one in decisions if isinstance(one, Skip) for reason in one.reasons]
        return "; ".join(dict.fromkeys(reasons)) or f"the model {run.model!r} runs on one series, and several are named"

    def _schedule(self, uid: str, dataset: Elements, run: RunRequest, planned: Run) -> bool:
        with self._database.write() as session:
            connection = session.connection()
            item = find(connection, uid, lock=True)
            if item.job is not None or item.state is not JobState.SCHEDULED:
                return False
            job_id = self._ledger.schedule(session, self._request(session, uid, dataset, run, planned))
            if job_id is None:
                return False
            ready = dataset | elements(InputReadinessState="READY")
            connection.execute(
                update(_ITEM)
                .where(_ITEM.c.uid == uid)
                .values(job_id=job_id, updated_at=time.time(), dataset=msgspec.json.encode(ready).decode())
            )
            if said(dataset, "InputReadinessState") != "READY":
                record(connection, uid, EventType.STATE_REPORT, state_report(JobState.SCHEDULED))
        logger.info("the work item runs model %r", run.model)
        return True

    def _request(self, session: Session, uid: str, dataset: Elements, run: RunRequest, planned: Run) -> JobRequest:
        series = tuple(one.series_instance_uid for one in planned.series)
        rows = session.connection().execute(
            select(_INSTANCE.c.sop_instance_uid)
            .select_from(_INSTANCE.join(_SERIES, _SERIES.c.id == _INSTANCE.c.series_id))
            .where(_SERIES.c.series_instance_uid.in_(series))
            .order_by(_INSTANCE.c.sop_instance_uid)
        )
        held = [row.sop_instance_uid for row in rows]
        parameters: dict[str, object] = {}
        if planned.channels:
            parameters["channels"] = dict(zip(planned.channels, series, strict=True))
        priority: Priority = priority_of(dataset)
        return JobRequest(
            dedupe_key=hashlib.sha256(f"work item {uid}".encode()).hexdigest(),
            study_instance_uid=run.study_instance_uid,
            series_instance_uids=series,
            inputs=tuple(one for one in held if not run.instances or one in run.instances),
            revision=max((one.revision for one in planned.series), default=1),
            rule=f"work item {uid}",
            model=planned.model.name,
            model_digest=planned.model.digest,
            queue=planned.model.queue,
            destinations=tuple(self._destinations[title] for title in run.output_ae_titles),
            priority=priority,
            parameters=parameters,
            job_uid=uid,
        )

    def _refuse(self, uid: str, reason: str) -> bool:
        """End an item that cannot run, and say why."""
        unsuitable = code("110522", "DCM", "Object Types not supported")
        with self._database.write() as session:
            try:
                item = find(session.connection(), uid, lock=True)
            except NotFound:
                return False
            if item.state is JobState.SCHEDULED and item.job is None:
                cancel_row(session.connection(), item, time.time(), reason=reason[:1024], codes=[unsuitable])
            if self._on_change is not None:
                after_commit(session, self._on_change)
        logger.info("the work item is refused: %s", reason)
        return False
