"""`serve` and the roles it is made of."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from imaging_ai.cli.common import settings_of
from imaging_ai.errors import UnavailableError

if TYPE_CHECKING:
    from imaging_ai.config import Settings

__all__ = ["describe", "receive", "serve", "web", "work"]


@click.command()
@click.pass_context
def serve(context: click.Context) -> None:
    """Run all roles on this machine: receive, web and work."""
    from imaging_ai import wiring

    settings = settings_of(context)
    _require_dicom_ports(settings)
    _require_port(settings.http.host, settings.http.port, "http")
    supervisor = wiring.make_supervisor(settings)
    supervisor.handle_signals()
    supervisor.run()


@click.command()
@click.pass_context
def receive(context: click.Context) -> None:
    """Take instances from modalities and PACS by C-STORE (DICOM)."""
    from imaging_ai.process import few_heaps, give_back, settle
    from imaging_ai.receive.lean import leave_out_decoders

    few_heaps()
    leave_out_decoders()
    with _role(context) as (settings, stop):
        from imaging_ai import wiring
        from imaging_ai.wiring.audited import audited_role

        _require_dicom_ports(settings)
        with audited_role(settings, "receive"):
            receiver = wiring.make_receiver(settings)
            settle()
            give_back()
            receiver.start()
            click.echo(f"receive: {settings.dicom.ae_title} on {settings.dicom.host}:{receiver.port}", err=True)
            stop.wait()
            receiver.stop()
            receiver.archive.close()


@click.command()
@click.pass_context
def web(context: click.Context) -> None:
    """Answer HTTP: DICOMweb, the viewer, logins, the API, health and metrics."""
    settings = _begin(context)
    from imaging_ai import wiring
    from imaging_ai.wiring.audited import audited_role

    _require_port(settings.http.host, settings.http.port, "http")
    with audited_role(settings, "web"):
        wiring.serve_web(settings, _welcome)


def _welcome(link: str) -> None:
    click.echo(f"web: nobody is known here yet. Make the first administrator, within the hour:\n  {link}", err=True)


@click.command()
@click.pass_context
def work(context: click.Context) -> None:
    """Route series, run models, deliver results."""
    from imaging_ai.process import few_heaps, give_back, settle

    few_heaps()
    settings = _begin(context)
    from imaging_ai import wiring
    from imaging_ai.wiring.audited import audited_role

    with audited_role(settings, "work"):
        worker = wiring.make_worker(settings)
        settle()
        give_back()
        worker.handle_signals()
        worker.run()


@click.command()
@click.pass_context
def describe(context: click.Context) -> None:
    """Make metadata and frame positions of what was received, at low priority (beside receive)."""
    from imaging_ai.process import few_heaps, give_back, settle

    few_heaps()
    with _role(context) as (settings, stop):
        from imaging_ai import wiring

        settle()
        give_back()
        wiring.run_describer(settings, stop)


def _begin(context: click.Context) -> Settings:
    """What every role does first."""
    from imaging_ai import process

    settings = settings_of(context)
    process.die_with_parent()
    process.share_metrics(settings.run_path / "metrics")
    return settings


@contextmanager
def _role(context: click.Context) -> Iterator[tuple[Settings, threading.Event]]:
    """The life of a role: settings, and an event that SIGTERM and SIGINT set."""
    settings = _begin(context)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    yield settings, stop


def _require_dicom_ports(settings: Settings) -> None:
    dicom = settings.dicom
    shared = dicom.share_port or dicom.processes > 1
    _require_port(dicom.host, dicom.port, "dicom", shared=shared)
    if dicom.tls_certificate:
        _require_port(dicom.host, dicom.tls_port, "dicom", "tls_port", shared=shared)


def _require_port(host: str, port: int, section: str, key: str = "port", *, shared: bool = False) -> None:
    """Say in the words of the settings why nobody can listen there, before libraries say it in theirs."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: f"another program listens there (`ss -ltnp` shows it); stop it, or set {section}.{key}",
            errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE (deploy/imaging-ai.service says how)",
        }
        remedy = remedies.get(error.errno or 0, f"set {section}.host to an address of this machine, or 0.0.0.0 for all")
        raise UnavailableError(f"{section}.{key}: {host}:{port}: {error.strerror}; {remedy}") from None
