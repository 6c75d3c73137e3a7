"""`/api/holds`: legal holds, for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Router, delete, get, post

from imaging_ai.keeping.holds import Hold, Holds
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.jobs import moment

__all__ = ["holds_router"]

_OPT = {"needs": "administrate"}


class HoldView(msgspec.Struct, frozen=True):
    """A hold in force."""

    study_instance_uid: str
    reason: str
    placed_by: str
    placed_at: datetime | None


class HoldRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which study is to be put on hold, and why."""

    study_instance_uid: str
    reason: str


def holds_router(holds: Holds) -> Router:
    """Answer `/holds`."""

    @get("/", opt=_OPT, sync_to_thread=True, summary="The legal holds in force")
    def list_holds() -> list[HoldView]:
        return [_view(one) for one in holds.entries()]

    @post("/", opt=_OPT, sync_to_thread=True, summary="Put a study on hold")
    def place_hold(request: Request[Any, Any, Any], data: HoldRequest) -> HoldView:
        return _view(holds.place(data.study_instance_uid, data.reason, actor=actor(request), origin=origin(request)))

    @delete("/{study_instance_uid:str}", opt=_OPT, sync_to_thread=True, summary="End the hold on a study")
    def lift_hold(request: Request[Any, Any, Any], study_instance_uid: str) -> None:
        holds.lift(study_instance_uid, actor=actor(request), origin=origin(request))

    return Router("/holds", route_handlers=[list_holds, place_hold, lift_hold], tags=["holds"])


def _view(hold: Hold) -> HoldView:
    return HoldView(hold.study_instance_uid, hold.reason, hold.placed_by, moment(hold.placed_at))
