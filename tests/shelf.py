"""An archive filled with files, and the server over it, for tests of what is retrieved."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.testing import TestClient
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import pixel_array
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.gate import scan
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.db.engine import Database
from imaging_ai.serve.dicomweb.deletion import deletion_handlers
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.wado import wado_handlers
from imaging_ai.serve.dicomweb.wire import ALWAYS
from imaging_ai.serve.problem import respond
from imaging_ai.serve.unbroken import unbroken

ELE = "1.2.840.10008.1.2.1"
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'
OHIF = "multipart/related; type=application/octet-stream; transfer-syntax=*"


@dataclass(frozen=True)
class Part:
    """One part of a multipart answer."""

    headers: dict[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers["content-type"]

    @property
    def dataset(self) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.body), force=True)


@dataclass(frozen=True)
class Shelf:
    """The server, and what is on its shelf."""

    client: TestClient[Litestar]
    parts: Parts

    def put(self, *files: bytes | Dataset) -> list[str]:
        """Store instances; return their paths below the root of DICOMweb."""
        paths = []
        for file in files:
            data = phantoms.to_bytes(file) if isinstance(file, Dataset) else file
            header = keep(self.parts.archive, data)
            study = f"studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
            paths.append(f"{study}/instances/{header.sop_instance_uid}")
        return paths

    def get(self, path: str, accept: str | None = None, **headers: str) -> httpx.Response:
        """Ask for a path, as a client that says no more than this."""
        sent = {
            "accept": "",
            "accept-encoding": "",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if accept is not None:
            sent["accept"] = accept
        return self.client.get(f"/dicom-web/{path}", headers=sent)

    def parts_of(self, path: str, accept: str | None = None, status: int = 200, **headers: str) -> list[Part]:
        """Ask for a path, and take the answer apart."""
        answer = self.get(path, accept, **headers)
        assert answer.status_code == status, answer.text[:500]
        return split(answer)


def keep(archive: Archive, data: bytes) -> InstanceHeader:
    """Store a file as it would be received; return its header."""
    header = scan(data)
    writer = archive.begin(len(data))
    writer.write(data)
    archive.keep(header, writer, source="TESTS", origin_address="127.0.0.1", door="stow")
    return header


def split(answer: httpx.Response) -> list[Part]:
    """Take a multipart answer apart (RFC 2046), as strictly as a client might."""
    match = re.fullmatch(r'multipart/related; type="([^"]+)"; boundary="([^"]+)"', answer.headers["content-type"])
    assert match, answer.headers["content-type"]
    body, boundary = answer.content, match[2].encode()
    assert body.startswith(b"--" + boundary + b"\r\n")
    assert body.endswith(b"\r\n--" + boundary + b"--\r\n")
    found = []
    for raw in body[len(boundary) + 4 : -len(boundary) - 8].split(b"\r\n--" + boundary + b"\r\n"):
        head, _, content = raw.partition(b"\r\n\r\n")
        lines = (line.partition(": ") for line in head.decode().split("\r\n"))
        found.append(Part({name.lower(): value for name, _, value in lines}, content))
        assert found[-1].content_type.startswith(match[1])
    return found


def pixels(data: bytes, *, raw: bool = True) -> NDArray[np.generic]:
    """Decode a file with pydicom, the judge."""
    return pixel_array(pydicom.dcmread(io.BytesIO(data), force=True), raw=raw)


@contextmanager
def shelf(folder: Path, url: str = "", **options: Any) -> Iterator[Shelf]:
    """An empty shelf, over SQLite if no other `url` is given; `options` are those of the archive."""
    database = Database(url or f"sqlite:///{folder / 'index.db'}")
    SQLModel.metadata.drop_all(database.engine)
    SQLModel.metadata.create_all(database.engine)
    parts = storing.make_parts(database, folder, **options)
    app = Litestar(
        [
            Router(
                "/dicom-web",
                route_handlers=[*wado_handlers(parts), *deletion_handlers(parts)],
                response_headers=ALWAYS,
            )
        ],
        state=State({"public_url": ""}),
        middleware=[unbroken],
        exception_handlers={Exception: respond},
        openapi_config=None,
    )
    with TestClient(app, base_url="http://server.local:8080", raise_server_exceptions=False) as client:
        yield Shelf(client, parts)
    parts.accesses.flush()
    parts.archive.close()
    database.dispose()
