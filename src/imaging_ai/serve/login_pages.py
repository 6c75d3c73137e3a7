"""The entrance for people: a page to log in, a cookie that says who did, and the way to the viewer.

The cookie is HttpOnly (no script reads it), SameSite=Strict (no page elsewhere sends it) and, with HTTPS, Secure. A
form is taken only from a page of ours. Where somebody wanted to go, `next`, is an address of this server or nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from litestar import Response, Router, get, post
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body, Parameter

from imaging_ai.core.principal import Principal
from imaging_ai.errors import InputError, OverLimit
from imaging_ai.serve.access import origin
from imaging_ai.serve.guards import door
from imaging_ai.serve.login_desk import AnyRequest, LoginDesk, go, html
from imaging_ai.serve.login_html import first_page
from imaging_ai.serve.oidc import oidc_pages

__all__ = ["login_pages"]

Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
Next = Annotated[str, Parameter(query="next")]

_OPEN = {"needs": "nothing"}
_LARGEST_BODY = 8192
_USED_UP = "This link is not good any more. The next start of the server shows another, as long as nobody is known."


def login_pages(desk: LoginDesk) -> Router:
    """Answer `/login`, `/logout`, `/first` and `/emergency` with pages, and `/login/oidc` where there is a provider.

    Who asks for `/`, as people do, is led to the login.
    """

    @get("/", opt=_OPEN, sync_to_thread=False)
    def home() -> Response[None]:
        return go("/login")

    elsewhere = oidc_pages(desk, desk.entrance.openid) if desk.entrance.openid else []
    handlers = [home, *_login(desk), *elsewhere, *_first(desk), _logout(desk), _emergency(desk)]
    return Router("/", route_handlers=handlers, include_in_schema=False, request_max_body_size=_LARGEST_BODY)


def _login(desk: LoginDesk) -> list[HTTPRouteHandler]:
    entrance = desk.entrance

    @get("/login", opt=_OPEN)
    async def ask(request: AnyRequest, then: Next = "") -> Response[str]:
        who = await desk.doorkeeper.visitor(request)
        return desk.show_home(who) if who else html(desk.ask(desk.wanted(then)))

    @post("/login", opt=_OPEN)
    async def answer(request: AnyRequest, data: Form) -> Response[Any]:
        desk.doorkeeper.require_own_page(request)
        given, then = data.get("name", "")[:64], desk.wanted(data.get("next", ""))
        known = partial(entrance.know, given, data.get("password", ""), origin(request))
        try:
            name = await to_thread.run_sync(known, limiter=desk.few)
        except OverLimit as error:
            wait = f"Too many logins failed: wait {error.retry_after:.0f} seconds."
            return html(desk.ask(then, name=given, message=wait), error.http_status)
        if name is None:
            return html(desk.ask(then, name=given, message="This name and password do not belong together."), 401)
        return await desk.let_in(request, name, then, "password")

    return [ask, answer]


def _first(desk: LoginDesk) -> list[HTTPRouteHandler]:
    invitations = desk.entrance.invitations

    @get("/first", opt=_OPEN, sync_to_thread=True)
    def ask(link: str = "") -> Response[str]:
        good = invitations.good(link)
        return html(first_page(link)) if good else html(desk.ask(desk.home, message=_USED_UP), 410)

    @post("/first", opt=_OPEN)
    async def answer(request: AnyRequest, data: Form) -> Response[Any]:
        desk.doorkeeper.require_own_page(request)
        link, given = data.get("link", ""), data.get("name", "")
        accept = partial(invitations.accept, link, given, data.get("password", ""), origin(request))
        try:
            name = await to_thread.run_sync(accept, limiter=desk.few)
        except InputError as error:
            return html(first_page(link, name=given, message=error.message), error.http_status)
        if name is None:
            return html(desk.ask(desk.home, message=_USED_UP), 410)
        return await desk.let_in(request, name, desk.home, "the first administrator")

    return [ask, answer]


def _logout(desk: LoginDesk) -> HTTPRouteHandler:
    @post("/logout", opt=_OPEN)
    async def logout(request: AnyRequest) -> Response[Any]:
        desk.doorkeeper.require_own_page(request)
        if (who := await desk.doorkeeper.visitor(request)) is not None:
            await to_thread.run_sync(desk.entrance.sessions.end, who, origin(request))
        return go("/login", desk.cookie(request, ""))

    return logout


def _emergency(desk: LoginDesk) -> HTTPRouteHandler:
    emergencies = desk.entrance.emergencies

    @post("/emergency", opt={"needs": "emergency"}, middleware=[door(desk.doorkeeper.check)])
    async def emergency(request: AnyRequest, data: Form) -> Response[Any]:
        who: Principal = request.scope["user"]
        begin = partial(emergencies.begin, who, data.get("reason", ""), origin(request))
        end = partial(emergencies.end, who, origin(request))
        try:
            await (to_thread.run_sync(end) if "end" in data else to_thread.run_sync(begin))
        except InputError as error:
            return desk.show_home(who, error.message, error.http_status)
        desk.doorkeeper.forget()
        return go("/login")

    return emergency
