"""Logging: one line per event, as JSON or as text, with UIDs and job ids from the context, no patient data.

`bound(job=…, series=…)` puts identifiers into every record logged inside its block, in that thread or task.
Records carry what is in `message` only; data sets and attribute values never go into a log call. Of an exception its
type and lines are told: the message of another library's may quote what a peer sent.

Nobody fills a disk by being warned of: of the warnings of one place in the code a hundred are written at once, and then
one a second, which says how many were not. Those of another place are not held up by them.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

__all__ = ["bound", "configure", "where"]

_AT_ONCE, _A_SECOND = 100, 1.0

_context: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("imaging_ai_log_context", default={})  # noqa: B039 - never mutated


@contextmanager
def bound(**identifiers: object) -> Iterator[None]:
    """Add identifiers to every record logged inside the block."""
    token = _context.set({**_context.get(), **identifiers})
    try:
        yield
    finally:
        _context.reset(token)


def where(error: BaseException) -> str:
    """Return type and lines of an exception, and of what caused it, without their messages.

    With the type stands the code that a database gives (sqlite.org/rescode.html, SQLSTATE): it says nothing of anybody.
    """
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    kind = f"{type(error).__name__} {code}" if code else type(error).__name__
    parts = [f"{kind}\n{''.join(traceback.format_tb(error.__traceback__))}"]
    if (cause := error.__cause__ or error.__context__) is not None:
        parts.append(f"caused by {where(cause)}")
    return "".join(parts)


def _exception(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return "" if error is None else where(error)


class _Measured(logging.Filter):
    """Lets through as many warnings and errors of one line of code as are of use to somebody."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._due: dict[tuple[str, int], float] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        with self._lock:
            due = max(self._due.get(place, 0.0), now)
            if due - now > (_AT_ONCE - 1) / _A_SECOND:
                self._left_out[place] = self._left_out.get(place, 0) + 1
                return False
            self._due[place] = due + 1 / _A_SECOND
            left_out = self._left_out.pop(place, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like this, not written)", ()
        return True


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_context.get(),
        }
        if exception := _exception(record):
            event["exception"] = exception
        return msgspec.json.encode(event, enc_hook=str).decode()


class _TextFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        )
        if context := _context.get():
            line += " [" + " ".join(f"{key}={value}" for key, value in context.items()) + "]"
        return f"{line}\n{exception}" if (exception := _exception(record)) else line


#: Libraries whose own records can carry what a peer sent, or tell too much: held at WARNING whatever our level is.
_NOISY = (
    "alembic",
    "pynetdicom",
    "pydicom",
    "highdicom",
    "dramatiq",
    "httpx",
    "httpcore",
    "sqlalchemy",
    "_granian",
    "granian",
    "ignite",
    "monai",
)


def configure(level: str = "INFO", style: str = "text") -> None:
    """Send records of this process to standard error; `style` is "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    handler.addFilter(_Measured())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # those of pydicom quote values, and go around the log
