"""The command line. Exit codes: 0 done, 1 it failed, 2 the settings or the arguments are wrong.

Everything heavy is imported inside the command that needs it, so that `imaging-ai --help` is instant and the front
doors never load a model library.
"""

from __future__ import annotations

import errno
import sys

import click

from imaging_ai import __version__
from imaging_ai.cli.admin import config, db, doctor
from imaging_ai.cli.audit import audit
from imaging_ai.cli.deliveries import deliveries
from imaging_ai.cli.demo import demo
from imaging_ai.cli.explain import explain
from imaging_ai.cli.jobs import jobs
from imaging_ai.cli.keeping import backup, holds, retention
from imaging_ai.cli.models import models
from imaging_ai.cli.roles import describe, receive, serve, web, work
from imaging_ai.cli.storage import storage
from imaging_ai.cli.studies import rules, run, send
from imaging_ai.cli.tokens import token
from imaging_ai.cli.users import users
from imaging_ai.cli.viewer import viewer
from imaging_ai.cli.visualize import visualize
from imaging_ai.errors import ConfigError, ImagingAiError

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "config_file", metavar="FILE", help="Settings (TOML); default $IMAGING_AI_CONFIG.")
@click.version_option(__version__, prog_name="imaging-ai")
@click.pass_context
def cli(context: click.Context, config_file: str | None) -> None:
    """An AI result server for radiology: DICOM in, models on it, DICOM results back to the PACS."""
    context.obj = config_file


_COMMANDS = (
    serve,
    receive,
    web,
    work,
    describe,
    run,
    explain,
    send,
    visualize,
    models,
    jobs,
    deliveries,
    rules,
    config,
    db,
    doctor,
    viewer,
    storage,
    holds,
    retention,
    backup,
    demo,
    token,
    users,
    audit,
)
for _command in _COMMANDS:
    cli.add_command(_command)


#: What a system refuses, and an operator can mend.
_REMEDIES = {
    errno.EACCES: "run this as the user that the server runs as, or give this one the right",
    errno.EPERM: "run this as the user that the server runs as, or give this one the right",
    errno.EROFS: "name a place that can be written (data_dir)",
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room on that disk",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        code = cli.main(arguments, prog_name="imaging-ai", standalone_mode=False)
    except ConfigError as error:
        _die(error.message, 2)
    except ImagingAiError as error:
        _die(error.message, 1)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        _die("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _die(f"{place}{error.strerror}; {_REMEDIES[error.errno]}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _die(message: str, code: int) -> None:
    click.echo(f"imaging-ai: {message}", err=True)
    sys.exit(code)
