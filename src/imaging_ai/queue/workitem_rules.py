"""What a Unified Procedure Step must have, and when (PS3.4 Table CC.2.5-3, CC.2.5.1.1). Pure.

The table's columns that concern a client: what creating takes (N-CREATE), what changing takes (N-SET), and what must
have a value before a final state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imaging_ai.core.job import JobState
from imaging_ai.errors import InputError, WrongState
from imaging_ai.queue.workitem_elements import Elements, code, elements, first, items, moment, said, tag

__all__ = [
    "UPS_PUSH",
    "canceled",
    "check_final",
    "check_new",
    "check_update",
]

#: SOP Class UID of every work item (PS3.4 CC.2.5.1.3.1).
UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"

#: Type 1: must be there with a value. (Modification DateTime and the UIDs, also type 1, are written by this server.)
_NEEDED = (
    "ProcedureStepState",
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
)
#: Type 2 for a client and 1 for this server: the name of its one worklist.
_WORKLIST = "WORKLIST"
#: Type 2: kept, without a value when the client says nothing.
_KEPT = (
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
#: Must be empty when a step is created.
_EMPTY_AT_FIRST = (
    "TransactionUID",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
#: N-SET: not allowed.
_FIXED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ReplacedProcedureStepSequence",
    "ProcedureStepState",
)
#: N-SET: may be given, and then needs a value.
_NEVER_EMPTY = (
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "WorklistLabel",
    "ScheduledProcedureStepStartDateTime",
    "ExpectedCompletionDateTime",
    "InputReadinessState",
)
_VALUES = {
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW"),
    "InputReadinessState": ("READY", "UNAVAILABLE", "INCOMPLETE"),
}
#: Final state code P: values that a completed step must have, in its performed procedure.
_PERFORMED = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedWorkitemCodeSequence",
    "PerformedProcedureStepEndDateTime",
)


def check_new(given: Mapping[str, Any], now: float) -> Elements:
    """Return the work item that a client wants to create, completed with what this server keeps of every one.

    Raises
    ------
    InputError
        If it is not what N-CREATE takes; the message names all that is wrong.
    """
    wrong = [f"{keyword} is missing or has no value" for keyword in _NEEDED if first(given, keyword) is None]
    wrong += [f"{keyword} must be empty" for keyword in _EMPTY_AT_FIRST if first(given, keyword) is not None]
    state = said(given, "ProcedureStepState")
    if state and state != JobState.SCHEDULED:
        wrong.append("ProcedureStepState must be SCHEDULED")
    wrong += _bad_values(given)
    if wrong:
        raise InputError("; ".join(wrong))
    made = elements(**dict.fromkeys(_KEPT)) | dict(given)
    made.pop(tag("TransactionUID"), None)
    if first(made, "WorklistLabel") is None:
        made |= elements(WorklistLabel=_WORKLIST)
    made = {key: value for key, value in made.items() if key >= "00080000"}  # no command elements
    return made | elements(
        SOPClassUID=UPS_PUSH, ScheduledProcedureStepModificationDateTime=moment(now), SpecificCharacterSet="ISO_IR 192"
    )


def check_update(given: Mapping[str, Any], now: float) -> Elements:
    """Return the changes that a client may make.

    Raises
    ------
    InputError
        If it wants to change what N-SET does not take, or to empty what must have a value.
    """
    wrong = [f"{keyword} cannot be changed" for keyword in _FIXED if tag(keyword) in given]
    wrong += [
        f"{keyword} must have a value"
        for keyword in _NEVER_EMPTY
        if tag(keyword) in given and first(given, keyword) is None
    ]
    wrong += _bad_values(given)
    if wrong:
        raise InputError("; ".join(wrong))
    left_out = {tag("TransactionUID"), tag("SpecificCharacterSet")}
    changes = {key: value for key, value in given.items() if key not in left_out and key >= "00080000"}
    return changes | elements(ScheduledProcedureStepModificationDateTime=moment(now))


def check_final(dataset: Mapping[str, Any]) -> None:
    """Raise `WrongState` unless a step has what a completed one must have."""
    performed = items(dataset, "UnifiedProcedureStepPerformedProcedureSequence")
    if not performed:
        missing: Sequence[str] = ["UnifiedProcedureStepPerformedProcedureSequence"]
    else:
        missing = [keyword for keyword in _PERFORMED if first(performed[0], keyword) is None]
        if tag("OutputInformationSequence") not in performed[0]:  # which may have no items
            missing.append("OutputInformationSequence")
    if missing:
        raise WrongState(f"the final state requirements of COMPLETED are not met: {', '.join(missing)} has no value")


def canceled(dataset: Mapping[str, Any], now: float, *, reason: str = "", codes: Sequence[Elements] = ()) -> Elements:
    """Return a step as it is once canceled: the SCP fills in when, and why where nobody said (PS3.4 CC.2.5.1.1)."""
    told = items(dataset, "ProcedureStepProgressInformationSequence")
    progress = dict(told[0]) if told else {}
    if first(progress, "ProcedureStepCancellationDateTime") is None:
        progress |= elements(ProcedureStepCancellationDateTime=moment(now))
    if reason:
        progress |= elements(ReasonForCancellation=reason)
    if codes:
        progress |= elements(ProcedureStepDiscontinuationReasonCodeSequence=list(codes))
    if first(progress, "ProcedureStepDiscontinuationReasonCodeSequence") is None:
        unspecified = code("110513", "DCM", "Discontinued for unspecified reason")
        progress |= elements(ProcedureStepDiscontinuationReasonCodeSequence=[unspecified])
    return dict(dataset) | elements(ProcedureStepProgressInformationSequence=[progress])


def _bad_values(given: Mapping[str, Any]) -> list[str]:
    wrong = []
    for keyword, allowed in _VALUES.items():
        value = said(given, keyword)
        if value and value not in allowed:
            wrong.append(f"{keyword} must be one of {', '.join(allowed)}")
    return wrong
