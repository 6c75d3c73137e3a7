"""Key-encryption keys that a service holds, spoken to as HashiCorp Vault's transit engine (OpenBao speaks the same).

The service encrypts and decrypts data keys and never gives its own key away. Its versions are its rotation: a
ciphertext says ``vault:v3:…``, and the newest version encrypts.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from imaging_ai.errors import ConfigError, KeyUnavailable, StorageCorrupted
from imaging_ai.keys.service import Wrapped

__all__ = ["TransitKeys", "open_transit"]

_PATH = re.compile(r"(/v1/[\w./-]+)/keys/([\w.-]+)")
_CIPHERTEXT = re.compile(r"vault:(v\d+):.+")
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)


class TransitKeys:
    """One key of a transit engine. `engine` is its URL, as ``https://vault.local:8200/v1/transit``.

    The token is read from its file at every call: whoever renews it writes it there.
    """

    def __init__(
        self, engine: str, name: str, token_file: Path, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._engine, self._name, self._token_file = engine.rstrip("/"), name, token_file
        self._prefix = f"transit:{name}:"
        self._client = httpx.Client(
            timeout=_TIMEOUT, trust_env=False, verify=ssl.create_default_context(), transport=transport
        )

    def current(self) -> str:
        """Return the id of the newest version."""
        newest = self._call("GET", f"keys/{self._name}").get("latest_version")
        if not isinstance(newest, int):
            raise KeyUnavailable("the key service does not say which version of the key is newest")
        return f"{self._prefix}v{newest}"

    def holds(self, key_id: str) -> bool:
        """Say whether a key is a version of this one."""
        return key_id.startswith(self._prefix)

    def wrap(self, data_key: bytes, about: bytes) -> Wrapped:
        """Have a data key encrypted."""
        body = {"plaintext": _text(data_key), "associated_data": _text(about)}
        ciphertext = self._call("POST", f"encrypt/{self._name}", body).get("ciphertext")
        if not isinstance(ciphertext, str) or not (version := _CIPHERTEXT.fullmatch(ciphertext)):
            raise KeyUnavailable("the key service answers with no ciphertext")
        return Wrapped(self._prefix + version[1], ciphertext)

    def unwrap(self, wrapped: Wrapped, about: bytes) -> bytes:
        """Have a data key decrypted."""
        body = {"ciphertext": wrapped.text, "associated_data": _text(about)}
        plaintext = self._call("POST", f"decrypt/{self._name}", body).get("plaintext")
        try:
            return base64.b64decode(plaintext or "", validate=True)
        except (binascii.Error, TypeError):
            raise KeyUnavailable("the key service answers with no data key") from None

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            token = self._token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise KeyUnavailable("storage.encryption_token_file cannot be read") from None
        try:
            answer = self._client.request(method, f"{self._engine}/{path}", json=body, headers={"X-Vault-Token": token})
            data = answer.json().get("data") if answer.is_success else None
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            raise KeyUnavailable(f"the key service does not answer: {type(error).__name__}") from None
        if answer.status_code == httpx.codes.BAD_REQUEST and path.startswith("decrypt/"):
            raise StorageCorrupted("the key service says that a data key is not what it wrapped")
        if not isinstance(data, dict):
            raise KeyUnavailable(f"the key service refuses (HTTP {answer.status_code}); see its policy and the token")
        return data


def open_transit(url: str, token_file: str) -> TransitKeys:
    """Open ``vault+https://host:port/v1/transit/keys/NAME``; without TLS only on this machine.

    Raises
    ------
    ConfigError
        If the URL is no such address, or there is no token file.
    """
    parts = urlsplit(url)
    found = _PATH.fullmatch(parts.path)
    local = parts.scheme == "vault+http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if found is None or not parts.hostname or parts.username or not (parts.scheme == "vault+https" or local):
        raise ConfigError(
            "storage.encryption_key_service: not vault+https://host/v1/transit/keys/NAME (vault+http: on loopback only)"
        )
    if not token_file:
        raise ConfigError("storage.encryption_token_file: the key service wants a token; name the file that holds it")
    scheme = parts.scheme.removeprefix("vault+")
    return TransitKeys(f"{scheme}://{parts.netloc}{found[1]}", found[2], Path(token_file).expanduser().absolute())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
