"""The port to a destination, whatever it speaks: connect, store, ask what arrived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from imaging_ai.core.instance import StoredInstance
from imaging_ai.send import scu, stow
from imaging_ai.send.answers import Answer
from imaging_ai.send.destinations import Destination, DicomDestination, WebDestination

__all__ = ["Peer", "connect", "echo"]


class Peer(Protocol):
    """A destination that we are connected to."""

    def store(self, instance: StoredInstance, data: bytes) -> Answer:
        """Send a PS3.10 file and return what the destination said of it.

        Raises
        ------
        DeliveryUnavailable
            If it went away: nothing more can be sent over this connection, and of `instance` nothing is known.
        """

    def holds(self, instances: Sequence[StoredInstance]) -> frozenset[str] | None:
        """Return the SOP Instance UIDs among `instances` that a query there shows; None when it cannot be asked."""


@contextmanager
def connect(destination: Destination, instances: Sequence[StoredInstance]) -> Iterator[Peer]:
    """Open a connection that can carry `instances`.

    Raises
    ------
    DeliveryUnavailable
        If the destination is not there, or busy.
    DeliveryRefused
        If it does not talk to us, and will not until somebody changes something.
    """
    if isinstance(destination, DicomDestination):
        with scu.associate(destination, instances) as association:
            yield association
    elif isinstance(destination, WebDestination):
        with stow.connect(destination) as service:
            yield service
    else:
        raise TypeError(f"a {type(destination).__name__} is no destination")


def echo(destination: Destination) -> None:
    """Ask whether the destination is there and talks to us; raises as `connect` does."""
    if isinstance(destination, DicomDestination):
        scu.echo(destination)
    elif isinstance(destination, WebDestination):
        stow.echo(destination)
