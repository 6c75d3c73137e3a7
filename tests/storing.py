"""Storing over DICOMweb in tests: an application over an archive on disk, and bodies of Store requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.testing import TestClient
from pydicom import Dataset

import phantoms
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.describer import Describer
from imaging_ai.archive.folder import FolderStore
from imaging_ai.catalog import Catalog
from imaging_ai.db.engine import Database
from imaging_ai.queue.broker import Doorbell, make_broker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.route.completeness import QuietTimes
from imaging_ai.serve.access import AccessLog
from imaging_ai.serve.dicomweb.deletion import deletion_handlers
from imaging_ai.serve.dicomweb.parts import Limits, Parts
from imaging_ai.serve.dicomweb.stow import stow_handlers
from imaging_ai.serve.problem import respond

BOUNDARY = "a-boundary"
DICOM = "application/dicom"
#: A part of a body: its headers and its bytes.
Part = tuple[Mapping[str, str], bytes]


def make_parts(database: Database, folder: Path, *, limits: Limits | None = None, **options: Any) -> Parts:
    """The parts of a web process over a storage in `folder`; `options` are those of the archive."""
    store = options.pop("store", None) or FolderStore(folder / "store", min_free_bytes=0, segment_bytes=4 << 20)
    archive = Archive(database, store, **options)
    return Parts(
        database,
        archive,
        Describer(database, archive.store),
        Ledger(database),
        Catalog([]),
        Doorbell(make_broker("embedded", folder / "run")),
        QuietTimes(quiet=2.0, silence=10.0),
        AccessLog(database),
        limits=limits or Limits(),
    )


@contextmanager
def web(parts: Parts, *, public_url: str = "") -> Iterator[TestClient[Litestar]]:
    """A client of an application that stores and deletes."""
    handlers = [*stow_handlers(parts), *deletion_handlers(parts)]
    app = Litestar(
        [Router("/dicom-web", route_handlers=handlers)],
        state=State({"public_url": public_url}),
        exception_handlers={Exception: respond},
        openapi_config=None,
    )
    with TestClient(app, base_url="http://server.local:8080", raise_server_exceptions=False) as client:
        yield client


def ct(count: int = 1, name: str = "stow") -> list[Dataset]:
    """A small CT series; another `name` is another study."""
    return phantoms.series(np.zeros((count, 8, 8), np.float32), name=name)


def instance(data: bytes) -> Part:
    """A DICOM file as a part."""
    return {"Content-Type": DICOM}, data


def multipart(parts: Iterable[Part]) -> bytes:
    """The body of a request."""
    pieces = []
    for headers, data in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        pieces += [f"--{BOUNDARY}\r\n{lines}\r\n".encode(), data, b"\r\n"]
    return b"".join([*pieces, f"--{BOUNDARY}--\r\n".encode()])


def content_type(of_type: str = DICOM) -> str:
    """The Content-Type of a multipart body."""
    return f'multipart/related; type="{of_type}"; boundary={BOUNDARY}'


def post(
    client: TestClient[Litestar], parts: Iterable[Part], study: str = "", *, of_type: str = DICOM, **headers: str
) -> Any:
    """Send a multipart Store request."""
    path = f"/dicom-web/studies/{study}" if study else "/dicom-web/studies"
    sent = {"Content-Type": content_type(of_type), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.post(path, content=multipart(parts), headers=sent)


def uids(response: Any, tag: str) -> list[str]:
    """The SOP Instance UIDs in a sequence of a store response."""
    items = response.json().get(tag, {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def reasons(response: Any, tag: str = "00081198") -> list[int]:
    """The Failure Reasons in a sequence of a store response."""
    items = response.json().get(tag, {}).get("Value", [])
    return [item["00081197"]["Value"][0] for item in items]
