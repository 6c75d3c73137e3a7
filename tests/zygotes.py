"""Zygotes that load nothing: what is forked from them leads a life that a test writes down."""

from __future__ import annotations

import pytest

from imaging_ai.sandbox import forked

_BOOT = """
import os, signal, sys, time
sys.path[:] = sys.argv[3:]
from imaging_ai.process import die_with_parent
from imaging_ai.sandbox import child, zygote
{loads}

def life(socket, guardian):
{code}

die_with_parent(int(sys.argv[2]))
zygote.serve(int(sys.argv[1]), life)
"""


def let_live(monkeypatch: pytest.MonkeyPatch, code: str, loads: str = "") -> None:
    """Have the zygotes that are started from now on fork processes that run some code, with `socket` and `guardian`.

    The zygote itself runs what it `loads`.
    """
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    monkeypatch.setattr(forked, "_BOOT", _BOOT.format(code=lines, loads=loads))
