"""How far the audit trail was sent is sealed; deliveries in the order of their turn"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    seal = sa.Column("seal", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False, server_default="")
    op.add_column("audit_feed", seal)
    op.add_column("delivery", sa.Column("priority", sa.Integer(), nullable=False, server_default="1"))
    op.execute("UPDATE delivery SET priority = (SELECT job.priority FROM job WHERE job.id = delivery.job_id)")
    op.create_index("delivery_turn", "delivery", ["destination", "state", "priority", "next_attempt_at"])


def downgrade() -> None:
    op.drop_index("delivery_turn", "delivery")
    op.drop_column("delivery", "priority")
    op.drop_column("audit_feed", "seal")
