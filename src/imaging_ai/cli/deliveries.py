"""`deliveries`: which results wait for which destination, and what to do with those that cannot be sent."""

from __future__ import annotations

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, moment, settings_of

__all__ = ["deliveries"]

_BY = "the command line"
_STATES = ("WAITING", "SENDING", "SENT", "CONFIRMED", "DEAD")
_job = click.option("--job", "job_id", type=int, metavar="N", help="Only the results of this job.")


@click.group()
def deliveries() -> None:
    """Look at what is sent, and decide about what cannot be (`jobs resend` sends again)."""


@deliveries.command("list")
@click.option("--destination", metavar="NAME", help="Only to this destination.")
@click.option("--state", type=click.Choice(_STATES), help="Only in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@_job
@as_json
@click.pass_context
def list_(
    context: click.Context,
    destination: str | None,
    state: str | None,
    limit: int,
    job_id: int | None,
    json_output: bool,
) -> None:
    """Show deliveries, the newest first, and the destinations that no settings name."""
    import dataclasses

    from imaging_ai import wiring
    from imaging_ai.core.job import DeliveryState
    from imaging_ai.send.strays import stray

    settings = settings_of(context)
    ledger = wiring.make_deliveries(settings)
    states = (DeliveryState(state),) if state else ()
    found = ledger.find(job_id=job_id, destination=destination, states=states, limit=limit)
    unknown = stray(ledger.database, tuple(wiring.make_destinations(settings)))
    if json_output:
        echo_json({"deliveries": [dataclasses.asdict(one) for one in found], "unknown_destinations": unknown})
        return
    rows = [
        (one.id, one.job_id, one.destination, one.state, one.attempts, moment(one.next_attempt_at), one.reason)
        for one in found
    ]
    echo_table(("id", "job", "destination", "state", "attempts", "next", "reason"), rows, empty="no deliveries")
    for name, count in unknown.items():
        click.echo(f"{count} wait for {name}, which no [[destinations]] names: give-up, or redirect", err=True)


@deliveries.command("give-up")
@click.argument("destination")
@_job
@click.confirmation_option(prompt="Send what waits there no more?")
@click.pass_context
def give_up(context: click.Context, destination: str, job_id: int | None) -> None:
    """Send what waits for DESTINATION no more; the results stay here."""
    from imaging_ai import wiring
    from imaging_ai.send import strays

    database = wiring.make_deliveries(settings_of(context)).database
    click.echo(f"{strays.give_up(database, destination, job_id=job_id, actor=_BY)} deliveries given up")


@deliveries.command("redirect")
@click.argument("destination")
@click.argument("to")
@_job
@click.pass_context
def redirect(context: click.Context, destination: str, to: str, job_id: int | None) -> None:
    """Send what waits for DESTINATION, or did not get there, to the destination TO of the settings instead."""
    from imaging_ai import wiring
    from imaging_ai.errors import NotFound
    from imaging_ai.send import strays

    settings = settings_of(context)
    known = wiring.make_destinations(settings)
    if to not in known:
        raise NotFound(f"no destination {to!r}; known: {', '.join(known) or 'none'}")
    database = wiring.make_deliveries(settings).database
    count = strays.redirect(database, destination, to, job_id=job_id, actor=_BY)
    wiring.make_doorbell(settings).ring("delivery")
    click.echo(f"{count} deliveries go to {to}")
