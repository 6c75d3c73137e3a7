"""Alembic's entry: runs the migrations on the connection that `imaging_ai.db.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

from imaging_ai.db import tables

assert tables.StudyRow.__tablename__  # the tables must be known to the metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
