"""Work items for tests: data sets as a client sends them, and the parts of a web process over a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.describer import Describer
from imaging_ai.catalog import Catalog
from imaging_ai.db.engine import Database
from imaging_ai.queue.broker import Doorbell
from imaging_ai.queue.embedded import EmbeddedBroker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_elements import code, elements
from imaging_ai.queue.workitem_news import SCHEME
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.serve.access import AccessLog
from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["AE_TITLE", "JSON", "finished", "make_parts", "model_item", "new_item", "state_change"]

AE_TITLE = "IMAGINGAI"
JSON = {"content-type": "application/dicom+json"}


def new_item(**values: Any) -> dict[str, Any]:
    """A work item as a client creates it, with further or other attributes."""
    usual: dict[str, Any] = {
        "ProcedureStepState": "SCHEDULED",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": "Read the chest",
        "WorklistLabel": "Readers",
        "ScheduledProcedureStepStartDateTime": "20260301080000",
        "InputReadinessState": "READY",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
    }
    return elements(**usual | values)


def model_item(model: str, study: str, *series: str, **values: Any) -> dict[str, Any]:
    """A work item that asks for a model of ours."""
    inputs = [
        elements(TypeOfInstances="DICOM", StudyInstanceUID=study, SeriesInstanceUID=uid, ReferencedSOPSequence=None)
        for uid in series
    ]
    asked = {"ScheduledWorkitemCodeSequence": [code(model, SCHEME, model)], "InputInformationSequence": inputs}
    return new_item(**asked | values)


def state_change(state: str, transaction_uid: str | None = None) -> bytes:
    """The body of a change of state."""
    return json.dumps(elements(ProcedureStepState=state, TransactionUID=transaction_uid)).encode()


def finished() -> dict[str, Any]:
    """What a performer sets before a step is complete."""
    performed = elements(
        PerformedStationNameCodeSequence=[code("READER1", "99TEST", "Reader 1")],
        PerformedProcedureStepStartDateTime="20260301081500",
        PerformedWorkitemCodeSequence=[code("110005", "DCM", "Interpretation")],
        PerformedProcedureStepEndDateTime="20260301083000",
        OutputInformationSequence=None,
    )
    return elements(UnifiedProcedureStepPerformedProcedureSequence=[performed])


def make_parts(database: Database, folder: Path, **values: Any) -> Parts:
    """The parts of a web process over a database, with everything else in a folder."""
    store = FolderStore(folder / "objects")
    return Parts(
        database,
        Archive(database, store),
        Describer(database, store),
        values.pop("ledger", None) or Ledger(database, ae_title=AE_TITLE),
        Catalog([folder / "models"]),
        Doorbell(EmbeddedBroker(folder / "bells")),
        QuietTimes(),
        AccessLog(database, every=600.0),
        **{"ae_title": AE_TITLE, **values},
    )
