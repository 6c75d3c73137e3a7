"""`deliveries`, as it is typed, and what `doctor` says of those that nobody can send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imaging_ai import doctor
from imaging_ai.cli import cli
from imaging_ai.config import load
from imaging_ai.errors import NotFound
from imaging_ai.send.strays import stray
from imaging_ai.wiring import make_current_database
from services.results import Results

PACS = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'


class Shell:
    """The command line on an installation that knows one destination, where results wait for another too."""

    def __init__(self, folder: Path) -> None:
        (folder / "settings.toml").write_text(PACS)
        self.environment = {
            "IMAGING_AI_DATA_DIR": str(folder),
            "IMAGING_AI_CONFIG": str(folder / "settings.toml"),
            "IMAGING_AI_BROKER_URL": "embedded",
        }
        make_current_database(load(environment=self.environment)).dispose()
        self.results = Results(f"sqlite:///{folder / 'imaging-ai.db'}", folder)
        self.first, _ = self.results.job(destinations=["pacs", "old-pacs"])
        self.second, _ = self.results.job(["SEG"], destinations=["old-pacs"])

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ("deliveries", *words), env=self.environment)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_they_are_listed_with_those_that_nobody_can_send(shell: Shell) -> None:
    told = json.loads(shell.run("list", "--json").stdout)
    assert told["unknown_destinations"] == {"old-pacs": 3}
    assert [one["destination"] for one in told["deliveries"]].count("pacs") == 2
    only = json.loads(shell.run("list", "--destination", "old-pacs", "--job", str(shell.second), "--json").stdout)
    assert [one["job_id"] for one in only["deliveries"]] == [shell.second]
    spoken = shell.run("list")
    assert "3 wait for old-pacs, which no [[destinations]] names" in spoken.stderr
    assert json.loads(shell.run("list", "--state", "DEAD", "--json").stdout)["deliveries"] == []


def test_they_go_elsewhere_or_nowhere(shell: Shell) -> None:
    assert isinstance(shell.run("redirect", "old-pacs", "elsewhere").exception, NotFound)
    done = shell.run("redirect", "old-pacs", "pacs", "--job", str(shell.second))
    assert done.stdout == "1 deliveries go to pacs\n", done.output
    assert shell.run("give-up", "old-pacs").exit_code == 1, "somebody has to say yes"
    assert shell.run("give-up", "old-pacs", "--yes").stdout == "2 deliveries given up\n"
    assert isinstance(shell.run("give-up", "old-pacs", "--yes").exception, NotFound)
    assert json.loads(shell.run("list", "--json").stdout)["unknown_destinations"] == {}


def test_the_doctor_names_them_with_the_remedy(shell: Shell) -> None:
    database = shell.results.database
    found = doctor.check_deliveries(lambda: stray(database, ["pacs"]))
    assert (found.ok, "3 for old-pacs" in found.detail) == (False, True)
    assert "deliveries redirect" in found.remedy
    assert doctor.check_deliveries(lambda: stray(database, ["pacs", "old-pacs"])).ok
