"""`models`: which are installed, what each takes and gives, and what is missing."""

from __future__ import annotations

import time
from pathlib import Path

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of

__all__ = ["models"]


@click.group()
def models() -> None:
    """Look at the installed models, and add one."""


@models.command("list")
@as_json
@click.pass_context
def list_models(context: click.Context, json_output: bool) -> None:
    """List the models with version and digest."""
    from imaging_ai import wiring

    catalog = wiring.make_catalog(settings_of(context))
    entries = [catalog.get(name) for name in catalog.names()]
    if json_output:
        echo_json(
            [{"name": one.name, "version": one.version, "digest": one.digest, "path": one.path} for one in entries]
        )
        return
    rows = [(one.name, one.version, one.digest[:12], one.queue, one.path) for one in entries]
    echo_table(("name", "version", "digest", "queue", "path"), rows, empty="no models")


@models.command("check")
@click.argument("name")
@click.pass_context
def check(context: click.Context, name: str) -> None:
    """Say what a model takes and gives and what its dicom.toml lacks, and load it."""
    from imaging_ai import wiring

    settings = settings_of(context)
    entry = wiring.make_catalog(settings).get(name)
    click.echo(f"{entry.name} {entry.version}\n  digest   {entry.digest}\n  device   {entry.algorithm.device_uid}")
    click.echo(f"  inputs   {', '.join(entry.inputs) or 'one series'}")
    for value, segment in zip(entry.segment_values, entry.segments, strict=True):
        click.echo(f"  segment  {value}: {segment.label} ({segment.property_type.meaning})")
    for sentence in entry.missing():
        click.echo(f"  missing  {sentence}")
    began = time.perf_counter()
    model = wiring.load_model(settings, name)
    seconds = time.perf_counter() - began
    click.echo(f"  loads    in {seconds:.1f} s on {model.device}, {model.nbytes / 1e6:.1f} MB of weights")


@models.command("add")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name to install it under; default: the folder's or file's own.")
@click.pass_context
def add(context: click.Context, source: Path, name: str | None) -> None:
    """Install a bundle, a folder or a ZIP file, into the data directory."""
    from imaging_ai import wiring

    entry = wiring.install_model(settings_of(context), source, name)
    click.echo(f"{entry.name} {entry.version} is installed, digest {entry.digest}")
    for sentence in entry.missing():
        click.echo(f"  missing: {sentence}")
