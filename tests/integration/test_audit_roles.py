"""The trail of a role: it says when it starts and stops, the worker anchors it, and the commands agree."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from imaging_ai.cli import main
from imaging_ai.db.engine import Database
from services import wait_until


def test_each_role_says_when_it_starts_and_stops_and_the_trail_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGING_AI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("IMAGING_AI_WORKER_QUEUES", "route,delivery")  # no model is loaded

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["audit", *arguments])
        return int(ended.value.code or 0), *capfd.readouterr()

    worker = subprocess.Popen([sys.executable, "-m", "imaging_ai", "work"], stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "audit.anchor").exists, what="the worker has anchored the trail")
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)

    code, said, _ = run("verify", "--json")
    assert (code, json.loads(said)["whole"], json.loads(said)["events"]) == (0, True, 2)
    _, exported, _ = run("export", "--format", "jsonl")
    events = [json.loads(one) for one in exported.splitlines()]
    assert [one["action"] for one in events] == ["start-application", "stop-application", "audit.export"]
    assert events[0]["object_uid"] == "work"

    database = Database(f"sqlite:///{tmp_path}/imaging-ai.db")
    with database.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_event_unchanged"))
        connection.execute(text("UPDATE audit_event SET object_uid = 'wurk' WHERE id = 1"))
    code, said, _ = run("verify")
    assert code == 1
    assert "event 1: the event, or the one before it, is not what was sealed" in said
    with database.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_event_kept"))
        connection.execute(text("DELETE FROM audit_event"))
    database.dispose()
    code, said, _ = run("verify")
    assert (code, "the end was cut off" in said) == (1, True), "of an empty trail, too"
    assert run("anchor")[0] == 0
    (tmp_path / "audit.anchor").unlink()
    assert run("verify")[0] == 0, "a trail that never had events"
    assert run("export", "--format", "jsonl")[0] == 0
    code, _, why = run("verify")
    assert (code, "audit.anchor" in why) == (2, True)
