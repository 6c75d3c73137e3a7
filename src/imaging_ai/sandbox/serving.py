"""What a model's process does behind its walls: hears what is asked, and says what came of it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from imaging_ai import errors
from imaging_ai.catalog import read_model
from imaging_ai.core.job import Stage
from imaging_ai.errors import ConfigError, ImagingAiError
from imaging_ai.logs import where
from imaging_ai.sandbox.confine import Walls, Within
from imaging_ai.sandbox.messages import (
    Answered,
    Begin,
    Check,
    Failed,
    FromModel,
    Learn,
    Progress,
    Ready,
    Said,
    ToModel,
)
from imaging_ai.sandbox.series import unpack
from imaging_ai.sandbox.spool import sent

if TYPE_CHECKING:
    from imaging_ai.sandbox.inside import Inside

__all__ = ["load", "serve"]

logger = logging.getLogger(__name__)

_LONGEST_RECORD = 4000


def serve(connection: Connection[object, object], within: Within, walls: Walls) -> None:
    """Load the libraries, then do what the process at the other end of a socket asks until it goes away."""
    mouth = _Mouth(connection)
    begin = mouth.hear()
    assert isinstance(begin, Begin)
    _log_through(mouth, begin.log_level)
    try:
        if within.mode == "strict" and walls.missing:
            raise ConfigError(f'worker.sandbox is "strict", and what it asks for is not all here: {walls.sentence()}')
        inside = load()(begin.spec)
    except Exception as error:  # noqa: BLE001 - the edge of the process: the other side must learn of it
        mouth.say(Ready(walls, _failed(error)))
        return
    if within.gpu and inside.device != "cuda":
        logger.warning('a GPU is there and cannot be used; docs/sandbox.md, "GPUs", says what to try')
    mouth.say(Ready(walls))
    try:
        while True:
            _serve(mouth, inside, mouth.hear())
            _empty(Path(within.scratch))
    except EOFError:
        return


def load() -> type[Inside]:
    """Load the libraries that models need."""
    with _without("matplotlib"):  # MONAI loads it where it is, for pictures that nobody draws here
        from imaging_ai.sandbox.inside import Inside

        return Inside


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let a module be absent for a while: what can do without it loads faster."""
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


class _Mouth:
    """The socket; any thread may say something."""

    def __init__(self, connection: Connection[object, object]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(ToModel)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain)

    def hear(self) -> ToModel:
        message: ToModel = self._decoder.decode(self._connection.recv_bytes())
        return message

    def hear_descriptor(self) -> int:
        return reduction.recv_handle(self._connection)

    def say(self, message: FromModel, *parts: bytes | memoryview) -> None:
        with self._lock:
            self._connection.send_bytes(self._encoder.encode(message))
            for part in parts:
                sent(self._connection.fileno(), part)


class _Relay(logging.Handler):
    """Hands records of this program on; what other libraries say may carry anything, and is not told."""

    def __init__(self, mouth: _Mouth) -> None:
        super().__init__()
        self._mouth = mouth

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("imaging_ai"):
            self._mouth.say(Said(record.levelno, record.name, record.getMessage()[:_LONGEST_RECORD]))


def _log_through(mouth: _Mouth, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Relay(mouth)]
    root.setLevel(level)


def _serve(mouth: _Mouth, inside: Inside, message: ToModel) -> None:
    latest = Progress(0, Stage.READ)

    def report(percent: int, stage: Stage) -> None:
        nonlocal latest
        if (progress := Progress(int(percent), stage)) != latest:
            mouth.say(progress)
            latest = progress

    try:
        answered, parts = _done(mouth, inside, message, report)
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, it ends this attempt only
        if not isinstance(error, ImagingAiError | MemoryError | OSError):
            logger.error("a model's run failed: %s", where(error))
        mouth.say(_failed(error))
        return
    mouth.say(answered, *parts)


def _done(
    mouth: _Mouth, inside: Inside, message: ToModel, report: Callable[[int, Stage], None]
) -> tuple[Answered, list[bytes | memoryview]]:
    assert not isinstance(message, Begin)
    series = {} if isinstance(message, Check) else unpack(mouth.hear_descriptor(), message.lengths)
    entry = read_model(Path(message.bundle), message.name, message.digest)
    if isinstance(message, Check):
        return Answered(checked=inside.check(entry, trial=message.trial)), []
    if isinstance(message, Learn):
        return Answered(features=inside.features(entry, series, message.layer)), []
    answer = inside.analyse(entry, message.digest, series, message.order, report)
    said = Answered(
        findings=answer.findings,
        kinds=tuple(one.kind for one in answer.objects),
        lengths=tuple(len(one.data) for one in answer.objects),
        provenance=answer.provenance,
        evaluations=answer.evaluations,
        refused=answer.refused,
        on_gpu=inside.on_gpu(),
    )
    return said, [one.data for one in answer.objects]


def _plain(value: object) -> object:
    """Return what MessagePack has a word for, where a library's own number or name got into an answer."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _failed(error: Exception) -> Failed:
    """Say what kind of error it is; of those of others the type only, since their messages may carry anything."""
    kind = type(error).__name__
    if isinstance(error, ImagingAiError) and hasattr(errors, kind):
        given = error.__reduce__()[1]
        return Failed(kind, tuple(map(str, given)))
    return Failed(kind, (error.strerror or "",) if isinstance(error, OSError) else ())


def _empty(scratch: Path) -> None:
    """Leave nothing of this job for the next."""
    for one in scratch.iterdir() if scratch.is_dir() and os.access(scratch, os.W_OK) else ():
        shutil.rmtree(one, ignore_errors=True) if one.is_dir() and not one.is_symlink() else one.unlink()
