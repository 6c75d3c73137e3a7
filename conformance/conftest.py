"""Options, the server under test with the studies on it, and the table of the checklist at the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer import Peer
from studies import Collection, collection

_TABLE = pytest.StashKey[dict[int, list[tuple[str, str, str]]]]()
_WORST = ("failed", "skipped", "passed")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the server under test")
    group.addoption("--url", default="", help="base address of its DICOMweb services, such as http://host/dicom-web")
    token = os.environ.get("CONFORMANCE_TOKEN", "")
    group.addoption("--token", default=token, help="bearer token that may do everything (or $CONFORMANCE_TOKEN)")
    group.addoption("--reader-token", default="", help="bearer token that may read and nothing else (item 11)")
    group.addoption("--origin", default="", help="an origin that the server is configured for (item 10)")
    group.addoption("--public-url", default="", help="base address that the server gives out, where another (item 36)")
    group.addoption("--limit-mb", default=0.0, type=float, help="what one body or instance may have (item 33)")
    group.addoption("--wado-uri", default="", help="address of WADO-URI, where it is not the base address (item 88)")
    group.addoption("--keep", action="store_true", help="leave what was stored")
    group.addoption("--table", default="", metavar="FILE", help="write the table of items to a file, in Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = {}


@pytest.fixture(scope="session")
def peer(pytestconfig: pytest.Config) -> Iterator[Peer]:
    """The server under test."""
    url = pytestconfig.getoption("--url")
    if not url:
        pytest.exit("say which server: --url=http://host/dicom-web", returncode=4)
    peer = Peer(url, pytestconfig.getoption("--token"), pytestconfig.getoption("--public-url"))
    yield peer
    if not pytestconfig.getoption("--keep"):
        peer.delete_all()
    peer.close()


@pytest.fixture(scope="session")
def held(peer: Peer) -> Collection:
    """What is stored before the first test that searches or retrieves."""
    made = collection()
    response = peer.store(made.all)
    assert response.status_code == 200, f"the studies cannot be stored: {response.status_code} {response.text[:1000]}"
    return made


@pytest.fixture
def option(pytestconfig: pytest.Config) -> Iterator[object]:
    """Give an option by its name, or skip the test."""

    def given(name: str) -> str:
        found = pytestconfig.getoption(name)
        if not found:
            pytest.skip(f"needs {name}")
        return str(found)

    yield given


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    named = re.match(r"test_item_(\d+)_(.*)", item.name)
    if named is None or (report.when != "call" and report.passed):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else ""
    if report.failed:
        lines = [line[4:] for line in str(report.longrepr).splitlines() if line.startswith("E   ")]
        reason = lines[0] if lines else str(report.longrepr).splitlines()[-1]
    rows = item.config.stash[_TABLE].setdefault(int(named[1]), [])
    rows.append((report.outcome, named[2].replace("_", " "), " ".join(reason.split())[:150]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = list(_table(config.stash[_TABLE]))
    if not lines:
        return
    terminalreporter.section("checklist")
    for line in lines:
        terminalreporter.write_line(line)
    if path := config.getoption("--table"):
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(items: dict[int, list[tuple[str, str, str]]]) -> Iterator[str]:
    counts = dict.fromkeys(_WORST, 0)
    rows = []
    for number, tests in sorted(items.items()):
        outcome, title, reason = min(tests, key=lambda test: _WORST.index(test[0]))
        counts[outcome] += 1
        rows.append(f"| {number} | {outcome} | {title.replace('|', ' ')} | {reason.replace('|', ' ')} |")
    if rows:
        yield "| item | outcome | what must hold | why not |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""
        yield ", ".join(f"{counts[outcome]} {outcome}" for outcome in reversed(_WORST)) + f" of {len(rows)} items"
