"""The audit trail: one row for each event that touches patient data, in the transaction of what it records."""

from __future__ import annotations

import time
from typing import Literal

from sqlmodel import Session

from imaging_ai.db.tables import AuditEventRow

__all__ = ["Outcome", "record"]

Outcome = Literal["success", "refused", "failure"]


def record(
    session: Session,
    action: str,
    *,
    object_type: str,
    object_uid: str,
    actor: str = "",
    origin: str = "",
    outcome: Outcome = "success",
    detail: str = "",
) -> None:
    """Add an event to the caller's transaction: `actor` did `action` to an object, from `origin`."""
    session.add(
        AuditEventRow(
            at=time.time(),
            action=action,
            outcome=outcome,
            actor=actor,
            origin=origin,
            object_type=object_type,
            object_uid=object_uid,
            detail=detail,
        )
    )
