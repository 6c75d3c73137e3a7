"""What a hold keeps nobody deletes; what is old enough goes by the first rule that matches, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import select, update
from sqlmodel import SQLModel

import ledgers
import phantoms
import storing
from imaging_ai.archive.shelf import shelved
from imaging_ai.core.job import JobState
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, Gone, InputError, NotFound, OnHold, WrongState
from imaging_ai.keeping.holds import Holds
from imaging_ai.keeping.removal import Removal
from imaging_ai.keeping.retention import Retention, parse_retention
from imaging_ai.serve.dicomweb.parts import Parts

TABLES = SQLModel.metadata.tables
DAY = 86_400.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    SQLModel.metadata.create_all(database.engine)
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()
    database.dispose()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient[Litestar]]:
    with storing.web(parts) as client:
        yield client


def store(client: TestClient[Litestar], name: str = "a", **attributes: Any) -> tuple[str, str]:
    """Store a series of two, and return its study and itself."""
    datasets = storing.ct(2, name)
    for ds in datasets:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    assert storing.post(client, [storing.instance(phantoms.to_bytes(ds)) for ds in datasets]).status_code == 200
    return str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)


def age(parts: Parts, study: str, days: float, **columns: Any) -> None:
    """Make the series of a study as old as that, and settled."""
    series, studies = TABLES["series"], TABLES["study"]
    of = select(studies.c.id).where(studies.c.study_instance_uid == study).scalar_subquery()
    values = {"last_received_at": time.time() - days * DAY, "state": "SETTLED", **columns}
    with parts.database.write() as session:
        session.connection().execute(update(series).where(series.c.study_id == of).values(values))


def retention(parts: Parts, *rules: dict[str, Any]) -> Retention:
    return Retention(parse_retention(rules, "test.toml"), parts.archive, Removal(parts.archive, parts.ledger))


def events(parts: Parts, action: str) -> list[Any]:
    trail = TABLES["audit_event"]
    with parts.database.read() as session:
        return list(session.connection().execute(select(trail).where(trail.c.action == action)))


# -- holds


def test_nothing_of_a_study_on_hold_is_deleted_by_anybody(client: TestClient[Litestar], parts: Parts) -> None:
    study, series = store(client)
    holds = Holds(parts.database)
    holds.place(study, "proceedings 12/26", actor="counsel")
    for path in (study, f"{study}/series/{series}"):
        answer = client.delete(f"/dicom-web/studies/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "on-hold")
    age(parts, study, 1_000)
    assert retention(parts, {"name": "all", "keep_days": 1}).purge() == 0
    assert len(shelved(parts.database, study)) == 2
    holds.lift(study, actor="counsel")
    assert client.delete(f"/dicom-web/studies/{study}").status_code == 204
    assert [len(events(parts, action)) for action in ("place-hold", "lift-hold", "delete-instances")] == [1, 1, 1]


def test_a_refused_deletion_leaves_the_jobs_of_the_study_alone(client: TestClient[Litestar], parts: Parts) -> None:
    study, series = store(client)
    job = ledgers.schedule(parts.ledger, study_instance_uid=study, series_instance_uids=(series,))
    Holds(parts.database).place(study, "a reason")
    assert client.delete(f"/dicom-web/studies/{study}").status_code == 409
    assert parts.ledger.get(job).state == JobState.SCHEDULED


def test_a_hold_names_its_reason_and_there_is_one_at_a_time(client: TestClient[Litestar], parts: Parts) -> None:
    study, _ = store(client)
    holds = Holds(parts.database)
    with pytest.raises(InputError, match="needs a reason"):
        holds.place(study, "  ")
    with pytest.raises(NotFound):
        holds.place("1.2.3", "a reason")
    holds.place(study, "first")
    with pytest.raises(WrongState, match="already"):
        holds.place(study, "second")
    assert [one.reason for one in holds.entries()] == ["first"]
    holds.lift(study, actor="me")
    with pytest.raises(NotFound, match="not on hold"):
        holds.lift(study)
    holds.place(study, "second")
    assert [one.reason for one in holds.entries(study, lifted=True)] == ["first", "second"]
    assert [one.reason for one in holds.entries()] == ["second"]


# -- retention


def test_what_is_old_enough_goes_and_the_rest_stays(client: TestClient[Litestar], parts: Parts) -> None:
    (old, series), (young, _) = store(client, "old"), store(client, "young")
    age(parts, old, 31)
    age(parts, young, 29)
    keeper = retention(parts, {"name": "a month", "keep_days": 30})
    assert [(one.study_instance_uid, one.rule) for one in keeper.due()] == [(old, "a month")]
    assert keeper.purge() == 1
    with pytest.raises(Gone):
        shelved(parts.database, old)
    assert shelved(parts.database, young)
    (event,) = events(parts, "purge-series")
    assert (event.actor, event.object_uid, event.detail) == ("retention", series, "2 instances, rule a month")
    assert keeper.purge() == 0


def test_the_first_rule_that_matches_decides(client: TestClient[Litestar], parts: Parts) -> None:
    studies = [store(client, name, SeriesDescription=name)[0] for name in ("teaching", "plain")]
    for study in studies:
        age(parts, study, 400)
    keeper = retention(
        parts,
        {"name": "teaching files stay", "when": {"SeriesDescription": "teaching"}},
        {"name": "a year", "when": {"Modality": "CT"}, "keep_days": 365},
    )
    assert [one.study_instance_uid for one in keeper.due()] == studies[1:]


def test_results_may_go_earlier_than_what_was_received(client: TestClient[Litestar], parts: Parts) -> None:
    (received, _), (result, _) = store(client, "received"), store(client, "result")
    age(parts, received, 10)
    age(parts, result, 10, origin="result")
    assert [
        one.study_instance_uid for one in retention(parts, {"name": "r", "origin": "result", "keep_days": 5}).due()
    ] == [result]


def test_a_series_whose_study_is_worked_on_waits(client: TestClient[Litestar], parts: Parts) -> None:
    study, series = store(client)
    age(parts, study, 10)
    job = ledgers.schedule(parts.ledger, study_instance_uid=study, series_instance_uids=(series,))
    keeper = retention(parts, {"name": "r", "keep_days": 5})
    assert keeper.purge() == 0
    parts.ledger.cancel(job)
    assert keeper.purge() == 1


def test_what_still_arrives_is_not_old(client: TestClient[Litestar], parts: Parts) -> None:
    study, _ = store(client)
    age(parts, study, 10, state="RECEIVING")
    assert retention(parts, {"name": "r", "keep_days": 5}).purge() == 0


def test_a_hold_that_comes_between_looking_and_removing_is_seen(client: TestClient[Litestar], parts: Parts) -> None:
    study, series = store(client)
    Holds(parts.database).place(study, "just now")
    with pytest.raises(OnHold):
        Removal(parts.archive, parts.ledger).remove((study, series))


def test_a_series_that_grows_between_looking_and_removing_stays(client: TestClient[Litestar], parts: Parts) -> None:
    study, _ = store(client)
    age(parts, study, 10)
    keeper = retention(parts, {"name": "r", "keep_days": 5})
    (due,) = keeper.due()
    keeper.due = lambda: iter([due])  # type: ignore[method-assign]
    age(parts, study, 0)
    assert keeper.purge() == 0
    age(parts, study, 10)
    assert keeper.purge() == 1, "it was still there, and is old again"


def test_one_round_removes_so_many_and_no_more(client: TestClient[Litestar], parts: Parts) -> None:
    for name in ("a", "b", "c"):
        age(parts, store(client, name)[0], 10)
    keeper = retention(parts, {"name": "r", "keep_days": 5})
    assert [keeper.purge(2), keeper.purge(2)] == [2, 1]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"keep_days": 5}, "name is missing"),
        ({"name": "r", "keepdays": 5}, "did you mean keep_days"),
        ({"name": "r", "keep_days": 0}, "more than 0 days"),
        ({"name": "r", "keep_days": "5"}, "more than 0 days"),
        ({"name": "r", "origin": "sent"}, "choose received, result, any"),
        ({"name": "r", "when": {"Modalty": "CT"}}, "Modality"),
        ({"name": "r", "when": {"EchoTime": 30}}, "EchoTime is not in the index"),
        ({"name": "r", "when": "CT"}, "must be a table"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_retention([rule], "test.toml")
