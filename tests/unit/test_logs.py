"""The log: one line per event, with the identifiers of its context."""

from __future__ import annotations

import json
import logging
import sqlite3
import warnings

import pytest

from imaging_ai import logs


@pytest.fixture(autouse=True)
def _restore_root() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_json_line_carries_the_identifiers_of_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    with logs.bound(job=7), logs.bound(series="1.2.3"):
        logging.getLogger("imaging_ai.test").info("read %d instances", 3)
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["job"], event["series"], event["level"]) == ("read 3 instances", 7, "1.2.3", "info")


def test_identifiers_end_with_their_block(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "text")
    with logs.bound(job=7):
        pass
    logging.getLogger("imaging_ai.test").info("idle")
    assert "job" not in capsys.readouterr().err


def test_an_exception_stays_on_the_line_in_json_without_what_it_may_quote(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    try:
        raise ValueError("^".join(["Doe", "John"]))
    except ValueError:
        logging.getLogger("imaging_ai.test").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    exception = json.loads(lines[0])["exception"]
    assert exception.startswith("ValueError\n")
    assert "test_logs.py" in exception
    assert "Doe^John" not in lines[0]


@pytest.mark.parametrize("name", ["pynetdicom", "pydicom", "sqlalchemy"])
def test_libraries_that_could_print_what_a_peer_sent_are_held_back(name: str) -> None:
    logs.configure("DEBUG", "text")
    assert not logging.getLogger(f"{name}.x").isEnabledFor(logging.INFO)


def test_warnings_of_libraries_quote_values_and_are_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        logs.configure()
        warnings.warn("Invalid value for VR PN: 'DOE^JANE'", UserWarning, stacklevel=1)
    assert "DOE" not in capfd.readouterr().err


def test_a_flood_of_one_warning_is_counted_and_hides_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    logs.configure("INFO", "text")
    log = logging.getLogger("imaging_ai.test")
    for second in (0.0, 0.0, 1.5):
        now[0] += second
        for number in range(5000):
            log.warning("refused: %s", number)
            log.info("stored")
        log.error("something else")
    lines = capsys.readouterr().err.splitlines()
    refused = [line for line in lines if "refused" in line]
    assert len(refused) == 101
    assert refused[-1].endswith("refused: 0 (and 9900 more like this, not written)")
    assert sum("stored" in line for line in lines) == 15_000
    assert sum("something else" in line for line in lines) == 3


def test_an_error_of_a_database_is_told_with_its_code_and_without_what_it_quotes() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE a (b TEXT CHECK (b <> 'Doe^Jane'))")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        connection.execute("INSERT INTO a VALUES ('Doe^Jane')")
    connection.close()
    told = logs.where(caught.value)
    assert told.startswith("IntegrityError SQLITE_CONSTRAINT_CHECK\n")
    assert "b <> " not in told
