"""`token`: programs that may use the web server."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of
from imaging_ai.core.permission import NEEDS, Role

__all__ = ["moment_or_nothing", "role_option", "scope_option", "token"]

role_option = click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do."
)
scope_option = click.option(
    "--scope",
    "scopes",
    type=click.Choice(NEEDS),
    multiple=True,
    help="Of that, no more than this; several may be given.",
)


@click.group()
def token() -> None:
    """Tokens of programs, for people to give to them (auth.mode = "token")."""


@token.command("create")
@click.argument("name")
@role_option
@scope_option
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="After how many days it ends.")
@click.pass_context
def create(context: click.Context, name: str, role: str, scopes: tuple[str, ...], days: float | None) -> None:
    """Make a token for NAME and print it: this once."""
    from imaging_ai import wiring

    tokens = wiring.make_entrance(settings_of(context)).tokens
    click.echo(tokens.create(name, Role(role), scopes=scopes, days=days, actor="command line"))


@token.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, json_output: bool) -> None:
    """Show the tokens, without their secrets."""
    from imaging_ai import wiring

    entries = wiring.make_entrance(settings_of(context)).tokens.entries()
    rows = [
        (
            one.name,
            one.role.value,
            " ".join(sorted(one.scopes or ())),
            moment_or_nothing(one.created_at),
            moment_or_nothing(one.expires_at),
            moment_or_nothing(one.revoked_at),
        )
        for one in entries
    ]
    names = ("name", "role", "scopes", "created", "expires", "revoked")
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

    wiring.make_entrance(settings_of(context)).tokens.revoke(name, actor="command line")
    click.echo(f"the token of {name} is good no more")


def moment_or_nothing(seconds: float | None) -> str:
    """Write a time as scripts read it; nothing for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
