"""One model's process while it runs: what it is told, what it says, and how it ended."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
from multiprocessing import reduction
from multiprocessing.connection import Connection

import msgspec

from imaging_ai import errors
from imaging_ai.errors import ImagingAiError, InternalError, ModelOutOfMemory, ModelProcessDied, SeriesRefused
from imaging_ai.sandbox.confine import Within, environment
from imaging_ai.sandbox.messages import Answered, Begin, Failed, FromModel, Progress, Ready, Report, Said, ToModel
from imaging_ai.sandbox.snapshot import Home
from imaging_ai.sandbox.watch import Watch

__all__ = ["Running"]

logger = logging.getLogger(__name__)

#: A message that is none of an object's bytes is never longer.
_LONGEST_MESSAGE = 64 << 20
_MOST_RECORDS, _LONGEST_RECORD, _LONGEST_REASON = 1000, 4000, 1000
#: A run says how far it is at each percent of each stage.
_MOST_PROGRESS = 10_000
#: What a record of ours may be from, and what a code is: names of loggers stay for ever, and codes count in metrics.
_LOGGER, _CODE = re.compile(r"imaging_ai(\.[a-z0-9_]{1,40}){1,4}"), re.compile(r"[a-z0-9-]{1,64}")
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from imaging_ai.sandbox.child import main; main(int(sys.argv[1]))"


class Running:
    """A process that was started, until `end`. The kernel kills it when the thread that made this ends."""

    def __init__(self, within: Within, begin: Begin, home: Home) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-IB", "-c", _BOOT, str(theirs.fileno()), *sys.path],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if within.mode == "off" else subprocess.DEVNULL,
                env=environment(home.scratch),
                cwd=home.scratch,
                start_new_session=True,
            )
        self._connection: Connection[object, object] = Connection(ours.detach())
        self._watch = Watch(self._process, within.memory_bytes)
        self._largest_answer = within.memory_bytes or sys.maxsize
        self._records = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromModel] = msgspec.msgpack.Decoder(FromModel)
        self.tell(within)
        self.tell(begin)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

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
                reduction.send_handle(self._connection, descriptor, self.pid)
        except OSError as error:
            raise self._death() from error

    def hear(self, report: Report) -> tuple[Ready | Answered, list[bytes]]:
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
                return message, self._parts(len(message.kinds))
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
        self._process.kill()
        self._process.wait()
        self._watch.stop()
        self._connection.close()

    def _next(self, longest: int) -> bytes:
        return self._connection.recv_bytes(longest)

    def _parts(self, count: int) -> list[bytes]:
        parts: list[bytes] = []
        room = self._largest_answer
        for _ in range(count):
            parts.append(self._next(room))
            room -= len(parts[-1])
        return parts

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
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return self._nonsense()  # it closed the socket, or said more than it may, and lives on
        self.end()
        if self._watch.reason:
            return ModelOutOfMemory(self._watch.reason)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return ModelProcessDied(f"the process that ran the model ended {how}")


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
