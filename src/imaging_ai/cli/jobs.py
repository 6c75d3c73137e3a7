"""`jobs`: what ran, what waits, what failed and why; retry, cancel, send again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, moment, settings_of, told
from imaging_ai.errors import NotFound

if TYPE_CHECKING:
    from imaging_ai.core.job import Job

__all__ = ["jobs"]


@click.group()
def jobs() -> None:
    """Look at jobs, and steer them."""


@jobs.command("list")
@click.option(
    "--state", type=click.Choice(["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]), help="Only in this state."
)
@click.option("--study", default="", metavar="UID", help="Only of this Study Instance UID.")
@click.option("--model", metavar="NAME", help="Only of this model.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@as_json
@click.pass_context
def list_jobs(
    context: click.Context, state: str | None, study: str, model: str | None, limit: int, json_output: bool
) -> None:
    """List jobs, the newest first; series that no model took are among them, with the reason."""
    from imaging_ai import wiring
    from imaging_ai.core.job import JobState

    ledger = wiring.make_ledger(settings_of(context))
    found = ledger.find(state=JobState(state) if state else None, study=study, model=model, limit=limit)
    if json_output:
        echo_json([_tree(job) for job in found])
        return
    rows = [
        (job.id, job.state, f"{job.progress}%", job.model or "-", job.rule, moment(job.created_at), _outcome(job))
        for job in found
    ]
    echo_table(("id", "state", "done", "model", "rule", "created", "outcome"), rows, empty="no jobs")


@jobs.command("show")
@click.argument("number", type=int)
@as_json
@click.pass_context
def show(context: click.Context, number: int, json_output: bool) -> None:
    """Show one job with its results and deliveries."""
    from imaging_ai import wiring
    from imaging_ai.queue.evaluations import evaluations_of

    settings = settings_of(context)
    ledger, deliveries = wiring.make_ledger(settings), wiring.make_deliveries(settings)
    job = ledger.get(number)
    tree = _tree(job)
    tree["eta_seconds"] = ledger.eta(job)
    tree["deliveries"] = [
        {
            "destination": one.destination,
            "sop_instance_uid": one.sop_instance_uid,
            "state": one.state,
            "attempts": one.attempts,
            "reason": one.reason,
        }
        for one in deliveries.find(job_id=number)
    ]
    with ledger.database.read() as session:
        said = evaluations_of(session.connection(), number)
    if json_output:
        echo_json({**tree, "evaluations": [one.as_tree() for one in said]})
        return
    tree["evaluations"] = told(said)
    for line in _lines(tree):
        click.echo(line)


def _lines(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Write what is known of a job for people: times of this machine's clock, and what is not there left out."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:"
            yield from (f"{indent}  " + "  ".join(str(cell) for cell in row.values()) for row in value)
        elif isinstance(value, dict | list | tuple):
            yield f"{indent}{key}: {', '.join(map(str, value)) or 'none'}"
        elif value is not None:
            is_moment = isinstance(value, float) and key in ("created_at", "not_before", "started_at", "finished_at")
            yield f"{indent}{key}: {moment(value) if is_moment else value}"


@jobs.command("retry")
@click.argument("number", type=int)
@click.pass_context
def retry(context: click.Context, number: int) -> None:
    """Run a canceled or failed job again."""
    from imaging_ai import wiring

    settings = settings_of(context)
    queue = wiring.make_ledger(settings).retry(number).queue
    wiring.make_doorbell(settings).ring(queue)
    click.echo(f"job {number} waits in {queue}")


@jobs.command("cancel")
@click.argument("number", type=int)
@click.pass_context
def cancel(context: click.Context, number: int) -> None:
    """Cancel a job that waits or runs."""
    from imaging_ai import wiring

    state = wiring.make_ledger(settings_of(context)).cancel(number)
    click.echo(f"job {number}: {state}")


@jobs.command("resend")
@click.argument("number", type=int)
@click.option("--destination", metavar="NAME", help="Only to this destination.")
@click.pass_context
def resend(context: click.Context, number: int, destination: str | None) -> None:
    """Deliver the results of a job again, dead letters included."""
    from imaging_ai import wiring

    settings = settings_of(context)
    wiring.make_ledger(settings).get(number)
    count = wiring.make_deliveries(settings).replay(job_id=number, destination=destination)
    if not count:
        raise NotFound(f"job {number} has nothing to send {f'to {destination}' if destination else 'anywhere'}")
    wiring.make_doorbell(settings).ring("delivery")
    click.echo(f"{count} deliveries wait")


@jobs.command("repeat")
@click.argument("number", type=int)
@as_json
@click.pass_context
def repeat(context: click.Context, number: int, json_output: bool) -> None:
    """Run a completed job again, here, with the bundle that it is pinned to, and compare; nothing is kept or sent."""
    from imaging_ai import wiring

    agreement = wiring.make_pipeline(settings_of(context)).repeat(number, lambda _percent, _stage: None)
    if json_output:
        echo_json(agreement)
        return
    click.echo(f"job {number}: {agreement.sentence()}")


def _outcome(job: Job) -> str:
    if job.failure is not None:
        return f"{job.failure.code}: {job.failure.reason}"
    return str(job.stage) if job.state == "IN PROGRESS" else ""


def _tree(job: Job) -> dict[str, Any]:
    import dataclasses

    tree = dataclasses.asdict(job)
    tree["inputs"] = len(job.inputs)
    tree["priority"] = job.priority.name
    return tree
