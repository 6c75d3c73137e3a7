"""The DICOMweb checklist (`conformance/`) against the whole server: two web processes, tokens, another origin.

The suite runs once, as a stranger would run it; each of its items is a test here. Items that need a server's set-up get
it: tokens of two roles, an origin, a public address, a limit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from e2e.server import Server
from services import wait_until

SUITE = Path(__file__).parents[2] / "conformance"
ITEMS = range(1, 98)
ORIGIN = "https://viewer.example"
LIMIT_MB = 8

#: What is not tried against this server, and why.
NOT_HERE: Mapping[int, str] = {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = f"""
[http]
processes = 2
cors_origins = ["{ORIGIN}"]
[auth]
mode = "token"
[dicom]
max_object_mb = {LIMIT_MB}
"""
    with Server(tmp_path_factory.mktemp("conformance"), settings) as server:
        server.environment["IMAGING_AI_HTTP_PUBLIC_URL"] = f"http://localhost:{server.http_port}"
        server.start("web")
        wait_until(lambda: alive(server), 90, what=f"the web server answers\n{server.logs()}")
        yield server


def alive(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def outcomes(server: Server) -> dict[int, tuple[str, str]]:
    """What became of each item, and why."""
    token, reader = (token_of(server, name, role) for name, role in (("all", "administrator"), ("reader", "clinician")))
    table = server.folder / "table.md"
    options = {
        "--url": f"http://127.0.0.1:{server.http_port}/dicom-web",
        "--public-url": f"http://localhost:{server.http_port}/dicom-web",
        "--token": token,
        "--reader-token": reader,
        "--origin": ORIGIN,
        "--limit-mb": str(LIMIT_MB),
        "--table": str(table),
    }
    arguments = ["-q", "-c", str(SUITE / "pytest.ini"), str(SUITE), "--tb=line", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *arguments, *(f"{name}={text}" for name, text in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert table.exists(), done.stdout[-5000:] + done.stderr[-2000:]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.*) \| (.*) \|$", table.read_text(), re.MULTILINE)
    return {int(number): (outcome, f"{title}: {reason}") for number, outcome, title, reason in rows}


def token_of(server: Server, name: str, role: str) -> str:
    return server.cli("token", "create", name, "--role", role).stdout.strip()


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("item", ITEMS)
def test_the_item_of_the_checklist_holds(item: int, outcomes: dict[int, tuple[str, str]]) -> None:
    outcome, why = outcomes[item]
    if item in NOT_HERE:
        assert outcome == "skipped", why
    else:
        assert outcome == "passed", why


def test_the_suite_has_a_test_for_every_item() -> None:
    found = {
        int(number) for path in SUITE.glob("test_*.py") for number in re.findall(r"test_item_(\d+)_", path.read_text())
    }
    assert found == set(ITEMS)
