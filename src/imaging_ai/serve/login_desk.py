"""What the pages of the entrance share: answers, the cookie, and the way to the login for those who have not been."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from litestar import MediaType, Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import NotAuthorizedException
from litestar.types import ASGIApp, Receive, Scope, Send

from imaging_ai.core.principal import Principal
from imaging_ai.people.entrance import Entrance
from imaging_ai.serve.access import origin
from imaging_ai.serve.auth import Doorkeeper
from imaging_ai.serve.guards import Door, require_host
from imaging_ai.serve.login_html import HEADERS, forward_page, home_page, login_page

__all__ = ["AnyRequest", "LoginDesk", "go", "html", "way_to_login"]

AnyRequest = Request[Any, Any, Any]

_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # printable ASCII without a backslash


@dataclass(frozen=True, slots=True)
class LoginDesk:
    """Lets people in by a cookie. `few` limits how many passwords are compared at once.

    `viewer` is the address of the viewer, "" where there is none: who did not want anything else is led there.
    """

    entrance: Entrance
    doorkeeper: Doorkeeper
    few: CapacityLimiter
    viewer: str = ""

    @property
    def home(self) -> str:
        """Where to go when nothing else was wanted."""
        return self.viewer or "/login"

    def wanted(self, address: str) -> str:
        """Return where somebody wanted to go if that is an address of this server, else home."""
        return address if _LOCAL.fullmatch(address) else self.home

    async def let_in(self, request: AnyRequest, name: str, then: str, how: str) -> Response[Any]:
        """Begin the session of a person who has proved who they are, and lead them to `then`."""
        begun = partial(self.entrance.sessions.begin_in_browser, name, origin(request), how=how)
        return go(then, self.cookie(request, await to_thread.run_sync(begun)))

    def ask(self, then: str, *, name: str = "", message: str = "") -> str:
        """Make the page that asks for name and password, or offers the login of the hospital."""
        return login_page(then, name=name, message=message, openid=self.entrance.openid is not None)

    def show_home(self, who: Principal, message: str = "", status: int = 200) -> Response[str]:
        """Show who is logged in, and what can be done."""
        return html(home_page(who, viewer=self.viewer, message=message), status)

    def cookie(self, request: AnyRequest, value: str) -> Cookie:
        """Make our cookie; without a value, take it back."""
        return Cookie(
            key=self.doorkeeper.cookie_name(request),
            value=value,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self.doorkeeper.is_secure(request),
            max_age=None if value else 0,
        )


def html(page: str, status: int = 200) -> Response[str]:
    """Answer with a page."""
    return Response(page, status_code=status, media_type=MediaType.HTML, headers=HEADERS)


def go(where: str, *cookies: Cookie) -> Response[Any]:
    """Lead on to an address of this server."""
    return Response(b"", status_code=303, headers={**HEADERS, "Location": where}, cookies=list(cookies))


def way_to_login(doorkeeper: Doorkeeper, login: str = "/login") -> Door:
    """Make the door of pages for people: who has not logged in is led to where that is done, and back again.

    Files of a page (with a "." in their name) are let through: they know nothing of any patient. So is an address with
    a token in it, which the page shows with its own requests.
    """

    def hung(app: ASGIApp) -> ASGIApp:
        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            request: AnyRequest = Request(scope)
            require_host(request)
            try:
                if not _is_open(request):
                    await doorkeeper.require(request, "read")
            except NotAuthorizedException:
                await _led(request, login).to_asgi_response(None, request)(scope, receive, send)
            else:
                await app(scope, receive, send)

        return enter

    return hung


def _is_open(request: AnyRequest) -> bool:
    name = request.scope["path"].rpartition("/")[2]
    return ("." in name and not name.endswith(".html")) or "token" in request.query_params


def _led(request: AnyRequest, login: str) -> Response[Any]:
    """Lead to the login; first over a page of ours, if a page elsewhere led here: then a strict cookie is not shown."""
    query = request.scope["query_string"].decode("ascii", "ignore")
    wanted = quote(request.scope["path"]) + (f"?{query}" if query else "")
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return html(forward_page(wanted))
    return go(f"{login}?next={quote(wanted, safe='/')}")
