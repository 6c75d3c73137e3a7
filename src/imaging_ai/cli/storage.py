"""`storage`: encryption of stored objects (docs/encryption.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imaging_ai.cli.common import as_json, echo_json, echo_table, settings_of

if TYPE_CHECKING:
    from imaging_ai.wiring.storage import Converted

__all__ = ["storage"]

keep_seconds = click.option(
    "--keep-seconds",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="How long old bytes stay for those who are reading them; 0 when nothing runs.",
)


@click.group()
def storage() -> None:
    """Encryption of stored objects: status, keys, and bringing objects under it. The server may run meanwhile."""


@storage.command("status")
@as_json
@click.pass_context
def status(context: click.Context, json_output: bool) -> None:
    """Count what is encrypted and what is plain, and the data keys by the key that wraps them."""
    from imaging_ai.wiring.storage import storage_status

    found = storage_status(settings_of(context))
    if json_output:
        kinds = {"encrypted": found.encrypted._asdict(), "plain": found.plain._asdict()}
        echo_json({**kinds, "data_keys": dict(found.data_keys), "current_key": found.current})
        return
    for name, kind in (("encrypted", found.encrypted), ("plain", found.plain)):
        click.echo(f"{name}: {kind.objects} objects, {kind.bytes / 1e6:.1f} MB")
    rows = [(name, count, "current" if name == found.current else "") for name, count in found.data_keys.items()]
    echo_table(("key", "data keys", ""), rows, empty="no data keys")


@storage.command("new-key")
@click.argument("name")
@click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Another file of keys.")
@click.pass_context
def new_key(context: click.Context, name: str, path: Path | None) -> None:
    """Make a key called NAME and put it first in the file of keys. Keep a copy elsewhere: without it all is lost."""
    from imaging_ai.wiring.storage import new_key as make

    made = make(settings_of(context), name, path)
    click.echo(f"{made}: {name} is the current key; keep a copy of this file apart from the storage and its back-ups")


@storage.command("rotate")
@click.pass_context
def rotate(context: click.Context) -> None:
    """Wrap every data key with the current key; no object is touched. May be stopped and begun again."""
    from imaging_ai.wiring.storage import rotate_storage

    settings = settings_of(context)
    with _progress("rewrapping") as progress:
        changed = rotate_storage(settings, progress)
    click.echo(f"{changed} data keys are now wrapped with the current key")


@storage.command("encrypt")
@keep_seconds
@click.pass_context
def encrypt(context: click.Context, keep_seconds: float) -> None:
    """Bring every plain object under encryption. May be stopped and begun again."""
    _convert(context, "encrypting", seals=True, keep_seconds=keep_seconds)


@storage.command("decrypt")
@keep_seconds
@click.pass_context
def decrypt(context: click.Context, keep_seconds: float) -> None:
    """Store every encrypted object plain again (storage.encrypt_new = false). May be stopped and begun again."""
    _convert(context, "decrypting", seals=False, keep_seconds=keep_seconds)


def _convert(context: click.Context, what: str, *, seals: bool, keep_seconds: float) -> None:
    from imaging_ai.wiring.storage import convert_storage

    settings = settings_of(context)
    with _progress(what) as progress:
        done: Converted = convert_storage(settings, progress, seals=seals, keep_seconds=keep_seconds)
    click.echo(f"{what}: {done.objects} objects, {done.bytes / 1e6:.1f} MB")
    if done.unreadable:
        raise click.ClickException(f"{done.unreadable} objects cannot be read and stay as they are; see the log")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
