"""What a peer may still do, over all its associations with this process: a slow-down first, a refusal in the end.

A peer that is too fast is read more slowly, so that TCP holds it back; one that would have to wait for long, or has had
its share of the day, is answered 0xA700 (out of resources), upon which senders keep the instance and try again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from imaging_ai.archive.usage import DailyUse
from imaging_ai.audit.refusals import RefusalLog
from imaging_ai.core.pace import Pace
from imaging_ai.errors import NotAllowed, OverLimit
from imaging_ai.receive.peers import ANYONE, Peer

__all__ = ["Allowance", "Allowances"]

#: So long, in seconds, an instance is kept waiting, and a fragment of one.
_LONGEST_WAIT, _LONGEST_PAUSE = 10.0, 5.0
_BYTES_AT_ONCE = 1 << 20


class Allowance:
    """The limits of one peer, being used up. Threads share it."""

    def __init__(self, peer: Peer, use: DailyUse, refusals: RefusalLog, named: frozenset[str]) -> None:
        self.peer = peer
        self._use, self._refusals, self._named = use, refusals, named
        fast, wide = peer.instances_per_second, peer.bytes_per_second
        self._instances = Pace(fast, max(fast, 1.0)) if fast else None
        self._bytes = Pace(wide, max(wide, _BYTES_AT_ONCE)) if wide else None
        self._lock = threading.Lock()
        self._open = 0

    def enter(self, further: int = 0) -> bool:
        """Count one more association, unless that would be too many; `further` are open elsewhere."""
        with self._lock:
            if self.peer.max_associations and self._open + further >= self.peer.max_associations:
                return False
            self._open += 1
            return True

    def leave(self) -> None:
        """Count one association less."""
        with self._lock:
            self._open -= 1

    def begin(self, calling_ae_title: str, address: str) -> None:
        """Let one instance in, perhaps after a wait.

        Raises
        ------
        NotAllowed
            If the peer may not store.
        OverLimit
            If it has had its share of today, or would have to wait for too long.
        DatabaseUnavailable
            If nobody can say how much it has had today.
        """
        try:
            self._begin(calling_ae_title)
        except (NotAllowed, OverLimit) as error:
            self._refusals.note(error.code, address, calling_ae_title, "begin-transferring-instances")
            raise

    def _begin(self, calling_ae_title: str) -> None:
        peer = self.peer
        if "store" not in peer.may:
            raise NotAllowed("this peer may not store here; see [[peers]] there")
        if peer.bytes_per_day and self._used(calling_ae_title) >= peer.bytes_per_day:
            raise OverLimit("this peer has stored its share of today; it may go on tomorrow", self._use.seconds_left())
        if self._instances is not None:
            wait = self._instances.take(most_seconds=_LONGEST_WAIT)
            if wait is None:
                raise OverLimit("this peer brings more instances a second than it may; slow down", _LONGEST_WAIT)
            time.sleep(wait)

    def came(self, size: int) -> None:
        """Note bytes of an instance; returns when it is time for more."""
        if self._bytes is not None and (wait := self._bytes.take(size)):
            time.sleep(min(wait, _LONGEST_PAUSE))

    def kept(self, calling_ae_title: str, size: int) -> None:
        """Note that an instance was stored."""
        if self.peer.bytes_per_day:
            self._use.add(calling_ae_title, size)

    def _used(self, calling_ae_title: str) -> int:
        if self.peer.ae_title == ANYONE.ae_title:
            return self._use.of_all_but(self._named)
        return self._use.of(calling_ae_title)


class Allowances:
    """One allowance for each peer."""

    def __init__(self, peers: Iterable[Peer], use: DailyUse, refusals: RefusalLog) -> None:
        known = tuple(peers) or (ANYONE,)
        named = frozenset(peer.ae_title for peer in known)
        self._of = {peer: Allowance(peer, use, refusals, named) for peer in known}

    def of(self, peer: Peer) -> Allowance:
        """Return the allowance of a peer."""
        return self._of[peer]
