"""OHIF behind the login of a hospital, in a real browser: from the viewer to the provider, and back to the studies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import phantoms
from e2e.server import Server
from entering import bearer, open_entrance
from imaging_ai.config import Settings
from imaging_ai.core.permission import Role
from imaging_ai.viewer_install import installed
from services import missing, wait_until
from services.openid import PASSWORD, Client, OpenIdProvider, User
from storing import content_type, ct, instance, multipart

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.service

SECRET = "of the client"


@pytest.fixture(scope="module")
def hospital() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()
    provider.users["ada"] = User({"sub": "u-1", "preferred_username": "ada", "groups": ["staff", "radiology"]})
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hospital: OpenIdProvider) -> Iterator[Server]:
    """A web server of two processes with one study, which people enter by the hospital's provider."""
    if not installed(Settings().viewer_path):
        missing("the viewer")
    folder = tmp_path_factory.mktemp("oidc")
    secret = folder / "client.secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    settings = f"""
[auth]
oidc_issuer = "{hospital.issuer}"
oidc_client_id = "imaging-ai"
oidc_client_secret_file = "{secret}"
oidc_roles = {{ "radiology" = "clinician" }}
[http]
processes = 2
"""
    with Server(folder / "server", settings, {"IMAGING_AI_HTTP_VIEWER": str(Settings().viewer_path)}) as server:
        at = f"http://127.0.0.1:{server.http_port}"
        hospital.clients["imaging-ai"] = Client("imaging-ai", SECRET, (f"{at}/login/oidc/callback",))
        server.start("web")
        wait_until(lambda: _alive(server), 90, what=f"the web server\n{server.logs()}")
        shown = bearer(open_entrance(server.database).tokens.create("pacs", Role.SERVICE))
        body = multipart(instance(phantoms.to_bytes(ds)) for ds in ct(2))
        headers = {"content-type": content_type(), **shown}
        stored = httpx.post(f"{at}/dicom-web/studies", content=body, headers=headers, timeout=60)
        assert stored.status_code == 200, stored.text
        yield server


def _alive(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_a_websocket_is_refused_as_anything_else_is(server: Server, hospital: OpenIdProvider) -> None:
    at = f"ws://127.0.0.1:{server.http_port}/dicom-web/subscribers/WATCHER"
    entrance = open_entrance(server.database)
    watcher = bearer(entrance.tokens.create("watcher", Role.AUDITOR))
    for shows, status in (({}, 401), (bearer("x"), 401), (watcher, 403)):
        with pytest.raises(InvalidStatus) as refused:
            connect(at, additional_headers=shows)
        assert refused.value.response.status_code == status
        assert b"Traceback" not in (refused.value.response.body or b"")
    now = int(time.time())
    told = {"iss": hospital.issuer, "aud": "imaging-ai", "sub": "u-9", "iat": now, "exp": now + 60}
    with connect(at, additional_headers=bearer(hospital.sign({**told, "groups": ["radiology"]}))):
        pass


def ours(page: Page, at: str) -> list[Any]:
    """The cookies that the server gave; OHIF remembers a language in one of its own."""
    return [one for one in page.context.cookies(at) if one["name"] != "i18next"]


def test_a_person_of_the_hospital_opens_the_viewer_logs_in_there_and_sees_the_studies(
    server: Server, hospital: OpenIdProvider, browser: Browser
) -> None:
    page = browser.new_context().new_page()
    at = f"http://127.0.0.1:{server.http_port}"
    page.goto(f"{at}/viewer")
    assert page.url.startswith(f"{hospital.issuer}/authorize?"), "nobody is shown another page first"
    page.fill("input[name=name]", "ada")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.get_by_role("row").filter(has_text=str(ct()[0].PatientID)).first.wait_for(timeout=120_000)
    assert page.url.startswith(f"{at}/viewer")
    (cookie,) = ours(page, at)
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("imaging-ai", True, "Strict")

    page.goto(f"{at}/login")
    assert "You are ada, clinician." in page.inner_text("body")
    page.click("text=Log out")
    page.wait_for_url("**/login")
    assert ours(page, at) == []
    page.click("text=Log in with the hospital")
    assert page.url.startswith(f"{hospital.issuer}/authorize?")
    page.context.close()
