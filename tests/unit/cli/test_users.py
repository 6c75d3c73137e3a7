"""`users` and `token`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from entering import PASSWORD, cheap_passwords
from imaging_ai.cli import cli
from imaging_ai.config import load
from imaging_ai.core.permission import Role
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.key import ServerKey
from imaging_ai.wiring import make_current_database


class Shell:
    """The command line on one installation."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"IMAGING_AI_DATA_DIR": str(folder)}
        key = ServerKey.own(folder / "auth.key")
        self.entrance = Entrance.open(make_current_database(load(environment=self.environment)), key)
        self.quick = Entrance.open(self.entrance.database, key, passwords=cheap_passwords())

    def run(self, *words: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(cli, words, input=typed, env=self.environment)

    def told(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("data"))


def test_a_person_is_added_with_a_password_that_is_typed_twice_and_not_shown(shell: Shell) -> None:
    done = shell.run("users", "add", "Ada", "--role", "clinician", "--scope", "read", typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert shell.entrance.know("ada", PASSWORD, "") == "ada"
    (ada,) = shell.told("users", "list")
    assert (ada["name"], ada["role"], ada["scopes"], ada["disabled"]) == ("ada", "clinician", "read", "")
    assert shell.run("users", "add", "eve", "--role", "auditor", typed=f"{PASSWORD}\nanother\n").exit_code == 1


def test_a_password_comes_from_a_file(shell: Shell, tmp_path: Path) -> None:
    shell.quick.users.add("bob", Role.CLINICIAN, PASSWORD)
    file = tmp_path / "password"
    file.write_text("another four good words\r\nanother line\n")
    assert shell.run("users", "password", "bob", "--password-file", str(file)).exit_code == 0
    assert shell.quick.know("bob", "another four good words", "") == "bob"
    file.write_text("short")
    refused = shell.run("users", "password", "bob", "--password-file", str(file))
    assert "has 5 characters" in str(refused.exception)


def test_a_person_is_given_another_role(shell: Shell) -> None:
    shell.quick.users.add("gus", Role.CLINICIAN, PASSWORD)
    assert shell.run("users", "role", "gus", "--role", "technologist", "--scope", "store").exit_code == 0
    gus = shell.quick.users.get("gus")
    assert (gus.role, gus.scopes) == (Role.TECHNOLOGIST, {"store"})


def test_one_without_a_password_comes_in_another_way(shell: Shell) -> None:
    assert shell.run("users", "add", "cleo", "--role", "clinician", "--no-password").exit_code == 0
    assert not shell.quick.users.get("cleo").has_password


def test_to_enable_somebody_forgets_the_failed_logins(shell: Shell) -> None:
    shell.quick.users.add("dan", Role.CLINICIAN, PASSWORD)
    for _ in range(6):
        shell.quick.know("dan", "wrong", "")
    shell.run("users", "disable", "dan")
    assert shell.quick.users.get("dan").disabled_at
    shell.run("users", "enable", "Dan")
    assert shell.quick.know("dan", PASSWORD, "") == "dan"


def test_sessions_are_shown_and_ended(shell: Shell) -> None:
    shell.quick.users.add("fay", Role.CLINICIAN, PASSWORD)
    cookie = shell.quick.sessions.begin_in_browser("fay", "10.0.0.1")
    (one,) = shell.told("users", "sessions", "fay")
    assert (one["name"], one["kind"], one["from"]) == ("fay", "browser", "10.0.0.1")
    assert shell.told("users", "sessions", "nobody") == []
    assert shell.run("users", "sessions", "--end", one["session"]).exit_code == 0
    assert shell.quick.sessions.of_cookie(cookie) is None


def test_a_token_has_the_scopes_that_it_is_given(shell: Shell) -> None:
    secret = shell.run("token", "create", "ehr", "--role", "service", "--scope", "read", "--days", "1").stdout.strip()
    who = shell.quick.tokens.principal(secret)
    assert who is not None
    assert (who.name, who.scopes) == ("ehr", {"read"})
    (listed,) = shell.told("token", "list")
    assert (listed["scopes"], bool(listed["expires"]), listed["revoked"]) == ("read", True, "")
    assert secret not in str(listed)
    refused = shell.run("token", "create", "script", "--role", "auditor", "--scope", "store")
    assert "the role auditor has no store" in str(refused.exception)
