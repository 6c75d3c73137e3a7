"""The processes of the web server have locks of their own: no connection to SQLite is taken over a fork."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ai import config
from imaging_ai.wiring.audited import audited_role

only_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells what is open")


@only_linux
def test_while_a_role_runs_what_noted_its_start_has_nothing_open(tmp_path: Path) -> None:
    settings = config.load(None, {"IMAGING_AI_DATA_DIR": str(tmp_path), "IMAGING_AI_MODELS_SHIPPED": "false"})
    with audited_role(settings, "web"):
        opened = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.exists()]
        assert not [one for one in opened if str(tmp_path) in one]
