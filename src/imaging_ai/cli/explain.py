"""`explain`: why a model answers what it answers, and whether that explanation can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of

__all__ = ["explain"]

_METHODS = ("grad-cam", "guided-grad-cam", "integrated-gradients", "occlusion")


@click.command()
@click.argument("model")
@click.argument("series_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--method", "methods", multiple=True, type=click.Choice(_METHODS), help="Default: the model's own.")
@click.option("--target", "targets", multiple=True, metavar="LABEL", help="A label or class; default: what is present.")
@click.option(
    "--check",
    "checks",
    multiple=True,
    type=click.Choice(["faithfulness", "randomization"]),
    help="Insertion and deletion curves (default); the map as the network forgets.",
)
@as_json
@click.pass_context
def explain(
    context: click.Context,
    model: str,
    series_dir: Path,
    output_dir: Path,
    methods: tuple[str, ...],
    targets: tuple[str, ...],
    checks: tuple[str, ...],
    json_output: bool,
) -> None:
    """Run MODEL on the series in SERIES_DIR, explain what it says, and write all objects to OUTPUT_DIR."""
    import time

    import msgspec
    from rich.progress import Progress

    from imaging_ai import wiring
    from imaging_ai.offline import run_folder
    from imaging_ai.wiring.models import make_sandbox

    settings = settings_of(context)
    entry, sandbox = wiring.make_catalog(settings).get(model), make_sandbox(settings)
    options = entry.explain.asked(list(methods) or True)
    options = msgspec.structs.replace(
        options,
        targets=targets or options.targets,
        when="always" if targets else options.when,
        checks=checks or options.checks,
    )
    with Progress(transient=True, disable=json_output) as progress:
        task = progress.add_task("reading", total=100)
        report = lambda percent, stage: progress.update(task, completed=percent, description=str(stage))  # noqa: E731
        runs = list(
            run_folder(series_dir, output_dir, entry, sandbox, report, created_at=time.time(), explained=options)
        )
    made: list[dict[str, Any]] = [one for run in runs for one in _explanations(run.provenance)]
    if json_output:
        echo_json(made)
        return
    for written, path in (each for run in runs for each in run.objects):
        click.echo(f"{written.kind:4} {path}")
    rows = [_row(one) for one in made]
    columns = ("of", "method", "insertion", "deletion", "completeness", "forgets", "trusted", "seconds")
    echo_table(columns, rows, empty="nothing was found that could be explained")
    for note in (str(note) for run in runs for note in _list(run.provenance, "notes") if "not explained" in str(note)):
        click.echo(note, err=True)


def _explanations(provenance: Any) -> list[dict[str, Any]]:
    return _list(provenance, "explanations")


def _list(provenance: Any, key: str) -> list[Any]:
    return list(provenance.get(key) or ())


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    checks = one["checks"]
    error = f"{checks['completeness error']:.1%}" if "completeness error" in checks else ""
    forgets = " ".join(f"{stage['rank_correlation']:+.2f}" for stage in one.get("randomised", ()))
    trusted = {True: "yes", False: "no", None: ""}[one["trusted"]]
    return (
        one["of"],
        one["method"],
        _against_chance(checks, "insertion"),
        _against_chance(checks, "deletion"),
        error,
        forgets,
        trusted,
        f"{one['seconds']:.1f}",
    )


def _against_chance(checks: dict[str, float], name: str) -> str:
    return f"{checks[name]:.2f} ({checks[f'{name} by chance']:.2f})" if name in checks else ""
