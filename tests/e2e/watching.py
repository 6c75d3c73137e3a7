"""Who watches a whole server while others misuse it: what its processes hold and say, and a well-behaved client."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import httpx

import phantoms
import storing
from e2e.raw import RawAssociation
from e2e.server import Server
from imaging_ai.archive import gate
from imaging_ai.core.identity import new_uid
from services import wait_until

__all__ = ["Held", "Watch", "WellBehaved", "Work", "asks", "stores", "watched"]

_FAULT = re.compile(r"incident|Traceback|panicked")
_ROLES = frozenset({"serve", "receive", "web", "describe", "work"})
_PATIENCE = 60.0

#: Something that a well-behaved client does; raises AssertionError where it is not answered as it should be.
Work = Callable[[], None]


@dataclass(frozen=True)
class Held:
    """What processes hold: MiB of their own and of mapped files, descriptors but for the pool of the index, threads.

    Mapped are pages of files (code, and the index, which SQLite maps for each connection): the kernel has them only
    once, and drops them when it wants.
    """

    own: float = 0.0
    mapped: float = 0.0
    descriptors: int = 0
    threads: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Held) -> Held:
        return Held(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))


class Watch:
    """The processes of a server below one that was started: who they are, what they hold, what they say.

    Runners of models come and go, and are left out.
    """

    def __init__(self, server: Server, name: str = "serve") -> None:
        self._log = server.folder / f"{name}.log"
        self._name, self._root = name, server.processes[name].pid

    def processes(self) -> dict[int, str]:
        """The role of each process."""
        found = {self._root: self._name, **{pid: _role(pid) for pid in _descendants(self._root)}}
        return {pid: role for pid, role in found.items() if role in _ROLES}

    def held(self) -> dict[str, Held]:
        """What the processes of each role hold."""
        held: dict[str, Held] = {}
        for pid, role in self.processes().items():
            with suppress(FileNotFoundError):
                held[role] = held.get(role, Held()) + _held(Path(f"/proc/{pid}"))
        return held

    def total(self) -> Held:
        """What all of them hold."""
        return sum(self.held().values(), Held())

    def faults(self) -> list[str]:
        """Lines of the log that tell of a mistake of the server's own."""
        return [line for line in self._log.read_text().splitlines() if self.is_fault(line)]

    @staticmethod
    def is_fault(line: str) -> bool:
        """Whether a line of a log tells of a mistake of the server's own."""
        return _FAULT.search(line) is not None


def _held(process: Path) -> Held:
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    own, mapped = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    descriptors = sum("imaging-ai.db" not in target for target in map(_target, (process / "fd").iterdir()))
    return Held(own, mapped, descriptors, int(status["Threads"]))


def _target(link: Path) -> str:
    with suppress(FileNotFoundError):  # closed meanwhile
        return str(link.readlink())
    return ""


def _role(pid: int) -> str:
    with suppress(FileNotFoundError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        return next((word for word in words if word in _ROLES), "")
    return ""


def _descendants(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from _descendants(child)


class WellBehaved:
    """Does a few things over and over beside whatever else is done, and gives each half a minute.

    `milliseconds` has how long each took; `wrong` what did not succeed.
    """

    def __init__(self, works: Mapping[str, Work], every: float = 0.1) -> None:
        self._works, self._every = works, every
        self.milliseconds: dict[str, list[float]] = {what: [] for what in works}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> WellBehaved:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> int:
        """How often everything was done."""
        return min(map(len, self.milliseconds.values()))

    def percentile(self, what: str, percent: int) -> float:
        """In milliseconds."""
        found = sorted(self.milliseconds[what])
        return found[min(len(found) * percent // 100, len(found) - 1)]

    def __str__(self) -> str:
        told = (f"{what} {self.percentile(what, 50):.1f}/{self.percentile(what, 95):.1f}" for what in self._works)
        return f"{self.done} rounds; ms, p50/p95: {', '.join(told)}"

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for what, work in self._works.items():
                begun = time.perf_counter()
                try:
                    work()
                except (OSError, AssertionError, httpx.HTTPError) as error:
                    self.wrong.append(f"{what}: {type(error).__name__} {error}"[:200])
                self.milliseconds[what].append((time.perf_counter() - begun) * 1000)


def asks(client: httpx.Client, path: str, accept: str = "*/*") -> Work:
    """Ask for something that there is, and hear each time what was heard at first."""

    def ask() -> tuple[int, bytes]:
        answer = client.get(path, headers={"Accept": accept})
        boundary = re.search(r'boundary="([^"]+)"', answer.headers.get("content-type", ""))
        return answer.status_code, answer.content.replace(boundary[1].encode(), b"") if boundary else answer.content

    def asked() -> None:
        answer = ask()
        assert answer == right, f"{answer[0]} {answer[1][:80]!r}"

    right = ask()
    assert right[0] == 200, right
    return asked


def stores(port: int, tls: ssl.SSLContext | None = None, *, new: bool = True) -> Work:
    """Store an instance in an association of its own: a new one of a series, or always the same."""
    (ds,) = storing.ct(1, "good client")
    data = phantoms.to_bytes(ds)

    def store() -> None:
        nonlocal data
        if new:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
            data = phantoms.to_bytes(ds)
        syntax = ds.file_meta.TransferSyntaxUID
        with RawAssociation(port, ds.SOPClassUID, syntax, "GOOD", tls) as assoc:
            assert assoc.store(ds.SOPInstanceUID, data[gate.dataset_offset(data) :]) == (0, "")

    return store


@contextmanager
def watched(
    watch: Watch, good: WellBehaved, *, megabytes: float = 50.0, descriptors: int = 40, threads: int = 24
) -> Iterator[None]:
    """Do something beside a client that is there; in the end not much more than before is held, and it was served."""
    wait_until(lambda: good.done, _PATIENCE, what="the well-behaved client is answered")
    before, done = watch.total(), good.done
    yield
    patience = time.monotonic() + _PATIENCE
    while True:
        more = watch.total() - before
        if more.own <= megabytes and more.descriptors <= descriptors and more.threads <= threads:
            break
        assert time.monotonic() < patience, f"held in the end beyond what there was: {more}"
        time.sleep(0.5)
    print(f"\nwell-behaved client: {good}\nheld beyond what there was: {more}")
    assert good.wrong == []
    assert good.done > done
