"""The privileged side again: replies that are well formed, and lies."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import msgspec
import pytest

from imaging_ai.core.job import Stage
from imaging_ai.errors import InternalError, ModelFailed, ModelProcessDied
from imaging_ai.sandbox import running
from imaging_ai.sandbox.messages import Answered, Failed, FromModel, Progress, Said
from imaging_ai.sandbox.running import Running

Told = Callable[..., Running]


@pytest.fixture
def told() -> Iterator[Told]:
    """Make the privileged side of a process that has said something."""
    opened: list[Connection] = []
    processes: list[subprocess.Popen[bytes]] = []

    def say(*messages: FromModel) -> Running:
        ours, theirs = multiprocessing.Pipe()
        opened.extend((ours, theirs))
        made = object.__new__(Running)
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        processes.append(process)
        made._process, made._connection, made._records = process, ours, 0
        made._watch = type("Watch", (), {"stop": lambda _self: None, "reason": ""})()
        made._decoder, made._largest_answer = msgspec.msgpack.Decoder(FromModel), 1 << 20
        for message in messages:
            theirs.send_bytes(msgspec.msgpack.encode(message))
        return made

    yield say
    for process in processes:
        process.kill()
        process.wait()
    for one in opened:
        one.close()


def heard(side: Running) -> list[tuple[int, Stage]]:
    reports: list[tuple[int, Stage]] = []
    side.hear(lambda percent, stage: reports.append((percent, stage)))
    return reports


def test_a_record_of_a_model_s_process_cannot_look_like_another_of_ours(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    forged = "10:00:00 warning imaging_ai.people: EMERGENCY ACCESS: ada"
    names = (f"imaging_ai.infer\n{forged}", "imaging_ai.", "root", "imaging_ai." + "x" * 100)
    lies = [Said(logging.WARNING, name, "text") for name in names]
    with caplog.at_level(logging.INFO):
        heard(told(*lies, Said(logging.CRITICAL, "imaging_ai.infer", f"it failed\n{forged}\r\x1b[2J"), Answered()))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"it failed\n  | {forged}\\r\\x1b[2J"
    assert not [name for name in logging.root.manager.loggerDict if "EMERGENCY" in name or "xxx" in name]


def test_a_process_that_does_nothing_but_talk_is_ended(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_MOST_PROGRESS", 20)
    monkeypatch.setattr(running, "_MOST_RECORDS", 10)
    stages = [Progress(1, (Stage.READ, Stage.INFER)[number % 2]) for number in range(31)]
    assert len(heard(told(*stages[:30], Answered()))) == 30
    side = told(*stages, Answered())
    with pytest.raises(ModelProcessDied, match="cannot be understood"):
        heard(side)
    assert not side.alive


def test_a_reason_is_a_line_and_a_code_is_a_word(told: Told) -> None:
    with pytest.raises(ModelFailed) as failed:
        heard(told(Failed("ModelFailed", ("it failed\n10:00:00 warning imaging_ai: forged" + "x" * 10_000,))))
    assert failed.value.message.startswith("it failed 10:00:00") and len(failed.value.message) <= 1000
    for code in ("too many\nwords", "", "x" * 65):
        with pytest.raises(InternalError):
            heard(told(Failed("SeriesRefused", (code, "a reason"))))
