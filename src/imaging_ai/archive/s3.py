"""Objects in S3-compatible storage, one object per instance.

An object is spooled (in memory up to 8 MiB, then in an unnamed temporary file) and uploaded on commit, in parts when
large: memory stays bounded, `discard` leaves nothing behind, and an upload that failed can be tried again. S3 answers a
put only when it is durable, and shows nothing of it before.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store as ObstoreS3

from imaging_ai.archive.orphans import Listed
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import ConfigError, KeyUnavailable, NotFound, StorageUnavailable

__all__ = ["S3Store", "SpooledWriter", "open_s3_store", "s3_errors"]

_KEY = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}(\.sealed)?")
_SPOOL_BYTES = 8 << 20
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 3


class S3Store:
    """A `BlobStore` on one bucket; `prefix` keeps several archives apart."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str = "",
        region: str = "us-east-1",
        access_key_id: str = "",
        secret_access_key: str = "",
        virtual_hosted: bool = False,
        spool_folder: str | None = None,
        retry_timeout: float = 20.0,
    ) -> None:
        """Open a bucket; without keys the client looks for credentials as the AWS tools do.

        Raises
        ------
        ConfigError
            If the client cannot be made from these arguments.
        """
        options: dict[str, Any] = {"region": region, "virtual_hosted_style_request": virtual_hosted}
        if endpoint:
            options |= {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
        if access_key_id:
            options |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        try:
            self.client = ObstoreS3(
                bucket,
                prefix=prefix or None,
                retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=retry_timeout)},
                **options,
            )
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigError(f"storage.url: the bucket {bucket!r} cannot be used: {type(error).__name__}") from error
        self._spool_folder = spool_folder

    def begin(self, size_hint: int | None = None, key: str = "") -> SpooledWriter:
        """Open a new object for writing, under a key that is chosen here or was by `new_key`."""
        on_disk = (size_hint or 0) > _SPOOL_BYTES
        return SpooledWriter(self, key or self.new_key(), self._spool_folder, on_disk=on_disk)

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store one object, durable on return."""
        self.upload(key := self.new_key(), data, len(data))
        return BlobRef(key, 0, len(data))

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object. Raises `NotFound`, `StorageUnavailable`."""
        rest = max(ref.length - start, 0)
        wanted = rest if length is None else min(length, rest)
        if wanted <= 0:
            return b""
        _require_plain(ref)
        return self.fetch(ref.key, ref.offset + start, wanted)

    def fetch(self, key: str, start: int, length: int) -> bytes:
        """Return a range of an object as it lies there."""
        with s3_errors():
            return bytes(obstore.get_range(self.client, key, start=start, length=length))

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """Give the object in pieces."""
        if ref.length == 0:
            return
        _require_plain(ref)
        with s3_errors():
            answer = obstore.get(self.client, ref.key, options={"range": (ref.offset, ref.offset + ref.length)})
            for chunk in answer.stream(min_chunk_size=chunk_size):
                yield bytes(chunk)

    def page(self, after: str, most: int) -> tuple[list[Listed], str]:
        """List our objects among the next `most` of the bucket, and say after which key to go on ("": at the end)."""
        with s3_errors():
            entries = list(next(obstore.list(self.client, offset=after or None, chunk_size=most), ()))
        ours = [
            Listed(BlobRef(entry["path"], 0, entry["size"]), entry["last_modified"].timestamp())
            for entry in entries
            if _KEY.fullmatch(entry["path"])  # others may keep things there too
        ]
        return ours, entries[-1]["path"] if len(entries) == most else ""

    def delete(self, ref: BlobRef) -> None:
        """Remove the object; harmless when it is gone."""
        with s3_errors():
            try:
                obstore.delete(self.client, ref.key)
            except (NotFoundError, FileNotFoundError):
                return

    def new_key(self) -> str:
        """Choose the key of a new object."""
        key = uuid.uuid4().hex
        return f"{key[:2]}/{key}"

    def upload(self, key: str, source: bytes | bytearray | memoryview | IO[bytes], length: int) -> None:
        """Store the bytes of an object as they are; durable on return."""
        try:
            with s3_errors():
                obstore.put(
                    self.client,
                    key,
                    source,
                    use_multipart=length > _PART_BYTES,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )
        except NotFound as error:
            raise StorageUnavailable("the bucket of the object storage does not exist") from error


class SpooledWriter:
    """One object on its way to S3."""

    def __init__(self, store: S3Store, key: str, folder: str | None, *, on_disk: bool) -> None:
        self._store, self.key, self._length = store, key, 0
        with s3_errors():
            self._spool: IO[bytes] = (
                tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by commit or discard
                if on_disk
                else tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder)  # noqa: SIM115
            )

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._length

    @property
    def head(self) -> bytes:
        """The beginning of the object, up to a megabyte."""
        with s3_errors():
            self._spool.seek(0)
            head = self._spool.read(1 << 20)
            self._spool.seek(0, os.SEEK_END)
        return head

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, which may be reused at once. Raises `StorageUnavailable`."""
        with s3_errors():
            self._spool.write(data)
        self._length += len(data)

    def commit(self) -> BlobRef:
        """Upload the object, and say where it is."""
        with s3_errors():
            self._spool.seek(0)
        self._store.upload(self.key, self._spool, self._length)
        self._spool.close()
        return BlobRef(self.key, 0, self._length)

    def discard(self) -> None:
        """Forget the object; harmless after `commit` or a second time."""
        self._spool.close()


def open_s3_store(url: str, environment: Mapping[str, str] = os.environ) -> S3Store:
    """Open ``s3://bucket/prefix?endpoint=…&region=…&style=path|virtual`` credentials from where AWS tools look.

    Raises
    ------
    ConfigError
        If the URL names no bucket, or an option that does not exist.
    """
    parts = urlsplit(url)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    unknown = sorted(options.keys() - {"endpoint", "region", "style"})
    if parts.scheme != "s3" or not parts.hostname or unknown or options.get("style", "path") not in ("path", "virtual"):
        problem = f"has the unknown option {unknown[0]!r}" if unknown else "is not s3://bucket/prefix?endpoint=…"
        raise ConfigError(f"storage.url: the address {problem}; options are endpoint, region, style (path, virtual)")
    endpoint = options.get("endpoint", environment.get("AWS_ENDPOINT_URL", ""))
    default_style = "path" if endpoint else "virtual"
    access_key_id, secret_access_key = _credentials(environment)
    return S3Store(
        parts.netloc,
        parts.path.strip("/"),
        endpoint=endpoint,
        region=options.get("region") or environment.get("AWS_REGION") or "us-east-1",
        virtual_hosted=options.get("style", default_style) == "virtual",
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
    )


def _credentials(environment: Mapping[str, str]) -> tuple[str, str]:
    """Read the file of credentials that AWS tools read and the client does not, when it is named, and needed."""
    file, profile = environment.get("AWS_SHARED_CREDENTIALS_FILE", ""), environment.get("AWS_PROFILE", "default")
    if not file or environment.get("AWS_ACCESS_KEY_ID"):
        return "", ""
    found = ConfigParser(interpolation=None)
    try:
        found.read_string(Path(file).expanduser().read_text(encoding="utf-8"))
        return found.get(profile, "aws_access_key_id"), found.get(profile, "aws_secret_access_key")
    except (OSError, ValueError, ConfigParserError) as error:
        raise ConfigError(
            f"AWS_SHARED_CREDENTIALS_FILE: {file} gives no credentials of [{profile}] ({type(error).__name__})"
        ) from None


def _require_plain(ref: BlobRef) -> None:
    if ref.is_sealed:
        raise KeyUnavailable("the stored object is encrypted, and this process was started without a key")


@contextmanager
def s3_errors() -> Iterator[None]:
    """Turn errors of client and spool into ours; what they say may name keys, so only their kind is told."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise NotFound("the stored object is gone") from None
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"the object storage does not take or give bytes: {type(error).__name__}") from error
