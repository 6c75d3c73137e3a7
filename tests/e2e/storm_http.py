"""Malformed requests for the web server, each from a number: heads, searches, bodies, tokens, logins, work items."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote_from_bytes

from fuzz.seeds import SEEDS
from mutants import mutant

__all__ = ["HTTP_KINDS", "HttpTarget", "damage", "websocket_frames"]

ROOT = "/dicom-web"
_NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\1\0\0\0", b"-1", b"1e999")
_ATTRIBUTE = re.compile(rb'"([^"]*)"')
_TYPES = ("multipart/form-data; boundary=b", "application/x-msgpack", "text/plain", "application/json; charset=x", "")
_VRS = ("UN", "SQ", "PN", "DS", "US", "OB", "OW", "UI", "AT", "FD", "XX", "", None, 7)
_VALUES = ([], [None], [1e308, -1], ["1" * 300], [{}], {"Value": []}, [{"Alphabetic": 5}], [[[]]], "x", [True], [2**70])


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """What a hostile client knows: the path of an instance, a token that opens, and files to damage."""

    place: str
    token: str
    files: Mapping[str, tuple[bytes, str]]


def damage(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Change a few places of some bytes: turned, set, cut out, doubled, put in, or everything after them lost."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at, length = rng.randrange(len(changed) + 1), rng.randint(1, 16)
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 4] = rng.choice(_NUMBERS)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 1, 100))
            case 4:
                changed[at:at] = rng.randbytes(length)
            case 5 if rng.random() < 0.3:
                del changed[at:]
            case _:
                changed[at : at + 1] = bytes((rng.choice(b'\0\r\n"\\&=;,/%\xff'),))
    return bytes(changed)


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def _let_in(rng: random.Random, target: HttpTarget) -> dict[str, str]:
    """Mostly with a token: who has none is turned away before anything is read."""
    return {"Authorization": f"Bearer {target.token}"} if rng.random() < 0.9 else {}


def _field(data: bytes) -> str:
    """Bytes as the value of a header: anything but the end of its line."""
    return data.translate(None, b"\r\n\0").decode("latin-1")


def _head(rng: random.Random, target: HttpTarget) -> bytes:
    method, path = rng.choice((("GET", f"{ROOT}/studies?limit=1"), ("GET", target.place), ("POST", f"{ROOT}/studies")))
    headers = {**_let_in(rng, target), "Accept": "*/*", "X-A": "b"}
    whole = _request(method, path, headers, b"abc" if method == "POST" else None)
    head, end, body = whole.partition(b"\r\n\r\n")
    return damage(rng, head) + end + body


def _search(rng: random.Random, target: HttpTarget) -> bytes:
    where = rng.choice(
        ("/studies", "/series", "/instances", "/workitems", target.place.removeprefix(ROOT).rpartition("/")[0])
    )
    query = damage(rng, rng.choice(SEEDS["search"]()))
    address = f"{ROOT}{where}?{quote_from_bytes(query, safe='&=,*%?-.+')}"
    return _request("GET", address, {**_let_in(rng, target), "Accept": "application/dicom+json"})


def _accept(rng: random.Random, target: HttpTarget) -> bytes:
    end = rng.choice(("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata"))
    accept = _field(damage(rng, rng.choice(SEEDS["accept"]())))
    return _request("GET", target.place + end, {**_let_in(rng, target), "Accept": accept})


def _range(rng: random.Random, target: HttpTarget) -> bytes:
    value = rng.choice((b"bytes=0-1", b"bytes=-5,3-2,9999999-", b"bytes=0-0," * 500, b"bytes=5-", b"lines=1-2"))
    end = rng.choice(("/bulkdata/7FE00010", "/frames/1", "/bulkdata"))
    headers = {**_let_in(rng, target), "Accept": "*/*", "Range": _field(damage(rng, value))}
    return _request("GET", target.place + end, headers)


def _path(rng: random.Random, target: HttpTarget) -> bytes:
    path = rng.choice(
        (
            f"{target.place}/frames/1,2,0,-1",
            f"{target.place}/rendered?viewport=10,10,0,0,5,5&window=40,400,linear&quality=50",
            f"{target.place}/bulkdata/7FE00010/1/2/3",
            f"{ROOT}/wado?requestType=WADO&studyUID=1.2&seriesUID=1.2.3&objectUID=1.2.3.4",
            f"{ROOT}/studies/../../../etc/passwd",
            "/viewer/..%2f..%2fetc%2fpasswd",
            "/api/jobs?limit=5&study=1.2.3",
            "/api/audit?limit=5&actor=a",
            "/fhir/AuditEvent?_count=5",
            "/api/users",
        )
    )
    method = rng.choice(("GET",) * 8 + ("DELETE", "PUT", "POST", "OPTIONS", "PATCH"))
    address = quote_from_bytes(damage(rng, path.encode(), 3), safe="/?&=,%.:;")
    return _request(method, "/" + address.lstrip("/"), _let_in(rng, target), b"" if method in ("PUT", "POST") else None)


def _stow(rng: random.Random, target: HttpTarget, content_type: str, body: bytes) -> bytes:
    path = rng.choice((f"{ROOT}/studies", f"{ROOT}/studies/1.2.3"))
    return _request("POST", path, {**_let_in(rng, target), "Content-Type": content_type}, body)


def _multipart(rng: random.Random, target: HttpTarget) -> bytes:
    body = damage(rng, rng.choice(SEEDS["multipart"]())[1:])
    return _stow(rng, target, 'multipart/related; type="application/dicom"; boundary=b', body)


def _part(kind: str, body: bytes) -> bytes:
    return f"--b\r\nContent-Type: {kind}\r\n\r\n".encode() + body + b"\r\n--b--\r\n"


def _json(rng: random.Random, target: HttpTarget) -> bytes:
    kind = "application/dicom+json"
    whole = rng.choice(SEEDS["dicom_json"]())
    body = _part(kind, b"[" + (damage(rng, whole) if rng.random() < 0.4 else _odd(rng, whole)) + b"]")
    return _stow(rng, target, f'multipart/related; type="{kind}"; boundary=b', body)


def _odd(rng: random.Random, whole: bytes) -> bytes:
    """DICOM JSON in order as JSON, with some of its attributes made odd."""
    elements = json.loads(whole)
    for _ in range(rng.randint(1, 3)):
        tag = rng.choice((*elements, f"{rng.getrandbits(32):08X}"))
        elements[tag] = rng.choice(
            (
                {"vr": rng.choice(_VRS), "Value": rng.choice(_VALUES)},
                {"vr": rng.choice(_VRS), "InlineBinary": rng.choice(("AA", "%%", 5, "QUJD"))},
                {"vr": rng.choice(_VRS), "BulkDataURI": rng.choice(("", "http://127.0.0.1:9/", "file:///etc/passwd"))},
                rng.choice(_VALUES),
            )
        )
    return json.dumps(elements).encode()


def _xml(rng: random.Random, target: HttpTarget) -> bytes:
    kind = "application/dicom+xml"
    whole = rng.choice(SEEDS["dicom_xml"]())
    if rng.random() < 0.4:
        whole = damage(rng, whole)
    else:
        found = rng.choice(list(_ATTRIBUTE.finditer(whole)))
        odd = rng.choice((b"UN", b"SQ", b"US", b"0", b"-1", b"99999999999", b"7FE00010", b"&lt;", b"&a;", b""))
        whole = whole[: found.start(1)] + odd + whole[found.end(1) :]
    body = _part(kind, whole)
    return _stow(rng, target, f'multipart/related; type="{kind}"; boundary=b', body)


def _instance(rng: random.Random, target: HttpTarget) -> bytes:
    if target.files and rng.random() < 0.3:
        body = mutant(dict(target.files), rng.getrandbits(32))[1]
    else:
        body = damage(rng, rng.choice(SEEDS["part10"]()))
    return _stow(rng, target, "application/dicom", body)


def _work_item(rng: random.Random, target: HttpTarget) -> bytes:
    body = json.dumps(
        [{"00741000": {"vr": "CS", "Value": ["SCHEDULED"]}, "00404005": {"vr": "DT", "Value": ["20260101"]}}]
    ).encode()
    end = rng.choice(
        ("workitems?1.2.3", "workitems", "workitems/1.2.3", "workitems/1.2.3/state", "workitems/1.2.3/cancelrequest")
    )
    method = "PUT" if end.endswith("state") else "POST"
    if rng.random() < 0.2:
        end, method = f"workitems/{rng.choice(('1.2.3', '1.2.840.10008.5.1.4.34.5'))}/subscribers/A", "POST"
    headers = {**_let_in(rng, target), "Content-Type": "application/dicom+json"}
    return _request(method, f"{ROOT}/{end}", headers, damage(rng, body))


def _token(rng: random.Random, target: HttpTarget) -> bytes:
    claims = {"sub": "root", "role": "administrator", "exp": rng.choice((0, 1 << 33, -1, "x", 1e308))}
    header = {"alg": rng.choice(("none", "HS256", "RS256", "EdDSA", "nONE", 1)), "kid": "../../dev/null"}
    encoded = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (header, claims)]
    forged = b".".join([*encoded, rng.choice((b"", base64.urlsafe_b64encode(rng.randbytes(32))))])
    secret = _field(damage(rng, rng.choice((forged, target.token.encode(), b"iai_" + b"A" * 40))))
    shown = rng.choice(
        (
            {"Authorization": f"Bearer {secret}"},
            {"Cookie": f"imaging-ai={secret}"},
            {"Authorization": f"Basic {secret}"},
        )
    )
    return _request("GET", rng.choice((f"{ROOT}/studies", "/api/session", "/metrics", target.place)), shown)


def _login(rng: random.Random, _target: HttpTarget) -> bytes:
    as_json, as_form = {"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"}
    if rng.random() < 0.9:
        as_form["Origin"] = "http://localhost"  # as a page of this server
    if rng.random() < 0.2:
        as_form["Content-Type"] = as_json["Content-Type"] = rng.choice(_TYPES)
    name = f"nobody-{rng.randrange(1000)}"
    path, headers, body = rng.choice(
        (
            ("/api/login", as_json, json.dumps({"name": name, "password": "x" * 12}).encode()),
            ("/api/login/refresh", as_json, b'{"refresh_token": "%s"}' % rng.randbytes(20).hex().encode()),
            ("/login", as_form, b"name=%s&password=xxxxxxxxxxxx&next=//evil.example" % name.encode()),
            ("/first", as_form, b"link=abc&name=root&password=xxxxxxxxxxxx"),
        )
    )
    return _request("POST", path, headers, damage(rng, body) if rng.random() < 0.7 else body)


def websocket_frames(rng: random.Random, target: HttpTarget) -> tuple[bytes, bytes]:
    """A handshake, and what is said after it."""
    headers = {
        **_let_in(rng, target),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": rng.choice(("13", "13", "13", "8", "x")),
        "Sec-WebSocket-Key": rng.choice(("dGhlIHNhbXBsZSBub25jZQ==", "", "x")),
    }
    path = rng.choice((f"{ROOT}/ws/subscribers/A{rng.randrange(9)}", f"{ROOT}/ws/subscribers/%00", "/api/ws"))
    return _request("GET", path, headers), damage(rng, b"\x81\x85\0\0\0\0hello\x89\x80\0\0\0\0") + rng.randbytes(20)


#: How a request of each kind is made, and how often there is one among a thousand over HTTP.
HTTP_KINDS: Mapping[str, tuple[Callable[[random.Random, HttpTarget], bytes], int]] = MappingProxyType(
    {
        "request lines and headers": (_head, 120),
        "searches": (_search, 170),
        "Accept headers": (_accept, 100),
        "ranges": (_range, 60),
        "addresses": (_path, 130),
        "multipart bodies": (_multipart, 80),
        "DICOM JSON bodies": (_json, 70),
        "XML bodies": (_xml, 70),
        "instances by STOW": (_instance, 40),
        "work items": (_work_item, 60),
        "tokens and cookies": (_token, 80),
        "logins": (_login, 20),
    }
)
