"""Is this server alive, and can it do its work: for supervisors, balancers and people."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from litestar import Response, Router, get

from imaging_ai.archive.blobs import BlobStore
from imaging_ai.errors import ImagingAiError, StorageUnavailable
from imaging_ai.serve.problem import Problem, problem

__all__ = ["Check", "Health", "disk_check", "health_router", "storage_check"]

logger = logging.getLogger(__name__)

_OPEN = {"needs": "nothing"}
_FRESH_SECONDS = 0.5

#: Raises when a part of the server does not work.
Check = Callable[[], object]


class Health(msgspec.Struct, frozen=True):
    """The state of the server; `checked` are the parts that were tried."""

    status: str
    checked: tuple[str, ...] = ()


def storage_check(store: BlobStore) -> Check:
    """Check that an object can be written, read and removed."""

    def check() -> None:
        ref = store.put(b"readiness")
        try:
            if store.read(ref) != b"readiness":
                raise StorageUnavailable("the storage gives back other bytes than it was given")
        finally:
            store.delete(ref)

    return check


def disk_check(folder: Path, min_free_mb: int) -> Check:
    """Check that the disk under a folder has room."""

    def check() -> None:
        free = shutil.disk_usage(folder).free >> 20
        if free < min_free_mb:
            raise StorageUnavailable(f"{free} MB free on the disk, {min_free_mb} MB wanted")

    return check


def health_router(checks: Mapping[str, Check]) -> Router:
    """Answer `/health/live` and `/health/ready`.

    Anybody may ask, as often as they like; so the parts are tried by one at a time, and not again within a moment.
    """
    readiness = _Readiness(checks)

    @get("/live", opt=_OPEN, sync_to_thread=False, summary="The process answers")
    def live() -> Health:
        return Health("up")

    @get("/ready", opt=_OPEN, sync_to_thread=True, summary="Every part that the server needs works")
    def ready() -> Response[Health] | Response[Problem]:
        failures = readiness.failures()
        if not failures:
            return Response(Health("ready", tuple(checks)))
        detail = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
        return problem(503, "not-ready", detail, failed=tuple(failures), headers={"Retry-After": "5"})

    return Router("/health", route_handlers=[live, ready], tags=["health"])


class _Readiness:
    """What does not work, as it was a moment ago."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._lock = threading.Lock()
        self._found: tuple[float, dict[str, str]] = (-math.inf, {})

    def failures(self) -> dict[str, str]:
        with self._lock:
            if time.monotonic() - self._found[0] >= _FRESH_SECONDS:
                found = {name: failure for name, check in self._checks.items() if (failure := _failure(name, check))}
                self._found = time.monotonic(), found
            return self._found[1]


def _failure(name: str, check: Check) -> str:
    try:
        check()
    except ImagingAiError as error:
        return error.message
    except Exception as error:  # the edge of a check: a library's own error is a part that does not work
        logger.warning("the readiness check %s failed", name, exc_info=error)
        return type(error).__name__
    return ""
