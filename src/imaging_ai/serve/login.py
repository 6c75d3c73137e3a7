"""`/api/login` and what belongs to it, for programs: tokens for a name and a password, their renewal and their end.

The answers are those of RFC 6749 5.1. Whatever is wrong with a login, the answer is the same: which of name and
password it was, or whether there is such a person, is nobody's business. How often one may try: `people.attempts`.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from anyio import CapacityLimiter, to_thread
from litestar import Request, Router, delete, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.openapi import ResponseSpec

from imaging_ai.core.permission import NEEDS
from imaging_ai.core.principal import Principal
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.sessions import Pair
from imaging_ai.serve.access import origin
from imaging_ai.serve.jobs import moment
from imaging_ai.serve.problem import Problem

__all__ = ["login_router"]

AnyRequest = Request[Any, Any, Any]

_LARGEST_BODY = 8192
_REFUSED = {401: ResponseSpec(data_container=Problem, description="A problem (RFC 9457)")}


class LoginRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name and a password."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    password: Annotated[str, msgspec.Meta(max_length=1024)]


class RefreshRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token of the last answer."""

    refresh_token: Annotated[str, msgspec.Meta(max_length=256)]


class EmergencyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why emergency access is needed."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class TokenAnswer(msgspec.Struct, frozen=True):
    """An access token for `expires_in` seconds, and a refresh token that is good once."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str

    @classmethod
    def of(cls, pair: Pair | None) -> TokenAnswer:
        """Answer with a pair; without one, say no."""
        if pair is None:
            raise NotAuthorizedException("not let in", headers={"WWW-Authenticate": 'Bearer realm="imaging-ai"'})
        return cls(pair.access, "Bearer", pair.seconds, pair.refresh)


class SessionView(msgspec.Struct, frozen=True):
    """Who asks, what this one may do now, and whether emergency access is in force."""

    name: str
    role: str
    may: tuple[str, ...]
    emergency: bool


class EmergencyView(msgspec.Struct, frozen=True):
    """Until when emergency access is in force."""

    until: datetime | None


def login_router(entrance: Entrance, few: CapacityLimiter) -> Router:
    """Answer `/login`, `/login/refresh`, `/logout`, `/session` and `/emergency`.

    `few` limits how many passwords are compared at once.
    """

    @post("/login", opt={"needs": "nothing"}, status_code=200, summary="Log in", responses=_REFUSED)
    async def login(request: AnyRequest, data: LoginRequest) -> TokenAnswer:
        known = partial(entrance.know, data.name, data.password, origin(request))
        name = await to_thread.run_sync(known, limiter=few)
        begin = partial(entrance.sessions.begin, name, origin(request)) if name else None
        return TokenAnswer.of(await to_thread.run_sync(begin) if begin else None)

    @post(
        "/login/refresh",
        opt={"needs": "nothing"},
        status_code=200,
        sync_to_thread=True,
        summary="The next tokens for a refresh token, which is good once",
        responses=_REFUSED,
    )
    def refresh(request: AnyRequest, data: RefreshRequest) -> TokenAnswer:
        return TokenAnswer.of(entrance.sessions.refresh(data.refresh_token, origin(request)))

    @post("/logout", opt={"needs": "session"}, status_code=204, sync_to_thread=True, summary="End the session")
    def logout(request: AnyRequest) -> None:
        entrance.sessions.end(_principal(request), origin(request))

    @get("/session", opt={"needs": "session"}, sync_to_thread=False, summary="Who asks, and what this one may do")
    def session(request: AnyRequest) -> SessionView:
        principal = _principal(request)
        may = tuple(need for need in NEEDS if principal.may(need))
        return SessionView(principal.name, principal.role, may, principal.emergency)

    @post("/emergency", opt={"needs": "emergency"}, sync_to_thread=True, summary="Emergency access, with a reason")
    def begin_emergency(request: AnyRequest, data: EmergencyRequest) -> EmergencyView:
        until = entrance.emergencies.begin(_principal(request), data.reason, origin(request))
        return EmergencyView(moment(until))

    @delete("/emergency", opt={"needs": "emergency"}, sync_to_thread=True, summary="End emergency access")
    def end_emergency(request: AnyRequest) -> None:
        entrance.emergencies.end(_principal(request), origin(request))

    handlers = [login, refresh, logout, session, begin_emergency, end_emergency]
    return Router("/", route_handlers=handlers, request_max_body_size=_LARGEST_BODY, tags=["session"])


def _principal(request: AnyRequest) -> Principal:
    principal = request.scope["user"]
    assert isinstance(principal, Principal)
    return principal
