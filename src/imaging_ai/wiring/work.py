"""The worker and its pipeline, from the settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.orphans import ListedStore, OrphanSweep
from imaging_ai.audit.feed import Keeper
from imaging_ai.catalog import Catalog
from imaging_ai.config import Settings
from imaging_ai.core.job import Job
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.keeping.retention import Retention
from imaging_ai.queue.broker import WORKLIST, Doorbell, make_broker
from imaging_ai.queue.events import prune as prune_events
from imaging_ai.route.completeness import next_due
from imaging_ai.route.requested import RequestedRuns
from imaging_ai.route.router import Router
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.send.strays import tell_strays
from imaging_ai.wiring.audit import make_keeper
from imaging_ai.wiring.keeping import make_retention
from imaging_ai.wiring.parts import (
    dicom_destinations,
    make_archive,
    make_catalog,
    make_current_database,
    make_database,
    make_deliveries,
    make_destinations,
    make_ledger,
    make_rules,
)

if TYPE_CHECKING:
    from imaging_ai.pipeline import Pipeline
    from imaging_ai.worker.worker import Worker


__all__ = ["make_pipeline", "make_worker"]

#: Seconds between two looks for what dead processes left in the storage.
_RECOVER_EVERY = 60.0
#: Seconds between two looks for what retention removes, and how many series one sweep removes.
_PURGE_EVERY, _PURGE_AT_ONCE = 3600.0, 20


def make_worker(settings: Settings) -> Worker:
    """Build the worker: it routes, delivers, and has a runner run the jobs."""
    from imaging_ai.queue.presence import Presence
    from imaging_ai.sandbox.forked import Zygote
    from imaging_ai.sandbox.watch import has_gpu
    from imaging_ai.send.deliverer import Deliverer
    from imaging_ai.worker.inference import Limits
    from imaging_ai.worker.messages import PipelineSpec
    from imaging_ai.worker.worker import Tasks, Worker, WorkerOptions

    database = make_current_database(settings)
    archive = make_archive(settings, database)
    broker = make_broker(settings.broker.url, settings.run_path)
    bell = Doorbell(broker)
    ledger, catalog, deliveries = (
        make_ledger(settings, database, bell),
        make_catalog(settings),
        make_deliveries(settings, database),
    )
    router = Router(database, archive, ledger, catalog, make_rules(settings))
    by_title = {one.ae_title: name for name, one in dicom_destinations(settings).items()}
    ae_title = settings.dicom.ae_title
    requested = RequestedRuns(archive, ledger, catalog, ae_title, by_title, on_change=partial(bell.ring, WORKLIST))
    presence = Presence(settings.run_path)
    deliverer = Deliverer(deliveries, archive, make_destinations(settings).values(), owner=presence.owner)

    def next_settle() -> float | None:
        with database.read() as session:
            return next_due(session)

    options = settings.worker
    return Worker(
        ledger,
        broker,
        presence,
        Tasks(
            pipeline=PipelineSpec("imaging_ai.wiring:make_pipeline", settings),
            zygote=Zygote(heard=settings.worker.sandbox == "off"),
            route_due=lambda: router.route_due() + requested.start_due(),
            next_settle=next_settle,
            deliver_next=deliverer.deliver_next,
            on_lost=deliveries.release,
            on_sweep=_upkeep(
                archive,
                deliveries,
                settings.storage.orphan_hours * 3600,
                make_keeper(settings, database, presence.owner),
                make_retention(settings, archive, ledger),
                tuple(make_destinations(settings)),
            ),
        ),
        WorkerOptions(
            queues=options.queues,
            slots=options.slots or (2 if has_gpu(options.device) else 1),
            warm_up=options.warm_up,
            lease_seconds=options.lease_seconds,
            grace_seconds=options.grace_seconds,
            limits=Limits(partial(_time_limit, catalog, options.time_limit)),
        ),
    )


def _time_limit(catalog: Catalog, longest: float, job: Job) -> float:
    """A job may take as long as its model says, and never longer than the worker allows."""
    try:
        return min(catalog.get(job.model).time_limit, longest)
    except (NotFound, ConfigError):
        return longest


def _upkeep(
    archive: Archive,
    deliveries: Deliveries,
    orphan_seconds: float,
    keeper: Keeper,
    retention: Retention,
    destinations: Collection[str],
) -> Callable[[], None]:
    """What a sweep looks after beside jobs: the audit, lost deliveries, files of dead processes, and what is old."""
    recovered_at, purged_at = -_RECOVER_EVERY, -_PURGE_EVERY
    orphans = None
    if isinstance(archive.store, ListedStore) and orphan_seconds > 0:
        orphans = OrphanSweep(archive.database, archive.store, age=orphan_seconds)

    def upkeep() -> None:
        nonlocal recovered_at, purged_at
        keeper.nudge()
        deliveries.sweep()
        if time.monotonic() - recovered_at >= _RECOVER_EVERY:
            recovered_at = time.monotonic()
            archive.recover()
            prune_events(archive.database)
            tell_strays(archive.database, destinations)
            archive.remove_deleted()
            if orphans is not None:
                orphans.run()
        if time.monotonic() - purged_at >= _PURGE_EVERY and retention.purge(_PURGE_AT_ONCE) < _PURGE_AT_ONCE:
            purged_at = time.monotonic()

    return upkeep


def make_pipeline(settings: Settings, zygote: int | None = None) -> Pipeline:
    """Build the pipeline, in a runner's process, and start the process that will run its models.

    `zygote` is the way to that of the worker.
    """
    from imaging_ai import logs
    from imaging_ai.sandbox.forked import Zygote
    from imaging_ai.wiring.models import make_sandbox

    logs.configure(settings.log.level, settings.log.style)
    sandbox = make_sandbox(settings, Zygote.of_another(zygote) if zygote is not None else None)
    sandbox.start()  # it has much to load, and can do so meanwhile

    from imaging_ai.pipeline import Pipeline

    database = make_database(settings)
    pipeline = Pipeline(
        database,
        make_archive(settings, database),
        make_ledger(settings, database),
        make_deliveries(settings, database),
        make_catalog(settings),
        sandbox,
    )
    sandbox.ready()
    return pipeline
