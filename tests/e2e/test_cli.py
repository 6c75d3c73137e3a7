"""Every command of the command line on a real installation: what it does, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydicom
import pytest

from e2e.commands import ask, command, refused
from e2e.server import Process, Server, push, renamed
from imaging_ai.core.job import JobState
from phantoms import ball, series, threshold_bundle, write
from services import free_port, wait_until
from services.orthanc import Orthanc

pytestmark = pytest.mark.service

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4" }}
run = ["threshold"]
send = ["pacs"]

[routing]
quiet_seconds = 0.3
"""


def phantom(folder: Path, slices: int = 8, modality: str = "CT") -> list[Path]:
    made = write(series(ball((slices, 32, 32)), modality=modality), folder / "made")
    return list(renamed(made, folder / "fresh"))


def study_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def settings_for(pacs: Orthanc) -> str:
    return SETTINGS.format(ae_title=pacs.ae_title, port=pacs.dicom_port)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("cli"), settings_for(pacs)) as server:
        threshold_bundle(server.models / "threshold")
        server.serve()
        yield server


@pytest.fixture
def idle(tmp_path: Path) -> Server:
    """An installation where nothing runs."""
    return Server(tmp_path / "idle")


# -- run


def test_run_writes_the_results_of_a_folder_without_a_server(idle: Server, tmp_path: Path) -> None:
    threshold_bundle(idle.models / "threshold")
    phantom(tmp_path)
    done = idle.cli("run", "threshold", str(tmp_path / "fresh"), str(tmp_path / "out"))
    assert sorted(pydicom.dcmread(path).Modality for path in (tmp_path / "out").iterdir()) == ["SEG", "SR"]
    for path in (tmp_path / "out").iterdir():
        assert str(path) in done.stdout
    assert "Bright" in done.stdout and "Volume" in done.stdout
    again = json.loads(ask(idle, "run", "threshold", str(tmp_path / "fresh"), str(tmp_path / "out"), "--json"))
    assert len(list((tmp_path / "out").iterdir())) == 2, "the same run gives the same objects"
    (only,) = again
    assert [one["kind"] for one in only["objects"]] == ["SEG", "SR"]
    assert only["findings"][0]["found"]
    assert only["findings"][0]["measurements"][0]["unit"] == "ml"


def test_run_says_why_it_does_not(idle: Server, tmp_path: Path) -> None:
    threshold_bundle(idle.models / "threshold")
    phantom(tmp_path, modality="MR")
    source, target = str(tmp_path / "fresh"), str(tmp_path / "out")
    assert "Modality" in refused(idle, "run", "threshold", source, target)
    assert "no model 'brain'; installed: threshold" in refused(idle, "run", "brain", source, target)
    assert "does not exist" in refused(idle, "run", "threshold", str(tmp_path / "nowhere"), target, code=2)
    (tmp_path / "empty").mkdir()
    assert "no DICOM files" in refused(idle, "run", "threshold", str(tmp_path / "empty"), target)
    assert not (tmp_path / "out").exists()


# -- send


def test_send_brings_a_folder_to_a_destination_by_name_or_address(
    server: Server, pacs: Orthanc, tmp_path: Path
) -> None:
    files = phantom(tmp_path)
    (tmp_path / "fresh" / "notes.txt").write_text("not DICOM")
    assert "8 sent, 0 failed" in ask(server, "send", str(tmp_path / "fresh"), "pacs")
    assert len(pacs.instances(StudyInstanceUID=study_of(files))) == 8
    peer = f"{pacs.ae_title}@127.0.0.1:{pacs.dicom_port}"
    assert "8 sent" in ask(server, "send", str(tmp_path / "fresh"), peer)


def test_send_says_why_it_does_not(server: Server, tmp_path: Path) -> None:
    phantom(tmp_path)
    assert "no destination 'archive'; known: pacs" in refused(server, "send", str(tmp_path / "fresh"), "archive")
    dead = f"DEAD@127.0.0.1:{free_port()}"
    assert "no connection" in refused(server, "send", str(tmp_path / "fresh"), dead)


# -- models


def test_models_are_added_from_a_folder_and_a_zip_file_and_listed(idle: Server, tmp_path: Path) -> None:
    bundle = threshold_bundle(tmp_path / "bundle")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "bundle")
    assert "no models" in ask(idle, "models", "list")
    assert "bundle 1.0.0 is installed" in ask(idle, "models", "add", str(bundle))
    assert "packed 1.0.0 is installed" in ask(idle, "models", "add", packed)
    assert "other 1.0.0" in ask(idle, "models", "add", packed, "--name", "other")
    listed = json.loads(ask(idle, "models", "list", "--json"))
    assert [one["name"] for one in listed] == ["bundle", "other", "packed"]
    assert len({one["digest"] for one in listed}) == 1
    checked = ask(idle, "models", "check", "packed")
    assert "takes    one series: Modality CT" in checked
    assert "segment  1: Bright (Lesion)" in checked
    assert "makes    SEG, SR" in checked
    assert "loads    in" in checked


def test_what_is_no_model_is_not_installed(idle: Server, tmp_path: Path) -> None:
    bundle = threshold_bundle(tmp_path / "bundle")
    ask(idle, "models", "add", str(bundle))
    assert "is installed already" in refused(idle, "models", "add", str(bundle))
    (tmp_path / "empty").mkdir()
    assert "is no MONAI bundle" in refused(idle, "models", "add", str(tmp_path / "empty"))
    (tmp_path / "notes.zip").write_text("no archive")
    assert "is no ZIP file" in refused(idle, "models", "add", str(tmp_path / "notes.zip"))
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("configs/inference.json", "{}")
        archive.writestr("../../../../slipped", "out of the folder")
        archive.writestr("/tmp/slipped-absolute", "out of the folder")
    command(idle, "models", "add", str(tmp_path / "slip.zip"))
    assert [path for path in tmp_path.rglob("slipped*") if "models" not in path.parts] == []
    assert not Path("/tmp/slipped-absolute").exists()
    assert "is no name" in refused(idle, "models", "add", str(bundle), "--name", "../away")
    assert not [path for path in idle.models.iterdir() if path.name.startswith(".")], "nothing half-made is left"


# -- jobs


def test_jobs_are_listed_shown_and_sent_again(server: Server, pacs: Orthanc, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    study = study_of(files)
    push(server.dicom_port, *files)
    (job,) = server.wait_jobs(1, study)
    wait_until(lambda: len(pacs.instances(StudyInstanceUID=study)) == 2)
    listed = ask(server, "jobs", "list", "--study", study)
    assert "COMPLETED" in listed and "100%" in listed and "bright things" in listed
    (tree,) = json.loads(ask(server, "jobs", "list", "--study", study, "--json"))
    assert (tree["id"], tree["inputs"], tree["model"]) == (job.id, 8, "threshold")
    assert json.loads(ask(server, "jobs", "list", "--study", study, "--state", "CANCELED", "--json")) == []
    shown = json.loads(ask(server, "jobs", "show", str(job.id), "--json"))
    assert {one["destination"] for one in shown["deliveries"]} == {"pacs"}
    assert "deliveries:" in ask(server, "jobs", "show", str(job.id))
    for instance in pacs.instances(StudyInstanceUID=study):
        pacs.delete(instance)
    assert "2 deliveries wait" in ask(server, "jobs", "resend", str(job.id), "--destination", "pacs")
    wait_until(lambda: len(pacs.instances(StudyInstanceUID=study)) == 2)
    assert "nothing to send to nobody" in refused(server, "jobs", "resend", str(job.id), "--destination", "nobody")


def test_a_job_waits_is_cancelled_and_retried(tmp_path: Path, pacs: Orthanc) -> None:
    server = Server(tmp_path / "waiting", settings_for(pacs), {"IMAGING_AI_WORKER_QUEUES": "route"})
    threshold_bundle(server.models / "threshold")
    try:
        server.start("receive")
        server.start("work")
        server.start("web")
        server.wait_ready()
        push(server.dicom_port, *phantom(tmp_path))
        wait_until(server.jobs)
        assert "SCHEDULED" in ask(server, "jobs", "list")
        assert "CANCELED" in ask(server, "jobs", "cancel", "1")
        assert server.ledger.get(1).state is JobState.CANCELED
        assert "waits in inference-cpu" in ask(server, "jobs", "retry", "1")
        assert server.ledger.get(1).state is JobState.SCHEDULED
        server.start("work", "worker", {"IMAGING_AI_WORKER_QUEUES": "inference-cpu"})
        wait_until(lambda: server.ledger.get(1).state is JobState.COMPLETED, 60)
        assert "COMPLETED" in refused(server, "jobs", "retry", "1")
        assert "COMPLETED" in refused(server, "jobs", "cancel", "1")
    finally:
        server.stop()


def test_a_job_that_does_not_exist_is_said_so(server: Server) -> None:
    for verb in ("show", "retry", "cancel", "resend"):
        assert "99999" in refused(server, "jobs", verb, "99999")
    assert "Invalid value" in refused(server, "jobs", "list", "--state", "DONE", code=2)


# -- rules, config, db


def test_rules_test_says_what_would_run_and_what_not(server: Server, tmp_path: Path) -> None:
    phantom(tmp_path / "ct")
    phantom(tmp_path / "mr", modality="MR")
    said = ask(server, "rules", "test", str(tmp_path))
    assert "bright things" in said
    assert "threshold" in said
    assert "Modality" in said


def test_config_is_checked_and_shown_without_its_secrets(server: Server) -> None:
    assert "1 rules, 1 destinations: good" in ask(server, "config", "check")
    environment = dict(server.environment)
    server.environment["IMAGING_AI_BROKER_URL"] = "redis://:hunter2@127.0.0.1:6379/0"
    shown = ask(server, "config", "show")
    tree = json.loads(ask(server, "config", "show", "--json"))
    server.environment = environment
    assert "hunter2" not in shown
    assert tree["broker"]["url"] == "redis://:***@127.0.0.1:6379/0"
    assert tree["dicom"]["port"] == server.dicom_port


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[dicom]\nprot = 104", ["dicom.prot", "did you mean port?"]),
        ("[dicom]\nprocesses = 'two'", ["dicom.processes", "int"]),
        ("dicom = 3 =", ["not valid TOML"]),
        ('[http]\nhost = "0.0.0.0"', ["http.host", "127.0.0.1"]),
        ('[[rules]]\nname = "x"\nrun = ["brain"]', ["'x'", "run", "'brain' is no model"]),
        ('[[rules]]\nname = "x"\nrun = ["threshold"]\nsend = ["y"]', ["send", "'y' is no destination"]),
        ('[[rules]]\nname = "x"\nrun = ["threshold"]\nwhen = { Modality = "/(/" }', ["when", "Modality"]),
        ('[[destinations]]\nname = "p"\nae_title = "P"\nhost = "h"', ["destinations[1]", "port"]),
        ('[[destinations]]\nname = "p"\nae_title = "P"\nhost = "h"\nport = 1\n' * 2, ["two destinations", "'p'"]),
    ],
)
def test_settings_that_are_wrong_name_file_key_and_remedy(idle: Server, settings: str, said: list[str]) -> None:
    threshold_bundle(idle.models / "threshold")
    idle.config.write_text(settings)
    for arguments in (("config", "check"), ("serve",), ("rules", "test", str(idle.folder))):
        line = refused(idle, *arguments, code=2)
        assert str(idle.config) in line
        for part in said:
            assert part in line
        assert len(line.strip().splitlines()) == 1


def test_a_settings_file_that_is_not_there_is_told(idle: Server) -> None:
    line = refused(idle, "--config", "/nowhere/imaging-ai.toml", "config", "check", code=2)
    assert "/nowhere/imaging-ai.toml" in line and "--config" in line


def test_an_environment_variable_that_is_wrong_is_named(idle: Server) -> None:
    idle.environment["IMAGING_AI_DICOM_PORT"] = "none"
    assert "IMAGING_AI_DICOM_PORT" in refused(idle, "config", "check", code=2)


def test_the_database_is_made_and_made_again(idle: Server) -> None:
    first, again = ask(idle, "db", "upgrade"), ask(idle, "db", "upgrade")
    assert first == again
    assert "revision" in first
    assert (idle.folder / "data" / "imaging-ai.db").exists()


def test_a_database_that_is_away_is_told_without_its_password(idle: Server) -> None:
    idle.environment["IMAGING_AI_DATABASE_URL"] = f"postgresql+psycopg://me:hunter2@127.0.0.1:{free_port()}/x"
    for role in ("receive", "work", "web"):
        done = idle.cli(role, check=False)
        assert (done.returncode, "hunter2" in done.stderr, "Traceback" in done.stderr) == (1, False, False), done.stderr
    for arguments in (("jobs", "list"), ("db", "upgrade"), ("serve",)):
        line = refused(idle, *arguments)
        assert "hunter2" not in line
        assert "database" in line


# -- doctor


def test_doctor_finds_a_running_server_well(server: Server) -> None:
    done = command(server, "doctor", "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert [one for one in found.values() if not one["ok"]] == []
    assert done.returncode == 0
    assert {"database", "storage", "broker", "disk", "clock", "destination pacs", "model threshold"} <= set(found)


def test_doctor_tells_what_is_dead_and_what_to_do(idle: Server) -> None:
    threshold_bundle(idle.models / "threshold")
    idle.config.write_text(SETTINGS.format(ae_title="DEAD", port=free_port()))
    done = command(idle, "doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert any("destination pacs" in line for line in failed)
    assert "compare ae_title" in " ".join(done.stdout.split())


# -- the roles


@pytest.mark.parametrize("role", ["receive", "work", "web", "describe", "serve"])
def test_sigterm_ends_a_role_with_code_0(idle: Server, role: str) -> None:
    ask(idle, "db", "upgrade")
    process = idle.start(role)
    try:
        wait_until(lambda: is_up(idle, role, process), 60, what=f"{role} is up\n{idle.logs()}")
        began = time.monotonic()
        process.stop()
        assert process.popen is not None
        assert process.popen.returncode == 0, idle.logs()
        print(f"{role} ended in {time.monotonic() - began:.2f} s")
        assert "Traceback" not in idle.logs()
    finally:
        process.kill()


def is_up(server: Server, role: str, process: Process) -> bool:
    assert process.alive, server.logs()
    if role in {"receive", "serve"} and not server.echo():
        return False
    if role in {"web", "serve"} and not answers(server):
        return False
    if role in {"work", "serve"}:
        return bool(server.rows("SELECT owner FROM worker"))
    # the describer says nothing when it has begun; it has once it handles the signal
    return role != "describe" or handles_sigterm(process.pid)


def answers(server: Server) -> bool:
    import httpx

    try:
        return server.get("/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def handles_sigterm(pid: int) -> bool:
    (caught,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> 14 & 1)


# -- demo, help


@pytest.mark.slow
def test_the_demo_ends_with_results(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMAGING_AI_")}
    ports = {"IMAGING_AI_DICOM_PORT": str(free_port()), "IMAGING_AI_HTTP_PORT": str(free_port())}
    done = run("demo", "--folder", str(tmp_path / "demo"), environment={**environment, **ports})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SEG" in done.stdout and "SR" in done.stdout
    assert "volume in the report" in done.stdout
    assert list((tmp_path / "demo").rglob("preview.png"))
    assert "Traceback" not in done.stderr


def run(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imaging_ai", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)


VERBS = ("serve", "receive", "web", "work", "run", "send", "models", "jobs", "rules", "config", "db", "doctor", "demo")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_every_mistake_code_2(verb: str) -> None:
    from click.testing import CliRunner

    from imaging_ai.cli import cli

    helped = CliRunner().invoke(cli, [verb, "--help"])
    assert helped.exit_code == 0
    assert len(helped.output.splitlines()) > 3
    assert CliRunner().invoke(cli, [verb, "--nonsense"]).exit_code == 2
    assert verb in CliRunner().invoke(cli, ["--help"]).output
