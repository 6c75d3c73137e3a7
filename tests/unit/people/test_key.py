"""The key of the server: made once, for its owner alone, the same for whoever asks."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imaging_ai.errors import ConfigError
from imaging_ai.people.key import ServerKey


def test_however_many_start_at_once_there_is_one_key(tmp_path: Path) -> None:
    file = tmp_path / "data" / "auth.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: ServerKey.own(file).secret, range(32)))
    assert len(keys) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in file.parent.iterdir()] == ["auth.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "auth.key"
    ServerKey.own(file)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"auth\.key: others may read this key \(mode 640\); chmod 600"):
        ServerKey.own(file)


def test_a_given_key_is_read_and_a_short_or_missing_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerKey.given(file)
    file.write_text("0123456789\n")
    with pytest.raises(ConfigError, match="at least 32 bytes"):
        ServerKey.given(file)
    file.write_text("0123456789abcdef0123456789abcdef\n")
    assert ServerKey.given(file).secret == b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(("mode", "told"), [(0o640, False), (0o444, True)])
def test_a_given_key_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, told: bool
) -> None:
    file = tmp_path / "key"
    file.write_text("x" * 32)
    file.chmod(mode)
    ServerKey.given(file)
    assert ("chmod 600" in caplog.text) is told and "x" * 32 not in caplog.text


def test_each_purpose_has_a_key_of_its_own_and_no_key_is_shown() -> None:
    key = ServerKey(b"x" * 32)
    assert len({key.derive("access token"), key.derive("refresh token"), key.secret}) == 3
    assert "x" * 5 not in repr(key)
