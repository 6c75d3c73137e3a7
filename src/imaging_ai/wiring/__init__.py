"""The composition root: builds each role from the settings. Nothing else chooses an implementation.

The front doors (`make_receiver`, `serve_web`) and the worker import no model library; only `make_pipeline`, which a
runner calls in a process of its own, and `run_folder` do.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.config import Settings
from imaging_ai.db import migrate
from imaging_ai.queue.broker import make_broker
from imaging_ai.supervisor import Role, Supervisor, be_alone
from imaging_ai.wiring.parts import (
    find_destination,
    make_archive,
    make_catalog,
    make_current_database,
    make_database,
    make_deliveries,
    make_destinations,
    make_doorbell,
    make_entrance,
    make_identity,
    make_ledger,
    make_rules,
    make_store,
)
from imaging_ai.wiring.receive import make_dicom_tls, make_peers, make_receiver, run_describer
from imaging_ai.wiring.web import make_proxies, make_web_app, serve_web
from imaging_ai.wiring.work import make_pipeline, make_worker

if TYPE_CHECKING:
    from imaging_ai.catalog import Catalog
    from imaging_ai.doctor import Finding
    from imaging_ai.sandbox.client import Sandbox

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
    "make_dicom_tls",
    "make_doorbell",
    "make_entrance",
    "make_ledger",
    "make_peers",
    "make_pipeline",
    "make_proxies",
    "make_receiver",
    "make_rules",
    "make_store",
    "make_supervisor",
    "make_web_app",
    "make_worker",
    "run_describer",
    "serve_web",
]

# -- the roles


def make_supervisor(settings: Settings) -> Supervisor:
    """Plan the roles of `imaging-ai serve`; the database is brought up to date first."""
    from imaging_ai.wiring.check import check_settings

    check_settings(settings)  # what is wrong is said now, once, and not by a role that cannot start
    make_proxies(settings)
    be_alone(settings.run_path / "serve.lock")
    migrate.upgrade(make_database(settings))
    shutil.rmtree(settings.run_path / "metrics", ignore_errors=True)  # counters begin anew with the server
    front = ("--config", settings.source) if settings.source else ()
    roles = [Role(f"receive-{n}", (*front, "receive")) for n in range(1, settings.dicom.processes + 1)]
    roles += [Role(name, (*front, name)) for name in ("describe", "web", "work")]
    return Supervisor(roles, grace_seconds=settings.worker.grace_seconds + 10)


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
    from imaging_ai.send.strays import stray
    from imaging_ai.wiring.check import check_settings
    from imaging_ai.wiring.models import make_sandbox

    found = [doctor.check_settings(lambda: check_settings(settings))]
    if not found[0].ok:
        return found
    dicom, http = settings.dicom, settings.http
    tls = make_identity(dicom.tls_certificate, dicom.tls_key, "dicom.tls_certificate")
    https = make_identity(http.tls_certificate, http.tls_key, "http.tls_certificate")
    database = make_database(settings)
    found += [
        doctor.check_database(database),
        doctor.check_clock(database),
        doctor.check_storage(lambda: make_store(settings)),
        doctor.check_disk(settings.data_path, settings.storage.min_free_mb),
        doctor.check_broker(make_broker(settings.broker.url, settings.run_path).ping),
        doctor.check_receiver(dicom.ae_title, dicom.host, dicom.port, tls if dicom.tls_port == dicom.port else None),
        doctor.check_web(f"{'https' if https else 'http'}://{http.host}:{http.port}", https),
    ]
    if tls and dicom.tls_port != dicom.port:
        found.append(doctor.check_receiver(dicom.ae_title, dicom.host, dicom.tls_port, tls))
    found += [doctor.check_certificate(name, one) for name, one in (("of DICOM", tls), ("of HTTPS", https)) if one]
    address = (dicom.host, dicom.port)
    found += [doctor.check_destination(one, receiver=address) for one in make_destinations(settings).values()]
    found.append(doctor.check_deliveries(lambda: stray(database, tuple(make_destinations(settings)))))
    wanted = dict.fromkeys(name for rule in make_rules(settings) for name in rule.run)
    sandbox, catalog = make_sandbox(settings), make_catalog(settings)
    found.append(doctor.check_sandbox(sandbox.ready))
    found += [doctor.check_model(name, partial(_loaded, sandbox, catalog, name)) for name in wanted]
    return found


def _loaded(sandbox: Sandbox, catalog: Catalog, name: str) -> None:
    sandbox.check(catalog.get(name), trial=False)
