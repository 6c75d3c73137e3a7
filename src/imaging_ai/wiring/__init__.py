"""The composition root: builds each role from the settings. Nothing else chooses an implementation.

The front doors (`make_receiver`, `serve_web`) and the worker import no model library; only `make_pipeline`, which a
runner calls in a process of its own, and `run_folder` do.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.orphans import ListedStore, OrphanSweep
from imaging_ai.catalog import Catalog
from imaging_ai.config import Settings
from imaging_ai.core.job import Job
from imaging_ai.db import migrate
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.queue.broker import ROUTE, WORKLIST, Doorbell, make_broker
from imaging_ai.queue.events import prune as prune_events
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.route.completeness import QuietTimes, next_due, released
from imaging_ai.route.requested import RequestedRuns
from imaging_ai.route.router import Router
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.supervisor import Role, Supervisor
from imaging_ai.tokens import Tokens
from imaging_ai.wiring.parts import (
    _dicom_destinations,
    find_destination,
    make_archive,
    make_catalog,
    make_current_database,
    make_database,
    make_deliveries,
    make_destinations,
    make_doorbell,
    make_ledger,
    make_rules,
    make_store,
    make_tokens,
)

if TYPE_CHECKING:
    from litestar import Litestar

    from imaging_ai.doctor import Finding
    from imaging_ai.pipeline import Pipeline
    from imaging_ai.receive.policy import IPNetwork
    from imaging_ai.receive.scp import StorageScp
    from imaging_ai.worker.worker import Worker

__all__ = [
    "examine",
    "explain_folder",
    "find_destination",
    "install_viewer",
    "make_archive",
    "make_catalog",
    "make_current_database",
    "make_database",
    "make_deliveries",
    "make_destinations",
    "make_doorbell",
    "make_ledger",
    "make_pipeline",
    "make_receiver",
    "make_rules",
    "make_store",
    "make_supervisor",
    "make_tokens",
    "make_web_app",
    "make_worker",
    "run_describer",
    "serve_web",
]

logger = logging.getLogger(__name__)

#: Seconds between two looks for what dead processes left in the storage.
_RECOVER_EVERY = 60.0

# -- the roles


def make_supervisor(settings: Settings) -> Supervisor:
    """Plan the roles of `imaging-ai serve`; the database is brought up to date first."""
    make_rules(settings)  # what is wrong in them is said now, once, and not by a role that cannot start
    migrate.upgrade(make_database(settings))
    shutil.rmtree(settings.run_path / "metrics", ignore_errors=True)  # counters begin anew with the server
    front = ("--config", settings.source) if settings.source else ()
    roles = [Role(f"receive-{n}", (*front, "receive")) for n in range(1, settings.dicom.processes + 1)]
    roles += [Role(name, (*front, name)) for name in ("describe", "web", "work")]
    return Supervisor(roles, grace_seconds=settings.worker.grace_seconds + 10)


def make_receiver(settings: Settings) -> StorageScp:
    """Build the Storage SCP: what it keeps wakes the router when the sender says goodbye."""
    from imaging_ai.receive.policy import AssociationPolicy
    from imaging_ai.receive.scp import StorageScp

    database = make_current_database(settings)
    archive = make_archive(settings, database)
    archive.recover()
    bell = make_doorbell(settings)
    timing = QuietTimes(settings.routing.quiet_seconds, settings.routing.silence_seconds)

    def on_released(series_ids: frozenset[int], graceful: bool) -> None:
        released(database, series_ids, graceful=graceful, timing=timing)
        bell.ring(ROUTE)

    dicom = settings.dicom
    policy = AssociationPolicy(
        ae_title=dicom.ae_title,
        check_called_ae_title=dicom.check_called_ae_title,
        calling_ae_titles=frozenset(dicom.calling_ae_titles),
        networks=_networks(settings),
        sop_classes=frozenset(dicom.sop_classes),
        unknown_sop_classes=dicom.accept_unknown_sop_classes,
        max_associations=dicom.max_associations,
        max_object_bytes=dicom.max_object_mb << 20,
        idle_seconds=dicom.idle_timeout,
        artim_seconds=dicom.artim_timeout,
        data_path=dicom.data_path,
    )
    shared = dicom.share_port or dicom.processes > 1
    return StorageScp(archive, policy, on_released, host=dicom.host, port=dicom.port, share_port=shared)


def _networks(settings: Settings) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ip_network(address) for address in settings.dicom.addresses)
    except ValueError as error:
        raise ConfigError(f"{settings.source}: dicom.addresses: {error}; give addresses or networks") from None


def run_describer(settings: Settings, stop: threading.Event) -> None:
    """Make the documents of received instances, at low priority, until `stop`."""
    from imaging_ai.archive.describer import Describer

    os.nice(10)
    Describer(make_current_database(settings), make_store(settings)).run(stop, threading.Event())


def serve_web(settings: Settings) -> None:
    """Serve HTTP until SIGTERM."""
    from imaging_ai.serve.server import serve_http

    make_current_database(settings).dispose()
    http = settings.http
    serve_http(
        partial(make_web_app, settings),
        http.host,
        http.port,
        processes=http.processes,
        authenticated=settings.auth.mode == "token",
        certificate=Path(http.tls_certificate) if http.tls_certificate else None,
        key=Path(http.tls_key) if http.tls_key else None,
    )


def make_web_app(settings: Settings) -> Litestar:
    """Build the HTTP application."""
    from imaging_ai.archive.describer import Describer
    from imaging_ai.serve.access import AccessLog
    from imaging_ai.serve.app import make_app
    from imaging_ai.serve.dicomweb.parts import Limits, Parts
    from imaging_ai.serve.dicomweb.ups_notifier import Notifier
    from imaging_ai.serve.health import disk_check, storage_check

    database = make_current_database(settings)
    broker = make_broker(settings.broker.url, settings.run_path)
    bell = Doorbell(broker)
    archive, ledger = make_archive(settings, database), make_ledger(settings, database, bell)
    checks: dict[str, Callable[[], object]] = {
        "storage": storage_check(archive.store),
        "broker": broker.ping,
        "disk": disk_check(settings.data_path, settings.storage.min_free_mb),
    }
    dicomweb = Parts(
        database,
        archive,
        Describer(database, archive.store),
        ledger,
        make_catalog(settings),
        bell,
        QuietTimes(settings.routing.quiet_seconds, settings.routing.silence_seconds),
        AccessLog(database),
        sop_classes=frozenset(settings.dicom.sop_classes),
        unknown_sop_classes=settings.dicom.accept_unknown_sop_classes,
        limits=Limits(object_bytes=settings.dicom.max_object_mb << 20),
        ae_title=settings.dicom.ae_title,
        notifier=Notifier(Feed(database, settings.dicom.ae_title), partial(broker.listen, WORKLIST)),
        spool_folder=settings.data_path,
    )
    return make_app(
        database,
        ledger,
        checks=checks,
        tokens=Tokens(database) if settings.auth.mode == "token" else None,
        origins=settings.http.cors_origins,
        dicomweb=dicomweb,
        viewer=settings.viewer_path,
        public_url=settings.http.public_url,
    )


def make_worker(settings: Settings) -> Worker:
    """Build the worker: it routes, delivers, and has a runner run the jobs."""
    from imaging_ai.queue.presence import Presence
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
    by_title = {one.ae_title: name for name, one in _dicom_destinations(settings).items()}
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
            route_due=lambda: router.route_due() + requested.start_due(),
            next_settle=next_settle,
            deliver_next=deliverer.deliver_next,
            on_lost=deliveries.release,
            on_sweep=_upkeep(archive, deliveries, settings.storage.orphan_hours * 3600),
        ),
        WorkerOptions(
            queues=options.queues,
            slots=options.slots,
            warm_up=options.warm_up,
            lease_seconds=options.lease_seconds,
            grace_seconds=options.grace_seconds,
            limits=Limits(partial(_time_limit, catalog, options.time_limit), options.memory_limit_mb << 20),
        ),
    )


def _time_limit(catalog: Catalog, longest: float, job: Job) -> float:
    """A job may take as long as its model says, and never longer than the worker allows."""
    try:
        return min(catalog.get(job.model).time_limit, longest)
    except (NotFound, ConfigError):
        return longest


def _upkeep(archive: Archive, deliveries: Deliveries, orphan_seconds: float) -> Callable[[], None]:
    """What a sweep looks after beside jobs: deliveries of lost workers, and files of dead processes."""
    recovered_at = -_RECOVER_EVERY
    orphans = None
    if isinstance(archive.store, ListedStore) and orphan_seconds > 0:
        orphans = OrphanSweep(archive.database, archive.store, age=orphan_seconds)

    def upkeep() -> None:
        nonlocal recovered_at
        deliveries.sweep()
        if time.monotonic() - recovered_at >= _RECOVER_EVERY:
            recovered_at = time.monotonic()
            archive.recover()
            prune_events(archive.database)
            archive.remove_deleted()
            if orphans is not None:
                orphans.run()

    return upkeep


def make_pipeline(settings: Settings) -> Pipeline:
    """Build the pipeline, in a runner's process; this is where the model libraries are imported."""
    from imaging_ai import logs
    from imaging_ai.pipeline import Pipeline
    from imaging_ai.wiring.models import make_registry

    logs.configure(settings.log.level, settings.log.style)
    database = make_database(settings)
    return Pipeline(
        database,
        make_archive(settings, database),
        make_ledger(settings, database),
        make_deliveries(settings, database),
        make_registry(settings),
    )


# -- one-off work for the command line


def explain_folder(settings: Settings, folder: Path) -> str:
    """Say which rules match the series in a folder, and why the others do not."""
    from imaging_ai.route.explain import explain_folder as explain
    from imaging_ai.route.explain import render

    return "\n".join(render(explain(folder, make_rules(settings), make_catalog(settings))))


def install_viewer(settings: Settings, tarball: Path | None = None) -> str:
    """Install the viewer from a tarball, or from what npm fetches, and say so; once is enough."""
    from imaging_ai import viewer_install
    from imaging_ai.serve.viewer import PATH

    package, folder = viewer_install.OHIF, settings.viewer_path
    if viewer_install.installed(folder):
        return f"{package.name} {package.version} is installed in {folder}"
    with tempfile.TemporaryDirectory() as staging:
        tarball = tarball or viewer_install.fetch(package, Path(staging))
        viewer_install.install(tarball, folder, PATH)
    return f"{package.name} {package.version} is now installed in {folder}, and shown at {PATH}"


def examine(settings: Settings) -> list[Finding]:
    """Try every part of this installation as it will be used, for `imaging-ai doctor`."""
    from imaging_ai import doctor
    from imaging_ai.wiring.models import load_model

    found = [doctor.check_settings(lambda: make_rules(settings))]
    if not found[0].ok:
        return found
    dicom, http = settings.dicom, settings.http
    database = make_database(settings)
    found += [
        doctor.check_database(database),
        doctor.check_clock(database),
        doctor.check_storage(lambda: make_store(settings)),
        doctor.check_disk(settings.data_path, settings.storage.min_free_mb),
        doctor.check_broker(make_broker(settings.broker.url, settings.run_path).ping),
        doctor.check_receiver(dicom.ae_title, dicom.host, dicom.port),
        doctor.check_web(f"http://{http.host}:{http.port}"),
    ]
    address = (dicom.host, dicom.port)
    found += [doctor.check_destination(one, receiver=address) for one in make_destinations(settings).values()]
    wanted = dict.fromkeys(name for rule in make_rules(settings) for name in rule.run)
    return found + [doctor.check_model(name, partial(load_model, settings, name)) for name in wanted]
