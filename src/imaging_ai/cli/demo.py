"""`demo`: see it work."""

from __future__ import annotations

import sys
from pathlib import Path

import click

__all__ = ["demo"]


@click.command()
@click.option(
    "--input", "input_dir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Your own series."
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="data/demo",
    show_default=True,
    help="Where the demo keeps everything; delete it when you have seen enough.",
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for results.")
@click.pass_context
def demo(context: click.Context, input_dir: Path | None, folder: Path, timeout: float) -> None:
    """Start everything on this machine, push a study, and show what comes back."""
    from imaging_ai.demo import run_demo

    report = run_demo(
        folder.absolute(), input_dir=input_dir, tell=click.echo, stay=sys.stdout.isatty(), timeout=timeout
    )
    context.exit(0 if report.good else 1)
