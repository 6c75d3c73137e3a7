"""The tables of the conformance statement are the tables of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.datadict import keyword_for_tag

from imaging_ai import __version__, errors
from imaging_ai.archive.decoders import DECODABLE
from imaging_ai.archive.document import DEFLATED, EXPLICIT_LITTLE_ENDIAN
from imaging_ai.archive.encoders import ENCODERS, NEAR
from imaging_ai.archive.query_attributes import COLUMNS, DEFAULTS, Level
from imaging_ai.archive.transcode import NATIVE
from imaging_ai.config import load
from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_ai.core.permission import ROLES
from imaging_ai.queue.events import EventType
from imaging_ai.render.formats import FORMATS
from imaging_ai.serve.auth import need_of
from imaging_ai.serve.dicomweb.parts import Limits
from imaging_ai.serve.dicomweb.qido_request import DEFAULT_LIMIT
from imaging_ai.serve.dicomweb.rendered_offers import REPORTS
from imaging_ai.serve.dicomweb.wado_media import media_type_of
from imaging_ai.wiring import make_web_app
from templates import expanded

STATEMENT = (Path(__file__).parents[2] / "conformance/statement.md").read_text()


def section(title: str) -> str:
    """The text of a section, up to the next one of any level."""
    return re.split(r"^##+ ", STATEMENT.split(f"# {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(title: str) -> dict[str, str]:
    return {uid: name for name, uid in re.findall(r"^\| (\w+) \| ([0-9.]+) \|$", section(title), re.MULTILINE)}


def rows(title: str) -> list[list[str]]:
    """The rows of the tables of a section, without their heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    heads = {at - 1 for at, line in enumerate(lines) if set(line) <= set("|- ")}
    kept = [line for at, line in enumerate(lines) if at not in heads and at - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def test_every_storage_sop_class_is_stated_and_no_other() -> None:
    assert table("3 Storage SOP classes") == dict(STORAGE_SOP_CLASSES)


def test_every_transfer_syntax_is_stated_and_no_other() -> None:
    assert table("4 Transfer syntaxes") == dict(TRANSFER_SYNTAXES)


def test_the_statement_is_of_this_version() -> None:
    assert f"imaging-ai {__version__}" in STATEMENT
    assert f"{IMPLEMENTATION_CLASS_UID}, {IMPLEMENTATION_VERSION_NAME}" in STATEMENT


def test_every_resource_of_dicomweb_is_stated_with_its_methods_and_needs(tmp_path: Path) -> None:
    app = make_web_app(load(environment={"IMAGING_AI_DATA_DIR": str(tmp_path)}))
    found = set()
    for route in app.routes:
        if route.path.startswith("/dicom-web"):
            path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path.removeprefix("/dicom-web")).rstrip("/")
            handlers = getattr(route, "route_handlers", None) or (route.route_handler,)
            for handler in handlers:
                methods = set(getattr(handler, "http_methods", {"WebSocket"})) - {"OPTIONS", "HEAD"}
                found |= {(method, path, need_of(handler)) for method in methods}
    stated = {
        (method, path, needs)
        for _, _, method, resource, needs in rows("5.1 Resources")
        for path in expanded(resource.strip("`"))
    }
    assert stated == found


def test_the_levels_of_a_template_are_left_out_from_the_end() -> None:
    assert expanded("/a[/b[/c]](/d, /e)") == {"/a/d", "/a/e", "/a/b/d", "/a/b/e", "/a/b/c/d", "/a/b/c/e"}


def test_every_attribute_of_the_index_and_of_the_answers_is_stated() -> None:
    stated = [{word.strip() for word in cells.split(",")} for _, cells in rows("5.4 Search")]
    index = [{keyword_for_tag(int(tag, 16)) for tag, one in COLUMNS.items() if one.level is level} for level in Level]
    returned = [{keyword_for_tag(int(tag, 16)) for tag in DEFAULTS[level]} for level in Level]
    assert stated == index + returned


def test_what_is_read_made_and_called_what_of_each_transfer_syntax_is_stated() -> None:
    read = {*DECODABLE, *filter(None, NATIVE)}
    made = {*ENCODERS, EXPLICIT_LITTLE_ENDIAN, DEFLATED}
    expected = [
        [name, uid, media_type_of(uid), "yes" if uid in read else "no", "yes" if uid in made else "no"]
        for uid, name in TRANSFER_SYNTAXES.items()
        if uid in read | made
    ]
    assert rows("5.5 Retrieve") == expected
    assert f"within\n{NEAR} stored values" in STATEMENT


@pytest.mark.parametrize("media_type", [*FORMATS, *REPORTS])
def test_every_rendered_media_type_is_stated(media_type: str) -> None:
    assert media_type in section("5.2 Media types and status codes")


def test_every_status_of_an_error_of_ours_is_stated() -> None:
    stated = {
        int(code) for cells in rows("5.2 Media types and status codes") for code in re.findall(r"\d{3}", cells[0])
    }
    ours = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.InputError)]
    assert {one.http_status for one in ours} | {errors.UnavailableError.http_status} <= stated


def test_every_failure_reason_of_storing_is_stated() -> None:
    expected = {
        errors.InstanceConflict: "held with other content",
        errors.UnsupportedSopClass: "SOP class",
        errors.TooLarge: "over the limit",
        errors.UnavailableError: "no room",
        errors.DatasetMismatch: "another study",
        errors.NotDicom: "not a DICOM instance",
        errors.UnsupportedTransferSyntax: "transfer syntax",
    }
    stated = {int(reason, 16): meaning for reason, meaning in rows("5.3 Store")}
    for error, meaning in expected.items():
        assert meaning in stated[error.dimse_status]
    assert set(stated) == {error.dimse_status for error in expected}


def test_every_event_of_the_worklist_is_stated() -> None:
    assert {name: int(number) for name, number in rows("5.7 Worklist")} == {one.name: one.value for one in EventType}


def test_every_role_is_stated_with_what_it_may() -> None:
    stated = {role: set(may.split(", ")) for role, may in rows("7 Security")}
    assert stated == {str(role): set(needs) for role, needs in ROLES.items()}


def test_the_limits_are_as_stated() -> None:
    limits = Limits()
    for number in (limits.results, limits.examined, limits.request_parts, DEFAULT_LIMIT):
        assert f"{number:,}" in STATEMENT
    assert f"{limits.request_bytes >> 30} GiB" in STATEMENT
