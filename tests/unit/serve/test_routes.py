"""Every route is in the table of docs/security.md, with what it needs, and says that itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from imaging_ai.config import load
from imaging_ai.core.permission import EMERGENCY, NEEDS, ROLES, Role
from imaging_ai.serve.auth import guarded_routes
from imaging_ai.wiring import make_web_app
from templates import expanded

SECURITY = (Path(__file__).parents[3] / "docs/security.md").read_text()

Route = tuple[str, str, str]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Litestar:
    folder = tmp_path_factory.mktemp("data")
    settings = folder / "imaging-ai.toml"
    settings.write_text(
        '[auth]\noidc_issuer = "https://login.hospital.example"\noidc_client_id = "imaging-ai"\n'
        'oidc_roles = { "radiology" = "clinician" }\n'
    )
    return make_web_app(load(settings, environment={"IMAGING_AI_DATA_DIR": str(folder)}))


@pytest.fixture(scope="module")
def client(app: Litestar) -> Iterator[TestClient[Litestar]]:
    with TestClient(app, base_url="http://localhost.local", raise_server_exceptions=False) as client:
        yield client


def rows(title: str) -> Iterator[list[str]]:
    """The rows of the table of a section."""
    section = SECURITY.split(f"\n## {title}\n", 1)[1].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def documented() -> set[Route]:
    return {
        (need, method.strip(), path or "/")
        for need, methods, template in rows("Every route")
        for method in methods.split(",")
        for path in expanded(template.strip("`"))
    }


def routes(app: Litestar) -> set[Route]:
    plain = ((one.need, one.method, re.sub(r"\{(\w+):\w+\}", r"{\1}", one.path)) for one in guarded_routes(app))
    return {(need, method, path) for need, method, path in plain if method not in ("OPTIONS", "HEAD")}


def test_every_route_is_in_the_table_with_what_it_needs(app: Litestar) -> None:
    assert routes(app) == documented()


def test_head_needs_what_get_does_and_options_tells_of_dicomweb_only(app: Litestar) -> None:
    needs = {(one.method, one.path): one.need for one in guarded_routes(app)}
    for (method, path), need in needs.items():
        if method == "HEAD":
            assert need == needs["GET", path]
        if method == "OPTIONS":
            assert (need, path.startswith("/dicom-web")) == ("nothing", True), path


def test_every_route_says_itself_what_it_needs(app: Litestar) -> None:
    assert [one for one in guarded_routes(app) if not one.told] == []


def test_what_needs_nothing_is_what_lets_people_in_and_what_says_that_we_live(app: Litestar) -> None:
    opened = {one.path for one in guarded_routes(app) if one.need == "nothing" and one.method != "OPTIONS"}
    login = {
        "/login",
        "/login/oidc",
        "/login/oidc/callback",
        "/logout",
        "/first",
        "/api/login",
        "/api/login/refresh",
        "/",
    }
    assert opened == {"/health/live", "/health/ready", *login}


def test_nothing_else_is_answered_without_proof(app: Litestar, client: TestClient[Litestar]) -> None:
    """By asking, since a word in a handler guards nothing by itself."""
    asked = 0
    for one in guarded_routes(app):
        if one.need == "nothing" or one.method == "WebSocket" or one.path.startswith("/viewer"):
            continue
        path = re.sub(r"\{\w+:(int)?\w*\}", lambda kind: "1" if kind[1] else "1.2.3", one.path)
        assert client.request(one.method, path).status_code == 401, (one.method, path)
        asked += 1
    assert asked > 50
    assert client.options("/api/jobs").status_code == client.options("/schema").status_code == 401


def test_the_roles_of_the_documentation_are_those_of_the_code() -> None:
    def words(cell: str) -> set[str]:
        return {word for word in cell.split(", ") if word}

    stated = {role: (words(may), words(emergency)) for role, may, emergency in rows("Roles")}
    assert stated == {str(role): (set(ROLES[role]), set(EMERGENCY.get(role, ()))) for role in Role}
    for need in NEEDS:
        assert f"`{need}`" in SECURITY, need
