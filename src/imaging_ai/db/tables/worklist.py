"""Work items of others, and who wants to hear of them (UPS)."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["NotificationRow", "SubscriberRow", "SubscriptionRow", "WorkItemEventRow", "WorkItemRow"]


class WorkItemRow(SQLModel, table=True):
    """A work item that a client made (PS3.4 CC). One that names a model of ours (`model`) is run as a job of its UID.

    `dataset` is DICOM JSON without the Transaction UID. When retention is over only the UID stays (`removed_at`).
    """

    __tablename__ = "work_item"
    __table_args__ = (
        Index("work_item_state", "state", "created_at"),
        Index("work_item_first_input", "series_instance_uid", "state"),
    )
    id: int | None = key_column()
    uid: str = Field(unique=True, max_length=64)
    state: str = "SCHEDULED"
    transaction_uid: str = ""
    priority: int = 1
    study_instance_uid: str = Field(default="", max_length=64)
    model: str = ""
    series_instance_uid: str = Field(default="", max_length=64)  # the first of the inputs of a model
    job_id: int | None = Field(default=None, foreign_key="job.id", unique=True)
    dataset: str = Field(default="{}", sa_column=Column(Text(), nullable=False))
    created_at: float | None = time_column()
    updated_at: float | None = time_column()
    finished_at: float | None = time_column(nullable=True)
    removed_at: float | None = time_column(nullable=True)


class WorkItemEventRow(SQLModel, table=True):
    """What happened to a work item or a job, until it is handed to its subscribers."""

    __tablename__ = "work_item_event"
    id: int | None = key_column()
    at: float | None = time_column(index=True)
    uid: str = Field(max_length=64)
    type: int
    created: bool = False  # the first event of a new item: global subscriptions reach out to it
    payload: str = Field(default="{}", sa_column=Column(Text(), nullable=False))


class SubscriptionRow(SQLModel, table=True):
    """What an application wants to hear of: the worklist, the worklist through a filter, or one item.

    `state` is plain, lock (keep final items for me) or none (an item left out of a global subscription).
    """

    __tablename__ = "subscription"
    __table_args__ = (UniqueConstraint("ae_title", "uid"),)
    id: int | None = key_column()
    ae_title: str = Field(max_length=16)
    uid: str = Field(max_length=64, index=True)
    state: str = "plain"
    filter: str = Field(default="", sa_column=Column(Text(), nullable=False))
    by_filter: bool = False
    created_at: float | None = time_column()
    suspended_at: float | None = time_column(nullable=True)


class NotificationRow(SQLModel, table=True):
    """One event for one subscriber, until it is acknowledged. Numbers never come twice, nor out of order."""

    __tablename__ = "notification"
    __table_args__ = (Index("notification_next", "ae_title", "id"), {"sqlite_autoincrement": True})
    id: int | None = key_column()
    ae_title: str = Field(max_length=16)
    at: float | None = time_column(index=True)
    uid: str = Field(max_length=64)
    type: int
    payload: str = Field(default="{}", sa_column=Column(Text(), nullable=False))


class SubscriberRow(SQLModel, table=True):
    """The notification connection of an application: which one it is now."""

    __tablename__ = "subscriber"
    ae_title: str = Field(primary_key=True, max_length=16)
    connection: str = ""
    opened_at: float | None = time_column()
    dropped: bool = False  # events were given up: it was away for too long
