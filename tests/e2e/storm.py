"""Hostile clients on all ports of a server at once: what they send follows from a number, how fast is bounded.

They run in a process of their own (``python -m e2e.storm``), so that a good client beside them waits for the server and
not for them. Each input is one of a kind; what came of it is counted by kind and answer.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from e2e.storm_dicom import DICOM_KINDS, Line, associate
from e2e.storm_http import HTTP_KINDS, HttpTarget, websocket_frames
from mutants import load

__all__ = ["KINDS", "Plan", "storm"]

_HTTP_SECONDS, _SHORT_SECONDS, _LOITERERS = 30.0, 0.3, 160
_WEBSOCKETS, _LOITERING = "WebSockets", "half-open and slow connections"
_PREFIXES = (b"", b"GET / HT", b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nab")


@dataclass(frozen=True)
class Plan:
    """What to attack, how long and how fast. `rate` 0 is as fast as the `clients` can; `only` names one of `KINDS`."""

    http_port: int
    dicom_port: int
    tls_port: int
    place: str
    token: str
    files: str
    inputs: int
    clients: int = 12
    rate: float = 0.0
    seed: int = 1
    only: str = ""


#: How often there is one of each kind among a thousand inputs.
KINDS: Mapping[str, float] = MappingProxyType(
    {
        **{kind: 0.62 * weight for kind, (_, weight) in HTTP_KINDS.items()},
        **{kind: 0.33 * weight for kind, (_, weight) in DICOM_KINDS.items()},
        _WEBSOCKETS: 20,
        _LOITERING: 30,
    }
)


class _Client:
    """One hostile client: a thread with an address and connections of its own."""

    def __init__(self, plan: Plan, target: HttpTarget, number: int) -> None:
        self._plan, self._target = plan, target
        self._source = (f"127.0.0.{2 + number}", 0)
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._web: socket.socket | None = None
        self._lines = [Line(self._plain), Line(self._plain), Line(self._secure)]
        self._loitering: deque[socket.socket] = deque()
        self.counted: Counter[str] = Counter()

    def send(self, number: int) -> None:
        """Make and send one input, and count what came of it."""
        rng = random.Random(f"{self._plan.seed} {number}")
        kind = self._plan.only or rng.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            if kind in HTTP_KINDS:
                answer = self._http(kind, rng)
            elif kind in DICOM_KINDS:
                kind, answer = self._dicom(kind, rng)
            elif kind == _WEBSOCKETS:
                answer = self._websocket(rng)
            else:
                answer = self._loiter(rng)
        except ConnectionRefusedError:
            kind, answer = "any", "NOBODY LISTENS"
        except OSError as error:
            kind, answer = "any", type(error).__name__
        self.counted[f"{kind}\t{answer}"] += 1

    def close(self) -> None:
        for sock in (*self._loitering, *([self._web] if self._web else [])):
            sock.close()
        for line in self._lines:
            line.close()

    # -- HTTP

    def _http(self, kind: str, rng: random.Random) -> str:
        data = HTTP_KINDS[kind][0](rng, self._target)
        damaged = kind == "request lines and headers"
        if damaged or self._web is None:
            self._hang_up()
            self._web = self._open(self._plan.http_port, _HTTP_SECONDS)
        if damaged:
            self._web.settimeout(_SHORT_SECONDS)
        answer = self._asked(self._web, data)
        if damaged or not answer.isdigit():
            self._hang_up()
        return answer

    def _asked(self, sock: socket.socket, data: bytes) -> str:
        with suppress(OSError):  # it has heard enough
            sock.sendall(data)
        try:
            answer = http.client.HTTPResponse(sock, method=data.partition(b" ")[0].decode("latin-1"))
            answer.begin()
            answer.read()
            if answer.will_close:
                self._hang_up()
            return str(answer.status)
        except TimeoutError:
            return "waits for more"
        except (OSError, http.client.HTTPException):
            return "closed"

    def _hang_up(self) -> None:
        if self._web is not None:
            self._web.close()
            self._web = None

    def _websocket(self, rng: random.Random) -> str:
        handshake, nonsense = websocket_frames(rng, self._target)
        with self._open(self._plan.http_port, _HTTP_SECONDS) as sock:
            sock.sendall(handshake)
            head = sock.recv(4096)
            sock.settimeout(_SHORT_SECONDS)
            with suppress(OSError):
                sock.sendall(nonsense)
                sock.recv(4096)
        return head[9:12].decode("latin-1") or "closed"

    # -- DICOM

    def _dicom(self, kind: str, rng: random.Random) -> tuple[str, str]:
        line = self._lines[rng.choice((0, 0, 1, 2))]
        where = " (TLS)" if line is self._lines[2] else ""
        return f"{kind}{where}", DICOM_KINDS[kind][0](rng, line)

    def _plain(self) -> socket.socket:
        return self._open(self._plan.dicom_port, _SHORT_SECONDS)

    def _secure(self) -> socket.socket:
        sock = self._open(self._plan.tls_port, _HTTP_SECONDS)
        secured = self._tls.wrap_socket(sock)
        secured.settimeout(_SHORT_SECONDS)
        return secured

    # -- both

    def _loiter(self, rng: random.Random) -> str:
        """Open one more connection that says little or nothing; those that are open say one more byte."""
        while len(self._loitering) >= _LOITERERS // self._plan.clients + 1:
            self._loitering.popleft().close()
        for sock in self._loitering:
            with suppress(OSError):
                sock.send(b"a")
        port, words = rng.choice(
            (
                (self._plan.http_port, rng.choice(_PREFIXES)),
                (self._plan.dicom_port, associate()[: rng.choice((0, 5, 70))]),
                (self._plan.dicom_port, associate()),
                (self._plan.tls_port, b"\x16\x03\x01"[: rng.randrange(3)]),
            )
        )
        sock = self._open(port, _SHORT_SECONDS)
        sock.sendall(words)
        self._loitering.append(sock)
        return "held"

    def _open(self, port: int, seconds: float) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=seconds + 10, source_address=self._source)
        sock.settimeout(seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


@dataclass
class _Clock:
    """Gives each input its number and its time."""

    inputs: int
    rate: float
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _began: float = field(default_factory=time.monotonic)

    def next(self) -> int | None:
        """Return the number of the next input when it is time for it; None at the end."""
        number = next(self._numbers)
        if number >= self.inputs:
            return None
        if self.rate and (early := self._began + number / self.rate - time.monotonic()) > 0:
            time.sleep(early)
        return number


def _run(client: _Client, clock: _Clock) -> None:
    while (number := clock.next()) is not None:
        client.send(number)
    client.close()


def storm(plan: Plan, told: Callable[[int], object] = lambda _: None) -> dict[str, int]:
    """Send everything; return how many inputs of each kind (before the tab) had each answer (after it)."""
    files = load(Path(plan.files), 40_000) if plan.files else {}
    target = HttpTarget(plan.place, plan.token, files)
    clients = [_Client(plan, target, number) for number in range(plan.clients)]
    clock = _Clock(plan.inputs, plan.rate)
    threads = [threading.Thread(target=_run, args=(client, clock)) for client in clients]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(5.0)
        told(sum(client.counted.total() for client in clients))
        time.sleep(0.2)
    return dict(sum((client.counted for client in clients), Counter()))


def _main(arguments: Sequence[str]) -> None:
    os.nice(10)
    plan = Plan(**json.loads(arguments[0]))
    said = storm(plan, lambda count: print(f"{count} of {plan.inputs}", file=sys.stderr, flush=True))
    print(json.dumps(said))


if __name__ == "__main__":
    _main(sys.argv[1:])
