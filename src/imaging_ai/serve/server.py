"""The HTTP server itself: granian, with the application made in its worker processes."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from functools import partial

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from litestar import Litestar

from imaging_ai.errors import ConfigError
from imaging_ai.process import die_with_parent

__all__ = ["serve_http"]

#: granian's records go to our own handlers.
_LOGGING = {
    "loggers": {
        "_granian": {"handlers": [], "level": "WARNING", "propagate": True},
        "granian.access": {"handlers": [], "level": "WARNING", "propagate": True},
    }
}


def serve_http(
    factory: Callable[[], Litestar],
    host: str,
    port: int,
    *,
    processes: int = 1,
    authenticated: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. `factory` makes the application, in each of the worker processes.

    Raises
    ------
    ConfigError
        If others than this machine could connect while nobody has to prove who they are.
    """
    if not authenticated and not _is_loopback(host):
        raise ConfigError(
            f"http.host is {host}, and the web server has no authentication: it would show patient data to everyone; "
            "set http.host to 127.0.0.1"
        )
    server = Granian(
        "imaging_ai.serve.app:make_app",  # the name that granian shows; the application comes from the loader
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=processes,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
    )
    server.serve(target_loader=partial(_load, factory, os.getpid()), wrap_loader=False)


def _load(factory: Callable[[], Litestar], parent: int) -> Litestar:
    die_with_parent(parent)
    return factory()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
