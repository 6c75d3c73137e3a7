"""The share of a day that one user or token may store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.testing import TestClient
from litestar.types import ASGIApp
from sqlalchemy import text
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.archive.usage import DailyUse
from imaging_ai.audit.refusals import RefusalLog
from imaging_ai.db.engine import Database
from imaging_ai.serve.dicomweb.parts import Limits
from imaging_ai.serve.dicomweb.stow import stow_handlers
from imaging_ai.serve.problem import respond
from storing import ct, instance, post


def named(app: ASGIApp) -> ASGIApp:
    """Let everybody in under the name that they give."""

    async def enter(scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = SimpleNamespace(name=dict(scope["headers"]).get(b"x-name", b"").decode())
        await app(scope, receive, send)

    return enter


def test_who_has_stored_its_share_of_today_is_told_to_come_tomorrow(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    plain = storing.make_parts(database, tmp_path)
    refusals = RefusalLog(database)
    parts = replace(plain, use=DailyUse(database), refusals=refusals, limits=replace(Limits(), day_bytes=2_000))
    router = Router("/dicom-web", route_handlers=stow_handlers(parts), middleware=[named])
    app = Litestar([router], state=State({"public_url": ""}), exception_handlers={Exception: respond})
    with TestClient(app, base_url="http://server.local:8080", raise_server_exceptions=False) as client:
        bodies = [phantoms.to_bytes(ds) for ds in ct(5)]
        client.headers["x-name"] = "scripts"
        statuses = []
        for body in bodies:
            answer = post(client, [instance(body)])
            statuses.append(answer.status_code)
        allowed = -(-2_000 // len(bodies[0]))
        assert statuses == [200] * allowed + [429] * (5 - allowed)
        assert answer.json()["code"] == "over-limit"
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
        client.headers["x-name"] = "somebody-else"
        assert post(client, [instance(bodies[-1])]).status_code == 200
    refusals.close()
    with database.read() as session:
        query = text("SELECT actor, object_type, detail FROM audit_event WHERE outcome = 'refused'")
        told = session.connection().execute(query).all()
    more = [("scripts", "request", f"over-limit, {4 - allowed} times")] if allowed < 4 else []
    assert told == [("scripts", "request", "over-limit"), *more]
    parts.archive.close()
    database.dispose()
