"""The privileged side again: replies that are well formed, and lies."""

from __future__ import annotations

import logging
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from imaging_ai.core.finding import ResultKind
from imaging_ai.core.job import Stage
from imaging_ai.errors import InternalError, ModelFailed, ModelProcessDied
from imaging_ai.sandbox import running
from imaging_ai.sandbox.forked import Forked, Zygote
from imaging_ai.sandbox.messages import Answered, Failed, FromModel, Progress, Said
from imaging_ai.sandbox.running import Running
from zygotes import let_live

Told = Callable[..., Running]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Told]:
    """Make the privileged side of a process that has said something."""
    let_live(monkeypatch, "time.sleep(60)")
    zygote, opened = Zygote(), list[Connection]()

    def say(*messages: FromModel) -> Running:
        ours, theirs = multiprocessing.Pipe()
        opened.extend((ours, theirs))
        made = object.__new__(Running)
        nobody, model = socket.socketpair()
        with nobody, model:
            made._process = Forked(zygote, model, 0)
        made._connection, made._records, made._spool = ours, 0, tmp_path
        made._decoder, made._largest_answer = msgspec.msgpack.Decoder(FromModel), 1 << 20
        for message in messages:
            theirs.send_bytes(msgspec.msgpack.encode(message))
        return made

    yield say
    zygote.end()
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


@pytest.mark.parametrize(
    ("kinds", "lengths"), [(("SEG",), ()), ((), (1,)), (("SEG",), (-1,)), (("SEG", "SR"), (1 << 19, (1 << 19) + 1))]
)
def test_objects_that_are_not_as_many_or_as_long_as_can_be_end_the_process(
    told: Told, kinds: tuple[ResultKind, ...], lengths: tuple[int, ...]
) -> None:
    side = told(Answered(kinds=kinds, lengths=lengths))
    with pytest.raises(ModelProcessDied, match="cannot be understood"):
        heard(side)
    assert not side.alive
