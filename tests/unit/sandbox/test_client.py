"""The privileged side: what it makes of a process that does not start, dies, or talks nonsense."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging_ai.catalog import read_model
from imaging_ai.errors import ConfigError, InternalError, ModelOutOfMemory, ModelProcessDied, SeriesRefused
from imaging_ai.sandbox.client import Sandbox
from imaging_ai.sandbox.messages import Failed, Spec
from imaging_ai.sandbox.running import _raised
from imaging_ai.sandbox.watch import memory_share
from phantoms import threshold_bundle
from zygotes import let_live


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(Spec(device="cpu"), tmp_path, mode="strict", memory_bytes=1 << 30)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


@pytest.mark.parametrize(
    "said", [b"junk", b"\x93\x01\x02\x03", b"\x81\xa4type\xa5Ready", b"cos\nsystem\n(S'true'\ntR."]
)
def test_nonsense_ends_the_process_and_is_never_unpickled(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    message = len(said).to_bytes(4, "big") + said
    let_live(monkeypatch, f"os.write(socket, {message!r}); time.sleep(60)")
    with pytest.raises(ModelProcessDied, match="cannot be understood"):
        sandbox.ready()


def test_a_process_that_ends_is_told_with_how(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    let_live(monkeypatch, "os._exit(3)")
    with pytest.raises(ModelProcessDied, match="exit code 3"):
        sandbox.ready()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looked at by /proc")
def test_a_process_that_grows_is_ended_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(Spec(device="cpu"), tmp_path, memory_bytes=100 << 20)
    let_live(monkeypatch, "held = bytearray(os.urandom(1 << 20) * 150); time.sleep(60)")
    with pytest.raises(ModelOutOfMemory, match=r"grew to \d+ MB"):
        sandbox.ready()
    sandbox.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are of Linux")
def test_strict_refuses_to_run_where_a_wall_is_missing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    let_live(
        monkeypatch,
        "from imaging_ai.sandbox import seccomp\n"
        "seccomp.install()  # as where a container's runtime allows no namespace\n"
        "child.main(socket, guardian)",
    )
    with pytest.raises(ConfigError, match=r'"strict", .* missing: no network \(namespaces\)'):
        sandbox.ready()


LOADS = """
from multiprocessing.connection import Connection
import msgspec
from imaging_ai.sandbox.confine import Walls
from imaging_ai.sandbox.messages import Answered, Checked, Ready
"""
#: Says that it is ready, and that each model is well; holds 100 MB from then on.
HOLDS = """
side, held = Connection(socket), b""
say = lambda message: side.send_bytes(msgspec.msgpack.encode(message))
side.recv_bytes(), side.recv_bytes()
say(Ready(Walls()))
while side.recv_bytes():
    held = os.urandom(1) * (100 << 20)
    say(Answered(checked=Checked("cpu", 0, 0.0)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looked at by /proc")
def test_of_models_that_hold_too_much_together_those_used_last_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_live(monkeypatch, HOLDS, LOADS)
    entries = [read_model(threshold_bundle(tmp_path / name, value)) for name, value in (("a", 1), ("b", 2), ("c", 3))]
    one, other, third = (entry.digest for entry in entries)
    sandbox = Sandbox(Spec(device="cpu", memory_budget=380 << 20), tmp_path / "run", memory_bytes=1 << 30)
    for number in (0, 1, 0):
        sandbox.check(entries[number], trial=False)
    before = sandbox.pids
    assert list(before) == [other, one]
    sandbox.check(entries[2], trial=False)
    assert list(sandbox.pids) == [one, third]
    assert sandbox.pids[one] == before[one]
    sandbox.close()


def test_errors_come_through_as_what_they_were() -> None:
    refused = _raised(Failed("SeriesRefused", ("gantry-tilt", "the gantry is tilted")))
    assert isinstance(refused, SeriesRefused) and refused.reason == "gantry-tilt"
    assert isinstance(_raised(Failed("MemoryError")), ModelOutOfMemory)
    for failed in (Failed("ValueError"), Failed("annotations"), Failed("SeriesRefused", ("too", "many", "words"))):
        assert isinstance(_raised(failed), InternalError)


def test_the_share_of_this_machine_is_less_than_all_of_it() -> None:
    assert 0 < memory_share() < 1 << 50
