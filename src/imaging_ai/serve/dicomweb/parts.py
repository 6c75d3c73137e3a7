"""What the DICOMweb transactions are made of: the rooms below, put together by `wiring`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.describer import Describer
from imaging_ai.archive.usage import DailyUse
from imaging_ai.audit.refusals import RefusalLog
from imaging_ai.catalog import Catalog
from imaging_ai.db.engine import Database
from imaging_ai.queue.broker import Doorbell
from imaging_ai.queue.ledger import Ledger
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.serve.access import AccessLog
from imaging_ai.serve.dicomweb.ups_notifier import Notifier

__all__ = ["Limits", "Parts"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    object_bytes: int = 4 << 30  # one part of a STOW request
    request_bytes: int = 64 << 30  # a STOW request
    request_parts: int = 20_000
    metadata_bytes: int = 64 << 20  # a dicom+json or dicom+xml body
    results: int = 1_000  # of one page of a search
    examined: int = 20_000  # instances that a search may look into
    idle_seconds: float = 30.0  # without a byte of a body
    day_bytes: int = 0  # that one principal stores in a day, if `Parts.use` counts them


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one web process."""

    database: Database
    archive: Archive
    describer: Describer
    ledger: Ledger
    catalog: Catalog
    doorbell: Doorbell
    quiet: QuietTimes
    accesses: AccessLog
    sop_classes: frozenset[str] = frozenset()  # further storage SOP classes that are taken (settings)
    unknown_sop_classes: bool = False
    limits: Limits = field(default_factory=Limits)
    ae_title: str = "IMAGINGAI"  # the station that performs our work items
    notifier: Notifier | None = None  # hands events of work items on; None: one that looks every second
    use: DailyUse | None = None  # who stored how much today
    refusals: RefusalLog | None = None  # where it is written down whose share of today was stored
    spool_folder: Path | None = None  # for bulk data that comes before its instance is made; None: the system's
