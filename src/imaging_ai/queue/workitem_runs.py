"""Work items that ask for one of our models (IHE AIW-I): which model, on which instances. Pure.

A work item asks for a model when it is assigned to this station or to none, and

    Scheduled Workitem Code Sequence has a code of our scheme (99IMAGINGAI) whose value is the model's name, or
    Scheduled Processing Parameters Sequence has (111001, DCM, "Algorithm Name") with the name as Text Value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from imaging_ai.core.job import Priority
from imaging_ai.errors import InputError
from imaging_ai.queue.workitem_elements import items, said
from imaging_ai.queue.workitem_news import SCHEME

__all__ = ["ALGORITHM_NAME", "RunRequest", "priority_of", "run_request"]

ALGORITHM_NAME = ("111001", "DCM", "Algorithm Name")

_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_MOST_SERIES = 64


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Run `model` on these series of a study: on all of their instances, or on those named."""

    model: str
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    instances: frozenset[str]
    output_ae_titles: tuple[str, ...] = ()


def priority_of(dataset: Mapping[str, Any]) -> Priority:
    """Return Scheduled Procedure Step Priority (0074,1200)."""
    name = said(dataset, "ScheduledProcedureStepPriority")
    return Priority[name] if name in Priority.__members__ else Priority.MEDIUM


def run_request(dataset: Mapping[str, Any], ae_title: str, models: Collection[str]) -> RunRequest | None:
    """Return what a work item asks of us; None when it does not ask for a model.

    Raises
    ------
    InputError
        If it asks for a model that is not installed here, or has no inputs that a model could run on.
    """
    stations = items(dataset, "ScheduledStationNameCodeSequence")
    if stations and ae_title not in (_value(station) for station in stations):
        return None
    model = _model(dataset, models)
    if not model:
        return None
    inputs = items(dataset, "InputInformationSequence")
    if not inputs:
        raise InputError(f"InputInformationSequence: the model {model!r} needs the series that it shall run on")
    if len(inputs) > _MOST_SERIES:
        raise InputError(f"InputInformationSequence: has more than {_MOST_SERIES} items")
    studies, series, instances = set[str](), dict[str, None](), set[str]()
    for number, one in enumerate(inputs):
        where = f"InputInformationSequence[{number}]"
        studies.add(_uid(one, "StudyInstanceUID", where))
        series[_uid(one, "SeriesInstanceUID", where)] = None
        instances |= {
            _uid(each, "ReferencedSOPInstanceUID", f"{where}.ReferencedSOPSequence")
            for each in items(one, "ReferencedSOPSequence")
        }
    if len(studies) > 1:
        raise InputError("InputInformationSequence: a model runs on series of one study")
    return RunRequest(model, studies.pop(), tuple(series), frozenset(instances), _outputs(dataset))


def _model(dataset: Mapping[str, Any], models: Collection[str]) -> str:
    for code in items(dataset, "ScheduledWorkitemCodeSequence"):
        if said(code, "CodingSchemeDesignator") == SCHEME:
            name = _value(code)
            if name not in models:
                raise InputError("ScheduledWorkitemCodeSequence: names a model that is not installed here")
            return name
    for parameter in items(dataset, "ScheduledProcessingParametersSequence"):
        concepts = items(parameter, "ConceptNameCodeSequence")
        if concepts and (_value(concepts[0]), said(concepts[0], "CodingSchemeDesignator")) == ALGORITHM_NAME[:2]:
            name = said(parameter, "TextValue")
            if name in models:
                return name
    return ""


def _outputs(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the AE titles that the results shall be stored to (Output Destination Sequence)."""
    titles: dict[str, None] = {}
    for one in items(dataset, "OutputDestinationSequence"):
        for storage in items(one, "DICOMStorageSequence"):
            titles[said(storage, "DestinationAE")] = None
    return tuple(title for title in titles if title)


def _value(code: Mapping[str, Any]) -> str:
    return said(code, "CodeValue") or said(code, "LongCodeValue")


def _uid(dataset: Mapping[str, Any], keyword: str, where: str) -> str:
    uid = said(dataset, keyword)
    if len(uid) > 64 or not _UID.match(uid):
        raise InputError(f"{where}.{keyword}: is missing or is not a UID")
    return uid
