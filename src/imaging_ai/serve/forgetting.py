"""What is remembered of requests is short: after one with a long head, everything that functions remember is forgotten.

Litestar and the rooms here remember the last thousand queries, cookies, hosts and addresses that they took apart, of
whatever length. A head may have 417 kB, so a thousand requests of somebody who need not even log in would fill
hundreds of megabytes for good.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import _lru_cache_wrapper
from typing import Any

from litestar.types import ASGIApp

__all__ = ["forgetful", "is_long"]

_LONG = 4096
_REMEMBERING = ("litestar.", "imaging_ai.serve.")


def forgetful(app: ASGIApp) -> ASGIApp:
    """Wrap an application, which is made and has imported whatever it needs."""
    forget = _forgetters()

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or not is_long(scope):
            await app(scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        finally:
            for one in forget:
                one()

    return answered


def is_long(scope: Any) -> bool:
    """Say whether the head of a request is longer than those of browsers."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for _, value in scope["headers"]:
        size += len(value)
    return size > _LONG


def _forgetters() -> list[Callable[[], None]]:
    caches = (one for one in gc.get_objects() if isinstance(one, _lru_cache_wrapper))
    return [one.cache_clear for one in caches if str(getattr(one, "__module__", "")).startswith(_REMEMBERING)]
