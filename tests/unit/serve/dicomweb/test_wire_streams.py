"""What an answer is made of is let go when its client has gone, at once and from wherever it stands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from itertools import chain

import pytest

from imaging_ai.serve.dicomweb.wire import Pieces, begun, gathered, stream


class File:
    """Something that is open while it is read."""

    def __init__(self) -> None:
        self.is_open = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    def pieces(self) -> Iterator[bytes]:
        with self.opened():
            while True:
                yield b"x" * 1_000_000


def test_pieces_that_are_let_go_close_what_they_are_made_of_though_others_still_hold_it() -> None:
    file = File()
    body = begun(file.pieces(), 1)
    pieces = Pieces(gathered(chain((b"head",), body)), body)
    assert next(pieces)
    assert file.is_open
    pieces.close()
    assert not file.is_open
    assert next(pieces, b"") == b""


def test_letting_go_waits_for_a_thread_that_still_reads() -> None:
    reading, go_on, file = threading.Event(), threading.Event(), File()

    def slow() -> Iterator[bytes]:
        with file.opened():
            yield b"first"
            reading.set()
            go_on.wait(10)
            yield b"second"

    body = slow()
    pieces = Pieces(body, body)
    assert next(pieces) == b"first"
    reader = threading.Thread(target=lambda: next(pieces))
    reader.start()
    reading.wait(10)
    closer = threading.Thread(target=pieces.close)
    closer.start()
    assert file.is_open
    go_on.set()
    reader.join(10)
    closer.join(10)
    assert not file.is_open


def test_an_answer_that_is_ended_ends_the_generator_it_reads_from() -> None:
    file = File()

    async def body() -> AsyncGenerator[bytes]:
        with file.opened():
            while True:
                yield b"x"

    async def use() -> None:
        pieces = body()
        kept = stream(pieces, "text/plain")
        assert await anext(kept.iterator) == b"x"  # type: ignore[arg-type]
        assert kept.background is not None
        await kept.background()  # type: ignore[call-arg]
        assert not file.is_open, "closed, and not when memory is looked through some day"

    asyncio.run(use())


def test_a_wrong_value_in_a_piece_is_not_taken_for_the_end() -> None:
    def pieces() -> Iterator[bytes]:
        raise ValueError("wrong")
        yield b""

    with pytest.raises(RuntimeError, match="could not be made"):
        next(Pieces(pieces()))
