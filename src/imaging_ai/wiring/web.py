"""The web role, from the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.config import Settings
from imaging_ai.core.addresses import IPNetwork
from imaging_ai.errors import ConfigError
from imaging_ai.queue.broker import WORKLIST, Doorbell, make_broker
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.wiring.parts import (
    make_archive,
    make_catalog,
    make_current_database,
    make_entrance,
    make_ledger,
    networks,
)

if TYPE_CHECKING:
    from litestar import Litestar


__all__ = ["make_proxies", "make_web_app", "serve_web"]


def serve_web(settings: Settings, welcome: Callable[[str], object]) -> None:
    """Serve HTTP until SIGTERM. While nobody is known, `welcome` is told the link for the first administrator."""
    from imaging_ai.serve.server import serve_http

    make_current_database(settings).dispose()
    if link := first_link(settings):
        welcome(link)
    http = settings.http
    serve_http(
        partial(make_web_app, settings),
        http.host,
        http.port,
        processes=http.processes,
        authenticated=settings.auth.mode == "token",
        certificate=Path(http.tls_certificate) if http.tls_certificate else None,
        key=Path(http.tls_key) if http.tls_key else None,
        ca_file=Path(http.tls_ca_file) if http.tls_ca_file else None,
        proxies=make_proxies(settings),
    )


def make_proxies(settings: Settings) -> tuple[IPNetwork, ...]:
    """Read `http.trusted_proxies`. Whoever is believed can say to be anybody, so that cannot be everybody."""
    where = f"{settings.source}: http.trusted_proxies"
    found = networks(settings.http.trusted_proxies, where)
    if any(network.prefixlen == 0 for network in found):
        raise ConfigError(f"{where}: names everybody, who could write any address into the audit; name the proxies")
    return found


def first_link(settings: Settings) -> str | None:
    """Return a link to make the first administrator with; None where nobody needs one."""
    if settings.auth.mode == "off":
        return None
    entrance = make_entrance(settings)
    link = entrance.invitations.first()
    entrance.database.dispose()
    return f"{_address(settings)}/first?link={link}" if link else None


def _address(settings: Settings) -> str:
    http = settings.http
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(http.host, http.host)  # noqa: S104 - every address of this host
    scheme = "https" if http.tls_certificate else "http"
    return http.public_url.rstrip("/") or f"{scheme}://{f'[{host}]' if ':' in host else host}:{http.port}"


def make_web_app(settings: Settings) -> Litestar:
    """Build the HTTP application."""
    from imaging_ai.archive.describer import Describer
    from imaging_ai.archive.usage import DailyUse
    from imaging_ai.audit.refusals import RefusalLog
    from imaging_ai.serve.access import AccessLog
    from imaging_ai.serve.app import make_app
    from imaging_ai.serve.dicomweb.parts import Limits, Parts
    from imaging_ai.serve.dicomweb.ups_notifier import Notifier
    from imaging_ai.serve.health import disk_check, storage_check
    from imaging_ai.serve.rates import Rates

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
        limits=Limits(
            object_bytes=settings.dicom.max_object_mb << 20, day_bytes=int(settings.http.gigabytes_per_day * 1e9)
        ),
        use=DailyUse(database) if settings.http.gigabytes_per_day else None,
        refusals=RefusalLog(database),
        ae_title=settings.dicom.ae_title,
        notifier=Notifier(Feed(database, settings.dicom.ae_title), partial(broker.listen, WORKLIST)),
        spool_folder=settings.data_path,
    )
    return make_app(
        database,
        ledger,
        checks=checks,
        entrance=make_entrance(settings, database) if settings.auth.mode == "token" else None,
        origins=settings.http.cors_origins,
        dicomweb=dicomweb,
        viewer=settings.viewer_path,
        public_url=settings.http.public_url,
        rates=Rates(settings.http.requests_per_second, settings.http.burst)
        if settings.http.requests_per_second
        else None,
        proxies=make_proxies(settings),
    )
