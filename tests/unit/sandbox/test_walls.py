"""What can be done behind the walls: by a process that does all that an exploited model would try."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import imaging_ai
import intruder
from imaging_ai.sandbox.confine import environment, python_folders

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the walls are those of Linux")

PRELUDE = """
import json, os, sys, time
import msgspec
from imaging_ai.sandbox.confine import Within, confine
walls = confine(msgspec.json.decode(sys.argv[1], type=Within))
targets = json.loads(sys.argv[2])
def say(value): print(json.dumps(value), flush=True)
say(walls.missing)
"""

Walled = Callable[..., list[Any]]


class Victim:
    """What is to be protected: a file, a folder, a process with a secret in its environment, servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "private"
        self.folder.mkdir()
        self.secret = self.folder / "imaging-ai.db"
        self.secret.write_text("Doe^Jane")
        self.process = subprocess.Popen(["/bin/sleep", "600"], env={"AWS_SECRET_ACCESS_KEY": "secret"})
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.folder / "socket"))
        self.unix.listen()

    @property
    def targets(self) -> dict[str, str]:
        return {
            "secret": str(self.secret),
            "folder": str(self.folder),
            "socket": str(self.folder / "socket"),
            "port": str(self.tcp.getsockname()[1]),
            "parent": str(self.process.pid),
        }

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.tcp.close()
        self.unix.close()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path)
    yield made
    made.end()


@pytest.fixture
def walled(tmp_path: Path, victim: Victim) -> Walled:
    """Run code behind the walls, with the functions of `intruder`; return the values that it says."""

    def run(code: str, *, status: int = 0, **changed: object) -> list[Any]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        within = {
            "mode": "best",
            "parent": os.getpid(),
            "read": python_folders(Path(imaging_ai.__file__).parent),
            "scratch": str(scratch),
            "scratch_bytes": 16 << 20,
            "memory_bytes": 512 << 20,
            "gpu": False,
        }
        source = PRELUDE + Path(intruder.__file__).read_text().replace("from __future__ import annotations", "") + code
        boot = "import sys; sys.path[:] = sys.argv[3:]; exec(sys.stdin.read())"
        done = subprocess.run(
            [sys.executable, "-IB", "-c", boot, json.dumps(within | changed), json.dumps(victim.targets), *sys.path],
            input=source,
            env=environment(scratch),
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        if status > 0:
            return [done.stdout]
        missing, *said = [json.loads(line) for line in done.stdout.splitlines()]
        if missing and not os.environ.get("CI"):
            pytest.skip(f"this kernel offers no {', no '.join(missing)}")
        assert not missing
        return said

    return run


def test_nothing_that_an_exploited_model_tries_is_done(walled: Walled, victim: Victim) -> None:
    (told,) = walled("say(outcomes(targets))")
    assert {name for name, outcome in told.items() if outcome == "done"} == set()
    assert victim.process.poll() is None
    assert victim.secret.read_text() == "Doe^Jane"
    assert sorted(one.name for one in victim.folder.iterdir()) == ["imaging-ai.db", "socket"]


def test_without_the_walls_much_of_it_is(tmp_path: Path, victim: Victim) -> None:
    """The test above would pass if the attempts were wrong; here they are not held back."""
    harmless = ("TCP", "the database", "a shell", "a fork", "environment of the parent", "a socket of this machine")
    attempts = intruder.attempts(victim.targets)
    for name in harmless:
        attempts[name]()


def test_it_has_no_secret_of_the_environment_and_no_descriptor_of_the_parent(
    walled: Walled, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "IMAGING_AI_DATABASE_URL", "PGPASSWORD"):
        monkeypatch.setenv(name, "secret")
    variables, opened = walled("say(dict(os.environ)); say([os.readlink(f'/proc/self/fd/{n}') for n in range(3, 9) "
                               "if os.path.islink(f'/proc/self/fd/{n}')])")  # fmt: skip
    assert "secret" not in variables.values()
    assert not [one for one in opened if "/proc" not in one], "its own place in /proc is held open, and nothing else"


def test_it_writes_so_much_into_memory_of_its_own_and_none_to_the_disk(walled: Walled, tmp_path: Path) -> None:
    (written,) = walled("say(fill())")
    assert 0 < written <= 16 << 20
    assert list((tmp_path / "scratch").iterdir()) == [], "nobody else sees it, and it is gone with the process"


def test_a_file_that_is_removed_while_it_is_open_counts_too(walled: Walled) -> None:
    code = """
held = []
try:
    for number in range(100):
        held.append(open("hidden", "wb")); os.remove("hidden"); held[-1].write(bytes(4 << 20)); held[-1].flush()
except OSError as error:
    say([number, error.errno])
os._exit(0)
"""
    ((number, _),) = walled(code)
    assert number <= 4


def test_more_memory_than_it_may_hold_it_does_not_get(walled: Walled) -> None:
    (said,) = walled("\ntry: eat()\nexcept MemoryError: say('refused')")
    assert said == "refused"


def test_processes_it_cannot_start_and_threads_it_can(walled: Walled) -> None:
    code = """
one = threading.Thread(target=lambda: say("a thread")); one.start(); one.join()
try: subprocess.run(["true"])
except PermissionError: say("no process")
"""
    assert walled(code) == ["a thread", "no process"]


def test_a_signal_to_oneself_is_one_s_own_affair(walled: Walled) -> None:
    walled("import signal; os.kill(os.getpid(), signal.SIGTERM)", status=-signal.SIGTERM)
    walled("crash()", status=-signal.SIGSEGV)


def test_it_ends_with_the_one_that_started_it(walled: Walled) -> None:
    assert walled("say('here')", parent=1, status=1) == [""]


def test_where_nothing_is_to_be_held_back_nothing_is(walled: Walled) -> None:
    (told,) = walled("say(Path(targets['secret']).read_text())", mode="off")
    assert told == "Doe^Jane"


def test_a_process_with_a_gpu_s_driver_may_ask_for_any_amount_of_addresses(walled: Walled) -> None:
    walled("import mmap; mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)", gpu=True)


def test_folders_of_python_are_read_and_the_working_directory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tmp_path) not in python_folders(Path(imaging_ai.__file__).parent)
