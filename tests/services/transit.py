"""A key service on this machine that speaks as HashiCorp Vault's transit engine does (the real one is not in Debian).

It does what the documentation of the engine says of keys, encrypt and decrypt, over HTTP, with AES-256-GCM; no more.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Transit", "transit"]

TOKEN = "s.a-token-of-the-tests"
_PATH = "/v1/transit/"


class Transit:
    """The key `storage`, its versions, and what was asked of it."""

    def __init__(self) -> None:
        self.versions: list[bytes] = []
        self.calls: Counter[str] = Counter()
        self.port = 0
        self.is_sealed = False
        self.rotate()

    @property
    def url(self) -> str:
        return f"vault+http://127.0.0.1:{self.port}/v1/transit/keys/storage"

    def rotate(self) -> None:
        self.versions.append(os.urandom(32))

    def answer(self, method: str, path: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer."""
        self.calls[path.removeprefix(_PATH)] += 1
        about = base64.b64decode(body.get("associated_data", ""))
        if (method, path) == ("GET", f"{_PATH}keys/storage"):
            return 200, {"data": {"name": "storage", "type": "aes256-gcm96", "latest_version": len(self.versions)}}
        if (method, path) == ("POST", f"{_PATH}encrypt/storage"):
            nonce = os.urandom(12)
            raw = nonce + AESGCM(self.versions[-1]).encrypt(nonce, base64.b64decode(body["plaintext"]), about)
            text = f"vault:v{len(self.versions)}:{base64.b64encode(raw).decode()}"
            return 200, {"data": {"ciphertext": text, "key_version": len(self.versions)}}
        if (method, path) == ("POST", f"{_PATH}decrypt/storage"):
            try:
                _, version, text = body["ciphertext"].split(":")
                raw = base64.b64decode(text)
                plain = AESGCM(self.versions[int(version[1:]) - 1]).decrypt(raw[:12], raw[12:], about)
            except (InvalidTag, ValueError, IndexError):
                return 400, {"errors": ["cipher: message authentication failed"]}
            return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}
        return 404, {"errors": []}


@contextmanager
def transit() -> Iterator[Transit]:
    """Run the service as long as the block."""
    service = Transit()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if service.is_sealed:
                status, said = 503, {"errors": ["Vault is sealed"]}
            elif self.headers.get("X-Vault-Token") != TOKEN:
                status, said = 403, {"errors": ["permission denied"]}
            else:
                status, said = service.answer(self.command, self.path, body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
