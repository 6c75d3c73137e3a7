"""Is this server alive, and can it do its work: for supervisors, balancers and people."""

from __future__ import annotations

import logging
import shutil
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
    """Answer `/health/live` and `/health/ready`."""

    @get("/live", opt=_OPEN, sync_to_thread=False, summary="The process answers")
    def live() -> Health:
        return Health("up")

    @get("/ready", opt=_OPEN, sync_to_thread=True, summary="Every part that the server needs works")
    def ready() -> Response[Health] | Response[Problem]:
        failures = {name: failure for name, check in checks.items() if (failure := _failure(name, check))}
        if not failures:
            return Response(Health("ready", tuple(checks)))
        detail = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
        return problem(503, "not-ready", detail, failed=tuple(failures), headers={"Retry-After": "5"})

    return Router("/health", route_handlers=[live, ready], tags=["health"])


def _failure(name: str, check: Check) -> str:
    try:
        check()
    except ImagingAiError as error:
        return error.message
    except Exception as error:  # the edge of a check: a library's own error is a part that does not work
        logger.warning("the readiness check %s failed", name, exc_info=error)
        return type(error).__name__
    return ""
