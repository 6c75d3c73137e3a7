"""Node with the npm packages of `tests/clients/`, installed once beside them by its lock file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from services import missing, require_program

CLIENTS = Path(__file__).parents[1] / "clients"


def run_script(name: str, *arguments: str | Path) -> Any:
    """Run a script of `tests/clients/` and return the JSON that it prints."""
    node = require_program("node")
    _install()
    command = [node, str(CLIENTS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _install() -> None:
    """Install what the lock file names, unless it is there."""
    installed, lock = CLIENTS / "node_modules" / ".package-lock.json", CLIENTS / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = [require_program("npm"), "ci", "--prefix", str(CLIENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CLIENTS, timeout=280)
    if done.returncode != 0:
        missing(f"what npm installs ({done.stderr.strip().splitlines()[-1:]})")
    installed.touch()
