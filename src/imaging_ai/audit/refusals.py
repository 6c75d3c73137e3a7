"""Refused associations and requests in the audit, without letting whoever is refused fill it.

The first refusal of an address for a reason is written at once. What follows is counted, and told in one event after
ten seconds, then after twenty, and so on up to an hour, for as long as it goes on. Log lines come with the events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from imaging_ai.audit import record
from imaging_ai.db.engine import Database
from imaging_ai.errors import ImagingAiError

__all__ = ["RefusalLog"]

_log = logging.getLogger(__name__)
_MOST_TALLIES, _MOST_TITLES = 1024, 32
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 3600.0

#: What was refused, of what, why, to which address, and to whom if that was proved.
Key = tuple[str, str, str, str, str]


@dataclass(slots=True)
class _Tally:
    """What one address was refused for one reason, since it was last told."""

    due: float
    pause: float = _FIRST_PAUSE
    count: int = 0
    titles: set[str] = field(default_factory=set)


class RefusalLog:
    """Writes refusals down. Threads share it."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._tallies: dict[Key, _Tally] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def note(
        self,
        code: str,
        address: str,
        name: str = "",
        action: str = "open-association",
        object_type: str = "association",
        *,
        proved: bool = False,
    ) -> None:
        """Note that an association, a connection, or what else `action` says, was refused.

        `name` is an AE title, which anybody may say, or the name of who was `proved` to be it.
        """
        with self._lock:
            key = (action, object_type, code, address, name if proved else "")
            if key not in self._tallies and len(self._tallies) >= _MOST_TALLIES:
                key = (action, object_type, code, "", "")
            if (tally := self._tallies.get(key)) is not None:
                tally.count += 1
                if len(tally.titles) < _MOST_TITLES:
                    tally.titles.add(name)
                return
            self._tallies[key] = _Tally(self._clock() + _FIRST_PAUSE)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
                self._thread.start()
        self._write(key, _Tally(0.0, count=1, titles={name}))

    def close(self) -> None:
        """Write what was counted, and end."""
        self._ended.set()
        self.tell(everything=True)

    def tell(self, *, everything: bool = False) -> None:
        """Write what is due, and forget who was quiet since."""
        now = self._clock()
        with self._lock:
            due = {key: tally for key, tally in self._tallies.items() if everything or tally.due <= now}
            for key, tally in due.items():
                del self._tallies[key]
                if tally.count:
                    pause = min(2 * tally.pause, _LONGEST_PAUSE)
                    self._tallies[key] = _Tally(now + pause, pause)
        for key, tally in due.items():
            if tally.count:
                self._write(key, tally)

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            self.tell()

    def _write(self, key: Key, tally: _Tally) -> None:
        action, object_type, code, address, _ = key
        detail = code if tally.count == 1 else f"{code}, {tally.count} times"
        if len(tally.titles) > 1:
            detail += f", as {len(tally.titles)} AE titles"
        _log.warning("%s from %s refused: %s", action, address or "many addresses", detail)
        try:
            with self._database.write() as session:
                record(
                    session,
                    action,
                    object_type=object_type,
                    object_uid="",
                    actor=min(tally.titles, default=""),
                    origin=address,
                    outcome="refused",
                    detail=detail,
                )
        except ImagingAiError as error:
            _log.warning("a refusal was not recorded yet: %s", error)
            with self._lock:
                again = self._tallies.setdefault(key, _Tally(self._clock() + _FIRST_PAUSE))
                again.count += tally.count
                again.titles |= tally.titles
