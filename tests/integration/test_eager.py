"""The real granian: what may be answered at once begins outside of the event loop, everything else is in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.sync.client import connect

from services import free_port, wait_until

_PROGRAM = """
import asyncio, sys
from anyio import to_thread
from litestar import Litestar, WebSocket, get, websocket
from imaging_ai.serve.ahead import answer_ahead
from imaging_ai.serve.dicomweb.wire import Whole
from imaging_ai.serve.eager import the_loop
from imaging_ai.serve.guards import host_check
from imaging_ai.serve.server import serve_http

def where():
    return "outside" if asyncio._get_running_loop() is None else "in the loop"

async def at_once(request, name):
    if name == "threaded":
        await to_thread.run_sync(int)
    if name == "patient":
        await the_loop()
        await to_thread.run_sync(int)
    if name != "litestar":
        return Whole(where().encode(), "text/plain")

@get("/things/{name:str}", opt={"at_once": at_once})
async def thing(name: str) -> str:
    return f"litestar, {where()}"

@websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(where())
    await socket.close()

def app():
    made = Litestar([thing, socket], logging_config=None)
    answer_ahead(made, host_check({"127.0.0.1"}))
    return made

if __name__ == "__main__":
    serve_http(app, "127.0.0.1", int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, port = tmp_path_factory.mktemp("eager") / "server.py", free_port()
    program.write_text(_PROGRAM)
    process = subprocess.Popen([sys.executable, str(program), str(port)])
    address = f"127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"http://{address}/things/any").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="the server answers")
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("at-once", "outside"),
        ("patient", "in the loop"),
        ("litestar", "litestar, in the loop"),
        ("threaded", "litestar, in the loop"),
    ],
)
def test_a_request_is_where_it_can_be_answered(address: str, name: str, where: str) -> None:
    assert httpx.get(f"http://{address}/things/{name}").text == where


def test_all_kinds_of_requests_get_along(address: str) -> None:
    names = ["at-once", "patient", "litestar", "threaded"] * 25
    with httpx.Client(base_url=f"http://{address}") as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda name: client.get(f"/things/{name}").text, names))
    wanted = ["outside", "in the loop", "litestar, in the loop", "litestar, in the loop"] * 25
    assert answers == wanted


def test_a_websocket_lives_in_the_loop(address: str) -> None:
    with connect(f"ws://{address}/socket") as socket:
        assert socket.recv(10) == "in the loop"
