"""`kill -9` while events are written: the chain is whole, and nothing that was acknowledged is missing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imaging_ai import audit
from imaging_ai.audit.anchor import anchor, anchors_in
from imaging_ai.audit.keys import open_keys
from imaging_ai.audit.search import Search, found_by
from imaging_ai.audit.trail import attach
from imaging_ai.audit.verify import verify
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database

WRITER = """
import sys
from pathlib import Path
from imaging_ai import audit
from imaging_ai.audit.keys import open_keys
from imaging_ai.audit.trail import attach
from imaging_ai.db.engine import Database
url, keys, name = sys.argv[1:]
database = Database(url)
attach(database, open_keys(Path(keys)))
for number in range(100_000):
    with database.write() as session:
        for part in range(1 + number % 3):
            audit.record(session, "send", object_type="instance", object_uid=f"{name}.{number}.{part}")
    print(number, flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_killing_writers_never_breaks_the_chain(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    database = Database(url)
    migrate.upgrade(database)
    acknowledged = killed_writers(url, tmp_path / "keys", ["0", "1", "2"], random.Random(5))
    keys = open_keys(tmp_path / "keys")
    anchor(database, tmp_path / "anchors")
    attach(database, keys)
    with database.write() as session:
        audit.record(session, "send", object_type="instance", object_uid="after.0.0")
    report = verify(database, keys, anchors_in(tmp_path / "anchors"))
    assert report.whole, report.broken
    held = {entry.event.object_uid for page in found_by(database, Search()) for entry in page}
    assert len(acknowledged) > 3
    assert acknowledged <= held
    parts = {uid.rpartition(".")[0] for uid in held}
    whole = {f"{name}.{part}" for name in parts for part in range(1 + int(name.rpartition(".")[2]) % 3)}
    assert held == whole, "a transaction was kept in part"
    database.dispose()


def killed_writers(url: str, keys: Path, names: list[str], chance: random.Random) -> set[str]:
    """Let writers write at once, kill them in the middle, and return what they said was written."""
    command = [sys.executable, "-c", WRITER, url, str(keys)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names]
    said = set()
    for name, writer in zip(names, writers, strict=True):
        assert writer.stdout is not None
        for _ in range(chance.randint(1, 40)):
            said.add(f"{name}.{writer.stdout.readline().strip()}.0")
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        out, _ = writer.communicate()
        said |= {f"{names[writers.index(writer)]}.{line}.0" for line in out.split("\n")[:-1]}
    return said
