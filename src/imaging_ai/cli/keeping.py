"""`holds`, `retention`, `backup`: what is kept, for how long, and how it is brought back (docs/keeping.md)."""

from __future__ import annotations

from pathlib import Path

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, moment, settings_of

__all__ = ["backup", "holds", "retention"]

_BY = "the command line"


@click.group()
def holds() -> None:
    """Legal holds: nothing of a study on hold is deleted, by nobody."""


@holds.command("add")
@click.argument("study")
@click.option("--reason", required=True, help="Why; no patient data, please.")
@click.pass_context
def add(context: click.Context, study: str, reason: str) -> None:
    """Put STUDY (its Study Instance UID) on hold."""
    from imaging_ai.wiring.keeping import make_holds

    make_holds(settings_of(context)).place(study, reason, actor=_BY)
    click.echo(f"study {study} is on hold")


@holds.command("lift")
@click.argument("study")
@click.pass_context
def lift(context: click.Context, study: str) -> None:
    """End the hold on STUDY."""
    from imaging_ai.wiring.keeping import make_holds

    make_holds(settings_of(context)).lift(study, actor=_BY)
    click.echo(f"study {study} is no longer on hold")


@holds.command("list")
@click.option("--all", "lifted", is_flag=True, help="With those that were lifted.")
@as_json
@click.pass_context
def list_(context: click.Context, lifted: bool, json_output: bool) -> None:
    """Show the holds in force."""
    from imaging_ai.wiring.keeping import make_holds

    names = ("study", "reason", "placed by", "placed at", "lifted by", "lifted at")
    rows = [
        (one.study_instance_uid, one.reason, one.placed_by, moment(one.placed_at), one.lifted_by, moment(one.lifted_at))
        for one in make_holds(settings_of(context)).entries(lifted=lifted)
    ]
    if json_output:
        echo_json([dict(zip((name.replace(" ", "_") for name in names), row, strict=True)) for row in rows])
    else:
        echo_table(names, rows, empty="nothing is on hold")


@click.group()
def retention() -> None:
    """The rules after which old series are removed ([[retention]])."""


@retention.command("due")
@as_json
@click.pass_context
def due(context: click.Context, json_output: bool) -> None:
    """Show what is due, and by which rule, and remove nothing."""
    from imaging_ai.wiring.keeping import make_retention

    names = ("study", "series", "rule")
    found = make_retention(settings_of(context)).due()
    rows = [(one.study_instance_uid, one.series_instance_uid, one.rule) for one in found]
    if json_output:
        echo_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        echo_table(names, rows, empty="nothing is due")


@retention.command("purge")
@click.confirmation_option(prompt="Remove everything that is due?")
@click.pass_context
def purge(context: click.Context) -> None:
    """Remove what is due now, instead of when a worker comes to it."""
    from imaging_ai.wiring.keeping import make_retention

    click.echo(f"{make_retention(settings_of(context)).purge()} series removed")


@click.group()
def backup() -> None:
    """Copies of everything but the keys."""


@backup.command("create")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def create(context: click.Context, folder: Path) -> None:
    """Write database, objects and models into FOLDER, which is new; the server may run meanwhile."""
    from imaging_ai.wiring.keeping import back_up

    files = back_up(settings_of(context), folder)
    click.echo(f"{folder}: the database and {files} files; the keys are not in it, keep them elsewhere")


@backup.command("restore")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def restore(context: click.Context, folder: Path) -> None:
    """Bring a backup back into an empty place, and look for the bytes of every instance."""
    from imaging_ai.wiring.keeping import restore as bring_back

    found = bring_back(settings_of(context), folder)
    click.echo(f"{found.instances} instances, of {len(found.missing)} the bytes are missing")
    for uid in found.missing:
        click.echo(f"  {uid}", err=True)
    context.exit(1 if found.missing else 0)
