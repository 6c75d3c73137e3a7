"""The tables. Rows do not travel: functions elsewhere return `core` values built from them.

Times are seconds since the epoch, UTC, as double precision. JSON columns hold text that this program wrote.
SQLModel tables do not validate, so rows are built only from values that are already valid.
"""

from imaging_ai.db.tables.images import (
    DeletedInstanceRow,
    InstanceDocumentRow,
    InstanceRow,
    ReplacedInstanceRow,
    SeriesRow,
    StudyRow,
)
from imaging_ai.db.tables.jobs import DeliveryRow, EvaluationRow, FindingRow, JobRow, ResultRow, WorkerRow
from imaging_ai.db.tables.keeping import HoldRow
from imaging_ai.db.tables.people import AttemptRow, InvitationRow, PersonRow, SessionRow, TokenRow
from imaging_ai.db.tables.trail import AuditCheckpointRow, AuditEventRow, AuditFeedRow
from imaging_ai.db.tables.worklist import NotificationRow, SubscriberRow, SubscriptionRow, WorkItemEventRow, WorkItemRow

__all__ = [
    "AttemptRow",
    "AuditCheckpointRow",
    "AuditEventRow",
    "AuditFeedRow",
    "DeletedInstanceRow",
    "DeliveryRow",
    "EvaluationRow",
    "FindingRow",
    "HoldRow",
    "InstanceDocumentRow",
    "InstanceRow",
    "InvitationRow",
    "JobRow",
    "NotificationRow",
    "PersonRow",
    "ReplacedInstanceRow",
    "ResultRow",
    "SeriesRow",
    "SessionRow",
    "StudyRow",
    "SubscriberRow",
    "SubscriptionRow",
    "TokenRow",
    "WorkItemEventRow",
    "WorkItemRow",
    "WorkerRow",
]
