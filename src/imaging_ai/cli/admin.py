"""`config`, `db` and `doctor`: is this installation what it should be?"""

from __future__ import annotations

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of

__all__ = ["config", "db", "doctor"]


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command("check")
@click.pass_context
def check(context: click.Context) -> None:
    """Say whether the settings, rules and destinations can be used."""
    from imaging_ai.wiring.check import check_settings

    settings = settings_of(context)
    check_settings(settings)
    rules, destinations = len(settings.rules), len(settings.destinations)
    click.echo(f"{settings.source or 'defaults'}: {rules} rules, {destinations} destinations: good")


@config.command("show")
@as_json
@click.pass_context
def show(context: click.Context, json_output: bool) -> None:
    """Print the settings in force, secrets masked."""
    from imaging_ai.config import masked

    tree = masked(settings_of(context))
    if json_output:
        echo_json(tree)
        return
    for section, values in tree.items():
        if isinstance(values, dict):
            for key, value in values.items():
                click.echo(f"{section}.{key} = {value!r}")
        else:
            click.echo(f"{section} = {values!r}")


@click.group()
def db() -> None:
    """Look after the database."""


@db.command("upgrade")
@click.pass_context
def upgrade(context: click.Context) -> None:
    """Bring the database to the schema of this program."""
    from imaging_ai import wiring
    from imaging_ai.db import migrate

    database = wiring.make_database(settings_of(context))
    migrate.upgrade(database)
    click.echo(f"the database is at revision {migrate.HEAD}")


@click.command()
@as_json
@click.pass_context
def doctor(context: click.Context, json_output: bool) -> None:
    """Check this installation: peers both ways, database, storage, broker, disk, clock, models."""
    import logging

    from imaging_ai import wiring

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what it says of a peer is in what was found
    findings = wiring.examine(settings_of(context))
    if json_output:
        echo_json([{"name": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in findings])
    else:
        rows = [("ok" if one.ok else "FAILED", one.name, one.detail, one.remedy) for one in findings]
        echo_table(("", "check", "found", "remedy"), rows)
    context.exit(0 if all(one.ok for one in findings) else 1)
