"""`/login/oidc`: to the OpenID provider of the hospital, and back with somebody who has logged in there.

The browser comes back from another site, and shows no strict cookie then. So what a login has to remember is in a
cookie of its own that is `Lax`; and it is led on by a page of ours, after which it shows the cookie of its new session.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from litestar import Response, get
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from imaging_ai.errors import InputError, UnavailableError
from imaging_ai.people.oidc import MINUTES_TO_LOG_IN, OpenId
from imaging_ai.serve.access import origin
from imaging_ai.serve.guards import require_host
from imaging_ai.serve.login_desk import AnyRequest, LoginDesk, go, html
from imaging_ai.serve.login_html import forward_page

__all__ = ["oidc_pages"]

Next = Annotated[str, Parameter(query="next")]

_OPEN = {"needs": "nothing"}
_AT_ONCE = 4  # by one process: each waits for an answer of the provider
_LONGEST = 4096
_AWAY = "The hospital's login does not answer. Try again in a moment, or log in with a password."
_NOT_GOOD = "This login did not come to an end. Try again."


def oidc_pages(desk: LoginDesk, openid: OpenId) -> list[HTTPRouteHandler]:
    """Answer `/login/oidc` and `/login/oidc/callback`."""
    few = CapacityLimiter(_AT_ONCE)

    @get("/login/oidc", opt=_OPEN)
    async def leave(request: AnyRequest, then: Next = "") -> Response[Any]:
        begin = partial(openid.begin, desk.wanted(then), _callback(desk, request))
        try:
            secret, address = await to_thread.run_sync(begin, limiter=few)
        except UnavailableError:
            return _refusal(desk, request, _AWAY, 503)
        return go(address, _cookie(desk, request, secret))

    @get("/login/oidc/callback", opt=_OPEN)
    async def come_back(request: AnyRequest) -> Response[Any]:
        secret = request.cookies.get(_cookie_name(desk, request), "")
        told = {name: value for name, value in request.query_params.items() if len(value) <= _LONGEST}
        finish = partial(openid.finish, secret, told, _callback(desk, request), origin(request))
        try:
            found = await to_thread.run_sync(finish, limiter=few)
        except UnavailableError:
            return _refusal(desk, request, _AWAY, 503)
        except InputError as error:
            return _refusal(desk, request, f"{error.message[0].upper()}{error.message[1:]}.", error.http_status)
        if found is None:
            return _refusal(desk, request, _NOT_GOOD, 401)
        let_in = await desk.let_in(request, found.name, desk.wanted(found.then), "OpenID Connect")
        answer = html(forward_page(let_in.headers["Location"]))
        answer.cookies = [*let_in.cookies, _cookie(desk, request, "")]
        return answer

    return [leave, come_back]


def _callback(desk: LoginDesk, request: AnyRequest) -> str:
    """Return the address to come back to, which the provider has to know."""
    require_host(request)
    return f"{desk.doorkeeper.address(request)}/login/oidc/callback"


def _refusal(desk: LoginDesk, request: AnyRequest, message: str, status: int) -> Response[str]:
    answer = html(desk.ask(desk.home, message=message), status)
    answer.cookies = [_cookie(desk, request, "")]
    return answer


def _cookie_name(desk: LoginDesk, request: AnyRequest) -> str:
    return f"{desk.doorkeeper.cookie_name(request)}-login"


def _cookie(desk: LoginDesk, request: AnyRequest, value: str) -> Cookie:
    return Cookie(
        key=_cookie_name(desk, request),
        value=value,
        path="/",
        httponly=True,
        samesite="lax",
        secure=desk.doorkeeper.is_secure(request),
        max_age=MINUTES_TO_LOG_IN * 60 if value else 0,
    )
