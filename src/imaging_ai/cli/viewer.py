"""`viewer`: put OHIF where the server finds it."""

from __future__ import annotations

from pathlib import Path

import click

from imaging_ai.cli.common import settings_of

__all__ = ["viewer"]


@click.group()
def viewer() -> None:
    """Look after the viewer (OHIF) that the server shows at /viewer."""


@viewer.command("install")
@click.option(
    "--from",
    "tarball",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The package as a file, where there is no npm or no network.",
)
@click.pass_context
def install(context: click.Context, tarball: Path | None) -> None:
    """Install the published package of OHIF, fetched by npm; once is enough."""
    from imaging_ai import wiring

    click.echo(wiring.install_viewer(settings_of(context), tarball))
