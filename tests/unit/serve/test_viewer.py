"""What is answered under `/viewer`."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.app import make_app
from imaging_ai.serve.viewer_config import app_config
from imaging_ai.serve.viewer_files import ViewerFile, ViewerFiles

PAGE, BUNDLE = b"<html>the viewer</html>", b"console.log('the viewer')" * 100


def write(folder: Path, page: bytes = PAGE) -> None:
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_bytes(page)
    (folder / "app.bundle.js").write_bytes(BUNDLE)
    (folder / "app.bundle.js.gz").write_bytes(gzip.compress(BUNDLE))
    (folder / "assets/icon.png").write_bytes(b"png")
    files = {
        "index.html": ViewerFile("text/html", '"1"'),
        "app.bundle.js": ViewerFile("text/javascript", '"2"', immutable=True, compressed=True),
        "assets/icon.png": ViewerFile("image/png", '"3"'),
    }
    ViewerFiles("@ohif/app", "1", files, ("sha256-abc",)).write(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "viewer")
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "viewer" / "unlisted.js").write_text("secret")
    return tmp_path / "viewer"


@pytest.fixture
def web(database: Database, ledger: Ledger, folder: Path) -> Iterator[TestClient[Litestar]]:
    with TestClient(make_app(database, ledger, viewer=folder), raise_server_exceptions=False) as client:
        client.headers.update({"host": "localhost:8080", "accept-encoding": "identity"})
        yield client


@pytest.mark.parametrize("path", ["/viewer", "/viewer/", "/viewer/viewer?StudyInstanceUIDs=1.2", "/viewer/a/b"])
def test_every_address_of_the_application_is_its_page(web: TestClient[Litestar], path: str) -> None:
    answer = web.get(path)
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"


def test_the_page_may_load_and_ask_for_nothing_outside_this_server(web: TestClient[Litestar]) -> None:
    policy = web.get("/viewer/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert "'sha256-abc'" in rules["script-src"]
    assert "unsafe-inline" not in rules["script-src"]
    for sources in rules.values():
        assert not any("//" in source or source in {"*", "https:", "http:"} for source in sources.split())


def test_a_file_whose_name_changes_with_its_content_is_kept_for_ever(web: TestClient[Litestar]) -> None:
    answer = web.get("/viewer/app.bundle.js")
    assert answer.content == BUNDLE
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "content-encoding" not in answer.headers
    assert web.get("/viewer/assets/icon.png").headers["cache-control"] == "no-cache"


def test_who_takes_gzip_gets_what_was_compressed_before(web: TestClient[Litestar]) -> None:
    plain = web.get("/viewer/app.bundle.js")
    zipped = web.get("/viewer/app.bundle.js", headers={"accept-encoding": "br, gzip"})
    assert zipped.content == BUNDLE
    assert zipped.headers["content-encoding"] == "gzip"
    assert int(zipped.headers["content-length"]) < len(BUNDLE)
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert zipped.headers["vary"] == "Accept-Encoding"


def test_who_holds_a_file_is_told_so(web: TestClient[Litestar]) -> None:
    etag = web.get("/viewer/assets/icon.png").headers["etag"]
    again = web.get("/viewer/assets/icon.png", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_head_is_answered(web: TestClient[Litestar]) -> None:
    assert web.head("/viewer/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/viewer/no-such.js",
        "/viewer/unlisted.js",
        "/viewer/viewer.json",
        "/viewer/..%2fsecret.js",
        "/viewer/%2e%2e/secret.js",
        "/viewer/assets/..%2f..%2fsecret.js",
        "/viewer/%2fetc%2fhosts.js",
        "/viewer/assets/icon.png%00.js",
    ],
)
def test_what_is_not_listed_is_not_there(web: TestClient[Litestar], path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"secret" not in answer.content


def test_nothing_is_stored_under_it(web: TestClient[Litestar]) -> None:
    assert web.post("/viewer/index.html", content=b"mine").status_code == 405
    assert web.put("/viewer/index.html", content=b"mine").status_code == 405


def test_without_an_installation_one_reads_how_to_make_it(database: Database, ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with TestClient(make_app(database, ledger, viewer=folder)) as client:
        client.headers["host"] = "localhost"
        answer = client.get("/viewer/")
        assert answer.status_code == 404
        assert "make viewer" in answer.json()["detail"]
        write(folder)
        assert client.get("/viewer/").content == PAGE, "seen without a restart"


def test_another_installation_is_seen_without_a_restart(web: TestClient[Litestar], folder: Path) -> None:
    assert web.get("/viewer/").content == PAGE
    shutil.rmtree(folder)
    write(folder, b"<html>a newer viewer</html>")
    os.utime(folder / "viewer.json", (2e9, 2e9))
    assert web.get("/viewer/").content == b"<html>a newer viewer</html>"


def test_a_half_written_list_is_no_installation(web: TestClient[Litestar], folder: Path) -> None:
    (folder / "viewer.json").write_text('{"package": "@ohif')
    assert web.get("/viewer/").status_code == 404


def test_the_configuration_leads_to_this_server(web: TestClient[Litestar]) -> None:
    answer = web.get("/viewer/app-config.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
    text = answer.text.removeprefix("window.config = ")
    config, _ = json.JSONDecoder().raw_decode(text)
    (source,) = config["dataSources"]
    assert config["routerBasename"] == "/viewer"
    assert {source["configuration"][root] for root in ("qidoRoot", "wadoRoot", "wadoUriRoot")} == {"/dicom-web"}


NODE = """
const handlers = [];
const displaySetService = { EVENTS: { DISPLAY_SETS_ADDED: 'added' }, subscribe: (_, f) => handlers.push(f) };
for (const one of window.config.extensions) {
  one.preRegistration({ servicesManager: { services: { displaySetService } } });
}
const code = (CodeValue, CodeMeaning) => [{ CodeValue, CodeMeaning }];
const derivation = code('121401', 'Derivation');
const mean = { ValueType: 'CODE', ConceptNameCodeSequence: derivation, ConceptCodeSequence: code('1', 'Mean') };
const number = { ValueType: 'NUM', ConceptNameCodeSequence: code('2', 'SUV'), ContentSequence: mean };
const point = { ValueType: 'SCOORD3D', GraphicType: 'POLYGON' };
const report = (item) => {
  const ContentSequence = [{ ValueType: 'CONTAINER', ContentSequence: [item] }];
  return { isImagingMeasurementReport: true, instance: { ContinuityOfContent: 'CONTINUOUS', ContentSequence } };
};
const around = code('121231', 'Volume Surface');
const surface = { ValueType: 'SCOORD3D', ConceptNameCodeSequence: around, GraphicType: 'POLYGON' };
const box = report({ ValueType: 'CONTAINER', ContentSequence: [surface] });
const volumetric = report(number), planar = report({ ValueType: 'NUM', ContentSequence: [point] });
for (const handler of handlers) handler({ displaySetsAdded: [volumetric, planar, box, { Modality: 'CT' }] });
const add = window.config.customizationService[0].onBeforeSRAddMeasurement.$set;
console.log(JSON.stringify({
  shown: [volumetric, planar, box].map((one) => one.isImagingMeasurementReport),
  continuity: [volumetric, planar, box].map((one) => one.instance.ContinuityOfContent),
  name: number.ConceptNameCodeSequence[0].CodeMeaning,
  empty: add({ measurement: { coords: [] } }).coords.length,
  shape: add({ measurement: { coords: [point] } }).coords[0].GraphicType,
}));
"""


def test_reports_without_coordinates_are_shown_as_text_and_unknown_shapes_as_lines() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not here; the browser test runs the same")
    script = "const window = {};" + app_config("/viewer", "/dicom-web").decode() + NODE
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "shown": [False, True, False],
        "continuity": ["SEPARATE", "CONTINUOUS", "SEPARATE"],
        "name": "SUV, Mean",
        "empty": 1,
        "shape": "POLYLINE",
    }
