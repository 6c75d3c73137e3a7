"""What searches need: names as they are compared, the order of results, and an index of pieces of text"""

import sqlalchemy as sa
from alembic import op

from imaging_ai.core.names import name_key
from imaging_ai.core.order import day_key
from imaging_ai.db import text_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_AT_ONCE = 1_000
_TOLD_OF_SERIES = ("modality", "instance_count", "timezone_offset_from_utc")


def upgrade() -> None:
    for name in ("patient_name_key", "referring_physician_name_key"):
        op.add_column("study", sa.Column(name, sa.String(), nullable=False, server_default=""))
    op.add_column("study", sa.Column("sort_key", sa.BigInteger(), nullable=True))
    op.add_column("series", sa.Column("timezone_offset_from_utc", sa.String(), nullable=False, server_default=""))
    op.add_column("series", sa.Column("study_sort_key", sa.BigInteger(), nullable=True))
    _fill(op.get_bind())
    for name in ("patient_id", "patient_name", "study_date"):
        op.drop_index(f"ix_study_{name}", "study")
    op.drop_index("ix_series_modality", "series")
    op.create_index("study_order", "study", ["sort_key"], unique=True)
    op.create_index("study_of_patient", "study", ["patient_id", "issuer_of_patient_id", "sort_key"])
    op.create_index("series_order", "series", ["study_sort_key"])
    op.create_index("series_of_modality", "series", ["modality", "study_sort_key", "study_id"])
    op.drop_index("ix_series_study_id", "series")
    op.create_index("ix_series_study_id", "series", ["study_id", *_TOLD_OF_SERIES])
    text_index.create(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    study, last = sa.table("study", *map(sa.column, _COLUMNS)), 0
    while rows := connection.execute(
        sa.select(study).where(study.c.id > last).order_by(study.c.id).limit(_AT_ONCE)
    ).all():
        for row in rows:
            keys = {
                "sort_key": day_key(row.study_date) + row.id,
                "patient_name_key": name_key(row.patient_name),
                "referring_physician_name_key": name_key(row.referring_physician_name),
            }
            connection.execute(sa.update(study).where(study.c.id == row.id).values(keys))
        last = rows[-1].id
    connection.execute(
        sa.text("UPDATE series SET study_sort_key = (SELECT sort_key FROM study WHERE study.id = series.study_id)")
    )


_COLUMNS = ("id", "study_date", "patient_name", "referring_physician_name")
_COLUMNS += ("sort_key", "patient_name_key", "referring_physician_name_key")


def downgrade() -> None:
    text_index.drop(op.get_bind())
    op.drop_index("ix_series_study_id", "series")
    op.create_index("ix_series_study_id", "series", ["study_id"])
    op.drop_index("series_of_modality", "series")
    op.drop_index("series_order", "series")
    op.drop_index("study_of_patient", "study")
    op.drop_index("study_order", "study")
    op.create_index("ix_series_modality", "series", ["modality"])
    for name in ("patient_id", "patient_name", "study_date"):
        op.create_index(f"ix_study_{name}", "study", [name])
    op.drop_column("series", "study_sort_key")
    op.drop_column("series", "timezone_offset_from_utc")
    for name in ("sort_key", "referring_physician_name_key", "patient_name_key"):
        op.drop_column("study", name)
