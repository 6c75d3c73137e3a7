"""Takes what is due from the ledger of deliveries and carries it to its destination."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from imaging_ai.core.instance import StoredInstance
from imaging_ai.core.job import DeliveryState
from imaging_ai.errors import ConfigError, DatabaseUnavailable, DeliveryRefused, DeliveryUnavailable
from imaging_ai.logs import bound
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.deliveries import Batch, Deliveries, Item, Settlement
from imaging_ai.send.destinations import Destination
from imaging_ai.send.peer import Peer, connect
from imaging_ai.send.transfer import transfer

__all__ = ["BackOff", "Deliverer", "Reader"]

logger = logging.getLogger(__name__)

#: What refers to others goes after them: a report after its segmentation, a rejection note last.
_RANK = {"SR": 1, "KO": 2}

_DOUBTFUL_ATTEMPTS = 5

Connect = Callable[[Destination, Sequence[StoredInstance]], AbstractContextManager[Peer]]


class Reader(Protocol):
    """What the archive is here for."""

    def read(self, instance: StoredInstance) -> bytes:
        """Return the PS3.10 file of an instance."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """Pauses that double from `first` to `longest` seconds, with jitter, and for a broken destination to `breaker`."""

    first: float = 5.0
    longest: float = 900.0
    breaker: float = 60.0

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after the given attempt (from 1)."""
        full = min(self.longest, self.first * 2.0 ** min(attempt - 1, 30))
        return full * random.uniform(0.75, 1.25)  # noqa: S311 - only spreads load


class Deliverer:
    """Delivers, one batch at a time; threads may share one.

    A destination that cannot be reached is left alone for a while by this process, so that the others need not wait
    for its time-outs.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        archive: Reader,
        destinations: Iterable[Destination],
        *,
        owner: str,
        lease_seconds: float = 60.0,
        back_off: BackOff | None = None,
        connect: Connect = connect,
    ) -> None:
        self._deliveries = deliveries
        self._archive = archive
        self._destinations = {destination.name: destination for destination in destinations}
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._back_off = back_off or BackOff()
        self._connect = connect
        self._lock = threading.Lock()
        self._last = ""
        self._broken: dict[str, tuple[float, int]] = {}  # until when, and how often in a row

    def deliver_next(self) -> bool:
        """Deliver one batch of what is due; False when there was nothing to do."""
        with self._lock:
            reachable, last = self._reachable(), self._last
        if not reachable:
            return False
        batch = self._deliveries.claim(self._owner, self._lease_seconds, destinations=reachable, after=last)
        if batch is None:
            return False
        with self._lock:
            self._last = batch.destination
        with bound(job=batch.job_id, destination=batch.destination):
            self._deliver(batch, self._destinations[batch.destination])
        return True

    def _reachable(self) -> Collection[str]:
        now = time.monotonic()
        return {name for name in self._destinations if self._broken.get(name, (0.0, 0))[0] <= now}

    def _deliver(self, batch: Batch, destination: Destination) -> None:
        answers = self._transfer(batch, destination)
        pause = self._back_off.pause(max(item.attempt for item in batch.items))  # one for all: they go together
        settlements = {
            item.delivery_id: replace(
                _settlement(item, answers[item.sop_instance_uid], destination, time.time() + pause),
                said=answers[item.sop_instance_uid].said,
            )
            for item in batch.items
        }
        if self._deliveries.settle(batch, settlements) < len(batch.items):
            logger.warning("the lease was lost while sending; another sender answers for the rest")
        for item in batch.items:
            settlement = settlements[item.delivery_id]
            is_well = settlement.state in (DeliveryState.CONFIRMED, DeliveryState.SENT)
            logger.log(
                logging.INFO if is_well else logging.WARNING,
                "%s %s is %s after attempt %d%s",
                item.kind,
                item.sop_instance_uid,
                settlement.state,
                item.attempt,
                f": {settlement.reason}" if settlement.reason else "",
            )

    def _transfer(self, batch: Batch, destination: Destination) -> dict[str, Answer]:
        answers = {
            item.sop_instance_uid: Answer(Verdict.PERMANENT, "the archive does not hold it any more")
            for item in batch.items
            if item.instance is None
        }
        instances = [item.instance for item in batch.items if item.instance is not None]
        if not instances:
            return answers
        maybe_there = {item.sop_instance_uid for item in batch.items if item.attempt > 1}
        with self._kept(batch) as check:
            try:
                with self._connect(destination, instances) as peer:
                    answers |= transfer(
                        peer, _groups(batch.items), self._archive.read, maybe_there=maybe_there, after_each=check
                    )
                verdicts = {answer.verdict for answer in answers.values()}
                self._note(destination.name, is_broken=Verdict.PASSING in verdicts and Verdict.STORED not in verdicts)
            except DeliveryRefused as error:
                refused = Answer(Verdict.PERMANENT, error.message)
                answers |= {instance.sop_instance_uid: refused for instance in instances}
            except (DeliveryUnavailable, ConfigError) as error:  # a secret that cannot be read may come back
                self._note(destination.name, is_broken=True)
                unavailable = Answer(Verdict.PASSING, error.message)
                answers |= {instance.sop_instance_uid: unavailable for instance in instances}
            except Exception as error:  # the edge to what peers answer and objects hold: it must end in an answer too
                logger.exception("the delivery failed")
                failed = Answer(Verdict.DOUBTFUL, f"an internal error ({type(error).__name__}); the log says where")
                answers |= {instance.sop_instance_uid: failed for instance in instances}
        return answers

    def _note(self, name: str, *, is_broken: bool) -> None:
        with self._lock:
            if not is_broken:
                self._broken.pop(name, None)
                return
            failures = self._broken.get(name, (0.0, 0))[1] + 1
            pause = min(self._back_off.breaker, self._back_off.pause(failures))
            self._broken[name] = (time.monotonic() + pause, failures)

    @contextmanager
    def _kept(self, batch: Batch) -> Iterator[Callable[[], None]]:
        """Renew the lease while the block runs; what is given raises once it was lost."""
        over, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not over.wait(self._lease_seconds / 3):
                try:
                    if not self._deliveries.renew(batch, self._lease_seconds):
                        lost.set()
                        return
                except DatabaseUnavailable:
                    logger.warning("the lease could not be renewed; the database does not answer")

        def check() -> None:
            if lost.is_set():
                raise DeliveryUnavailable("the lease was lost in mid-delivery")

        thread = threading.Thread(target=renew, name="delivery-lease", daemon=True)
        thread.start()
        try:
            yield check
        finally:
            over.set()
            thread.join()


def _groups(items: Iterable[Item]) -> list[list[StoredInstance]]:
    groups: dict[int, list[StoredInstance]] = {}
    for item in items:
        if item.instance is not None:
            groups.setdefault(_RANK.get(item.kind, 0), []).append(item.instance)
    return [groups[rank] for rank in sorted(groups)]


def _settlement(item: Item, answer: Answer, destination: Destination, again_at: float) -> Settlement:
    """Decide what an answer means for a delivery."""
    is_last = item.attempt >= destination.max_attempts
    match answer.verdict:
        case Verdict.STORED if answer.seen:
            return Settlement(DeliveryState.CONFIRMED, answer.reason, was_sent=True)
        case Verdict.STORED if answer.seen is None or not destination.check_back:
            reason = answer.reason or ("not confirmed: it cannot be queried" if destination.check_back else "")
            return Settlement(DeliveryState.SENT, reason, was_sent=True)
        case Verdict.STORED:
            reason = answer.reason or "it says success, but a query does not show it"
            if is_last:
                return Settlement(DeliveryState.DEAD, reason, was_sent=True)
            return Settlement(DeliveryState.SENT, reason, again_at, was_sent=True)
        case Verdict.PERMANENT:
            return Settlement(DeliveryState.DEAD, answer.reason)
        case Verdict.DOUBTFUL:
            is_last = is_last or item.attempt >= _DOUBTFUL_ATTEMPTS
    if is_last:
        return Settlement(DeliveryState.DEAD, f"{answer.reason} (after {item.attempt} attempts)")
    return Settlement(DeliveryState.WAITING, answer.reason, again_at)
