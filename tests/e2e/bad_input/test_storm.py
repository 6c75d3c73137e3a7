"""Hostile traffic on all ports of a whole server at once, as `make hostile` has it, in small."""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from e2e.besieged import Besieged, Vitals, besieged
from e2e.hostile import many
from e2e.server import Server
from e2e.watching import WellBehaved

pytestmark = [pytest.mark.service, pytest.mark.slow]

INPUTS = 3_000
KEPT = {"megabytes": 50}


@dataclass(frozen=True)
class Siege:
    """What was seen: by the hostile clients, and of the server."""

    said: Counter[str]
    before: Vitals
    after: Vitals

    def answers(self) -> Counter[str]:
        """How often each answer was given, to whatever."""
        found: Counter[str] = Counter()
        for entry, count in self.said.items():
            found[entry.partition("\t")[2]] += count
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(tmp_path_factory.mktemp("siege")) as site:
        yield site


@pytest.fixture(scope="module")
def server(site: Besieged) -> Server:
    return site.server


@pytest.fixture(scope="module")
def good(site: Besieged) -> Iterator[WellBehaved]:
    with site.good(every=0.2) as good:
        yield good


@pytest.fixture(scope="module")
def siege(site: Besieged) -> Siege:
    before = site.vitals()
    said = site.storm(site.plan(INPUTS, files=None))
    return Siege(said, before, site.vitals())


def test_every_input_was_sent_and_every_kind_has_its_refusals(siege: Siege) -> None:
    kinds = {entry.partition("\t")[0].removesuffix(" (TLS)") for entry in siege.said}
    assert siege.said.total() == INPUTS
    assert len(kinds - {"any"}) == 20, sorted(kinds)
    answers = siege.answers()
    assert {"200", "400", "401", "404", "406", "aborted", "rejected", "status 0xc000", "accepted"} <= set(answers)
    assert sum(answers[one] for one in ("400", "aborted", "status 0xc000")) > INPUTS / 3


def test_nothing_crashes(siege: Siege) -> None:
    assert [answer for answer in siege.answers() if answer.startswith("5") or answer == "NOBODY LISTENS"] == []
    assert siege.after.processes == siege.before.processes


def test_nothing_grows_but_what_was_stored(siege: Siege) -> None:
    stored = siege.after.instances - siege.before.instances
    beyond = siege.after.data_bytes - siege.before.data_bytes - (siege.after.stored_bytes - siege.before.stored_bytes)
    assert beyond < (8 << 20) + 20_000 * stored, "spooled bodies and instances that were never whole are gone"
    assert siege.after.log_bytes - siege.before.log_bytes < 100 * INPUTS
    assert siege.after.audit_events - siege.before.audit_events < INPUTS / 5 + 4 * stored


@pytest.mark.parametrize(
    "words", [b"", b"GET / HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["none", "half", "HTTP/2"]
)
def test_more_silent_connections_than_are_taken_keep_nobody_out(server: Server, words: bytes) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
    with many([socket.create_connection(("127.0.0.1", server.http_port), timeout=10) for _ in range(1_200)]) as socks:
        for sock in socks:
            with suppress(OSError):  # it had to make room already
                sock.sendall(words)
        assert server.get("/health/live").status_code == 200
