"""The server under test, as a stranger sees it: an address, perhaps a token, and what the transactions need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode, urljoin

import httpx
import pydicom
import related
from pydicom import Dataset
from related import Part

__all__ = [
    "DICOM",
    "JSON",
    "MULTIPART_DICOM",
    "OCTETS",
    "XML",
    "Peer",
    "encoded",
    "items",
    "path_of",
    "value",
    "values",
]

DICOM = "application/dicom"
JSON = "application/dicom+json"
XML = 'multipart/related; type="application/dicom+xml"'
MULTIPART_DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


class Peer:
    """A DICOMweb server. Nothing is sent that a test does not ask for: no Accept header by itself."""

    def __init__(self, url: str, token: str = "", public_url: str = "") -> None:
        self.url = url.rstrip("/")
        self.public_url = public_url.rstrip("/")
        self.token = token
        self.http = httpx.Client(timeout=60.0, limits=httpx.Limits(max_connections=100))
        self.http.headers.pop("accept")
        self.stored: set[str] = set()

    def close(self) -> None:
        self.http.close()

    def request(self, method: str, path: str, *, token: str | None = None, **further: Any) -> httpx.Response:
        """Ask for a path below the base address, or for an address that the server gave."""
        headers = dict(further.pop("headers", None) or {})
        token = self.token if token is None else token
        if token:
            headers.setdefault("Authorization", f"Bearer {token}")
        response = self.http.request(method, self.address(path), headers=headers, **further)
        assert response.status_code < 500 or response.status_code in (501, 503), f"{method} {path}: {response.text}"
        return response

    def get(
        self, path: str, accept: str = "", headers: Mapping[str, str] | None = None, **query: Any
    ) -> httpx.Response:
        """GET; `query` by keyword, lists repeat a parameter."""
        wanted = {**({"Accept": accept} if accept else {}), **(headers or {})}
        return self.request("GET", path + _query(query), headers=wanted)

    def post(self, path: str, body: Any, content_type: str, accept: str = JSON) -> httpx.Response:
        headers = {"Accept": accept, **({"Content-Type": content_type} if content_type else {})}
        return self.request("POST", path, headers=headers, content=body)

    def address(self, path: str) -> str:
        """Make a path or a given address one that can be asked from here."""
        if self.public_url and path.startswith(self.public_url):
            path = self.url + path.removeprefix(self.public_url)
        return path if path.startswith("http") else urljoin(f"{self.url}/", path.lstrip("/"))

    def search(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Search, and return the matches. 204 is the empty result of older editions (item 40)."""
        response = self.get(path, JSON, **query)
        if response.status_code == 204:
            return []
        assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text[:500]}"
        found = response.json()
        assert isinstance(found, list)
        return found

    def metadata(self, path: str) -> list[dict[str, Any]]:
        response = self.get(f"{path}/metadata", JSON)
        assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text[:500]}"
        found = response.json()
        assert isinstance(found, list), "metadata is one JSON array"
        return found

    def store(self, datasets: Iterable[Dataset], study: str = "", accept: str = JSON) -> httpx.Response:
        """Store instances as application/dicom."""
        parts = []
        for ds in datasets:
            self.stored.add(ds.StudyInstanceUID)
            parts.append(Part(DICOM, encoded(ds)))
        return self.store_parts(parts, DICOM, study, accept)

    def store_parts(self, parts: list[Part], of_type: str, study: str = "", accept: str = JSON) -> httpx.Response:
        body, content_type = related.write(parts, of_type)
        return self.post(f"/studies/{study}" if study else "/studies", body, content_type, accept)

    def instance(self, path: str) -> Dataset:
        """Retrieve one instance as it is stored."""
        response = self.get(path, f"{MULTIPART_DICOM}; transfer-syntax=*")
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:500]}"
        (part,) = related.read(response)
        return pydicom.dcmread(BytesIO(part.body))

    def holds(self, ds: Dataset) -> bool:
        """Say whether an instance can be found and had."""
        found = self.search(f"/studies/{ds.StudyInstanceUID}/instances", SOPInstanceUID=ds.SOPInstanceUID)
        there = self.get(path_of(ds), f"{MULTIPART_DICOM}; transfer-syntax=*").status_code == 200
        assert bool(found) == there, "search and retrieve disagree on what is held"
        return there

    def delete_all(self) -> None:
        """Delete what was stored, where the server can."""
        for study in self.stored:
            if self.request("DELETE", f"/studies/{study}").status_code in (404, 405, 501):
                return


def _query(query: Mapping[str, Any]) -> str:
    """Write a query as browsers do: what RFC 3986 3.4 allows there stays as it is, wildcards and commas among it."""
    text = urlencode(query, doseq=True, safe="*,?/:@!$'()", quote_via=quote)
    return f"?{text}" if text else ""


def path_of(ds: Dataset) -> str:
    """The path of an instance."""
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def encoded(ds: Dataset) -> bytes:
    """A data set as a PS3.10 file."""
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def values(attributes: Mapping[str, Any], tag: str) -> list[Any]:
    """The values of an attribute in DICOM JSON."""
    return list(attributes.get(tag, {}).get("Value", []))


def value(attributes: Mapping[str, Any], tag: str) -> Any:
    """The first value, or None."""
    return next(iter(values(attributes, tag)), None)


def items(response: httpx.Response, tag: str) -> list[dict[str, Any]]:
    """The items of a sequence in a store response."""
    return values(json.loads(response.content), tag)
