"""Around every case of bad input: a well-behaved client on the same ports, and a watch on what the server holds.

Each module starts a server (`server`) and a client of it (`good`), and says what its cases may leave in caches and
pools (`KEPT`, as of `watched`). How long the client waited is told at the end of each module: for one answer half a
minute at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.server import Server
from e2e.watching import Watch, WellBehaved, watched
from services import wait_until


@pytest.fixture(scope="module")
def watch(server: Server) -> Watch:
    return Watch(server)


@pytest.fixture(scope="module", autouse=True)
def _comes_back(request: pytest.FixtureRequest, watch: Watch, good: WellBehaved) -> Iterator[None]:
    """When all is over, memory, descriptors and threads are what they were."""
    with watched(watch, good, **request.module.KEPT):
        yield


@pytest.fixture(autouse=True)
def _holds(watch: Watch, good: WellBehaved) -> Iterator[None]:
    """Whatever a test does: no process has died, the good client notices nothing, the log tells of no mistake."""
    before, faults, done = watch.processes(), len(watch.faults()), good.done
    yield
    wait_until(lambda: good.done > done, 60, what="the well-behaved client is answered")
    assert watch.processes() == before
    assert good.wrong == []
    assert watch.faults()[faults:] == []
