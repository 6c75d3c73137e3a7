"""The whole application over an archive, attacked without a network, and every answer looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.testing import TestClient
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.db.engine import Database
from imaging_ai.serve.app import make_app
from shelf import keep

__all__ = ["DICOM_JSON", "Attacked", "attack"]

DICOM_JSON = "application/dicom+json"
PROBLEM = "application/problem+json"
SECRET = "ZZSECRET"  # in everything that tells of a patient


class Attacked:
    """The application, and an instance in it."""

    def __init__(self, client: TestClient[Litestar], database: Database, place: str) -> None:
        self.client, self.database, self.place = client, database, place

    def ask(self, method: str, path: str, content: bytes = b"", **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.client.request(method, f"/dicom-web{path}", content=content, headers=sent)
        told = answer.headers.get("content-type", "")
        assert answer.status_code < 500, (method, path[:300], sent, content[:2000], answer.text)
        if answer.status_code >= 400 and not (answer.status_code == 409 and told == DICOM_JSON):
            assert told == PROBLEM, (method, path[:300], told)
            assert SECRET not in answer.text, path[:300]
        return answer

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, b"", **headers)

    @property
    def instances(self) -> int:
        with self.database.read() as session:
            (row,) = session.connection().exec_driver_sql("SELECT count(*) FROM instance").all()
        return int(row[0])


@contextmanager
def attack(folder: Path) -> Iterator[Attacked]:
    """Open the application over an archive with one instance."""
    database = Database(f"sqlite:///{folder / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    parts = storing.make_parts(database, folder)
    (ds,) = storing.ct(1, "attacked")
    ds.PatientName, ds.PatientID = f"{SECRET}^A", f"{SECRET}-1"
    header = keep(parts.archive, phantoms.to_bytes(ds))
    place = f"/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
    app = make_app(database, parts.ledger, dicomweb=parts)
    with TestClient(app, base_url="http://localhost.local", raise_server_exceptions=False) as client:
        client.headers["host"] = "localhost"
        yield Attacked(client, database, f"{place}/instances/{header.sop_instance_uid}")
    parts.accesses.flush()
    parts.archive.close()
    database.dispose()
