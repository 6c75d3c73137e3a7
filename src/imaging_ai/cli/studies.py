"""Work on folders: `run` a model, `send` to a destination, `rules test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imaging_ai.cli.common import as_json, echo_json, settings_of, told

if TYPE_CHECKING:
    from imaging_ai.core.finding import Measurement
    from imaging_ai.offline import Written

__all__ = ["rules", "run", "send"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.argument("input_dir", type=_FOLDER)
@click.argument("output_dir", type=click.Path(file_okay=False, path_type=Path))
@as_json
@click.pass_context
def run(context: click.Context, model: str, input_dir: Path, output_dir: Path, json_output: bool) -> None:
    """Run MODEL on the series in INPUT_DIR and write what it makes (SEG, SR, …) to OUTPUT_DIR, without a server."""
    import time

    from rich.progress import Progress

    from imaging_ai import wiring
    from imaging_ai.offline import run_folder
    from imaging_ai.wiring.models import make_sandbox

    settings = settings_of(context)
    entry, sandbox = wiring.make_catalog(settings).get(model), make_sandbox(settings)
    with Progress(transient=True, disable=json_output) as progress:
        task = progress.add_task("reading", total=100)
        report = lambda percent, stage: progress.update(task, completed=percent, description=str(stage))  # noqa: E731
        runs = list(run_folder(input_dir, output_dir, entry, sandbox, report, created_at=time.time()))
    if json_output:
        echo_json([_tree(one) for one in runs])
        return
    for one in runs:
        for written, path in one.objects:
            click.echo(f"{written.kind:4} {path}")
        for finding in one.findings:
            numbers = ", ".join(_number(measurement) for measurement in finding.measurements)
            click.echo(f"     {finding.tracking_identifier}: {numbers or 'not found'}")
        for row in told(one.evaluations):
            click.echo(f"     {row['what']}: {row['presence']}, {row['how']}")


def _tree(run: Written) -> dict[str, Any]:
    return {
        "objects": [
            {"kind": one.kind, "sop_instance_uid": one.sop_instance_uid, "path": str(path)} for one, path in run.objects
        ],
        "findings": [
            {
                "label": finding.description.label,
                "tracking_uid": finding.tracking_uid,
                "found": finding.found,
                "measurements": [
                    {"quantity": _quantity(one), "value": one.value, "unit": one.unit.value}
                    for one in finding.measurements
                ],
            }
            for finding in run.findings
        ],
        "evaluations": [evaluation.as_tree() for evaluation in run.evaluations],
    }


def _quantity(measurement: Measurement) -> str:
    derivation = f" {measurement.derivation.meaning}" if measurement.derivation else ""
    return f"{measurement.quantity.meaning}{derivation}"


def _number(measurement: Measurement) -> str:
    return f"{_quantity(measurement)} {measurement.value:.4g} {measurement.unit.value}"


@click.command()
@click.argument("folder", type=_FOLDER)
@click.argument("destination")
@click.pass_context
def send(context: click.Context, folder: Path, destination: str) -> None:
    """Send every instance below FOLDER to DESTINATION (a name from the settings, or AETITLE@HOST:PORT)."""
    from rich.progress import Progress

    from imaging_ai import wiring
    from imaging_ai.send.folder import send_folder

    peer = wiring.find_destination(settings_of(context), destination)
    with Progress(transient=True) as progress:
        task = progress.add_task("sending", total=None)
        report = send_folder(folder, peer, lambda done, total: progress.update(task, completed=done, total=total))
    click.echo(f"{report.sent} sent, {len(report.failed)} failed")
    for name, reason in report.failed:
        click.echo(f"  {name}: {reason}", err=True)
    if not report.sent and not report.failed:
        click.echo(f"{folder} holds no DICOM file", err=True)
    context.exit(0 if report.is_complete else 1)


@click.group()
def rules() -> None:
    """Look at the routing rules."""


@rules.command("test")
@click.argument("folder", type=_FOLDER)
@click.pass_context
def test(context: click.Context, folder: Path) -> None:
    """Say which rules match the series in FOLDER, and why the others do not."""
    from imaging_ai import wiring

    click.echo(wiring.explain_folder(settings_of(context), folder))
