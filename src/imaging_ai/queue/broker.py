"""The doorbell: Dramatiq tells workers that a queue has work, by Redis or without any server.

A message carries nothing. Each queue has one actor of the same name (`worker.actors`), which wakes the worker; what
it then does, the ledger says. So whoever rings needs neither actors nor what they import.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from dramatiq import Broker, Message

from imaging_ai.errors import BrokerUnavailable, ConfigError
from imaging_ai.queue.embedded import EmbeddedBroker

if TYPE_CHECKING:
    from imaging_ai.queue.remote import RemoteBroker

__all__ = ["DELIVERY", "INFERENCE_CPU", "INFERENCE_GPU", "QUEUES", "ROUTE", "WORKLIST", "Doorbell", "make_broker"]

logger = logging.getLogger(__name__)

ROUTE, INFERENCE_CPU, INFERENCE_GPU, DELIVERY = "route", "inference-cpu", "inference-gpu", "delivery"
QUEUES = (ROUTE, INFERENCE_CPU, INFERENCE_GPU, DELIVERY)

#: Rings of this one are for every web process, and no worker serves it: work items have changed.
WORKLIST = "worklist"


def make_broker(url: str, run_dir: Path) -> EmbeddedBroker | RemoteBroker:
    """Return the broker of a URL: ``embedded`` (sockets in `run_dir`) or ``redis://…``, ``rediss://…``, ``unix://…``."""
    if url == "embedded":
        return EmbeddedBroker(run_dir / "bells")
    if url.startswith(("redis://", "rediss://", "unix://")):
        from imaging_ai.queue.remote import RemoteBroker

        return RemoteBroker(url, heard_by_all=(WORKLIST,))
    raise ConfigError("the broker URL must be `embedded` or start with redis://, rediss:// or unix://")


class Doorbell:
    """Rings queues from a thread of its own: it neither waits nor raises, and equal rings that wait are one.

    A ring that is lost costs at most one sweep interval.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._wanted: dict[str, None] = {}
        self._rung = threading.Event()
        self._thread: threading.Thread | None = None
        self._silent = False

    def ring(self, queue: str) -> None:
        """Tell the workers of a queue that it may have work."""
        with self._lock:
            self._wanted[queue] = None
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()
        self._rung.set()

    def _run(self) -> None:
        while True:
            self._rung.wait()
            self._rung.clear()
            with self._lock:
                wanted, self._wanted = self._wanted, {}
            for queue in wanted:
                self._send(queue)

    def _send(self, queue: str) -> None:
        try:
            self._broker.enqueue(Message(queue_name=queue, actor_name=queue, args=(), kwargs={}, options={}))
        except (BrokerUnavailable, OSError) as error:
            if not self._silent:
                logger.warning("the doorbell is silent, workers find work when they sweep: %s", error)
            self._silent = True
        else:
            if self._silent:
                logger.info("the doorbell rings again")
            self._silent = False
