"""The demo: the whole server on this machine, a study pushed to it as a modality would, its results fetched and shown.

Nothing here is a short cut: the roles run as child processes, the study goes over a real C-STORE association, and what
is shown was read back from the archive. Without a terminal it ends when the results are there; with one it stays up.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from imaging_ai import config, wiring
from imaging_ai.core.instance import StoredInstance
from imaging_ai.core.job import FINAL_STATES, Job, JobState
from imaging_ai.demo_phantom import DemoStudy, write_demo_study
from imaging_ai.errors import ModelFailed
from imaging_ai.send.destinations import DicomDestination
from imaging_ai.send.folder import send_folder

__all__ = ["DemoReport", "Shown", "demo_environment", "run_demo"]

Tell = Callable[[str], None]

_RULES = """
# The settings of the demo, written by `make demo`. Start from them for your own.
[[rules]]
name = "FDG-PET"
when = { Modality = "PT", instances = ">= 16" }
run = ["fdg-pet-lesion", "fdg-pet-slice"]
send = []
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One result as the demo shows it."""

    kind: str
    series_description: str
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What came of it; volumes in millilitres."""

    jobs: tuple[Job, ...]
    results: tuple[Shown, ...]
    findings: tuple[str, ...]
    true_volume_ml: float | None
    found_volume_ml: float | None
    seconds: float
    preview: Path | None
    http: str

    @property
    def good(self) -> bool:
        """Whether every kind of result is there."""
        return {"SEG", "SR", "PM", "SC"} <= {one.kind for one in self.results}


def run_demo(folder: Path, *, input_dir: Path | None, tell: Tell, stay: bool, timeout: float = 300.0) -> DemoReport:
    """Run the demo in `folder`; with `stay`, return only after Ctrl-C.

    Raises
    ------
    ImagingAiError
        If the server does not come up, the study is refused, or no job ends in time.
    """
    phantom: DemoStudy | None = None
    if input_dir is None:
        input_dir = folder / "input" / time.strftime("%Y%m%d-%H%M%S")
        phantom = write_demo_study(input_dir, fresh=True)
        lesion = f"one lesion of {phantom.true_volume_ml:.1f} ml"
        tell(f"study      {len(phantom.paths)} slices of a synthetic FDG-PET with {lesion}")
    settings = _settings(folder)
    supervisor = wiring.make_supervisor(settings)
    thread = threading.Thread(target=supervisor.run, name="supervisor")
    thread.start()
    try:
        http = f"http://{settings.http.host}:{settings.http.port}"
        _wait_ready(http, settings.dicom.port, timeout)
        tell(f"server     DICOM {settings.dicom.ae_title} on port {settings.dicom.port}, HTTP on {http}")
        report = _push_and_wait(settings, input_dir, phantom, http, tell, timeout)
        _show(report, tell)
        if stay:
            tell("\nStays up; Ctrl-C ends it.")
            _wait_for_interrupt(thread)
        return report
    finally:
        supervisor.stop()
        thread.join()


def _settings(folder: Path) -> config.Settings:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "imaging-ai.toml"
    if not file.exists():
        file.write_text(_RULES.lstrip())
    environment = demo_environment(os.environ, folder, file)
    os.environ.clear()  # the roles are child processes and read the same
    os.environ.update(environment)
    return config.load(file)


def demo_environment(given: Mapping[str, str], folder: Path, file: Path) -> dict[str, str]:
    """Return the environment of the demo: nothing of an installation's settings, which would put the phantom into it.

    Only the ports may be given; without them the usual ones are taken where they are free.
    """
    ports = {f"{config.ENVIRONMENT_PREFIX}{name}_PORT": default for name, default in (("DICOM", 11112), ("HTTP", 8080))}
    return {
        **{name: value for name, value in given.items() if not name.startswith(config.ENVIRONMENT_PREFIX)},
        **{name: given.get(name) or str(_free_port(default)) for name, default in ports.items()},
        "IMAGING_AI_AUTH_MODE": "off",  # on loopback, for an invented patient
        "IMAGING_AI_DATA_DIR": str(folder),
        "IMAGING_AI_LOG_LEVEL": "WARNING",
        "IMAGING_AI_CONFIG": str(file),
    }


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(http: str, dicom_port: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{http}/health/ready", timeout=2).status_code == httpx.codes.OK:
                socket.create_connection(("127.0.0.1", dicom_port), 1).close()
                return
        except (httpx.HTTPError, OSError):
            time.sleep(0.1)
    raise ModelFailed(f"the server did not come up within {timeout:.0f} s; its log is above")


def _push_and_wait(
    settings: config.Settings, input_dir: Path, phantom: DemoStudy | None, http: str, tell: Tell, timeout: float
) -> DemoReport:
    peer = DicomDestination(
        name="demo",
        ae_title=settings.dicom.ae_title,
        host=settings.dicom.host,
        port=settings.dicom.port,
        calling_ae_title="DEMO",
    )
    began = time.monotonic()
    sent = send_folder(input_dir, peer, lambda _done, _total: None)
    if sent.failed:
        raise ModelFailed(f"the server refused {len(sent.failed)} instances: {sent.failed[0][1]}")
    tell(f"pushed     {sent.sent} instances in {time.monotonic() - began:.1f} s by C-STORE")
    studies = _studies(input_dir)
    jobs = _wait_jobs(settings, studies, tell, timeout)
    seconds = time.monotonic() - began
    return _report(settings, jobs, phantom, http, seconds, settings.data_path / "results")


def _studies(folder: Path) -> tuple[str, ...]:
    """The studies of a folder, by the headers of its files."""
    found: dict[str, None] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            found[str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)] = None
        except InvalidDicomError:
            continue
    return tuple(found)


def _wait_jobs(settings: config.Settings, studies: Sequence[str], tell: Tell, timeout: float) -> tuple[Job, ...]:
    ledger = wiring.make_ledger(settings)
    deadline, said = time.monotonic() + timeout, ""
    while time.monotonic() < deadline:
        jobs = tuple(job for study in studies for job in ledger.find(study=study))
        state = ", ".join(f"{job.model or 'no model'} {job.state} {job.progress}% ({job.stage})" for job in jobs)
        if state and state != said and sys.stdout.isatty():
            tell(f"job        {state}")
            said = state
        if jobs and all(job.state in FINAL_STATES for job in jobs):
            return jobs
        time.sleep(0.1)
    raise ModelFailed(f"no result within {timeout:.0f} s; `imaging-ai jobs list` says where it stands")


def _report(
    settings: config.Settings, jobs: tuple[Job, ...], phantom: DemoStudy | None, http: str, seconds: float, folder: Path
) -> DemoReport:
    from imaging_ai import demo_results

    archive = wiring.make_archive(settings, wiring.make_database(settings))
    shown: list[Shown] = []
    findings: list[str] = []
    found: float | None = None
    preview: Path | None = None
    for job in jobs:
        if job.state is not JobState.COMPLETED:
            findings.append(
                f"job {job.id}: {job.failure.code}: {job.failure.reason}"
                if job.failure
                else f"job {job.id}: {job.state}"
            )
            continue
        objects = [(one, archive.read(one)) for one in archive.results(job.id)]
        source = [
            archive.read(one)
            for uid in job.series_instance_uids
            for one in _inputs(archive.instances(uid, job.study_instance_uid), job)
        ]
        outcome = demo_results.save(folder / f"job-{job.id}", objects, source)
        shown += [Shown(kind, description, path, path.stat().st_size) for kind, description, path in outcome.files]
        findings += outcome.sentences
        found = outcome.largest_volume_ml if found is None else found
        preview = preview or outcome.preview
    truth = phantom.true_volume_ml if phantom else None
    return DemoReport(jobs, tuple(shown), tuple(findings), truth, found, seconds, preview, http)


def _inputs(instances: Sequence[StoredInstance], job: Job) -> list[StoredInstance]:
    wanted = set(job.inputs)
    return [one for one in instances if one.sop_instance_uid in wanted]


def _show(report: DemoReport, tell: Tell) -> None:
    tell(f"results    {len(report.results)} objects, {report.seconds:.1f} s after the first instance was sent\n")
    for one in report.results:
        tell(f"  {one.kind:4} {one.series_description:40} {one.bytes / 1000:8.1f} kB   {one.path}")
    for sentence in report.findings:
        tell(f"  {sentence}")
    if report.true_volume_ml and report.found_volume_ml is not None:
        found, true = report.found_volume_ml, report.true_volume_ml
        tell(f"\n  volume in the report {found:.1f} ml, true {true:.1f} ml ({100 * (found / true - 1):+.0f} %)")
    if report.preview:
        tell(f"  picture    {report.preview}")
    if report.jobs:
        study = report.jobs[0].study_instance_uid
        tell(f"  API        {report.http}/api/studies/{study}   {report.http}/api/jobs   {report.http}/schema")
        tell(f"  viewer     {_viewer(report.http, study)}")


def _viewer(http: str, study: str) -> str:
    """Say where the study is seen, or how to come to see it."""
    if httpx.get(f"{http}/viewer/", timeout=10).status_code == httpx.codes.OK:
        return f"{http}/viewer/segmentation?StudyInstanceUIDs={study}"
    return "not installed; `make viewer` does that, and this server shows it at once"


def _wait_for_interrupt(thread: threading.Thread) -> None:
    try:
        while thread.is_alive():
            thread.join(0.5)
    except KeyboardInterrupt:
        return
