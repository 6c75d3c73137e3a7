"""A worker lives as long as its lock is held, seen from its own host."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from imaging_ai.queue.presence import Presence, is_dead, this_host

HOLD = (
    "import sys, pathlib, time; from imaging_ai.queue.presence import Presence;"
    "held = Presence(pathlib.Path(sys.argv[1])); held.hold(); print(held.lock_path, flush=True); time.sleep(60)"
)


def dead(presence: Presence) -> bool | None:
    return is_dead(presence.host, str(presence.lock_path))


def test_it_lives_from_hold_to_leave(tmp_path: Path) -> None:
    presence = Presence(tmp_path)
    presence.hold()
    assert dead(presence) is False
    assert dead(presence) is False, "asking does not disturb it"
    presence.leave()
    assert dead(presence) is True
    assert not presence.lock_path.exists()


def test_a_process_that_is_killed_is_dead_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lock_path = process.stdout.readline().strip()
    assert is_dead(this_host(), lock_path) is False
    process.kill()
    process.wait()
    assert is_dead(this_host(), lock_path) is True


def test_nothing_is_known_of_another_host_or_of_a_folder_that_is_not_here(tmp_path: Path) -> None:
    elsewhere = Presence(tmp_path, host="elsewhere")
    elsewhere.hold()
    assert dead(elsewhere) is None
    assert is_dead(this_host(), str(tmp_path / "missing" / "workers" / "1-a.lock")) is None
    elsewhere.leave()


def test_two_workers_of_one_process_have_two_names(tmp_path: Path) -> None:
    assert Presence(tmp_path).owner != Presence(tmp_path).owner
    assert len(Presence(tmp_path, host="h" * 70).owner) <= 100


def test_a_worker_that_starts_removes_the_locks_of_the_dead_and_of_nobody_else(tmp_path: Path) -> None:
    lives, died, starts = Presence(tmp_path), Presence(tmp_path), Presence(tmp_path)
    lives.hold()
    died.hold()
    assert died._descriptor is not None
    os.close(died._descriptor)  # as the end of its process would
    starts.hold()
    assert not died.lock_path.exists()
    assert dead(died) is True
    assert dead(lives) is False
    assert dead(starts) is False


def test_workers_that_start_together_all_hold_their_locks(tmp_path: Path) -> None:
    presences = [Presence(tmp_path) for _ in range(40)]
    threads = [threading.Thread(target=presence.hold) for presence in presences]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [dead(presence) for presence in presences] == [False] * 40
