"""What was deleted"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deleted_instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("study_instance_uid", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("series_instance_uid", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("sop_instance_uid", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("blob_key", sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
        sa.Column("blob_offset", sa.BigInteger(), nullable=False),
        sa.Column("blob_length", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    place = ["study_instance_uid", "series_instance_uid", "sop_instance_uid"]
    op.create_index("deleted_instance_place", "deleted_instance", place)
    op.create_index("ix_deleted_instance_blob_key", "deleted_instance", ["blob_key"])
    left = sa.text("removed_at IS NULL")
    op.create_index("deleted_instance_left", "deleted_instance", ["id"], sqlite_where=left, postgresql_where=left)


def downgrade() -> None:
    op.drop_table("deleted_instance")
