"""The Storage SCP and the describer beside it, from the settings."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.config import Settings
from imaging_ai.config.sections import PeerSettings
from imaging_ai.errors import ConfigError
from imaging_ai.queue.broker import ROUTE
from imaging_ai.route.completeness import QuietTimes, released
from imaging_ai.wiring.parts import (
    make_archive,
    make_current_database,
    make_doorbell,
    make_identity,
    make_store,
    networks,
)

if TYPE_CHECKING:
    from imaging_ai.core.tls import ServerTls
    from imaging_ai.receive.peers import Peer
    from imaging_ai.receive.scp import StorageScp


__all__ = ["make_dicom_tls", "make_peers", "make_receiver", "run_describer"]

#: Slower, and a PDU would take longer than the time-outs of senders.
_SLOWEST_MEGABYTES = 0.1


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
        networks=networks(dicom.addresses, f"{settings.source}: dicom.addresses"),
        peers=make_peers(settings),
        sop_classes=frozenset(dicom.sop_classes),
        unknown_sop_classes=dicom.accept_unknown_sop_classes,
        max_associations=dicom.max_associations,
        max_object_bytes=dicom.max_object_mb << 20,
        idle_seconds=dicom.idle_timeout,
        artim_seconds=dicom.artim_timeout,
        data_path=dicom.data_path,
    )
    shared = dicom.share_port or dicom.processes > 1
    return StorageScp(
        archive,
        policy,
        on_released,
        host=dicom.host,
        port=dicom.port,
        share_port=shared,
        tls=make_dicom_tls(settings),
        tls_port=dicom.tls_port,
    )


def make_dicom_tls(settings: Settings) -> ServerTls | None:
    """Open what DICOM over TLS needs; None when it is not wanted."""
    from imaging_ai.core.tls import ServerTls

    dicom = settings.dicom
    identity = make_identity(dicom.tls_certificate, dicom.tls_key, f"{settings.source}: dicom.tls_certificate")
    if identity is None:
        if dicom.tls_ca_file:
            raise ConfigError(f"{settings.source}: dicom.tls_ca_file: needs dicom.tls_certificate and dicom.tls_key")
        return None
    ca_file = Path(dicom.tls_ca_file).expanduser() if dicom.tls_ca_file else None
    return ServerTls(identity, ca_file, require_certificate=dicom.tls_require_certificate)


def make_peers(settings: Settings) -> tuple[Peer, ...]:
    """Read `[[peers]]`."""
    return tuple(
        _peer(one, f"{settings.source}: peers[{number}]", with_certificates=bool(settings.dicom.tls_ca_file))
        for number, one in enumerate(settings.peers, 1)
    )


def _peer(one: PeerSettings, where: str, *, with_certificates: bool) -> Peer:
    from imaging_ai.receive.peers import Peer, parse_certificate

    if one.certificates and not with_certificates:
        raise ConfigError(f"{where}: certificates: nobody is asked for one; set dicom.tls_ca_file and tls_certificate")
    if 0 < one.megabytes_per_second < _SLOWEST_MEGABYTES:
        raise ConfigError(f"{where}: megabytes_per_second: give {_SLOWEST_MEGABYTES} or more, or 0 for no limit")
    try:
        certificates = tuple(parse_certificate(text) for text in one.certificates)
    except ConfigError as error:
        raise ConfigError(f"{where}: certificates: {error.message}") from None
    return Peer(
        one.ae_title.strip(),
        networks(one.addresses, f"{where}: addresses"),
        certificates,
        frozenset(one.may),
        one.max_associations,
        one.instances_per_second,
        one.megabytes_per_second * 1e6,
        int(one.gigabytes_per_day * 1e9),
    )


def run_describer(settings: Settings, stop: threading.Event) -> None:
    """Make the documents of received instances, at low priority, until `stop`."""
    from imaging_ai.archive.describer import Describer

    os.nice(10)
    Describer(make_current_database(settings), make_store(settings)).run(stop, threading.Event())
