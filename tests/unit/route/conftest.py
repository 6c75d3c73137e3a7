"""A database on disk with rows as the archive leaves them, and models that are a `dicom.toml` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlmodel import SQLModel

from imaging_ai.catalog import Catalog
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import SeriesRow

SeriesMaker = Callable[..., int]
_tables = SQLModel.metadata.tables


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def add_series(database: Database) -> SeriesMaker:
    """Add a series that is being received; answers its id."""

    def add(series_instance_uid: str = "1.2.3", study_instance_uid: str = "1.2", **columns: object) -> int:
        study = _tables["study"]
        with database.write() as session:
            connection = session.connection()
            study_id = connection.scalar(select(study.c.id).where(study.c.study_instance_uid == study_instance_uid))
            if study_id is None:
                values = {"study_instance_uid": study_instance_uid, "created_at": 0.0, "updated_at": 0.0}
                blanks = {c.name: "" for c in study.c if c.name not in values and not c.nullable and c.name != "id"}
                study_id = connection.execute(insert(study).values(values | blanks)).inserted_primary_key[0]
            row = SeriesRow(
                **{
                    "study_id": study_id,
                    "series_instance_uid": series_instance_uid,
                    "settle_at": 110.0,
                    "last_received_at": 100.0,
                    "created_at": 100.0,
                    "instance_count": 1,
                }
                | columns
            )
            session.add(row)
            session.flush()
            assert row.id is not None
            return row.id

    return add


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str, str], None]:
    """Install a model by its `dicom.toml`."""

    def install(name: str, toml: str) -> None:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dicom.toml").write_text(f'{toml}\n[model]\nname = "{name}"\n')

    return install


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog([tmp_path / "models"])
