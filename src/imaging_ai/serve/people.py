"""`/api/users` and `/api/tokens`: people and programs, for who looks after them; and one's own password.

What can be done here can be done on the command line too (`users`, `token`).
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from anyio import CapacityLimiter, to_thread
from litestar import Request, Router, delete, get, post, put
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import HTTPRouteHandler

from imaging_ai.core.permission import Need, Role
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.passwords import LONGEST
from imaging_ai.people.sessions import SessionEntry
from imaging_ai.people.tokens import TokenEntry
from imaging_ai.people.users import Person
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.jobs import moment

__all__ = ["people_router"]

AnyRequest = Request[Any, Any, Any]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Password = Annotated[str, msgspec.Meta(max_length=4 * LONGEST)]

_USERS = {"needs": "users"}
_LARGEST_BODY = 8192


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person; without a password one who comes in another way, with scopes one who may no more than these."""

    name: Name
    role: Role
    password: Password | None = None
    scopes: tuple[Need, ...] = ()


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token for a program; without `days` it never expires."""

    name: Name
    role: Role
    scopes: tuple[Need, ...] = ()
    days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] | None = None


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A password to have from now on."""

    password: Password


class ChangedPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One's password until now, and the one from now on."""

    old: Password
    new: Password


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a person may come in."""

    disabled: bool


class UserView(msgspec.Struct, frozen=True):
    """A person; `scopes` is none where the role decides alone."""

    name: str
    role: Role
    scopes: tuple[str, ...] | None
    has_password: bool
    created_at: datetime | None
    disabled_at: datetime | None

    @classmethod
    def of(cls, one: Person) -> UserView:
        """Show a person."""
        created, disabled = moment(one.created_at), moment(one.disabled_at)
        return cls(one.name, one.role, _words(one.scopes), one.has_password, created, disabled)


class SessionListed(msgspec.Struct, frozen=True):
    """A session that goes on."""

    id: str
    name: str
    browser: bool
    origin: str
    created_at: datetime | None
    seen_at: datetime | None
    expires_at: datetime | None

    @classmethod
    def of(cls, one: SessionEntry) -> SessionListed:
        """Show a session."""
        times = (moment(one.created_at), moment(one.seen_at), moment(one.expires_at))
        return cls(one.id, one.name, one.browser, one.origin, *times)


class TokenView(msgspec.Struct, frozen=True):
    """A token, without its secret."""

    name: str
    role: Role
    scopes: tuple[str, ...] | None
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, one: TokenEntry) -> TokenView:
        """Show a token."""
        times = (moment(one.created_at), moment(one.expires_at), moment(one.revoked_at))
        return cls(one.name, one.role, _words(one.scopes), *times)


class TokenMade(msgspec.Struct, frozen=True):
    """The secret of a new token, which is not shown again."""

    token: str


def people_router(entrance: Entrance, few: CapacityLimiter) -> Router:
    """Answer `/users`, `/sessions`, `/tokens` and `/password`; `few` limits passwords that are worked on at once."""
    handlers = [*_users(entrance, few), *_sessions(entrance), *_tokens(entrance), _own_password(entrance, few)]
    return Router("/", route_handlers=handlers, request_max_body_size=_LARGEST_BODY, tags=["people"])


def _users(entrance: Entrance, few: CapacityLimiter) -> list[HTTPRouteHandler]:
    users = entrance.users

    @get("/users", opt=_USERS, sync_to_thread=True, summary="The people")
    def search() -> tuple[UserView, ...]:
        return tuple(map(UserView.of, users.entries()))

    @post("/users", opt=_USERS, summary="Let a person in from now on")
    async def add(request: AnyRequest, data: NewUser) -> UserView:
        new = partial(users.add, data.name, data.role, data.password, scopes=data.scopes, actor=actor(request))
        return UserView.of(await to_thread.run_sync(new, limiter=few))

    @put("/users/{name:str}", opt=_USERS, sync_to_thread=True, summary="Let a person in no more, or again")
    def change(request: AnyRequest, name: str, data: Access) -> UserView:
        act = users.disable if data.disabled else users.enable
        act(name, actor=actor(request))
        if not data.disabled:
            entrance.attempts.forgive(name.casefold())
        return UserView.of(users.get(name))

    @put("/users/{name:str}/password", opt=_USERS, status_code=204, summary="Give a person another password")
    async def set_password(request: AnyRequest, name: str, data: NewPassword) -> None:
        new = partial(users.set_password, name, data.password, actor=actor(request))
        await to_thread.run_sync(new, limiter=few)

    return [search, add, change, set_password]


def _sessions(entrance: Entrance) -> list[HTTPRouteHandler]:
    @get("/sessions", opt=_USERS, sync_to_thread=True, summary="The sessions that go on")
    def search() -> tuple[SessionListed, ...]:
        return tuple(map(SessionListed.of, entrance.sessions.entries()))

    @delete("/sessions/{session_id:str}", opt=_USERS, sync_to_thread=True, summary="End somebody's session")
    def end(request: AnyRequest, session_id: str) -> None:
        entrance.sessions.end_one(session_id, actor=actor(request))

    return [search, end]


def _tokens(entrance: Entrance) -> list[HTTPRouteHandler]:
    tokens = entrance.tokens

    @get("/tokens", opt=_USERS, sync_to_thread=True, summary="The tokens of programs")
    def search() -> tuple[TokenView, ...]:
        return tuple(map(TokenView.of, tokens.entries()))

    @post("/tokens", opt=_USERS, sync_to_thread=True, summary="Make a token for a program")
    def create(request: AnyRequest, data: NewToken) -> TokenMade:
        made = tokens.create(data.name, data.role, scopes=data.scopes, days=data.days, actor=actor(request))
        return TokenMade(made)

    @delete("/tokens/{name:str}", opt=_USERS, sync_to_thread=True, summary="End a token")
    def revoke(request: AnyRequest, name: str) -> None:
        tokens.revoke(name, actor=actor(request))

    return [search, create, revoke]


def _own_password(entrance: Entrance, few: CapacityLimiter) -> HTTPRouteHandler:
    @put("/password", opt={"needs": "session"}, status_code=204, summary="Change one's own password; log in again then")
    async def change(request: AnyRequest, data: ChangedPassword) -> None:
        name = actor(request)
        known = partial(entrance.know, name, data.old, origin(request))
        if not request.scope["user"].session or await to_thread.run_sync(known, limiter=few) is None:
            raise PermissionDeniedException("that is not your password until now")
        new = partial(entrance.users.set_password, name, data.new, actor=name)
        await to_thread.run_sync(new, limiter=few)

    return change


def _words(scopes: frozenset[Need] | None) -> tuple[str, ...] | None:
    return None if scopes is None else tuple(sorted(scopes))
