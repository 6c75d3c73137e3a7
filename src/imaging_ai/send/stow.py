"""STOW-RS client, with QIDO-RS to see what arrived (PS3.18 10.5, 10.6).

One instance for each request, with its length said beforehand: some servers answer 200 to a chunked one and store
nothing, so a 200 alone is never believed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from imaging_ai.core.identity import new_uid
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import DeliveryRefused, DeliveryUnavailable
from imaging_ai.send.answers import Answer, Verdict, http_verdict, status_answer
from imaging_ai.send.destinations import WebDestination
from imaging_ai.send.tls import trust

__all__ = ["WebService", "connect", "echo"]

_JSON = "application/dicom+json"

_REFERENCED, _FAILED = "00081199", "00081198"
_SOP_INSTANCE, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"


@contextmanager
def connect(destination: WebDestination) -> Iterator[WebService]:
    """Open a client of the service; the first request connects."""
    password = destination.password.read() if destination.password else ""
    headers = {"Authorization": f"Bearer {destination.token.read()}"} if destination.token else {}
    with httpx.Client(
        auth=(destination.username, password) if destination.username else None,
        headers=headers,
        verify=trust(destination) if destination.ca_file or destination.certificate else True,
        follow_redirects=False,  # where it sends us is not where we were told to send
        timeout=httpx.Timeout(destination.timeout, connect=destination.connect_timeout),
    ) as client:
        yield WebService(client, destination)


def echo(destination: WebDestination) -> None:
    """Search for a study that cannot exist; raises as `send.peer.connect` does."""
    with connect(destination) as service:
        answer = service.request("GET", "/studies", params={"StudyInstanceUID": new_uid(), "limit": "1"})
    if answer.status_code not in (200, 204):
        judged = http_verdict(answer.status_code)
        kind = DeliveryUnavailable if judged.verdict is Verdict.PASSING else DeliveryRefused
        raise kind(f"{destination.url}: {judged.reason}")


class WebService:
    """A DICOMweb service."""

    def __init__(self, client: httpx.Client, destination: WebDestination) -> None:
        self._client = client
        self._destination = destination

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make a request below the service's root; `DeliveryUnavailable` when it does not answer."""
        try:
            return self._client.request(method, self._destination.url + path, **options)
        except httpx.TransportError as error:
            raise DeliveryUnavailable(f"{self._destination.url} does not answer ({type(error).__name__})") from error

    def store(self, instance: StoredInstance, data: bytes) -> Answer:
        """Store one instance; see `send.peer.Peer.store`."""
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        response = self.request(
            "POST",
            "/studies",
            content=b"".join((head, data, tail)),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": _JSON,
            },
        )
        return _judge(response, instance.sop_instance_uid)

    def holds(self, instances: Sequence[StoredInstance]) -> frozenset[str] | None:
        """QIDO-RS, one search for each instance; see `send.peer.Peer.holds`."""
        if not self._destination.check_back:
            return None
        seen: set[str] = set()
        for instance in instances:
            path = f"/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}/instances"
            answer = self.request(
                "GET",
                path,
                params={"SOPInstanceUID": instance.sop_instance_uid, "limit": "1"},
                headers={"Accept": _JSON},
            )
            if answer.status_code in (204, 404):
                continue
            if answer.status_code != 200:
                return None
            if any(_value(match, "00080018") == instance.sop_instance_uid for match in _json(answer, list)):
                seen.add(instance.sop_instance_uid)
        return frozenset(seen)


def _judge(response: httpx.Response, sop_instance_uid: str) -> Answer:
    """Read a store response (PS3.18 10.5.3): what it says of the instance, else what its status says."""
    body = _json(response, dict)
    for item in _items(body, _FAILED):
        if _value(item, _SOP_INSTANCE) in (sop_instance_uid, None):
            return status_answer(int(_value(item, _FAILURE_REASON) or 0x0110))
    if response.status_code not in (200, 202):
        return http_verdict(response.status_code)
    for item in _items(body, _REFERENCED):
        if _value(item, _SOP_INSTANCE) == sop_instance_uid:
            return status_answer(int(_value(item, _WARNING_REASON) or 0))
    return Answer(Verdict.STORED, f"HTTP {response.status_code}, without a word of the instance")


def _json(response: httpx.Response, kind: type[Any]) -> Any:
    try:
        body = response.json()
    except ValueError:
        return kind()
    if kind is dict and isinstance(body, list) and len(body) == 1:
        body = body[0]  # some servers wrap the one data set
    return body if isinstance(body, kind) else kind()


def _items(body: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    element = body.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    return [item for item in values if isinstance(item, dict)]


def _value(item: Any, tag: str) -> Any:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if values else None
