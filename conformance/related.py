"""multipart/related, written and read without help (RFC 2387; PS3.18 8.6.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message

import httpx

__all__ = ["Part", "parameters", "read", "write"]


@dataclass(frozen=True)
class Part:
    """One part: its media type with parameters, its bytes, its further header fields (names in lower case)."""

    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def write(parts: Sequence[Part], of_type: str, boundary: str = "conformance-boundary") -> tuple[bytes, str]:
    """Return the body of a request and its Content-Type."""
    pieces = []
    for part in parts:
        lines = [f"--{boundary}", f"Content-Type: {part.content_type}"]
        lines += [f"{name}: {value}" for name, value in part.headers.items()]
        pieces.append("\r\n".join([*lines, "", ""]).encode() + part.body + b"\r\n")
    body = b"".join([*pieces, f"--{boundary}--\r\n".encode()])
    return body, f'multipart/related; type="{of_type}"; boundary="{boundary}"'


def read(response: httpx.Response) -> list[Part]:
    """Return the parts of an answer. It must be well formed."""
    essence, found = parameters(response.headers["content-type"])
    assert essence == "multipart/related", f"the answer is {essence}, not multipart/related"
    delimiter = b"--" + found["boundary"].encode()
    first, *pieces = (b"\r\n" + response.content).split(b"\r\n" + delimiter)
    assert pieces and pieces[-1].startswith(b"--"), "no closing delimiter"
    assert not first.strip(), "bytes before the first part"
    return [_part(piece) for piece in pieces[:-1]]


def parameters(content_type: str) -> tuple[str, dict[str, str]]:
    """Split a media type into its essence and its parameters."""
    message = Message()
    message["Content-Type"] = content_type
    named = {str(name).lower(): str(value) for name, value in (message.get_params() or [])[1:]}
    return message.get_content_type(), named


def _part(piece: bytes) -> Part:
    head, separator, body = piece.partition(b"\r\n\r\n")
    assert separator, "a part without an empty line after its header fields"
    headers = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Part(headers.pop("content-type", ""), body, headers)
