"""The Dramatiq broker on Redis, as a doorbell: nothing that it holds is needed, and one waiting ring is enough."""

from __future__ import annotations

import threading

import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from imaging_ai.errors import BrokerUnavailable

__all__ = ["RemoteBroker"]


class RemoteBroker(RedisBroker):
    """Rings one process that consumes a queue, on any host.

    Maintenance runs with every command: by default a message fetched by a worker that died waits for minutes.
    Delays are kept in this process, so that no worker polls delay queues.
    """

    def __init__(self, url: str) -> None:
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
            if self.client.llen(f"{self.namespace}:{message.queue_name}"):
                return message
            return super().enqueue(message)
        except redis.RedisError as error:
            raise BrokerUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    def ping(self) -> None:
        """Raise `BrokerUnavailable` unless Redis answers."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise BrokerUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    def close(self) -> None:
        """Close the connections to Redis."""
        self.client.close()
