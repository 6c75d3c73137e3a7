"""Bodies of any length: in pieces, held back by whoever works on them, and never waited for without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from imaging_ai.errors import InputError, StorageUnavailable, TooLarge, TooSlow
from imaging_ai.serve.dicomweb.body import Body

Message = dict[str, Any]


def chunk(data: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


class Client:
    """Sends messages; `seconds` before each."""

    def __init__(self, messages: Iterable[Message], seconds: float = 0.0) -> None:
        self._messages, self._seconds = iter(messages), seconds
        self.taken = 0

    async def receive(self) -> Message:
        await asyncio.sleep(self._seconds)
        message = next(self._messages, None)
        if message is None:
            await asyncio.sleep(3600)
        self.taken += 1
        return message or GONE


def body_of(client: Client, *, idle: float = 5.0, most: int = 1 << 40, **headers: str) -> Body:
    request = SimpleNamespace(receive=client.receive, headers=headers)
    return Body(request, idle_seconds=idle, most_bytes=most)  # type: ignore[arg-type]


def poured(body: Body, into: Callable[[bytes], None] | None = None) -> bytes:
    taken = bytearray()
    asyncio.run(body.pour(into or taken.extend))
    return bytes(taken)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def test_all_of_it_comes_in_its_order_in_pieces_of_a_megabyte() -> None:
    sent = [bytes([number % 251]) * 100_000 for number in range(35)]
    pieces: list[bytes] = []
    poured(body_of(Client([*map(chunk, sent), chunk(b"", more=False)])), pieces.append)
    assert b"".join(pieces) == b"".join(sent)
    assert all(len(piece) < (1 << 20) + 100_000 for piece in pieces) and len(pieces) == 4


def test_no_more_is_taken_than_one_piece_ahead_of_the_work() -> None:
    client, most = Client([*(chunk(bytes(1 << 20)) for _ in range(20)), chunk(b"", more=False)]), 0
    worked = 0

    def slowly(_piece: bytes) -> None:
        nonlocal worked, most
        worked += 1
        threading.Event().wait(0.01)
        most = max(most, client.taken - worked)

    poured(body_of(client), slowly)
    assert (worked, most) == (20, 1)


def test_an_error_of_the_work_ends_the_reading() -> None:
    client = Client(chunk(bytes(1 << 20)) for _ in range(1000))

    def full(_piece: bytes) -> None:
        raise StorageUnavailable("the storage folder is full")

    with pytest.raises(StorageUnavailable):
        poured(body_of(client), full)
    assert client.taken <= 2


def test_on_an_error_nothing_works_on_any_more() -> None:
    """Whoever then forgets what came must not do so under the work's feet."""
    working = threading.Event()

    def slowly(_piece: bytes) -> None:
        working.set()
        threading.Event().wait(0.2)
        working.clear()

    with pytest.raises(InputError, match="went away"):
        poured(body_of(Client([chunk(bytes(1 << 20)), GONE])), slowly)
    assert not working.is_set()


def test_a_client_that_goes_away_is_no_end_of_the_body() -> None:
    with pytest.raises(InputError, match="went away"):
        poured(body_of(Client([chunk(b"whole"), GONE])))


@pytest.mark.parametrize("length", ["4", "6"])
def test_a_body_of_another_length_than_it_says_is_refused(length: str) -> None:
    with pytest.raises(InputError, match="Content-Length"):
        poured(body_of(Client([chunk(b"whole", more=False)]), **{"content-length": length}))


def test_a_client_that_stalls_is_not_waited_for() -> None:
    with pytest.raises(TooSlow):
        poured(body_of(Client([chunk(bytes(100_000))]), idle=0.05))


def test_a_client_that_sends_byte_by_byte_is_not_waited_for_either() -> None:
    client = Client((chunk(b"x") for _ in range(1_000_000)), seconds=0.01)
    with pytest.raises(TooSlow):
        poured(body_of(client, idle=0.2))
    assert client.taken < 100


def test_slow_work_is_not_the_clients_fault() -> None:
    client = Client([*(chunk(bytes(1 << 20)) for _ in range(3)), chunk(b"", more=False)])
    poured(body_of(client, idle=0.05), lambda _piece: threading.Event().wait(0.1) and None)
    assert client.taken == 4


def test_a_body_over_the_limit_is_refused_by_its_length_or_as_it_comes() -> None:
    client = Client([chunk(b"x")])
    with pytest.raises(TooLarge):
        poured(body_of(client, most=10, **{"content-length": "11"}))
    assert client.taken == 0
    with pytest.raises(TooLarge):
        poured(body_of(Client([chunk(b"12345"), chunk(b"678901")]), most=10))


def test_the_rest_of_a_refused_body_is_read_but_not_without_end() -> None:
    client = Client([*(chunk(bytes(1 << 20)) for _ in range(10)), chunk(b"", more=False)])
    run(body_of(client).drain())
    assert client.taken == 11
    endless = Client(chunk(bytes(1 << 20)) for _ in range(100_000))
    run(body_of(endless).drain())
    assert endless.taken < 300


def test_what_nobody_has_sent_yet_is_not_asked_for() -> None:
    for headers in ({"expect": "100-continue"}, {"content-length": str(1 << 40)}):
        client = Client([chunk(b"x")])
        run(body_of(client, **headers).drain())
        assert client.taken == 0


def test_draining_ends_quietly_when_the_client_is_gone() -> None:
    run(body_of(Client([chunk(b"x"), GONE])).drain())
