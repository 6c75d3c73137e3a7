"""A destination that remembers every C-STORE, and shows by C-FIND what it holds."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from services import free_port

__all__ = ["Pacs", "Stored"]


@dataclass(frozen=True)
class Stored:
    """One C-STORE that was answered with success."""

    sop_instance_uid: str
    digest: str
    at: float


class Pacs:
    """A Storage and Query SCP in this process; it can go away and come back on its port with all that it holds."""

    def __init__(self, ae_title: str = "PACS") -> None:
        self.ae_title, self.port = ae_title, free_port()
        self.stores: list[Stored] = []
        self._series_of: dict[str, str] = {}
        self._lock = threading.Lock()
        self._server: object | None = None

    def start(self) -> None:
        ae = AE(self.ae_title)
        ae.maximum_associations = 50
        for sop_class in (SegmentationStorage, Comprehensive3DSRStorage, StudyRootQueryRetrieveInformationModelFind):
            ae.add_supported_context(sop_class)
        ae.add_supported_context(SegmentationStorage, "1.2.840.10008.1.2.1")
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Go away; what is held stays held."""
        if self._server is not None:
            self._server.shutdown()  # type: ignore[attr-defined]
            self._server = None

    def held(self) -> dict[str, list[Stored]]:
        """What was stored, by SOP Instance UID."""
        with self._lock:
            found: dict[str, list[Stored]] = {}
            for one in self.stores:
                found.setdefault(one.sop_instance_uid, []).append(one)
            return found

    def _store(self, event: evt.Event) -> int:
        data = event.request.DataSet.getvalue()
        ds = event.dataset
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self._series_of[uid] = str(ds.SeriesInstanceUID)
            self.stores.append(Stored(uid, hashlib.sha256(data).hexdigest(), time.time()))
        return 0x0000

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        with self._lock:
            held = dict(self._series_of)
        for uid, series in held.items():
            if series == query.SeriesInstanceUID and query.SOPInstanceUID in ("", None, uid):
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                match.StudyInstanceUID, match.SeriesInstanceUID = query.StudyInstanceUID, series
                match.SOPInstanceUID = uid
                yield 0xFF00, match
