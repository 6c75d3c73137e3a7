"""`models`: which are installed, what each takes and gives, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of
from imaging_ai.errors import ConfigError

if TYPE_CHECKING:
    from imaging_ai.catalog import Catalog, ModelEntry

__all__ = ["models"]


@click.group()
def models() -> None:
    """Look at the installed models, add them, and choose among their versions."""


@models.command("list")
@as_json
@click.pass_context
def list_models(context: click.Context, json_output: bool) -> None:
    """List the models with version and digest."""
    from imaging_ai import wiring

    broken: list[str] = []
    rows = list(_versions(wiring.make_catalog(settings_of(context)), broken.append))
    if json_output:
        keys = ("name", "version", "current", "digest", "queue", "path")
        echo_json([{key: current if key == "current" else getattr(one, key) for key in keys} for one, current in rows])
    else:
        columns = ("name", "version", "current", "digest", "queue", "path")
        shown = [
            (one.name, one.version, "yes" if current else "", one.digest[:12], one.queue, one.path)
            for one, current in rows
        ]
        echo_table(columns, shown, empty="no models")
    for sentence in broken:
        click.echo(f"imaging-ai: {sentence}", err=True)
    context.exit(1 if broken else 0)


def _versions(catalog: Catalog, broken: Callable[[str], object]) -> Iterator[tuple[ModelEntry, bool]]:
    """Yield every version of every model, and whether the model's name means it; `broken` is told of the others."""
    for plain in sorted({name.partition("@")[0] for name in catalog.names()}):
        try:
            yield from _versions_of(catalog, plain)
        except ConfigError as error:
            broken(error.message)


def _versions_of(catalog: Catalog, plain: str) -> Iterator[tuple[ModelEntry, bool]]:
    names = catalog.names()
    if plain in names:
        current, *others = catalog.versions(plain)
        yield current, True
    else:
        others = [catalog.get(name) for name in names if name.partition("@")[0] == plain]
    yield from ((one, False) for one in others)


@models.command("check")
@click.argument("name")
@click.option("--trial/--no-trial", default=True, show_default=True, help="Run it on a phantom, too.")
@click.pass_context
def check(context: click.Context, name: str, trial: bool) -> None:
    """Say what a model takes and gives and what its dicom.toml lacks, load it, and run it on a phantom."""
    from imaging_ai import wiring
    from imaging_ai.wiring.models import check_model

    settings = settings_of(context)
    entry = wiring.make_catalog(settings).get(name)
    for line in _described(entry):
        click.echo(line)
    shown = check_model(settings, name, trial=trial)
    click.echo(
        f"  loads    in {shown.load_seconds:.1f} s on {shown.device}, {shown.model_bytes / 1e6:.1f} MB of weights"
    )
    if trial:
        grid = " x ".join(map(str, shown.shape))
        click.echo(f"  runs     in {shown.seconds:.1f} s: a phantom of {grid} voxels, to which it answers {shown.said}")
        click.echo(f"  memory   at most {shown.peak_bytes / 1e6:.0f} MB beside the weights while it ran")


def _described(entry: ModelEntry) -> Iterator[str]:
    """Say what a model takes and gives, a line each."""
    yield f"{entry.name} {entry.version}"
    yield f"  digest   {entry.digest}"
    yield f"  UID      {entry.algorithm.device_uid}, in its objects as Device UID"
    yield f"  takes    {'several series of a study' if entry.inputs else 'one series'}: {str(entry.accepts) or 'any'}"
    for name, conditions in entry.inputs.items():
        yield f"  input    {name}: {str(conditions) or 'any'}"
    for value, segment in zip(entry.segment_values, entry.segments, strict=True):
        yield f"  segment  {value}: {segment.label} ({segment.property_type.meaning})"
    if classifier := entry.classifier:
        for index, (value, one) in enumerate(zip(classifier.values, classifier.classes, strict=True)):
            said = "a probability" if classifier.calibrated(index) else "an uncalibrated score"
            yield f"  class    {value}: {one.label} ({one.finding.meaning}), present from {said} of {one.threshold:g}"
    if detector := entry.detector:
        for value, one, line in zip(detector.values, detector.classes, detector.platt, strict=True):
            said = "a probability" if line else "an uncalibrated score"
            yield f"  box      {value}: {one.label} ({one.finding.meaning}), told from {said} of {one.threshold:g}"
    yield f"  makes    {', '.join(entry.outputs.kinds)}{', SR of lines' if entry.outputs.lines else ''}"
    for sentence in entry.missing() or ("nothing: dicom.toml says all that is asked of it",):
        yield f"  missing  {sentence}"


@models.command("add")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name to install it under; default: the folder's or file's own.")
@click.pass_context
def add(context: click.Context, source: Path, name: str | None) -> None:
    """Install a bundle, a folder or a ZIP file; of a model that is there, as the version that its name now means."""
    from imaging_ai.wiring.models import install_model

    _tell(install_model(settings_of(context), source, name))


@models.command("pull")
@click.argument("name")
@click.option("--version", default="", help="Which version; default: the newest.")
@click.option(
    "--source",
    type=click.Choice(["monaihosting", "huggingface_hub", "github", "ngc"]),
    default="monaihosting",
    show_default=True,
    help="Where MONAI looks for it.",
)
@click.option("--repo", default="", help="Repository at that source, as MONAI wants it.")
@click.option("--url", default="", metavar="URL", help="A ZIP file, in place of a source.")
@click.option("--digest", default="", metavar="SHA-256", help="Install it only if it has this digest, or begins so.")
@click.option("--name", "install_as", default="", help="Name to install it under; default: its own.")
@click.pass_context
def pull(context: click.Context, /, name: str, **options: str) -> None:
    """Fetch a bundle of the MONAI Model Zoo, and install it as `add` does."""
    from imaging_ai.wiring.models import pull_model

    _tell(pull_model(settings_of(context), name, **options))


@models.command("use")
@click.argument("name", metavar="NAME@VERSION")
@click.pass_context
def use(context: click.Context, name: str) -> None:
    """Let a model's name mean this version; jobs that are scheduled already keep theirs."""
    from imaging_ai.wiring.models import use_model

    entry = use_model(settings_of(context), name)
    click.echo(f"{entry.name} is now version {entry.version}, digest {entry.digest[:12]}")


@models.command("rollback")
@click.argument("name")
@click.pass_context
def rollback(context: click.Context, name: str) -> None:
    """Let a model's name mean what it meant before."""
    from imaging_ai.wiring.models import roll_back_model

    entry = roll_back_model(settings_of(context), name)
    click.echo(f"{entry.name} is version {entry.version} again, digest {entry.digest[:12]}")


@models.command("fit")
@click.argument("name")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--layer", default="", help="The layer to take features of; default: the deepest.")
@click.pass_context
def fit(context: click.Context, name: str, folder: Path, layer: str) -> None:
    """Learn from the series in FOLDER what a model knows, so that it can tell what is unlike them."""
    from imaging_ai.wiring.models import fit_model

    entry, familiar, refused = fit_model(settings_of(context), name, folder, layer)
    for sentence in refused:
        click.echo(f"left out: {sentence}")
    click.echo(f"{len(familiar.mean)} features of the layer {familiar.layer} in {familiar.count} series")
    click.echo(f"{entry.name} has the digest {entry.digest} now: it is another model")


@models.command("agreement")
@click.argument("name", metavar="NAME@VERSION")
@as_json
@click.pass_context
def agreement(context: click.Context, name: str, json_output: bool) -> None:
    """Say how far a version that runs in the shadow agrees with the one that counts."""
    from imaging_ai.wiring.models import make_shadows

    report = make_shadows(settings_of(context)).report(name)
    if json_output:
        echo_json(report)
        return
    click.echo(f"{name}: {report.compared} runs compared, {report.identical} identical, {report.only_in_one} one-sided")
    rows = [
        (f"Dice of {part}", f"median {mid:.4f}", f"{low:.4f}", job) for part, (mid, low, job) in report.dice.items()
    ]
    rows += [(f"difference in {part}", "", f"{most:g}", job) for part, (most, job) in report.differences.items()]
    echo_table(("what", "median", "worst", "job"), rows, empty="nothing was compared yet")


def _tell(entry: ModelEntry) -> None:
    click.echo(f"{entry.name} {entry.version} is installed, digest {entry.digest}")
    for sentence in entry.missing():
        click.echo(f"  missing: {sentence}")
