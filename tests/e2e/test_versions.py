"""A new version of a model on a running server: fetched, tried in the shadow, made current, taken back, repeated."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.commands import ask, refused
from e2e.server import Server, push, renamed
from phantoms import ball, series, threshold_bundle, write
from services import wait_until

pytestmark = pytest.mark.service

SETTINGS = """
[[rules]]
name = "bright things"
when = { Modality = "CT" }
run = ["bright"]
shadow = ["bright@2.0.0"]

[routing]
quiet_seconds = 0.3
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that has a newer version of the bundle, which sees less as bright, as the Model Zoo would pack it."""
    folder = tmp_path_factory.mktemp("zoo")
    bundle = threshold_bundle(folder / "made" / "bright", threshold=290.0)
    toml = bundle / "dicom.toml"
    toml.write_text(toml.read_text().replace("1.0.0", "2.0.0"))
    shutil.make_archive(str(folder / "bright_v2.0.0"), "zip", folder / "made", "bright")
    (folder / "nothing.zip").write_bytes(b"no archive")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, zoo: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("versions")
    with Server(folder, SETTINGS.replace('shadow = ["bright@2.0.0"]', "")) as server:
        threshold_bundle(server.models / "bright")
        pulled = ask(server, "models", "pull", "bright", "--url", f"{zoo}/bright_v2.0.0.zip")
        assert "bright 2.0.0 is installed" in pulled
        assert "bright is version 1.0.0 again" in ask(server, "models", "rollback", "bright")
        server.config.write_text(SETTINGS)
        server.serve()
        yield server


@pytest.fixture(scope="module")
def jobs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """A series has come in; the ids of the jobs on it, by model."""
    folder = tmp_path_factory.mktemp("series")
    made = write(series(ball((8, 32, 32)), modality="CT"), folder / "made")
    push(server.dicom_port, *renamed(made, folder / "fresh"))
    done = server.wait_jobs(2)
    assert {job.state for job in done} == {"COMPLETED"}
    return {job.model: job.id for job in done}


def test_the_version_in_the_shadow_runs_beside_and_says_what_it_is(server: Server, jobs: dict[str, int]) -> None:
    assert set(jobs) == {"bright", "bright@2.0.0"}
    shown, shadow = (server.results(jobs[name])["SEG"] for name in ("bright", "bright@2.0.0"))
    assert shown.SeriesDescription == "Threshold 1.0.0 SEG"
    assert shadow.SeriesDescription == "Threshold 2.0.0 SEG shadow"
    assert server.rows("SELECT count(*) FROM delivery WHERE job_id = :job", job=jobs["bright@2.0.0"])[0][0] == 0


def _compared(server: Server) -> dict[str, Any]:
    """What is told of the two once they are compared, which is after both have ended."""
    report: dict[str, Any] = json.loads(ask(server, "models", "agreement", "bright@2.0.0", "--json"))
    return report if report["compared"] else {}


def test_the_agreement_of_the_two_is_measured_and_reported(server: Server, jobs: dict[str, int]) -> None:
    report = wait_until(lambda: _compared(server))
    assert (report["compared"], report["identical"]) == (1, 0)
    ((median, lowest, job),) = report["dice"].values()
    assert 0 < median == lowest <= 1 and job == jobs["bright@2.0.0"]
    assert any("Volume" in name for name in report["differences"])
    told = ask(server, "models", "agreement", "bright@2.0.0")
    assert "1 runs compared" in told and "Dice of Bright" in told


def test_a_completed_job_that_is_repeated_answers_byte_for_byte_the_same(server: Server, jobs: dict[str, int]) -> None:
    assert "identical, byte for byte" in ask(server, "jobs", "repeat", str(jobs["bright"]))


def test_a_job_is_repeated_with_the_version_it_ran_with_whatever_is_current(
    server: Server, jobs: dict[str, int]
) -> None:
    ask(server, "models", "use", "bright@2.0.0")
    try:
        assert "identical" in ask(server, "jobs", "repeat", str(jobs["bright"]))
        listed = json.loads(ask(server, "models", "list", "--json"))
        assert [(one["version"], one["current"]) for one in listed] == [("2.0.0", True), ("1.0.0", False)]
    finally:
        ask(server, "models", "rollback", "bright")


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(server: Server, zoo: str) -> None:
    for name, word in (("nothing.zip", "nothing.zip"), ("nowhere.zip", "could not be fetched")):
        assert word in refused(server, "models", "pull", "other", "--url", f"{zoo}/{name}")
    address = f"{zoo}/bright_v2.0.0.zip"
    assert "was wanted" in refused(server, "models", "pull", "bright", "--url", address, "--digest", "00")
    assert not (server.models / "other").exists()
