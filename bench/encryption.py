"""What encryption costs: processor time of storing, reading and recovering, plain and encrypted by turns.

    python bench/encryption.py            # a table; nothing of a server is started

Processor time, not wall clock, so that a busy machine tells the same; every figure is of one instance.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlmodel import SQLModel

import imaging_ai.db.tables  # noqa: F401 - makes the tables known
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.find import INSTANCE
from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.sealed_folder import SealedFolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.identity import new_uid
from imaging_ai.db.engine import Database
from imaging_ai.keys.cabinet import FolderCabinet
from imaging_ai.keys.file import FileKeys, add_key
from imaging_ai.keys.ring import KeyRing

ROUNDS = 7
KINDS = ("plain", "encrypted")
SIZES = {"CT slice, 0.5 MB": 512 * 512 * 2, "multi-frame, 32 MB": 64 * 512 * 512 * 2}
FRAME = 512 * 512 * 2


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add_key(folder / "keys", "bench")
        print(f"{'':34}{'plain':>10}{'encrypted':>12}{'ratio':>8}")
        for what, size in SIZES.items():
            of_size(what, size, folder)
        recovery(folder)


def of_size(what: str, size: int, folder: Path) -> None:
    """Print the lines of instances of a size."""
    count = max(200 * (1 << 19) // size, 6)
    opened = {kind: open_archive(kind, folder / f"{kind}-{size}", folder / "keys") for kind in KINDS}
    refs: dict[str, list[BlobRef]] = {}

    def ingest(kind: str) -> None:
        refs[kind] = store(opened[kind], size, count)

    def read(kind: str) -> None:
        for ref in refs[kind]:
            opened[kind].store.read(ref)

    def frames(kind: str) -> None:
        buffer = memoryview(bytearray(FRAME))
        for ref in refs[kind]:
            if not opened[kind].store.fill_at_once(ref, ref.length - FRAME, buffer):  # type: ignore[attr-defined]
                opened[kind].store.read(ref, ref.length - FRAME)  # as the server does; on a machine short of memory

    row(f"{what}: keep", count, ingest)
    row(f"{what}: read it all", count, read)
    row(f"{what}: a frame at once", count, frames)
    for archive in opened.values():
        archive.close()
        archive.database.dispose()


def open_archive(kind: str, folder: Path, keys: Path) -> Archive:
    """An archive of a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    root, database = folder / "objects", Database(f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    if kind == "plain":
        return Archive(database, FolderStore(root))
    return Archive(database, SealedFolderStore(root, KeyRing(FolderCabinet(root / "keys"), FileKeys(keys))))


def made(size: int) -> bytes:
    """An instance of a new UID."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import phantoms

    ds = phantoms.series(np.zeros((1, 8, 8), np.float32), name="bench")[0]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    ds.Rows = ds.Columns = 512
    ds.PixelData = np.random.default_rng().bytes(size)
    return phantoms.to_bytes(ds)


def store(archive: Archive, size: int, count: int) -> list[BlobRef]:
    """Keep instances as a receiver does; only that is timed."""
    template, visit = made(size), Visit("BENCH", "", "dimse")
    uid = gate.scan(template).sop_instance_uid.encode()
    begun = time.process_time()
    keys = []
    for number in range(count):
        fresh = uid[:-12] + f"{time.time_ns() % 10**8:08d}{number:04d}".encode()
        data = template[:4096].replace(uid, fresh) + template[4096:]
        writer = archive.begin(len(data))
        for start in range(0, len(data), 1 << 16):
            writer.write(memoryview(data)[start : start + (1 << 16)])
        header = gate.scan(writer.head, size=writer.size)
        archive.keep(header, writer, source="BENCH", origin_address="", door="dimse", visit=visit)
        keys.append(header.sop_instance_uid)
    store.seconds = time.process_time() - begun  # type: ignore[attr-defined]
    with archive.database.read() as session:
        rows = session.connection().execute(INSTANCE.select().where(INSTANCE.c.sop_instance_uid.in_(keys))).all()
    return [BlobRef(row.blob_key, row.blob_offset, row.blob_length) for row in rows]


def row(what: str, count: int, act: Callable[[str], None]) -> None:
    """Time an act for both kinds by turns, and print a line."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            begun = time.process_time()
            store.seconds = None  # type: ignore[attr-defined]
            act(kind)
            seconds = store.seconds or time.process_time() - begun  # type: ignore[attr-defined]
            taken[kind].append(seconds / count * 1e6)
    plain, encrypted = (statistics.median(taken[kind]) for kind in KINDS)
    print(f"{what:34}{plain:>8.0f}µs{encrypted:>10.0f}µs{encrypted / plain:>8.2f}", flush=True)


def recovery(folder: Path) -> None:
    """Time a start after a crash: so much was stored and not settled."""
    taken = {}
    for kind in KINDS:
        archive = open_archive(kind, folder / f"{kind}-crash", folder / "keys")
        store(archive, 512 * 512 * 2, 400)
        assert isinstance(archive.store, FolderStore)
        archive.store.area().release()  # as if it had died
        with archive.database.write() as session:
            session.connection().exec_driver_sql("DELETE FROM instance")
        begun = time.process_time()
        fresh = open_archive(kind, folder / f"{kind}-crash", folder / "keys")
        assert fresh.recover() == 400
        taken[kind] = (time.process_time() - begun) * 1e6 / 400
    plain, encrypted = taken.values()
    print(f"{'recovery, for each it must index':34}{plain:>8.0f}µs{encrypted:>10.0f}µs{encrypted / plain:>8.2f}")


if __name__ == "__main__":
    main()
