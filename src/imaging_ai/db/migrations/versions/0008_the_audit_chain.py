"""The audit trail as a chain, which nobody may change"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_INDEXED = ("action", "actor", "at", "object_uid")
_TEXT = sqlmodel.sql.sqltypes.AutoString

#: An event may be removed only when a checkpoint stands for it (`audit.retention`); nothing may ever be changed.
_REFUSE = " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
_SQLITE = (
    "CREATE TRIGGER audit_event_unchanged BEFORE UPDATE ON audit_event",
    "CREATE TRIGGER audit_event_kept BEFORE DELETE ON audit_event "
    "WHEN OLD.id > (SELECT coalesce(max(id), 0) FROM audit_checkpoint)",
    "CREATE TRIGGER audit_checkpoint_unchanged BEFORE UPDATE ON audit_checkpoint",
    "CREATE TRIGGER audit_checkpoint_kept BEFORE DELETE ON audit_checkpoint",
)
_POSTGRESQL = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'audit_event' THEN
        IF OLD.id <= (SELECT coalesce(max(id), 0) FROM audit_checkpoint) THEN RETURN OLD; END IF;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only';
END $$;
CREATE TRIGGER audit_event_kept BEFORE UPDATE OR DELETE ON audit_event
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_event_not_emptied BEFORE TRUNCATE ON audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_checkpoint_kept BEFORE UPDATE OR DELETE ON audit_checkpoint
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_checkpoint_not_emptied BEFORE TRUNCATE ON audit_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
"""


def upgrade() -> None:
    _keep_earlier_events()
    op.create_table(
        "audit_event",
        _number(),
        sa.Column("at", sa.Double(), nullable=False),
        *(sa.Column(name, _TEXT(), nullable=False) for name in ("action", "outcome", "actor", "origin")),
        *(sa.Column(name, _TEXT(), nullable=False) for name in ("object_type", "object_uid")),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("key_id", _TEXT(length=16), nullable=False),
        sa.Column("hash", _TEXT(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for name in _INDEXED:
        op.create_index(f"ix_audit_event_{name}", "audit_event", [name])
    op.create_table(
        "audit_checkpoint",
        _number(),
        sa.Column("hash", _TEXT(length=64), nullable=False),
        sa.Column("key_id", _TEXT(length=16), nullable=False),
        sa.Column("seal", _TEXT(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit_feed",
        sa.Column("name", _TEXT(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("owner", _TEXT(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRESQL)
        return
    for trigger in _SQLITE:
        op.execute(trigger + _REFUSE)


def _number() -> sa.Column:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False)


def _keep_earlier_events() -> None:
    """Events from before the chain were sealed by nobody: they stay as they are, in a table of their own."""
    for name in ("action", "at", "object_uid"):
        op.drop_index(f"ix_audit_event_{name}", "audit_event")
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM audit_event")):
        op.rename_table("audit_event", "audit_event_before_chain")
    else:
        op.drop_table("audit_event")


def downgrade() -> None:
    raise NotImplementedError("an audit trail is not taken apart")
