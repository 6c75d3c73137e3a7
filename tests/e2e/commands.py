"""Commands of the command line, run in this process: starting Python takes longer than most of them."""

from __future__ import annotations

import io
import logging
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import pytest

from e2e.server import Server
from imaging_ai.cli import main

__all__ = ["ask", "command", "refused"]


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on an installation, in this process."""
    out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
    kept = root.handlers[:], root.level
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in server.environment.items():
                patch.setenv(name, value)
            main(list(arguments))
    except SystemExit as exited:
        code = int(exited.code or 0)
    finally:
        root.handlers[:], level = kept
        root.setLevel(level)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def ask(server: Server, *arguments: str) -> str:
    """Run a command that must do its work; return what it prints."""
    done = command(server, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(server: Server, *arguments: str, code: int = 1) -> str:
    """Run a command that must fail, in readable words; return them."""
    done = command(server, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr
