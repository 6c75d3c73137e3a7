"""What is fuzzed: each target takes any bytes, and raises nothing but what its callers expect of bad input.

Whatever else comes out of one is a finding; so is one that takes long or much memory (libFuzzer watches both).
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl

import msgspec
from sqlmodel import SQLModel

from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.document import make_document, pack_json, reader_of, unpack_json
from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.frames import FrameTable
from imaging_ai.archive.from_json import Bulk, encode_elements
from imaging_ai.archive.gate import scan
from imaging_ai.archive.query_attributes import COLUMNS, Level
from imaging_ai.archive.query_plan import plan_of
from imaging_ai.archive.query_sql import SQLITE
from imaging_ai.core.contexts import TRANSFER_SYNTAXES
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError
from imaging_ai.receive.command import parse_command
from imaging_ai.receive.negotiation import AcceptedContext, negotiate
from imaging_ai.receive.pdu import MalformedPdu, parse_request
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.session import StorageSession
from imaging_ai.serve.dicomweb.media import best_of, ranges_of
from imaging_ai.serve.dicomweb.multipart_in import Splitter
from imaging_ai.serve.dicomweb.native import from_xml, to_xml
from imaging_ai.serve.dicomweb.qido_request import query_of

__all__ = ["TARGETS"]

_CT = "1.2.840.10008.5.1.4.1.1.2"


def associate(data: bytes) -> None:
    """An A-ASSOCIATE-RQ, and what is answered to it."""
    with suppress(MalformedPdu):
        negotiate(AssociationPolicy(), parse_request(data).contexts)


def command(data: bytes) -> None:
    """A command set."""
    with suppress(MalformedPdu):
        parse_command(data)


def association(data: bytes) -> None:
    """Everything that comes over an association once it is accepted."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data[: 100 << 10])
        theirs.shutdown(socket.SHUT_WR)
        contexts = {
            number: AcceptedContext(number, _CT, syntax)
            for number, syntax in zip((1, 3, 5), TRANSFER_SYNTAXES, strict=False)
        }
        visit = Visit("FUZZ", "127.0.0.1", "dimse")
        StorageSession(ours, _archive(), AssociationPolicy(idle_seconds=2.0), contexts, visit, 16_384).run()


@cache
def _archive() -> Archive:
    """An archive that is given away with the process."""
    folder = Path(tempfile.mkdtemp(prefix="imaging-ai-fuzz-"))
    database = Database(f"sqlite:///{folder / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    return Archive(database, FolderStore(folder / "store", sync=False, min_free_bytes=0))


def part10(data: bytes) -> None:
    """A DICOM file: the gate, then the document and the frames that readers get."""
    with suppress(InputError):
        header = scan(data)
        document = make_document(reader_of(data), len(data), header.sop_instance_uid)
        json.loads(unpack_json(pack_json(document.json), b"http://host/"))
        again = FrameTable.unpack(document.frames.pack())
        for number in range(1, min(again.count, 3) + 1):
            assert all(start + length <= len(data) for start, length in again.ranges(number)), "a frame is in the file"


def bare_data_set(data: bytes) -> None:
    """A data set as C-STORE brings it, in the transfer syntax that the first byte chooses."""
    syntaxes = sorted(TRANSFER_SYNTAXES)
    with suppress(InputError):
        scan(data[1:], syntaxes[data[0] % len(syntaxes)] if data else syntaxes[0])


def multipart(data: bytes) -> None:
    """A multipart body, in pieces whose length the first byte says; it is split alike whatever the pieces are."""
    size = data[0] + 1 if data else 1
    assert _split(data[1:], size) == _split(data[1:], 1 << 20)


def _split(data: bytes, size: int) -> list[object]:
    events, splitter = list[object](), Splitter("b")
    try:
        for start in range(0, len(data), size):
            for event in splitter.feed(data[start : start + size]):
                if not isinstance(event, memoryview):
                    events.append(event)
                elif events and isinstance(events[-1], bytes):
                    events[-1] += bytes(event)
                elif len(event):
                    events.append(bytes(event))
        splitter.finish()
    except InputError as error:
        return [type(error)]
    return events


def dicom_json(data: bytes) -> None:
    """DICOM JSON, encoded, and read again as an instance."""
    with suppress(InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        elements = msgspec.json.decode(data)
        if isinstance(elements, dict):
            pieces = encode_elements(elements, lambda *_: Bulk([b""]))
            scan(b"".join(piece for piece in pieces if isinstance(piece, bytes)), "1.2.840.10008.1.2.1")


def dicom_xml(data: bytes) -> None:
    """DICOM XML; what can be read can be written, and read again as the same."""
    with suppress(InputError):
        elements = from_xml(data)
        to_xml(elements)


def search(data: bytes) -> None:
    """The query of a search on each level, as far as the SQL of it."""
    parameters = parse_qsl(data.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200) if data else []
    for level in Level:
        with suppress(InputError):
            query = query_of(parameters, level, {}, frozenset({level}), 1_000)
            keys = {key.path[0]: key.criterion for key in query.keys if len(key.path) == 1 and key.path[0] in COLUMNS}
            plan_of(level, {tag: one for tag, one in keys.items() if COLUMNS[tag].level <= level}, SQLITE)


def accept(data: bytes) -> None:
    """An Accept header."""
    with suppress(InputError):
        best_of(
            ranges_of(data.decode("latin-1")), ("application/dicom+json", 'multipart/related; type="application/dicom"')
        )


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {
        one.__name__: one
        for one in (
            associate,
            command,
            association,
            part10,
            bare_data_set,
            multipart,
            dicom_json,
            dicom_xml,
            search,
            accept,
        )
    }
)
