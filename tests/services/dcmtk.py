"""DCMTK's senders: what a modality would do to our receiver."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from services import require_program


@dataclass(frozen=True)
class Dcmtk:
    """Runs echoscu and storescu."""

    echoscu: str
    storescu: str

    def echo(self, port: int, *options: str) -> subprocess.CompletedProcess[str]:
        """Send a C-ECHO; -v tells what happened."""
        return self._run([self.echoscu, "-v", *options, "127.0.0.1", str(port)])

    def store(self, port: int, files: Iterable[Path], *options: str) -> subprocess.CompletedProcess[str]:
        """Send files over one association."""
        command = [self.storescu, "-v", *(options or ("-R",)), "127.0.0.1", str(port)]
        return self._run([*command, *map(str, files)])

    def start_storing(self, port: int, files: Iterable[Path], *options: str) -> subprocess.Popen[bytes]:
        """Begin to send files, and return at once."""
        command = [self.storescu, *options, "127.0.0.1", str(port), *map(str, files)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @staticmethod
    def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, errors="replace")


@pytest.fixture(scope="session")
def dcmtk() -> Dcmtk:
    """The installed DCMTK."""
    return Dcmtk(require_program("echoscu"), require_program("storescu"))
