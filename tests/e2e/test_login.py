"""A newcomer and a new server: the link of the first start, a real browser, OHIF behind the login, two processes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from e2e.server import Server
from entering import open_entrance
from imaging_ai.config import Settings
from imaging_ai.core.permission import Role
from imaging_ai.people.entrance import Entrance
from imaging_ai.viewer_install import installed
from services import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.service

PASSWORD = "four words of good length"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A web server of two processes that knows nobody."""
    settings = '[auth]\nmode = "token"\n[http]\nprocesses = 2\n'
    environment = {"IMAGING_AI_HTTP_VIEWER": str(Settings().viewer_path)}
    with Server(tmp_path_factory.mktemp("login"), settings, environment) as server:
        server.start("web")
        wait_until(lambda: _alive(server), 90, what=f"the web server\n{server.logs()}")
        yield server


def _alive(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def entrance(server: Server) -> Entrance:
    return open_entrance(server.database)


def url(server: Server, path: str = "") -> str:
    return f"http://127.0.0.1:{server.http_port}{path}"


def statuses(server: Server, headers: dict[str, str]) -> set[int]:
    """What every web process answers, each over connections of its own."""
    return {httpx.get(url(server, "/api/session"), headers=headers, timeout=30).status_code for _ in range(8)}


def test_a_newcomer_follows_the_link_and_sees_the_viewer(server: Server, browser: Browser) -> None:
    (link,) = re.findall(r"http://\S+/first\?link=\S+", server.logs())
    page = browser.new_context().new_page()
    page.goto(link)
    page.fill("input[name=name]", "root")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_url("**/viewer**")
    if installed(Settings().viewer_path):
        asked = page.wait_for_event("response", lambda one: "/dicom-web/studies" in one.url, timeout=60_000)
        assert asked.status == 200, "OHIF is let in by the cookie"
    page.goto(url(server, "/login"))
    assert "You are root, administrator." in page.inner_text("body")
    (cookie,) = [one for one in page.context.cookies() if one["name"] == "imaging-ai"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.click("text=Log out")
    page.wait_for_url("**/login")
    page.goto(url(server, "/viewer?x=1"))
    assert page.url == url(server, "/login?next=/viewer%3Fx%3D1")
    page.context.close()
    assert "link=" not in (server.folder / "data").joinpath("imaging-ai.db").read_bytes().decode("latin-1")


def test_a_page_of_another_port_neither_reads_nor_changes_anything(
    server: Server, entrance: Entrance, browser: Browser
) -> None:
    """Which is the same site to a browser, so that it sends the strictest cookie."""
    entrance.users.add("eve", Role.CLINICIAN, PASSWORD)
    context = browser.new_context()
    page = context.new_page()
    page.goto(url(server, "/login"))
    page.fill("input[name=name]", "eve")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_url("**/viewer**")
    other = context.new_page()
    evil = "http://127.0.0.1:9/"
    other.route(evil, lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
    other.goto(evil)
    tried = other.evaluate(
        """async (at) => {
            for (const path of ['/api/logout', '/logout']) {
                await fetch(at + path, {method: 'POST', mode: 'no-cors', credentials: 'include'}).catch(() => 0);
            }
            try { return await (await fetch(at + '/api/session', {credentials: 'include'})).text() }
            catch (error) { return 'not told' }
        }""",
        url(server),
    )
    assert tried == "not told"
    page.goto(url(server, "/login"))
    assert "You are eve" in page.inner_text("body"), "not logged out"
    context.close()


def test_within_seconds_a_disabled_person_is_out_of_every_process(server: Server, entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    told = httpx.post(url(server, "/api/login"), json={"name": "ada", "password": PASSWORD}, timeout=30).json()
    shown = {"authorization": f"Bearer {told['access_token']}"}
    assert statuses(server, shown) == {200}, "each process has the key that the first of them made"
    server.cli("users", "disable", "ada")
    time.sleep(2.0)
    assert statuses(server, shown) == {401}
