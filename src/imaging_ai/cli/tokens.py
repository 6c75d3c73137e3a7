"""`token`: who may use the web server."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of
from imaging_ai.core.permission import Role

__all__ = ["token"]


@click.group()
def token() -> None:
    """Tokens of people and programs (auth.mode = "token")."""


@token.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="After how many days it ends.")
@click.pass_context
def create(context: click.Context, name: str, role: str, days: float | None) -> None:
    """Make a token for NAME and print it: this once."""
    from imaging_ai import wiring

    click.echo(wiring.make_tokens(settings_of(context)).create(name, Role(role), days=days))


@token.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, json_output: bool) -> None:
    """Show the tokens, without their secrets."""
    from imaging_ai import wiring

    entries = wiring.make_tokens(settings_of(context)).entries()
    rows = [
        (one.name, one.role.value, _moment(one.created_at), _moment(one.expires_at), _moment(one.revoked_at))
        for one in entries
    ]
    names = ("name", "role", "created", "expires", "revoked")
    if json_output:
        echo_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        echo_table(names, rows)


@token.command("revoke")
@click.argument("name")
@click.pass_context
def revoke(context: click.Context, name: str) -> None:
    """End the token of NAME; within seconds nobody gets in with it."""
    from imaging_ai import wiring

    wiring.make_tokens(settings_of(context)).revoke(name)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
