"""`visualize`: results over the images that they were made of, as a picture."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["visualize"]

_THERE = click.Path(exists=True, path_type=Path)


class _Window(click.ParamType[tuple[float, float]]):
    """CENTER,WIDTH, as the lowest and the highest intensity."""

    name = "window"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Read two numbers."""
        try:
            center, width = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not CENTER,WIDTH, such as 40,400", param, ctx)
        if not width > 0:
            self.fail("a window is wider than 0", param, ctx)
        return center - width / 2, center + width / 2


@click.command()
@click.argument("series_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("results", nargs=-1, required=True, type=_THERE)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["key", "montage", "planes"]),
    default="key",
    show_default=True,
    help="One slice a picture, twelve, or three planes.",
)
@click.option(
    "--window", type=_Window(), metavar="CENTER,WIDTH", help="Intensities to show; by default the images' own."
)
@click.option("--size", type=click.IntRange(64, 2048), default=480, show_default=True, help="Pixels of a panel.")
def visualize(
    series_dir: Path,
    results: tuple[Path, ...],
    out: Path,
    layout: str,
    window: tuple[float, float] | None,
    size: int,
) -> None:
    """Draw RESULTS (segmentations and parametric maps, files or folders) over the images in SERIES_DIR.

    OUT is a PNG, or a GIF that moves through what was found.
    """
    from imaging_ai.errors import InputError, SeriesRefused
    from imaging_ai.visualize.files import visualize as draw
    from imaging_ai.visualize.layouts import LAYOUTS

    chosen = next(one for one in LAYOUTS if one == layout)
    try:
        count = draw(series_dir, results, out, chosen, window=window, side=size)
    except (InputError, SeriesRefused) as error:
        raise click.UsageError(error.message) from error
    click.echo(f"{out}: {count} {'picture' if count == 1 else 'pictures'}")
