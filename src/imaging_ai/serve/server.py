"""The HTTP server itself: granian, with the application made in its worker processes."""

from __future__ import annotations

import ipaddress
import os
import resource
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from granian import Granian
from granian.constants import Interfaces, SSLProtocols
from granian.http import HTTP2Settings
from granian.log import LogLevels
from litestar import Litestar
from litestar.types import ASGIApp

from imaging_ai.core.addresses import IPNetwork
from imaging_ai.errors import ConfigError
from imaging_ai.process import die_with_parent, give_back, keep_memory, settle
from imaging_ai.serve.crowd import watch_crowd
from imaging_ai.serve.eager import begin_where_they_come_in
from imaging_ai.serve.forgetting import forgetful
from imaging_ai.serve.hearing import heard_out

__all__ = ["serve_http"]

#: Connections of one process: as many are taken at once, and as many remain where there are too many.
_MOST_CONNECTIONS, _ENOUGH_CONNECTIONS = 1024, 768
_FILES_AT_LEAST = 4096  # connections are among them
_LARGEST_HEADERS = 64 << 10  # of HTTP/2, for each of 200 streams

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
    certificate: Path | None = None,
    key: Path | None = None,
    ca_file: Path | None = None,
    proxies: Collection[IPNetwork] = (),
) -> None:
    """Serve until SIGTERM or SIGINT. `factory` makes the application, in each of the worker processes.

    With `certificate` and `key` (PEM files) it is HTTPS, and HTTP/2 for those who ask (ALPN); with `ca_file` besides
    only clients are heard that show a certificate of one of its authorities.

    Raises
    ------
    ConfigError
        If others than this machine could connect while nobody has to prove who they are.
    """
    if not authenticated and not _is_loopback(host):
        raise ConfigError(
            f"http.host is {host}, and the web server asks nobody who they are: everyone would see patient data; "
            'set auth.mode = "token" (imaging-ai token create), or http.host to 127.0.0.1'
        )
    if (certificate is None) != (key is None):
        raise ConfigError("HTTPS needs both http.tls_certificate and http.tls_key")
    if ca_file is not None and certificate is None:
        raise ConfigError("http.tls_ca_file needs http.tls_certificate and http.tls_key")
    for file in (certificate, key, ca_file):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} of http.tls_certificate, http.tls_key or http.tls_ca_file is not there")
    server = Granian(
        "imaging_ai.serve.app:make_app",  # the name that granian shows; the application comes from the loader
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=processes,
        websockets=True,
        ssl_cert=certificate,
        ssl_key=key,
        ssl_ca=ca_file,
        ssl_client_verify=ca_file is not None,
        ssl_protocol_min=SSLProtocols.tls12,
        backpressure=_MOST_CONNECTIONS,
        http2_settings=HTTP2Settings(max_headers_size=_LARGEST_HEADERS),
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
    )
    server.serve(target_loader=partial(_load, factory, os.getpid(), port, proxies), wrap_loader=False)


def _load(factory: Callable[[], Litestar], parent: int, port: int, proxies: Collection[IPNetwork]) -> ASGIApp:
    die_with_parent(parent)
    keep_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES_AT_LEAST:
        wanted = _FILES_AT_LEAST if hard == resource.RLIM_INFINITY else min(_FILES_AT_LEAST, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    watch_crowd(port, _ENOUGH_CONNECTIONS, proxies)
    begin_where_they_come_in()
    app = forgetful(heard_out(factory()))
    settle()
    give_back()
    return app


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
