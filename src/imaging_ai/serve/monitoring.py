"""`/metrics` for Prometheus: the counters of this host, and the ledger's gauges, counted when asked for.

The gauges come from the database, so any web process tells them for all. The counters of the processes of one host
come together through files (`process.share_metrics`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Select, func, select
from sqlmodel import SQLModel

from imaging_ai.core.job import JobState
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import JobRow
from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.serve.guards import Door

__all__ = ["LedgerCollector", "metrics_handler"]

_tables = SQLModel.metadata.tables
_JOB, _SERIES, _DELIVERY = _tables[str(JobRow.__tablename__)], _tables["series"], _tables["delivery"]


class LedgerCollector(Collector):
    """Counts jobs, deliveries and series in the database at each scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        """Say nothing at registration: no query then."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the gauges; without a database only that it is down."""
        up = GaugeMetricFamily("imaging_ai_database_up", "Whether the database answers")
        try:
            with self._database.read() as session:
                gauges = list(_gauges(session.connection()))
        except DatabaseUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from gauges


def _gauges(connection: Connection) -> Iterator[Metric]:
    yield _counted(
        connection,
        GaugeMetricFamily("imaging_ai_ledger_jobs", "Jobs in the ledger", labels=["state", "queue"]),
        select(_JOB.c.state, _JOB.c.queue, func.count()).group_by(_JOB.c.state, _JOB.c.queue),
    )
    waiting = select(_JOB.c.queue, time.time() - func.min(_JOB.c.created_at)).where(_JOB.c.state == JobState.SCHEDULED)
    yield _counted(
        connection,
        GaugeMetricFamily("imaging_ai_oldest_waiting_seconds", "Age of the oldest job that waits", labels=["queue"]),
        waiting.group_by(_JOB.c.queue),
    )
    yield _counted(
        connection,
        GaugeMetricFamily("imaging_ai_series_receiving", "Series that are not complete yet"),
        select(func.count()).where(_SERIES.c.state == "RECEIVING"),
    )
    yield _counted(
        connection,
        GaugeMetricFamily("imaging_ai_ledger_deliveries", "Results on their way", labels=["state", "destination"]),
        select(_DELIVERY.c.state, _DELIVERY.c.destination, func.count()).group_by(
            _DELIVERY.c.state, _DELIVERY.c.destination
        ),
    )


def _counted(connection: Connection, gauge: GaugeMetricFamily, query: Select[Any]) -> Metric:
    for *labels, value in connection.execute(query):
        gauge.add_metric(labels, value)
    return gauge


def _counters() -> CollectorRegistry:
    """The counters of every process of this host that shares them, else of this one."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return REGISTRY
    for file in Path(folder).glob("gauge_live*_*.db"):
        if not Path(f"/proc/{file.stem.rpartition('_')[2]}").exists():
            file.unlink(missing_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def metrics_handler(database: Database, doors: Sequence[Door] = ()) -> HTTPRouteHandler:
    """Answer `/metrics`, to whoever the doors let through."""
    ledger = CollectorRegistry()
    ledger.register(LedgerCollector(database))

    @get("/metrics", sync_to_thread=True, include_in_schema=False, middleware=list(doors), opt={"needs": "metrics"})
    def metrics() -> Response[bytes]:
        exposition = generate_latest(_counters()) + generate_latest(ledger)
        return Response(exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return metrics
