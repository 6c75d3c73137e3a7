"""Every action that the trail may name, and what it is to others: the one place where an action is declared.

Events and their types are those of PS3.15 A.5.3 (PS3.16 CID 400 and 401), which IHE ITI TF-2 3.20 (ATNA) and FHIR's
AuditEvent take over. A test finds actions in use that are not here, and those here that nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ACTIONS", "STUDY_DELETED", "Action", "Code", "declared"]

#: Create, read, update, delete, execute (RFC 3881 5.1.2).
Kind = Literal["C", "R", "U", "D", "E"]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept of DICOM (scheme DCM)."""

    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Action:
    """What an action is: in words, as a DICOM audit event with its type, and by its kind."""

    meaning: str
    event: Code
    kind: Kind
    type: Code | None = None


_APPLICATION = Code("110100", "Application Activity")
_AUDIT_USED = Code("110101", "Audit Log Used")
_BEGIN_TRANSFER = Code("110102", "Begin Transferring DICOM Instances")
_ACCESSED = Code("110103", "DICOM Instances Accessed")
_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
#: What the deletion of a whole study is (PS3.15 A.5.3.8).
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
_PROCEDURE = Code("110111", "Procedure Record")
_QUERY = Code("110112", "Query")
_SECURITY = Code("110113", "Security Alert")
_AUTHENTICATION = Code("110114", "User Authentication")

_STARTED, _STOPPED = Code("110120", "Application Start"), Code("110121", "Application Stop")
_LOGIN, _LOGOUT = Code("110122", "Login"), Code("110123", "Logout")
_NODE = Code("110126", "Node Authentication")
_RESTRICTED = Code("110132", "Use of Restricted Function")
_OVERRIDE, _OVERRIDE_ENDED = Code("110127", "Emergency Override Started"), Code("110138", "Emergency Override Stopped")
_CONFIGURED = Code("110129", "Security Configuration")
_OBJECT_CHANGED = Code("110135", "Object Security Attributes Changed")
_USER_CHANGED = Code("110137", "User security Attributes Changed")

ACTIONS: dict[str, Action] = {
    # instances come, go, are changed and removed
    "begin-transferring-instances": Action("instances of a series begin to arrive", _BEGIN_TRANSFER, "E"),
    "instances-transferred": Action("instances of a series have arrived", _TRANSFERRED, "C"),
    "store-instance": Action("an instance was brought", _TRANSFERRED, "C"),
    "replace-instance": Action("an instance was replaced by other content", _TRANSFERRED, "U"),
    "delete-instances": Action("instances were deleted", _ACCESSED, "D"),
    "send": Action("a result was sent to a destination", _TRANSFERRED, "C"),
    "purge-series": Action("a series was kept long enough, and deleted", _ACCESSED, "D"),
    "place-hold": Action("a study is kept until further notice", _SECURITY, "E", _OBJECT_CHANGED),
    "lift-hold": Action("a study need not be kept any longer", _SECURITY, "E", _OBJECT_CHANGED),
    "encrypt-objects": Action("what is stored was encrypted", _SECURITY, "E", _CONFIGURED),
    "decrypt-objects": Action("what is stored was decrypted", _SECURITY, "E", _CONFIGURED),
    "rewrap-keys": Action("keys of what is stored were sealed with another key", _SECURITY, "E", _CONFIGURED),
    "replay": Action("a result is sent once more, by hand", _PROCEDURE, "U"),
    "redirect": Action("a result goes to another destination, by hand", _PROCEDURE, "U"),
    "give-up": Action("a result is not sent any more, by hand", _PROCEDURE, "U"),
    # reading and searching
    "read-instances": Action("instances were retrieved", _ACCESSED, "R"),
    "read-metadata": Action("the attributes of instances were retrieved", _ACCESSED, "R"),
    "read-frames": Action("frames were retrieved", _ACCESSED, "R"),
    "read-bulkdata": Action("bulk data were retrieved", _ACCESSED, "R"),
    "read-rendered": Action("instances were retrieved as pictures", _ACCESSED, "R"),
    "read-thumbnail": Action("a small picture was retrieved", _ACCESSED, "R"),
    "study.read": Action("a study was looked at", _ACCESSED, "R"),
    "search-patients": Action("patients were searched for", _QUERY, "E"),
    "search-studies": Action("studies were searched for", _QUERY, "E"),
    "search-series": Action("series were searched for", _QUERY, "E"),
    "search-instances": Action("instances were searched for", _QUERY, "E"),
    "study.search": Action("studies were listed", _QUERY, "E"),
    # jobs, and work items as others see them
    "job.schedule": Action("a model is to run on a series", _PROCEDURE, "C"),
    "job.complete": Action("a model has run", _PROCEDURE, "U"),
    "job.refuse": Action("a model refused a series", _PROCEDURE, "U"),
    "job.fail": Action("a run failed", _PROCEDURE, "U"),
    "job.cancel": Action("a run was cancelled", _PROCEDURE, "D"),
    "job.retry": Action("a run is to be repeated", _PROCEDURE, "U"),
    "workitem.create": Action("a work item was created", _PROCEDURE, "C"),
    "workitem.update": Action("a work item was changed", _PROCEDURE, "U"),
    "workitem.state": Action("a work item went to another state", _PROCEDURE, "U"),
    "workitem.cancel-request": Action("a work item is to be cancelled", _PROCEDURE, "U"),
    "read-workitem": Action("a work item was looked at", _PROCEDURE, "R"),
    "search-workitems": Action("work items were searched for", _QUERY, "E"),
    # people, programs and peers
    "login": Action("a person logged in", _AUTHENTICATION, "E", _LOGIN),
    "logout": Action("a person logged out", _AUTHENTICATION, "E", _LOGOUT),
    "end-session": Action("a session was ended", _AUTHENTICATION, "E", _LOGOUT),
    "reuse-refresh-token": Action("a refresh token was used twice", _SECURITY, "E", _RESTRICTED),
    "begin-emergency-access": Action("emergency access began", _SECURITY, "E", _OVERRIDE),
    "end-emergency-access": Action("emergency access ended", _SECURITY, "E", _OVERRIDE_ENDED),
    "add-user": Action("a person was added", _SECURITY, "E", _USER_CHANGED),
    "change-role": Action("a person may other things than before", _SECURITY, "E", _USER_CHANGED),
    "disable-user": Action("a person is let in no more", _SECURITY, "E", _USER_CHANGED),
    "enable-user": Action("a person is let in again", _SECURITY, "E", _USER_CHANGED),
    "change-password": Action("a password was changed", _SECURITY, "E", _USER_CHANGED),
    "create-token": Action("a token was made", _SECURITY, "E", _USER_CHANGED),
    "revoke-token": Action("a token was revoked", _SECURITY, "E", _USER_CHANGED),
    "open-association": Action("a peer asked for an association", _SECURITY, "E", _NODE),
    # this program and the trail itself
    "start-application": Action("a role was started, and the trail with it", _APPLICATION, "E", _STARTED),
    "stop-application": Action("a role was stopped", _APPLICATION, "E", _STOPPED),
    "audit.search": Action("the audit trail was searched", _AUDIT_USED, "R"),
    "audit.export": Action("the audit trail was exported", _AUDIT_USED, "R"),
    "audit.archive": Action("a segment was taken out of the audit trail", _AUDIT_USED, "D"),
    "audit.rotate-key": Action("another key seals the audit trail from here on", _SECURITY, "E", _CONFIGURED),
}

_UNDECLARED = Action("something else was done", _APPLICATION, "E")


def declared(action: str) -> Action:
    """Return what an action is; of one that an older program wrote, that it was done."""
    return ACTIONS.get(action, _UNDECLARED)
