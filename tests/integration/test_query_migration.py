"""An archive that was filled before searches were there is found by them after the upgrade, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from imaging_ai.archive.query import Search
from imaging_ai.archive.query_attributes import Level
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.serve.dicomweb.qido_request import query_of

STUDY = (
    "INSERT INTO study (id, study_instance_uid, patient_id, issuer_of_patient_id, patient_name, patient_birth_date, "
    "patient_sex, study_date, study_time, accession_number, study_id, study_description, referring_physician_name, "
    "created_at, updated_at) "
    "VALUES (:id, :uid, 'P', '', :name, '', '', :date, '', '', '', '', '', 0, 0)"
)
SERIES = (
    "INSERT INTO series (id, study_id, series_instance_uid, modality, series_description, series_date, series_time, "
    "body_part_examined, protocol_name, manufacturer, manufacturer_model_name, station_name, institution_name, "
    "performed_procedure_step_start_date, performed_procedure_step_start_time, frame_of_reference_uid, origin, source, "
    "instance_count, state, revision, settle_at, last_received_at, created_at) "
    "VALUES (:id, :id, '1.9', 'CT', '', '', '', '', '', '', '', '', '', '', '', '', '', '', 1, 'SETTLED', 0, 0, 0, 0)"
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    yield opened
    opened.dispose()


def go_to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    move = command.downgrade if migrate.current(database) else command.upgrade
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


def studies(database: Database, **parameters: str) -> list[bytes]:
    search = Search(database, None, examined=1)  # type: ignore[arg-type] - columns are enough here
    query = query_of(parameters.items(), Level.STUDY, {}, frozenset(), 100)
    return list(search.run(query).matches)


def test_what_was_there_before_is_found_in_its_order(database: Database) -> None:
    go_to(database, "0001")
    names = {1: ("Müller^Änne", "20240101"), 2: ("Doe^John", ""), 3: ("Smith^Jane", "2024.02.01")}
    with database.write() as session:
        for number, (name, date) in names.items():
            values = {"id": number, "uid": f"1.{number}", "name": name, "date": date}
            session.connection().execute(text(STUDY), values)
            session.connection().execute(text(SERIES), {"id": number})
    migrate.upgrade(database)
    everything = studies(database, includefield="StudyInstanceUID")
    assert [match.count(f'"1.{number}"'.encode()) for match, number in zip(everything, (3, 1, 2), strict=True)] == [
        1,
        1,
        1,
    ]
    for parameters, expected in (
        ({"PatientName": "muller*"}, 1),
        ({"PatientName": "*smith*"}, 1),
        ({"StudyDate": "20240101-20240131"}, 1),
        ({"ModalitiesInStudy": "CT", "StudyDate": "20240101-"}, 2),
        ({"ModalitiesInStudy": "MR"}, 0),
    ):
        assert len(studies(database, **parameters)) == expected, parameters
    with database.write() as session:
        session.connection().execute(text("UPDATE study SET patient_name_key = '=other=' WHERE id = 3"))
    assert not studies(database, PatientName="*smith*") and len(studies(database, PatientName="other")) == 1


def test_the_way_back_leaves_what_was_there(database: Database) -> None:
    """As far as there is one: an audit trail is not taken apart."""
    go_to(database, "0007")
    with database.write() as session:
        session.connection().execute(text(STUDY), {"id": 1, "uid": "1.1", "name": "A", "date": ""})
    go_to(database, "0001")
    with database.read() as session:
        assert session.connection().scalar(text("SELECT patient_name FROM study")) == "A"
    migrate.upgrade(database)
    assert len(studies(database, PatientName="a")) == 1
