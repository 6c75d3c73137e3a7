"""The Dramatiq broker on Redis, as a doorbell: nothing that it holds is needed, and one waiting ring is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from imaging_ai.errors import BrokerUnavailable
from imaging_ai.queue.ears import Ear

__all__ = ["RemoteBroker"]

#: What an operator meets, the narrower first.
_REASONS = (
    (redis.AuthenticationError, "it refuses the user or the password; see broker.url and broker.password_file"),
    (redis.TimeoutError, "there was no answer in time; see whether it runs, and broker.url"),
    (redis.ConnectionError, "nobody listens there; see whether it runs, and broker.url"),
)


class RemoteBroker(RedisBroker):
    """Rings one process that consumes a queue, on any host.

    Maintenance runs with every command: by default a message fetched by a worker that died waits for minutes.
    Delays are kept in this process, so that no worker polls delay queues. Rings of the queues `heard_by_all` are
    published instead: every process that listens at that moment hears them.
    """

    def __init__(self, url: str, *, heard_by_all: Collection[str] = ()) -> None:
        self._heard_by_all = frozenset(heard_by_all)
        client = redis.Redis.from_url(
            url, socket_connect_timeout=2.0, socket_timeout=5.0, socket_keepalive=True, health_check_interval=30
        )
        super().__init__(  # type: ignore[no-untyped-call]
            client=client,
            middleware=[],
            namespace="imaging-ai",
            heartbeat_timeout=15_000,
            maintenance_chance=1_000_000,
        )

    def declare_queue(self, queue_name: str) -> None:
        """Make a queue known to workers of this broker, without a queue for delays."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[None], *, delay: int | None = None) -> Message[None]:
        """Send a message, unless one of its queue still waits unheard.

        Raises
        ------
        BrokerUnavailable
            If Redis cannot be reached.
        """
        if delay is not None:
            timer = threading.Timer(delay / 1000, self.enqueue, (message,))
            timer.daemon = True
            timer.start()
            return message
        try:
            if message.queue_name in self._heard_by_all:
                self.client.publish(self._channel(message.queue_name), b"")
                return message
            if self.client.llen(f"{self.namespace}:{message.queue_name}"):
                return message
            return super().enqueue(message)
        except redis.RedisError as error:
            raise BrokerUnavailable(f"Redis does not answer: {_why(error)}") from error

    def listen(self, queue_name: str) -> Ear:
        """Hear every ring of a queue that is heard by all."""
        return _Radio(self.client, self._channel(queue_name))

    def _channel(self, queue_name: str) -> str:
        return f"{self.namespace}:{queue_name}:rings"

    def ping(self) -> None:
        """Raise `BrokerUnavailable` unless Redis answers."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise BrokerUnavailable(f"Redis does not answer: {_why(error)}") from error

    def close(self) -> None:
        """Close the connections to Redis."""
        self.client.close()


class _Radio:
    """A subscription to a channel; without an answer of Redis nothing is heard."""

    def __init__(self, client: redis.Redis, channel: str) -> None:
        self._channel = channel
        self._subscription = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._subscribed = False

    def heard(self, timeout: float) -> bool:
        try:
            if not self._subscribed:
                self._subscription.subscribe(self._channel)
                self._subscribed = True
            rang = self._next(timeout)
            while rang and self._next(0.0):
                continue
        except redis.RedisError:
            self._subscribed = False
            time.sleep(timeout)
            return False
        return rang

    def _next(self, timeout: float) -> bool:
        """Wait for the next ring; what Redis answers to the subscription itself is none."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            if self._subscription.get_message(timeout=left) is not None:
                return True
            if time.monotonic() >= deadline:
                return False

    def close(self) -> None:
        self._subscription.close()


def _why(error: redis.RedisError) -> str:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), type(error).__name__)
