"""`audit`: is the trail what was written, and what does it say?"""

from __future__ import annotations

import dataclasses
import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from imaging_ai.cli.common import as_json, echo_json, settings_of

if TYPE_CHECKING:
    from imaging_ai.audit.export import Format
    from imaging_ai.audit.verify import Report

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """The audit trail: verify, anchor, export (docs/audit.md)."""


@audit.command("verify")
@click.argument("segments", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--anchor",
    "path",
    type=click.Path(path_type=Path),
    help="Anchors to hold it against; default: the setting audit.anchor.",
)
@click.option("--no-anchor", is_flag=True, help="Do without: an end that was cut off goes unnoticed.")
@as_json
@click.pass_context
def verify(
    context: click.Context, segments: tuple[Path, ...], path: Path | None, no_anchor: bool, json_output: bool
) -> None:
    """Find any event that was changed, removed, moved or cut off, in the trail or in archived SEGMENTS.

    Exit codes: 0 whole, 1 not, 2 cannot be told.
    """
    from imaging_ai.wiring.audit import verify_audit, verify_audit_segments

    settings = settings_of(context)
    if segments:
        reports = verify_audit_segments(settings, segments)
    else:
        reports = [verify_audit(settings, path, anchored=not no_anchor)]
    for report in reports:
        if json_output:
            echo_json({"whole": report.whole, **dataclasses.asdict(report)})
        else:
            _tell(report)
    context.exit(0 if all(report.whole for report in reports) else 1)


@audit.command("anchor")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def anchor(context: click.Context, file: Path | None) -> None:
    """Note the end of the trail in FILE (the setting audit.anchor), as the worker does every minute."""
    from imaging_ai.wiring.audit import anchor_audit

    done = anchor_audit(settings_of(context), file)
    click.echo(f"event {done.sequence}: {done.hash}" if done else "there are no events yet")


@audit.command("rotate-key")
@click.pass_context
def rotate_key(context: click.Context) -> None:
    """Have a new key seal from now on; the old ones stay, to verify what they have sealed until now.

    On other hosts the roles wait for the key file to be brought there.
    """
    from imaging_ai.wiring.audit import rotate_audit_key

    keys = rotate_audit_key(settings_of(context), actor=getpass.getuser())
    click.echo(f"the new key is {keys.current}, in {keys.path}; bring that file to the other hosts, if there are any")


@audit.command("export")
@click.option(
    "--format", "form", type=click.Choice(["dicom", "fhir", "jsonl"]), required=True, help="What each line is."
)
@click.option("--since", type=click.DateTime(), help="From this time on (UTC).")
@click.option("--until", type=click.DateTime(), help="Before this time (UTC).")
@click.option("--action", default="", help="Only this action.")
@click.option("--output", type=click.File("wb"), default="-", help="A file; standard output by default.")
@click.pass_context
def export(
    context: click.Context,
    form: Format,
    since: datetime | None,
    until: datetime | None,
    action: str,
    output: IO[bytes],
) -> None:
    """Write events, the oldest first: DICOM audit messages (XML), FHIR AuditEvents, or JSON with seals."""
    from imaging_ai.audit.search import Search
    from imaging_ai.wiring.audit import export_audit

    search = Search(since=_seconds(since), until=_seconds(until), action=action)
    for line in export_audit(settings_of(context), search, form, actor=getpass.getuser()):
        output.write(line + b"\n")


@audit.command("archive")
@click.option("--before", type=click.DateTime(), required=True, help="Events before this time (UTC).")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def archive(context: click.Context, before: datetime, file: Path) -> None:
    """Move the oldest events to FILE, which proves itself (`audit verify FILE`); a checkpoint takes their place."""
    from imaging_ai.wiring.audit import archive_audit

    moment = before.replace(tzinfo=UTC).timestamp()
    last = archive_audit(settings_of(context), moment, file, actor=getpass.getuser())
    click.echo(f"the events up to {last} are in {file}" if last else "there are no events before this time")


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()


def _tell(report: Report) -> None:
    after = f" after the checkpoint at {report.begins_after}" if report.begins_after else ""
    click.echo(f"{report.events} events{after}, the last is {report.last}: {report.hash}")
    for key, (first, last) in report.keys.items():
        click.echo(f"sealed with the key {key}: {first} to {last}")
    click.echo(f"held against {report.anchors} anchors")
    for one in report.broken:
        click.echo(f"event {one.sequence}: {one.reason}")
    if (more := report.breaks - len(report.broken)) > 0:
        click.echo(f"and {more} more")
    click.echo("the trail is whole" if report.whole else "THE TRAIL IS NOT WHAT WAS WRITTEN")
