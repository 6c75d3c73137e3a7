"""The worker: one light process that hears the doorbell, routes, delivers, and has runners run the jobs.

It imports no model library. Its lease is renewed by a thread that no model can hold up, and its lock dies with it.
Dramatiq's part is to hear: the actor of each queue wakes the lane of that queue, and the sweep wakes it when no
message came. So the broker may be away for as long as it likes.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import dramatiq
from dramatiq import Broker

from imaging_ai.queue.broker import DELIVERY, INFERENCE_CPU, INFERENCE_GPU, ROUTE, WORKLIST, Doorbell
from imaging_ai.queue.embedded import EmbeddedBroker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.presence import Presence
from imaging_ai.queue.workers import Workers
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.worker.failures import Outage
from imaging_ai.worker.inference import Inference, Limits
from imaging_ai.worker.lane import Lane
from imaging_ai.worker.messages import PipelineSpec
from imaging_ai.worker.sweeper import Alarm, Sweeper

__all__ = ["Tasks", "Worker", "WorkerOptions", "declare_actors"]

logger = logging.getLogger(__name__)

#: Milliseconds between two looks at the broker. Redis is polled; an embedded ring wakes at once.
_POLL_REDIS, _POLL_EMBEDDED = 50, 500


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a worker does, as callables. What is None it does not do.

    `pipeline` runs jobs; processes that run models come from the `zygote` where there is one. `route_due` routes the
    series that are settled and returns how many jobs it made; `next_settle` tells when the next one settles.
    `deliver_next` sends one batch and says whether there was one. At each sweep, `on_lost` is called with the owner of
    each worker that died, and `on_sweep`, for what else needs care, in a thread of its own.
    """

    pipeline: PipelineSpec | None = None
    zygote: Zygote | None = None
    route_due: Callable[[], int] | None = None
    next_settle: Callable[[], float | None] | None = None
    deliver_next: Callable[[], bool] | None = None
    on_lost: Callable[[str], object] | None = None
    on_sweep: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works."""

    queues: tuple[str, ...] = (ROUTE, INFERENCE_CPU, INFERENCE_GPU, DELIVERY)
    slots: int = 1
    delivery_slots: int = 2
    warm_up: bool = False
    lease_seconds: float = 30.0
    sweep_interval: float | None = None  # None: 1 s embedded, 5 s with Redis
    grace_seconds: float = 20.0
    limits: Limits = field(default_factory=Limits)


class Worker:
    """Runs until it is told to stop. Make it, then call `run` from the main thread."""

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        presence: Presence,
        tasks: Tasks,
        options: WorkerOptions | None = None,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._presence = presence
        self._tasks = tasks
        self._options = options or WorkerOptions()
        self._embedded = isinstance(broker, EmbeddedBroker)
        self._bell = Doorbell(broker)
        self._workers = Workers(ledger.database)
        self._inference = self._make_inference()
        self._lanes = self._make_lanes()
        self._upkeep = Lane("upkeep", self._look_after)
        self._sweeper = Sweeper(self._sweep, self._alarms(), interval=self._interval())
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended = threading.Event()

    def run(self) -> None:
        """Work until `stop`; then let running jobs end within the grace time, and give back those that do not."""
        self._presence.hold()
        outage = Outage(logger, "the start of the worker")
        with outage.tolerated():
            self._beat()
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        for lane in self._all_lanes():
            lane.start()
        self._sweeper.start()
        ear = self._listen()
        logger.info("worker %s serves %s", self._presence.owner, ", ".join(self._lanes))
        self._told.get()
        self._shut_down(ear)

    def stop(self, *_signal: object) -> None:
        """Ask `run` to return; safe as a signal handler and from any thread."""
        self._told.put(None)  # unlike Event.set, SimpleQueue.put may interrupt itself

    def handle_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    # -- building

    def _make_inference(self) -> Inference | None:
        queues = [each for each in self._options.queues if each not in (ROUTE, DELIVERY)]
        if self._tasks.pipeline is None or not queues:
            return None
        return Inference(
            self._ledger,
            self._presence.owner,
            queues,
            self._tasks.pipeline,
            zygote=self._tasks.zygote,
            warm_up=self._options.warm_up,
            lease_seconds=self._options.lease_seconds,
            limits=self._options.limits,
            ring=self._bell.ring,
            on_complete=self._on_complete,
        )

    def _on_complete(self) -> None:
        """Ring for what a runner's commit has brought: deliveries, and news of a work item."""
        self._bell.ring(DELIVERY)
        self._bell.ring(WORKLIST)

    def _make_lanes(self) -> dict[str, Lane]:
        lanes: dict[str, Lane] = {}
        options = self._options
        if self._inference is not None:
            lane = Lane("inference", self._inference.step, threads=options.slots, prepare=self._inference.prepare)
            lanes = {each: lane for each in options.queues if each not in (ROUTE, DELIVERY)}
        if self._tasks.route_due is not None and ROUTE in options.queues:
            lanes[ROUTE] = Lane("route", self._route)
        if self._tasks.deliver_next is not None and DELIVERY in options.queues:
            lanes[DELIVERY] = Lane("delivery", self._tasks.deliver_next, threads=options.delivery_slots)
        return lanes

    def _alarms(self) -> list[Alarm]:
        alarms = []
        if ROUTE in self._lanes and self._tasks.next_settle is not None:
            alarms.append(Alarm(self._tasks.next_settle, self._lanes[ROUTE].wake))
        if self._inference is not None:
            alarms.append(Alarm(self._ledger.next_due, lambda: self._wake(self._ledger.due_queues())))
        return alarms

    def _interval(self) -> float:
        return self._options.sweep_interval or (1.0 if self._embedded else 5.0)

    def _listen(self) -> dramatiq.Worker:
        declare_actors(self._broker, self._lanes)
        _quieten(self._lanes)
        ear = dramatiq.Worker(
            self._broker,
            worker_threads=max(1, len(self._lanes)),
            worker_timeout=_POLL_EMBEDDED if self._embedded else _POLL_REDIS,
        )
        ear.queue_prefetch = 1  # what a busy worker does not take, another hears
        ear.start()
        return ear

    def _all_lanes(self) -> set[Lane]:
        return {*self._lanes.values(), self._upkeep}

    # -- working

    def _route(self) -> bool:
        assert self._tasks.route_due is not None
        made = self._tasks.route_due()
        if made:
            self._wake(self._ledger.due_queues())
        self._sweeper.nudge()
        return False

    def _sweep(self) -> None:
        if self._tasks.on_lost is not None:
            for owner in self._workers.census(time.time()).dead:
                self._tasks.on_lost(owner)
        self._wake(self._ledger.sweep())
        self._upkeep.wake()
        if DELIVERY in self._lanes:
            self._lanes[DELIVERY].wake()
        if ROUTE in self._lanes and self._tasks.next_settle is None:
            self._lanes[ROUTE].wake()

    def _look_after(self) -> bool:
        if self._tasks.on_sweep is not None:
            self._tasks.on_sweep()
        return False

    def _wake(self, queues: list[str]) -> None:
        for each in queues:
            if each in self._lanes:
                self._lanes[each].wake()
            self._bell.ring(each)

    def _pulse(self) -> None:
        outage = Outage(logger, "the heartbeat")
        while not self._ended.wait(min(self._options.lease_seconds / 3, 10.0)):
            with outage.tolerated():
                self._beat()

    def _beat(self) -> None:
        self._workers.seen(self._presence, list(self._lanes), time.time())
        if self._inference is not None:
            self._ledger.renew(self._presence.owner, self._options.lease_seconds, self._inference.running)

    # -- ending

    def _shut_down(self, ear: dramatiq.Worker) -> None:
        logger.info("worker %s stops", self._presence.owner)
        grace = self._options.grace_seconds
        deadline = time.monotonic() + grace
        lanes = self._all_lanes()
        self._sweeper.stop()
        for lane in lanes:
            lane.stop()
        if self._inference is not None:
            self._inference.stop(grace)
        try:
            ear.stop(timeout=2000)
        except Exception as error:  # noqa: BLE001 - the broker's own errors, and it may be away: the ledger has the work
            logger.warning("the broker was not told of the end: %s", type(error).__name__)
        ended = [lane.join(deadline + 5.0) for lane in lanes]
        if not all(ended):
            logger.warning("some work did not end in time; the ledger gives it to others")
        self._ended.set()
        if self._inference is not None:
            self._inference.close()
        with Outage(logger, "the farewell").tolerated():
            self._workers.gone(self._presence)
        self._presence.leave()
        self._broker.close()


def declare_actors(broker: Broker, lanes: dict[str, Lane]) -> None:
    """Declare the actor of each queue: it wakes the lane of the queue and waits until that has a thread to spare."""
    for name, lane in lanes.items():
        dramatiq.actor(actor_name=name, queue_name=name, broker=broker)(lane.answer)


def _quieten(names: dict[str, Lane]) -> None:
    """Leave it to the doorbell to say, once, that the broker is away; consumers would say so every three seconds."""
    for name in names:
        logging.getLogger(f"dramatiq.worker.ConsumerThread({name})").setLevel(logging.CRITICAL + 1)
