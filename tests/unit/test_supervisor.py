"""The supervisor: starts roles, starts them again, ends them, and never leaves one behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imaging_ai.errors import ConfigError
from imaging_ai.supervisor import Role, Supervisor, be_alone
from services import wait_until

#: A stand-in for `python -m imaging_ai ROLE`: a package of that name, first on the path, that notes its pid and waits.
_ROLE = """
import os, pathlib, signal, sys, time
sys.path[:] = [p for p in sys.path if p != os.environ["STAND_IN"]]
pathlib.Path(os.environ["PIDS"], f"{sys.argv[1]}-{os.getpid()}").touch()
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "dies":
    sys.exit(3)
time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    package = tmp_path / "stand-in" / "imaging_ai"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_ROLE)
    (tmp_path / "pids").mkdir()
    stand_in = str(package.parent)
    return {"PYTHONPATH": stand_in, "STAND_IN": stand_in, "PIDS": str(tmp_path / "pids")}


@pytest.fixture
def supervise(environment: dict[str, str]) -> Iterator[Callable[..., Supervisor]]:
    running: list[tuple[Supervisor, threading.Thread]] = []

    def start(*names: str, grace: float = 5.0) -> Supervisor:
        supervisor = Supervisor([Role(name, (name,)) for name in names], environment, grace)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        running.append((supervisor, thread))
        return supervisor

    yield start
    for supervisor, thread in running:
        supervisor.stop()
        thread.join(10)
        assert not thread.is_alive()


def started(environment: dict[str, str], name: str) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in Path(environment["PIDS"]).glob(f"{name}-*"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_every_role_runs(supervise: Callable[..., Supervisor], environment: dict[str, str]) -> None:
    supervise("one", "two")
    wait_until(lambda: started(environment, "one") and started(environment, "two"))


def test_a_role_that_is_killed_runs_again(supervise: Callable[..., Supervisor], environment: dict[str, str]) -> None:
    supervise("one")
    wait_until(lambda: started(environment, "one"))
    os.kill(started(environment, "one")[0], signal.SIGKILL)
    wait_until(lambda: len(started(environment, "one")) == 2)


def test_a_role_that_keeps_dying_is_started_ever_more_rarely(
    supervise: Callable[..., Supervisor], environment: dict[str, str]
) -> None:
    supervisor = supervise("dies")
    wait_until(lambda: len(started(environment, "dies")) >= 3)
    assert supervisor._children[0].pause >= 2.0


def test_stop_ends_every_role_even_a_deaf_one(environment: dict[str, str]) -> None:
    supervisor = Supervisor([Role("one", ("one",)), Role("deaf", ("deaf",))], environment, 0.5)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    wait_until(lambda: started(environment, "one") and started(environment, "deaf"))
    supervisor.stop()
    thread.join(10)
    assert not any(alive(pid) for name in ("one", "deaf") for pid in started(environment, name))


_CHILD = """
import pathlib, sys, time
from imaging_ai.process import die_with_parent
die_with_parent()
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""

_PARENT = """
import os, subprocess, sys, time
environment = {**os.environ, "IMAGING_AI_PARENT_PID": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], env=environment)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_roles_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD, str(ready)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(ready.exists)
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(child))


def test_one_server_at_a_time_has_a_data_directory(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "serve.lock"
    code = "import sys, time, pathlib; from imaging_ai.supervisor import be_alone; be_alone(pathlib.Path(sys.argv[1]))"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(flush=True); time.sleep(60)", str(lock)], stdout=-1
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(ConfigError, match=f"process {holder.pid} serves {tmp_path} already"):
            be_alone(lock)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    subprocess.run([sys.executable, "-c", code, str(lock)], check=True)  # the dead hold nobody up
