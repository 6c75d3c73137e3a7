"""The checks of `imaging-ai doctor`: each tries one part as it will be used, and says what to do when it fails.

Nothing here reads the settings or loads a model; `wiring` hands in what is to be tried. No check changes anything
that lasts, and what a peer or a library says is shown without data of patients.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import text

from imaging_ai.archive.blobs import BlobStore
from imaging_ai.core.tls import Identity, client_context, server_context
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import (
    ConfigError,
    DatabaseUnavailable,
    DeliveryError,
    DeliveryRefused,
    DeliveryUnavailable,
    ImagingAiError,
    StorageUnavailable,
)
from imaging_ai.sandbox.confine import Walls
from imaging_ai.send import scu
from imaging_ai.send.destinations import Destination, DicomDestination
from imaging_ai.send.peer import echo

__all__ = [
    "Finding",
    "check_broker",
    "check_certificate",
    "check_clock",
    "check_database",
    "check_deliveries",
    "check_destination",
    "check_disk",
    "check_model",
    "check_receiver",
    "check_sandbox",
    "check_settings",
    "check_storage",
    "check_web",
]

#: What results are: Segmentation, and Comprehensive 3D SR.
_RESULT_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": "SEG", "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR"}
#: What models may make besides, and a destination may well do without.
_FURTHER_CLASSES = {"1.2.840.10008.5.1.4.1.1.30": "parametric maps", "1.2.840.10008.5.1.4.1.1.7": "secondary captures"}

_MOST_SECONDS_APART = 5.0
_FEWEST_DAYS = 14
#: What our own receiver answers us when it is for others: see `send.answers`, `send.scu`.
_NOT_FOR_US = ("calling AE title not recognized", "rejected the association: no reason", "another certificate of ours")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `detail` in one line, and the `remedy` when it is not well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_settings(try_settings: Callable[[], object]) -> Finding:
    """Settings, rules and destinations can be used."""

    def act() -> str:
        try_settings()
        return "can be used"

    return _tried("settings", act, "correct the key that is named; `imaging-ai config show` shows what is in force")


def check_destination(destination: Destination, *, receiver: tuple[str, int] | None = None) -> Finding:
    """The destination answers, is not ourselves, and takes what results are.

    `receiver` is the address of our own Storage SCP.
    """
    name = f"destination {destination.name}"

    def act() -> str:
        if receiver is not None and isinstance(destination, DicomDestination) and _is_ours(destination, *receiver):
            raise ConfigError("host and port are those of our own receiver: every result would come back as input")
        echo(destination)
        if not isinstance(destination, DicomDestination):
            return f"{destination.name} answers a search"
        taken, is_searchable = scu.probe(destination, {**_RESULT_CLASSES, **_FURTHER_CLASSES})
        if refused := [label for uid, label in _RESULT_CLASSES.items() if uid not in taken]:
            raise DeliveryRefused(f"it answers the C-ECHO, but does not accept {' and '.join(refused)}")
        without = [label for uid, label in _FURTHER_CLASSES.items() if uid not in taken]
        said = "answers, takes SEG and SR" + (f", but no {' or '.join(without)}" if without else "")
        return said + ("" if is_searchable else "; cannot be queried, so nothing is confirmed")

    return _tried(
        name,
        act,
        "compare ae_title, host and port with the peer's own settings, and have ours made known there; "
        "Orthanc listens on 4242 unless told otherwise, most archives on 104 or 11112",
    )


def check_receiver(ae_title: str, host: str, port: int, tls: Identity | None = None) -> Finding:
    """Our own Storage SCP answers a C-ECHO under its AE title, over TLS if it is said who it is there."""
    address = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host  # noqa: S104 - compared only
    ourselves = DicomDestination(
        name="receiver",
        ae_title=ae_title,
        host=address,
        port=port,
        calling_ae_title=ae_title,
        timeout=10.0,
        tls=tls is not None,
        ca_file=str(tls.certificate) if tls else "",
        certificate=str(tls.certificate) if tls else "",
        key=str(tls.key) if tls else "",
        check_host_name=False,
    )
    where = f"{host}:{port}{' over TLS' if tls else ''}"

    def act() -> str:
        try:
            echo(ourselves)
        except DeliveryError as error:
            if not any(words in error.message for words in _NOT_FOR_US):
                raise
            return f"{ae_title} listens on {where} for the peers of its list only"
        return f"{ae_title} answers on {where}"

    return _tried(
        f"receiver {ae_title}", act, "start `imaging-ai serve`; if it runs, another program may hold the port"
    )


def check_certificate(name: str, identity: Identity) -> Finding:
    """The certificate `name` belongs to its key, nobody else reads that, and it is good for a while yet."""

    def act() -> str:
        server_context(identity)
        if identity.key.stat().st_mode & stat.S_IROTH:
            raise ConfigError(f"{identity.key} can be read by everybody on this machine; chmod 600 it")
        end = load_pem_x509_certificate(identity.certificate.read_bytes()).not_valid_after_utc
        days = (end.timestamp() - time.time()) / 86_400
        if days < _FEWEST_DAYS:
            raise ConfigError(f"{identity.certificate} is good for {days:.0f} days more")
        return f"good for {days:.0f} days more"

    return _tried(f"certificate {name}", act, "renew it in time; `openssl x509 -noout -text -in` shows what it says")


def check_web(url: str, tls: Identity | None = None) -> Finding:
    """The web server says that it is ready, over HTTPS if it is said who it is there."""

    def act() -> str:
        trusted = client_context(tls.certificate, tls, check_host_name=False) if tls else True
        try:
            answer = httpx.get(f"{url}/health/ready", timeout=10.0, verify=trusted)
        except httpx.TransportError as error:
            raise DeliveryUnavailable(f"{url} does not answer ({type(error).__name__})") from error
        if answer.status_code != httpx.codes.OK:
            raise DeliveryUnavailable(f"{url} is not ready: {_problem(answer)}")
        return f"{url} is ready"

    return _tried("web", act, "start `imaging-ai serve`; if it runs, mend the part that it names")


def check_database(database: Database) -> Finding:
    """The database answers and has the schema of this program."""

    def act() -> str:
        database.ping()
        migrate.check_current(database)
        return f"{'SQLite' if database.is_sqlite else 'PostgreSQL'} at revision {migrate.HEAD}"

    return _tried("database", act, "see database.url, and run `imaging-ai db upgrade` after an update")


def check_clock(database: Database) -> Finding:
    """This machine's clock is that of the database, and did not go back."""

    def act() -> str:
        with database.read() as session:
            connection = session.connection()
            newest = connection.execute(text("SELECT max(at) FROM audit_event")).scalar()
            there = (
                None if database.is_sqlite else connection.execute(text("SELECT extract(epoch FROM now())")).scalar()
            )
        now = time.time()
        if there is not None and abs(float(there) - now) > _MOST_SECONDS_APART:
            raise DatabaseUnavailable(f"the database's clock is {float(there) - now:+.0f} s from this machine's")
        if newest is not None and newest > now + _MOST_SECONDS_APART:
            raise DatabaseUnavailable(f"the audit trail has an event {newest - now:.0f} s in the future")
        return "agrees with the database"

    return _tried("clock", act, "synchronise the clocks (chrony, systemd-timesyncd): leases and times depend on them")


def check_storage(open_store: Callable[[], BlobStore]) -> Finding:
    """An object can be written, read and removed."""

    def act() -> str:
        store = open_store()
        ref = store.put(b"doctor")
        try:
            if store.read(ref) != b"doctor":
                raise StorageUnavailable("it gives back other bytes than it was given")
        finally:
            store.delete(ref)
        return "keeps what it is given"

    return _tried("storage", act, "see storage.url, the rights on its folder, and the room on its disk")


def check_disk(folder: Path, min_free_mb: int) -> Finding:
    """The disk under the data directory has room."""

    def act() -> str:
        free = shutil.disk_usage(folder).free >> 20
        if free < min_free_mb:
            raise StorageUnavailable(f"{free} MB free under {folder}, storage.min_free_mb is {min_free_mb}")
        return f"{free} MB free under {folder}"

    return _tried("disk", act, "make room, or move data_dir to a larger disk")


def check_broker(ping: Callable[[], object]) -> Finding:
    """The broker answers."""

    def act() -> str:
        ping()
        return "answers"

    return _tried("broker", act, "see broker.url and whether Redis runs; `embedded` needs no server")


def check_deliveries(strays: Callable[[], Mapping[str, int]]) -> Finding:
    """No result waits for a destination that the settings do not name."""

    def act() -> str:
        if found := strays():
            told = ", ".join(f"{count} for {name}" for name, count in found.items())
            raise ConfigError(f"results wait for destinations that no [[destinations]] names: {told}")
        return "none waits for an unknown destination"

    remedy = "name it in the settings again, or `imaging-ai deliveries redirect NAME TO`, or `deliveries give-up NAME`"
    return _tried("deliveries", act, remedy)


def check_sandbox(walls: Callable[[], Walls]) -> Finding:
    """The process that runs models starts, and every wall around it stands."""
    remedy = "docs/sandbox.md says what each wall needs of the system; a part that cannot be had leaves the others"

    def act() -> str:
        found = walls()
        if found.missing:
            raise ConfigError(found.sentence())
        return found.sentence()

    return _tried("sandbox", act, remedy)


def check_model(name: str, self_test: Callable[[], object]) -> Finding:
    """A model can be loaded and run; `self_test` does it and raises when it cannot."""

    def act() -> str:
        begun = time.monotonic()
        self_test()
        return f"works (after {time.monotonic() - begun:.1f} s)"

    return _tried(f"model {name}", act, f"`imaging-ai models check {name}` says what its bundle lacks")


def _tried(name: str, act: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(name, True, act())
    except ImagingAiError as error:
        return Finding(name, False, error.message, remedy)
    except Exception as error:  # noqa: BLE001 - the edge of a check: a library's own error is a part that does not work
        return Finding(name, False, type(error).__name__, remedy)


def _problem(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def _is_ours(destination: DicomDestination, host: str, port: int) -> bool:
    if destination.port != port:
        return False
    try:
        there = {str(entry[4][0]) for entry in socket.getaddrinfo(destination.host, None)}
    except OSError:
        return False  # the C-ECHO will say so
    return host in there or any(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in there)
