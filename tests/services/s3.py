"""An S3 service on loopback (moto's server), and in it a fresh bucket for each test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest

from services import free_port, wait_until


class S3Server:
    """A moto server process, which can be stopped and started again; it forgets its buckets when stopped."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, timeout=60, what="the S3 server answers")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test."""

    name: str
    endpoint: str
    spool_folder: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}/archive?endpoint={self.endpoint}&region=us-east-1"

    def client(self):  # boto3 makes its types at run time
        return _client(self.endpoint)

    def keys(self) -> list[str]:
        listed = self.client().list_objects_v2(Bucket=self.name)
        return [entry["Key"] for entry in listed.get("Contents", [])]


def _client(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """A fresh, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    _client(s3_server.endpoint).create_bucket(Bucket=name)
    with tempfile.TemporaryDirectory() as spool:
        yield Bucket(name, s3_server.endpoint, spool)
