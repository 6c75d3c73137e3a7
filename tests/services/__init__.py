"""Real services for tests: started on loopback, on free ports, stopped at the end.

A service that is not installed skips its tests on a laptop and fails them in CI (`CI=true`).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

DATA_ENV = "IMAGING_AI_TEST_DATA"

#: Below those that the system gives to connections (32768 and more on Linux).
_PORTS = (15_000, 32_000)
_ANY = random.SystemRandom()


def missing(what: str) -> NoReturn:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing (`make test` installs it on Debian as root)")


def require_program(name: str) -> str:
    """Return the path of an installed program."""
    for candidate in (name, f"/usr/sbin/{name}", *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))):
        if found := shutil.which(candidate):
            return found
    missing(f"the program {name}")


def require_data() -> Path:
    """Return the folder with the real series: `$IMAGING_AI_TEST_DATA`, or `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get(DATA_ENV, beside))
    if not folder.is_dir():
        missing(f"the folder of real series ({DATA_ENV})")
    return folder


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago, and that no connection is given by the system."""
    while True:
        port = _ANY.randrange(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], timeout: float = 30.0, every: float = 0.05, what: str = "") -> object:
    """Return the first true value of `condition`, or fail the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    pytest.fail(f"after {timeout:g} s still not: {what or condition}")
