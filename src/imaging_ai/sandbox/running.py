"""One model's process while it runs: what it is told, what it says, and how it ended."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from imaging_ai import errors
from imaging_ai.errors import (
    ImagingAiError,
    InternalError,
    ModelOutOfMemory,
    ModelProcessDied,
    SeriesRefused,
    StorageUnavailable,
)
from imaging_ai.sandbox.confine import Within
from imaging_ai.sandbox.forked import Forked, Zygote
from imaging_ai.sandbox.guardian import Held, Over
from imaging_ai.sandbox.messages import Answered, Begin, Failed, FromModel, Progress, Ready, Report, Said, ToModel
from imaging_ai.sandbox.spool import received

__all__ = ["Running"]

logger = logging.getLogger(__name__)

#: A message that is none of an object's bytes is never longer.
_LONGEST_MESSAGE = 64 << 20
_MOST_RECORDS, _LONGEST_RECORD, _LONGEST_REASON = 1000, 4000, 1000
#: A run says how far it is at each percent of each stage.
_MOST_PROGRESS = 10_000
#: What a record of ours may be from, and what a code is: names of loggers stay for ever, and codes count in metrics.
_LOGGER, _CODE = re.compile(r"imaging_ai(\.[a-z0-9_]{1,40}){1,4}"), re.compile(r"[a-z0-9-]{1,64}")


class Running:
    """A process that was forked, until `end`. Large objects that it makes go to files without a name in `spool`."""

    def __init__(self, zygote: Zygote, within: Within, begin: Begin, spool: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connection: Connection[object, object] = Connection(ours.detach())
        with theirs:
            self._process = Forked(zygote, theirs, within.memory_bytes)
        self._largest_answer = within.memory_bytes or sys.maxsize
        self._spool = spool
        self._records = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromModel] = msgspec.msgpack.Decoder(FromModel)
        self.tell(within)
        self.tell(begin)

    @property
    def alive(self) -> bool:
        """Whether the process is there and has not hung up."""
        return self._process.alive and not self._hung_up()

    @property
    def pid(self) -> int | None:
        """The process id, once it has begun."""
        return self._process.pid

    def held(self) -> Held:
        """Return the bytes that it holds by itself, and the most that it held since this was asked last."""
        return self._process.held()

    def tell(self, message: Within | ToModel, descriptor: int | None = None) -> None:
        """Send a message, and a descriptor after it.

        Raises
        ------
        ModelProcessDied
            If the process ended.
        """
        try:
            self._connection.send_bytes(self._encoder.encode(message))
            if descriptor is not None:
                reduction.send_handle(self._connection, descriptor, 0)  # of whom is for Windows to know
        except OSError as error:
            raise self._death() from error

    def hear(self, report: Report) -> tuple[Ready | Answered, list[bytes | memoryview]]:
        """Wait for what the process answers, with the bytes of the objects that it made; pass on the rest.

        Raises
        ------
        ModelProcessDied, ModelOutOfMemory
            If the process ended, or said what it cannot mean.
        ImagingAiError
            As the model's run did.
        """
        said = 0
        try:
            while not isinstance(message := self._decoder.decode(self._next(_LONGEST_MESSAGE)), Ready | Answered):
                if isinstance(message, Failed):
                    raise _raised(message)
                if (said := said + 1) > _MOST_PROGRESS + _MOST_RECORDS:
                    raise self._nonsense()
                self._pass_on(message, report)
            if isinstance(message, Answered):
                return message, self._parts(message)
            if message.failed is not None:
                self.end()
                raise _raised(message.failed)
            return message, []
        except (EOFError, OSError) as error:
            raise self._death() from error
        except msgspec.DecodeError as error:
            raise self._nonsense() from error
        except ImagingAiError:
            raise
        except BaseException:
            self.end()  # what it still has to say of this job would be taken for the answer to the next
            raise

    def end(self) -> None:
        """End the process."""
        self._process.end()
        self._connection.close()

    def _hung_up(self) -> bool:
        """Say whether the process has closed its socket, as it does when it ends, before its guardian tells."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            try:
                return not end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                return True

    def _next(self, longest: int) -> bytes:
        return self._connection.recv_bytes(longest)

    def _parts(self, answered: Answered) -> list[bytes | memoryview]:
        lengths = answered.lengths
        if len(lengths) != len(answered.kinds) or min(lengths, default=0) < 0 or sum(lengths) > self._largest_answer:
            raise self._nonsense()
        try:
            return [received(self._connection.fileno(), length, self._spool) for length in lengths]
        except StorageUnavailable:
            self.end()  # the rest of it would be taken for the answer to the next
            raise

    def _pass_on(self, message: Progress | Said, report: Report) -> None:
        if isinstance(message, Progress):
            report(min(max(message.percent, 0), 100), message.stage)
        elif _LOGGER.fullmatch(message.logger) and self._records < _MOST_RECORDS:
            self._records += 1
            lines = message.text[:_LONGEST_RECORD].split("\n")
            text = "\n  | ".join(line.encode("unicode_escape").decode() for line in lines)  # none looks like a record
            logging.getLogger(message.logger).log(min(message.level, logging.ERROR), "%s", text)

    def _nonsense(self) -> ModelProcessDied:
        self.end()
        return ModelProcessDied("the process that ran the model said what cannot be understood, and was ended")

    def _death(self) -> ImagingAiError:
        over = self._process.wait(5.0)
        if over is None:
            return self._nonsense()  # it closed the socket, or said more than it may, and lives on
        self.end()
        return ModelOutOfMemory(over.reason) if over.reason else ModelProcessDied(_how(over))


def _how(over: Over) -> str:
    how = f"by {signal.Signals(-over.status).name}" if over.status < 0 else f"with exit code {over.status}"
    return f"the process that ran the model ended {how}"


def _raised(failed: Failed) -> ImagingAiError:
    """Make the error again that was raised in the process; what is none of ours becomes an `InternalError`."""
    kind, arguments = getattr(errors, failed.kind, None), tuple(map(_told, failed.arguments))
    if isinstance(kind, type) and issubclass(kind, ImagingAiError):
        try:
            error: ImagingAiError = kind(*arguments)
        except TypeError:
            return InternalError(f"{failed.kind}; the log says where")
        if isinstance(error, SeriesRefused) and not _CODE.fullmatch(error.reason):
            return InternalError("a series was refused with a code that is none")
        return error
    if failed.kind == "MemoryError":
        return ModelOutOfMemory("the process ran out of memory")
    what = ": ".join((_told(failed.kind), *filter(None, arguments)))
    return InternalError(f"{what[:200]}; the log says where")


def _told(text: str) -> str:
    """Return what is kept of a reason: a line of it."""
    return "".join(one if one.isprintable() else " " for one in text[:_LONGEST_REASON])
