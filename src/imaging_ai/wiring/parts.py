"""The parts that roles are built of, each made from the settings."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from sqlalchemy.engine import make_url

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import BlobStore, open_store
from imaging_ai.audit.keys import open_keys
from imaging_ai.audit.trail import attach
from imaging_ai.catalog import Catalog
from imaging_ai.config import Settings
from imaging_ai.config.secrets import read_secret
from imaging_ai.core.addresses import IPNetwork
from imaging_ai.core.tls import Identity
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.keys.service import KeyService, KeyServices
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.key import ServerKey
from imaging_ai.people.oidc_provider import Provider, Registration
from imaging_ai.people.sessions import Lifetimes
from imaging_ai.queue.broker import WORKLIST, Doorbell, make_broker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.route.rules import Rule, parse_rules
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.send.destinations import Destination, DicomDestination


def make_database(settings: Settings) -> Database:
    """Open the database of the settings. What is made new is not for everybody on this machine to read."""
    settings.data_path.mkdir(mode=0o750, parents=True, exist_ok=True)
    database = Database(settings.database_url)
    if database.is_sqlite and (file := make_url(database.url).database):
        with suppress(OSError):  # who connects is told
            # only where there is none: closing a file would end the locks that SQLite has on it in this process
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    attach(database, open_keys(settings.audit_key_path))
    return database


def make_current_database(settings: Settings) -> Database:
    """Open the database, and refuse one of another schema. A new SQLite file gets its tables here."""
    database = make_database(settings)
    if database.is_sqlite:
        migrate.upgrade(database)
    migrate.check_current(database)
    return database


def make_keys(settings: Settings) -> KeyService | None:
    """Open what holds the keys of encrypted objects; None: there are none. The service, if any, wraps new ones."""
    storage, services = settings.storage, list[KeyService]()
    if storage.encryption_key_service:
        from imaging_ai.keys.transit import open_transit

        services.append(open_transit(storage.encryption_key_service, storage.encryption_token_file))
    if storage.encryption_key_file:
        from imaging_ai.keys.file import FileKeys

        services.append(FileKeys(Path(storage.encryption_key_file).expanduser().absolute()))
    return KeyServices(services) if services else None


def make_store(settings: Settings) -> BlobStore:
    """Open the object storage of the settings."""
    return open_store(
        settings.storage_url,
        sync=settings.dicom.ack == "synced",
        min_free_bytes=settings.storage.min_free_mb << 20,
        keys=make_keys(settings),
        seals=settings.storage.encrypt_new,
    )


def make_archive(settings: Settings, database: Database | None = None) -> Archive:
    """Put the archive together."""
    return Archive(
        database or make_current_database(settings),
        make_store(settings),
        conflict=settings.storage.on_conflict,
        silence=settings.routing.silence_seconds,
    )


def make_identity(certificate: str, key: str, where: str) -> Identity | None:
    """Name a certificate with its key; None where neither is set."""
    if bool(certificate) != bool(key):
        raise ConfigError(f"{where}: goes together with its key; give both")
    return Identity(Path(certificate).expanduser(), Path(key).expanduser()) if certificate else None


def networks(addresses: Iterable[str], where: str) -> tuple[IPNetwork, ...]:
    """Read addresses and networks of the settings."""
    try:
        return tuple(ip_network(address) for address in addresses)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; give addresses or networks") from None


def make_catalog(settings: Settings) -> Catalog:
    """List the models in the folders of the settings."""
    return Catalog(settings.model_folders)


def make_destinations(settings: Settings) -> dict[str, Destination]:
    """Read `[[destinations]]`, by name."""
    destinations: dict[str, Destination] = {}
    for number, table in enumerate(settings.destinations, 1):
        where = f"{settings.source}: destinations[{number}]"
        one = Destination.parse(table, where, calling_ae_title=settings.dicom.ae_title)
        if one.name in destinations:
            raise ConfigError(f"{where}: two destinations are called {one.name!r}; give each its own name")
        destinations[one.name] = one
    return destinations


def dicom_destinations(settings: Settings) -> dict[str, DicomDestination]:
    return {name: one for name, one in make_destinations(settings).items() if isinstance(one, DicomDestination)}


def make_rules(settings: Settings) -> tuple[Rule, ...]:
    """Read `[[rules]]`, and hold the names in them against models and destinations."""
    return parse_rules(
        settings.rules,
        settings.source or "settings",
        models=make_catalog(settings).names(),
        destinations=tuple(make_destinations(settings)),
    )


def make_entrance(settings: Settings, database: Database | None = None) -> Entrance:
    """Open the entrance: people, programs, and how they are let in. A missing key of the server is made."""
    auth = settings.auth
    lifetimes = Lifetimes(
        access=auth.access_minutes * 60,
        idle=auth.idle_minutes * 60,
        session=auth.session_hours * 3600,
        emergency=auth.emergency_minutes * 60,
    )
    key = ServerKey.given(Path(auth.key_file)) if auth.key_file else ServerKey.own(settings.data_path / "auth.key")
    return Entrance.open(database or make_current_database(settings), key, lifetimes, provider=make_provider(settings))


def make_provider(settings: Settings) -> Provider | None:
    """Make ready to speak to the OpenID provider of the hospital; None: there is none. It is not spoken to yet."""
    auth = settings.auth
    if not auth.oidc_issuer:
        return None
    return Provider(
        Registration(
            auth.oidc_issuer,
            auth.oidc_client_id,
            read_secret(auth.oidc_client_secret_file, "auth.oidc_client_secret_file"),
            auth.oidc_audience,
            auth.oidc_role_claim,
            auth.oidc_roles,
            auth.oidc_scopes,
            Path(auth.oidc_ca_file).expanduser() if auth.oidc_ca_file else None,
        )
    )


def make_ledger(settings: Settings, database: Database | None = None, bell: Doorbell | None = None) -> Ledger:
    """Open the ledger of jobs; with a doorbell, web processes hear at once of what becomes of a job."""
    return Ledger(
        database or make_current_database(settings),
        max_attempts=settings.worker.max_attempts,
        ae_title=settings.dicom.ae_title,
        on_change=partial(bell.ring, WORKLIST) if bell else None,
    )


def make_deliveries(settings: Settings, database: Database | None = None) -> Deliveries:
    """Open the ledger of deliveries."""
    return Deliveries(database or make_current_database(settings))


def make_doorbell(settings: Settings) -> Doorbell:
    """Open the way to wake workers."""
    return Doorbell(make_broker(settings.broker.url, settings.run_path))


def find_destination(settings: Settings, name: str) -> Destination:
    """Return the destination `name`, or the one written as AETITLE@HOST:PORT."""
    known = make_destinations(settings)
    if name in known:
        return known[name]
    title, at, address = name.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and port.isdigit()):
        raise NotFound(f"no destination {name!r}; known: {', '.join(known) or 'none'}; or give AETITLE@HOST:PORT")
    table = {"name": title, "ae_title": title, "host": host, "port": int(port)}
    return Destination.parse(table, name, calling_ae_title=settings.dicom.ae_title)
