"""An archive behind its web application, without a network: what the tests of rendered resources ask."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from litestar import Litestar
from litestar.testing import TestClient
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.describer import Describer
from imaging_ai.archive.document import make_document, reader_of
from imaging_ai.archive.folder import FolderStore
from imaging_ai.catalog import Catalog
from imaging_ai.db.engine import Database
from imaging_ai.queue.broker import Doorbell
from imaging_ai.queue.ledger import Ledger
from imaging_ai.render.source import Source, open_source
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.serve.access import AccessLog
from imaging_ai.serve.app import make_app
from imaging_ai.serve.dicomweb.parts import Parts

WHO = {"source": "MODALITY", "origin_address": "10.0.0.1", "door": "dimse"}


class Web:
    """A web application and the archive behind it."""

    def __init__(self, client: TestClient[Litestar], archive: Archive, accesses: AccessLog) -> None:
        self.client, self.archive, self.accesses = client, archive, accesses

    def keep(self, *data: bytes | Dataset) -> None:
        """Put instances into the archive."""
        for one in data:
            writer = self.archive.begin()
            writer.write(phantoms.to_bytes(one) if isinstance(one, Dataset) else one)
            self.archive.keep(gate.scan(writer.head, size=writer.size), writer, **WHO)  # type: ignore[arg-type]

    def get(self, path: str, accept: str = "", **query: str) -> Any:
        """Ask for something below `/dicom-web`."""
        headers = {"accept": accept} if accept else {"accept": "*/*"}
        return self.client.get(f"/dicom-web{path}", params=query or None, headers=headers)


@contextmanager
def open_web(folder: Path) -> Iterator[Web]:
    """Open an empty archive and its web application."""
    database = Database(f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(folder / "store", min_free_bytes=0, segment_bytes=4 << 20))
    ledger, accesses = Ledger(database), AccessLog(database, every=60.0)
    parts = Parts(
        database,
        archive,
        Describer(database, archive.store),
        ledger,
        Catalog(()),
        Doorbell(None),  # type: ignore[arg-type]
        QuietTimes(10.0, 10.0),
        accesses,
    )
    with TestClient(make_app(database, ledger, dicomweb=parts), raise_server_exceptions=False) as client:
        client.headers["host"] = "localhost:8080"
        yield Web(client, archive, accesses)
    accesses.flush()
    archive.close()
    database.dispose()


def source_of(data: bytes | Dataset) -> Source:
    """Open an instance for rendering, from its file."""
    file = phantoms.to_bytes(data) if isinstance(data, Dataset) else data
    return open_source(make_document(reader_of(file), len(file), "1.2"), reader_of(file), len(file))


def pixels(data: bytes) -> NDArray[np.uint8]:
    """Read the pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(data)))


def path_of(ds: Dataset) -> str:
    """Return the path of an instance below `/dicom-web`."""
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
