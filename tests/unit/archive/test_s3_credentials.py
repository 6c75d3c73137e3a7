"""Where the keys of a bucket come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ai.archive.s3 import open_s3_store
from imaging_ai.errors import ConfigError

FILE = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s%cr+t/\n[archive]\naws_access_key_id = B\n"


def test_keys_come_from_the_file_that_aws_tools_read(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(FILE)
    named = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    config = open_s3_store("s3://bucket/archive", named).client.config
    assert (config["access_key_id"], config["secret_access_key"]) == ("AKIA", "s%cr+t/")
    assert "access_key_id" not in open_s3_store("s3://bucket", {**named, "AWS_ACCESS_KEY_ID": "C"}).client.config
    assert "access_key_id" not in open_s3_store("s3://bucket", {}).client.config


def test_a_file_without_keys_is_named_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(FILE)
    for environment in ({"AWS_PROFILE": "archive"}, {"AWS_PROFILE": "other"}, {"AWS_SHARED_CREDENTIALS_FILE": "/none"}):
        with pytest.raises(ConfigError, match=r"AWS_SHARED_CREDENTIALS_FILE: .* gives no credentials") as error:
            open_s3_store("s3://bucket", {"AWS_SHARED_CREDENTIALS_FILE": str(file), **environment})
        assert "s%cr" not in error.value.message
