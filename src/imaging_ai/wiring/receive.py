"""The Storage SCP and the describer beside it, from the settings."""

from __future__ import annotations

import os
import threading
from ipaddress import ip_network
from typing import TYPE_CHECKING

from imaging_ai.config import Settings
from imaging_ai.errors import ConfigError
from imaging_ai.queue.broker import ROUTE
from imaging_ai.route.completeness import QuietTimes, released
from imaging_ai.wiring.parts import (
    make_archive,
    make_current_database,
    make_doorbell,
    make_store,
)

if TYPE_CHECKING:
    from imaging_ai.receive.policy import IPNetwork
    from imaging_ai.receive.scp import StorageScp


__all__ = ["make_receiver", "run_describer"]


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
