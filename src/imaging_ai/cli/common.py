"""What several commands share: the settings in force, and output for people or for scripts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from imaging_ai.config import Settings
    from imaging_ai.core.finding import Evaluation

__all__ = ["as_json", "echo_json", "echo_table", "moment", "settings_of", "told"]

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON, for scripts.")


def settings_of(context: click.Context) -> Settings:
    """Load the settings that the command line and the environment name, and set logging up by them."""
    from imaging_ai import config, logs

    settings = config.load(context.find_root().obj)
    logs.configure(settings.log.level, settings.log.style)
    return settings


def echo_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode())


def echo_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "nothing") -> None:
    """Print rows as a table that fits the terminal."""
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)


def moment(seconds: float | None) -> str:
    """Write a time as the local clock shows it."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def told(evaluations: Sequence[Evaluation]) -> list[dict[str, str]]:
    """Say what a classifier said in short rows: of the whole, and of the instances where something is present."""
    return [
        {
            "what": one.tracking_identifier,
            "presence": "present" if one.present else "absent",
            "how": f"{'probability' if one.calibrated else 'score'} {100 * one.probability:.1f} %",
        }
        for one in evaluations
        if one.present or not one.instances
    ]
