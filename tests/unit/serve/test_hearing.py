"""A request is heard out before it is refused, within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from imaging_ai.serve.hearing import heard_out

Message = dict[str, Any]


def ask(
    messages: list[Message],
    status: int,
    *,
    method: str = "POST",
    most_bytes: int = 100,
    reads: bool = False,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> tuple[int, list[Message]]:
    """Let an application answer `status`; return how many messages were read by then, and what was sent."""
    read, sent = 0, list[Message]()

    async def receive() -> Message:
        nonlocal read
        if read == len(messages):
            await asyncio.sleep(60)
        read += 1
        return messages[read - 1]

    async def send(message: Message) -> None:
        sent.append({**message, "read": read})

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        if reads:
            while (await receive())["more_body"]:
                continue
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    wrapped: Any = heard_out(app, most_bytes=most_bytes, seconds=0.2)  # type: ignore[arg-type]
    asyncio.run(wrapped({"type": "http", "method": method, "headers": headers}, receive, send))
    return sent[0]["read"], sent


def body(*sizes: int, ends: bool = True) -> list[Message]:
    last = len(sizes) - 1
    return [
        {"type": "http.request", "body": bytes(size), "more_body": not (ends and number == last)}
        for number, size in enumerate(sizes)
    ]


def test_the_rest_of_a_refused_body_is_read_before_the_answer() -> None:
    assert ask(body(10, 10, 10), 401)[0] == 3


def test_a_body_that_was_read_is_not_waited_for_again() -> None:
    assert ask(body(10, 10), 413, reads=True)[0] == 2


@pytest.mark.parametrize(("status", "method"), [(200, "POST"), (404, "GET")])
def test_success_and_requests_without_a_body_are_answered_at_once(status: int, method: str) -> None:
    assert ask(body(10, 10), status, method=method)[0] == 0


def test_a_client_that_asks_before_it_sends_is_refused_without_its_body() -> None:
    assert ask(body(10, 10), 413, headers=((b"expect", b"100-continue"),))[0] == 0


def test_a_body_beyond_the_bound_is_answered_before_its_end() -> None:
    assert ask(body(60, 60, 60, 60), 413, most_bytes=100)[0] == 2


def test_a_client_that_stops_sending_is_answered_all_the_same() -> None:
    read, sent = ask(body(10, ends=False), 401)
    assert (read, [one["type"] for one in sent]) == (1, ["http.response.start", "http.response.body"])


def test_a_client_that_is_gone_is_not_waited_for() -> None:
    assert ask([{"type": "http.disconnect"}], 401)[0] == 1


def test_what_is_refused_before_it_has_come_to_the_event_loop_goes_there_first() -> None:
    sent: list[Message] = []

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": []})

    request: Any = heard_out(app)({"type": "http", "method": "POST", "headers": ()}, nothing, send)  # type: ignore[arg-type]
    assert request.send(None) is None, "it waits for the loop"
    request.close()
    assert sent == []
