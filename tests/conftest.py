"""What every test may use. Fixtures of real services live in `services/`, one file per service."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import DATA_ENV, require_data

pytest_plugins: list[str] = []
for _name in ("orthanc", "postgres", "redis", "dcmtk", "s3", "browser"):
    if (Path(__file__).parent / "services" / f"{_name}.py").exists():
        pytest_plugins.append(f"services.{_name}")

_FIRST = ("test_chaos", "test_outages", "test_worker", "test_cli", "test_viewer", "/e2e/", "/integration/")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real, openly licensed series (not part of the repository; see `tests/README.md`)."""
    return require_data()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole servers first, and of them the files that take minutes: no process is left alone with one at the end."""
    items.sort(key=lambda item: next((rank for rank, part in enumerate(_FIRST) if part in item.nodeid), len(_FIRST)))


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """A thread that a test leaves behind would keep the whole run from ending."""
    before = set(threading.enumerate())
    yield
    patience = time.monotonic() + 10
    while left := [one for one in threading.enumerate() if one not in before and not one.daemon]:
        if time.monotonic() > patience:
            frames = sys._current_frames()
            where = ["".join(traceback.format_stack(frames[one.ident])) for one in left if one.ident in frames]
            pytest.fail(
                "threads still run:\n" + "\n".join(f"{one.name}\n{at}" for one, at in zip(left, where, strict=False))
            )
        time.sleep(0.01)


def pytest_unconfigure() -> None:
    """Whatever keeps the interpreter from ending, say where it is and end."""
    faulthandler.dump_traceback_later(60, exit=True)


__all__ = ["DATA_ENV"]
