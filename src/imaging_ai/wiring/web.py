"""The web role, from the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.config import Settings
from imaging_ai.people.tokens import Tokens
from imaging_ai.queue.broker import WORKLIST, Doorbell, make_broker
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.wiring.parts import (
    make_archive,
    make_catalog,
    make_current_database,
    make_ledger,
)

if TYPE_CHECKING:
    from litestar import Litestar


__all__ = ["make_web_app", "serve_web"]


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
