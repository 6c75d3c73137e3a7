"""Work items for tests: data sets as a client sends them, and the parts of a web process over a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from httpx import Response
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.testing import TestClient

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.describer import Describer
from imaging_ai.catalog import Catalog
from imaging_ai.core.identity import new_uid
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.queue.broker import Doorbell
from imaging_ai.queue.embedded import EmbeddedBroker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_elements import code, elements, said
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.queue.workitem_news import SCHEME
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.serve.access import AccessLog
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.ups import ups_handlers
from imaging_ai.serve.dicomweb.ups_notifier import Notifier
from imaging_ai.serve.problem import respond

__all__ = [
    "AE_TITLE",
    "JSON",
    "Worklist",
    "finished",
    "make_parts",
    "model_item",
    "new_item",
    "open_worklist",
    "state_change",
]

_AUDIT = AuditEventRow.metadata.tables["audit_event"]

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


def _notifier(database: Database) -> Notifier:
    return Notifier(Feed(database, AE_TITLE), greets=False, look_every=0.02)


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
        **{"ae_title": AE_TITLE, "notifier": _notifier(database), **values},
    )


class Worklist:
    """A client of the worklist, over an application that is asked without a network."""

    def __init__(self, parts: Parts, client: TestClient[Litestar]) -> None:
        self.parts, self.http = parts, client
        self.ledger = parts.ledger

    def send(self, method: str, path: str, body: object = None, **options: Any) -> Response:
        """Send a request below /dicom-web; a body that is no bytes is sent as DICOM JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {**JSON, **options.pop("headers", {})}
        return self.http.request(method, f"/dicom-web{path}", content=content, headers=headers, **options)

    def create(self, uid: str = "", **values: Any) -> str:
        """Create a work item that must be taken, and return its UID."""
        answer = self.send("POST", f"/workitems?{uid or new_uid()}", new_item(**values))
        assert answer.status_code == 201, answer.text
        return str(answer.headers["location"].rpartition("/")[2])

    def get(self, uid: str) -> dict[str, Any]:
        """Return the data set of a work item."""
        answer = self.send("GET", f"/workitems/{uid}")
        assert answer.status_code == 200, answer.text
        (dataset,) = answer.json()
        return dict(dataset)

    def state(self, uid: str) -> str:
        return said(self.get(uid), "ProcedureStepState")

    def change(self, uid: str, state: str, transaction_uid: str | None = None) -> Response:
        return self.send("PUT", f"/workitems/{uid}/state", state_change(state, transaction_uid))

    def claim(self, uid: str) -> str:
        """Claim a work item that must be free, and return the Transaction UID."""
        transaction_uid = new_uid()
        answer = self.change(uid, "IN PROGRESS", transaction_uid)
        assert answer.status_code == 200, answer.text
        return transaction_uid

    def search(self, query: str = "") -> list[str]:
        """Return the UIDs of what a search finds."""
        answer = self.send("GET", f"/workitems?{query}")
        assert answer.status_code == 200, answer.text
        return [said(dataset, "SOPInstanceUID") for dataset in answer.json()]

    def audited(self, uid: str) -> list[str]:
        """Return what the audit trail says was done to an object."""
        self.parts.accesses.flush()
        with self.parts.database.read() as session:
            rows = session.connection().execute(_AUDIT.select().where(_AUDIT.c.object_uid == uid).order_by(_AUDIT.c.id))
            return [row.action for row in rows]


@contextmanager
def open_worklist(parts: Parts) -> Iterator[Worklist]:
    """Ask an application that has the worklist and nothing else, so that it is made quickly."""
    app = Litestar(
        [Router("/dicom-web", route_handlers=ups_handlers(parts))],
        state=State({"public_url": ""}),
        exception_handlers={Exception: respond},
        openapi_config=None,
        logging_config=None,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["host"] = "localhost:8080"
        yield Worklist(parts, client)
    if parts.notifier is not None:
        parts.notifier.stop()
