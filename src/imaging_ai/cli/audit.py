"""`audit`: is the trail what was written, and what does it say?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imaging_ai.cli.common import as_json, echo_json, settings_of

if TYPE_CHECKING:
    from imaging_ai.audit.verify import Report

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """The audit trail: verify, anchor, export (docs/audit.md)."""


@audit.command("verify")
@click.option(
    "--anchor",
    "path",
    type=click.Path(path_type=Path),
    help="Anchors to hold it against; default: the setting audit.anchor.",
)
@click.option("--no-anchor", is_flag=True, help="Do without: an end that was cut off goes unnoticed.")
@as_json
@click.pass_context
def verify(context: click.Context, path: Path | None, no_anchor: bool, json_output: bool) -> None:
    """Find any event that was changed, removed, moved or cut off. Exit codes: 0 whole, 1 not, 2 cannot be told."""
    from imaging_ai.wiring.audit import verify_audit

    report = verify_audit(settings_of(context), path, anchored=not no_anchor)
    if json_output:
        echo_json({"whole": report.whole, **dataclasses.asdict(report)})
    else:
        _tell(report)
    context.exit(0 if report.whole else 1)


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
    """Add a new key, which seals from the next start of each role on; the old ones stay, to verify."""
    from imaging_ai.wiring.audit import rotate_audit_key

    click.echo(f"the new key is {rotate_audit_key(settings_of(context)).current}; now restart every role")


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
