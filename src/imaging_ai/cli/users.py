"""`users`: people who may use the web server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of
from imaging_ai.cli.tokens import moment_or_nothing, role_option, scope_option
from imaging_ai.core.permission import Role

__all__ = ["users"]

_ACTOR = "command line"

password_file = click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the password from the first line of a file; otherwise it is asked for.",
)


@click.group()
def users() -> None:
    """People, their roles and their sessions (auth.mode = "token")."""


@users.command("add")
@click.argument("name")
@role_option
@scope_option
@password_file
@click.option("--no-password", is_flag=True, help="For one who comes in another way.")
@click.pass_context
def add(
    context: click.Context,
    name: str,
    role: str,
    scopes: tuple[str, ...],
    password_file: Path | None,
    no_password: bool,
) -> None:
    """Let NAME in from now on."""
    from imaging_ai import wiring

    people = wiring.make_entrance(settings_of(context)).users
    password = None if no_password else _password(password_file)
    person = people.add(name, Role(role), password, scopes=scopes, actor=_ACTOR)
    click.echo(f"{person.name} may come in, as {person.role}")


@users.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, json_output: bool) -> None:
    """Show the people."""
    from imaging_ai import wiring

    rows = [
        (
            one.name,
            one.role.value,
            " ".join(sorted(one.scopes or ())),
            moment_or_nothing(one.created_at),
            moment_or_nothing(one.disabled_at),
        )
        for one in wiring.make_entrance(settings_of(context)).users.entries()
    ]
    _show(("name", "role", "scopes", "created", "disabled"), rows, json_output)


@users.command("disable")
@click.argument("name")
@click.pass_context
def disable(context: click.Context, name: str) -> None:
    """Let NAME in no more; within seconds every session ends."""
    from imaging_ai import wiring

    wiring.make_entrance(settings_of(context)).users.disable(name, actor=_ACTOR)
    click.echo(f"{name} is let in no more")


@users.command("enable")
@click.argument("name")
@click.pass_context
def enable(context: click.Context, name: str) -> None:
    """Let NAME in again, and forget the logins that failed."""
    from imaging_ai import wiring

    entrance = wiring.make_entrance(settings_of(context))
    entrance.users.enable(name, actor=_ACTOR)
    entrance.attempts.forgive(name.casefold())
    click.echo(f"{name} is let in again")


@users.command("role")
@click.argument("name")
@role_option
@scope_option
@click.pass_context
def set_role(context: click.Context, name: str, role: str, scopes: tuple[str, ...]) -> None:
    """Give NAME another role, or other scopes of it, within seconds."""
    from imaging_ai import wiring

    people = wiring.make_entrance(settings_of(context)).users
    people.set_role(name, Role(role), scopes=scopes, actor=_ACTOR)
    click.echo(f"{name} is {role} now" + (f", for {' '.join(scopes)} only" if scopes else ""))


@users.command("password")
@click.argument("name")
@password_file
@click.pass_context
def password(context: click.Context, name: str, password_file: Path | None) -> None:
    """Give NAME another password; within seconds every session ends."""
    from imaging_ai import wiring

    wiring.make_entrance(settings_of(context)).users.set_password(name, _password(password_file), actor=_ACTOR)
    click.echo(f"{name} has a new password, and no session any more")


@users.command("sessions")
@click.argument("name", default="")
@click.option("--end", "ended", metavar="SESSION", help="End this one.")
@as_json
@click.pass_context
def sessions(context: click.Context, name: str, ended: str | None, json_output: bool) -> None:
    """Show the sessions that go on, of NAME or of all."""
    from imaging_ai import wiring

    found = wiring.make_entrance(settings_of(context)).sessions
    if ended:
        found.end_one(ended, actor=_ACTOR)
        click.echo(f"session {ended} has ended")
        return
    rows = [
        (
            one.id,
            one.name,
            "browser" if one.browser else "program",
            one.origin,
            moment_or_nothing(one.created_at),
            moment_or_nothing(one.seen_at),
            moment_or_nothing(one.expires_at),
        )
        for one in found.entries(name)
    ]
    _show(("session", "name", "kind", "from", "began", "seen", "expires"), rows, json_output)


def _show(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], json_output: bool) -> None:
    if json_output:
        echo_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        echo_table(names, rows)


def _password(file: Path | None) -> str:
    if file is None:
        return str(click.prompt("Password, 12 characters or more", hide_input=True, confirmation_prompt=True))
    return file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
