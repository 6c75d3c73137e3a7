"""The key file: made once, shared, rotated, and never open to others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from imaging_ai.audit.keys import Keyring, open_keys
from imaging_ai.errors import ConfigError


def test_it_is_made_once_although_many_roles_start_at_once(tmp_path: Path) -> None:
    path, found = tmp_path / "new" / "audit.key", []
    threads = [threading.Thread(target=lambda: found.append(open_keys(path).current)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["audit.key"]


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o666])
def test_it_is_refused_when_others_may_read_or_its_group_may_write(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "audit.key"
    open_keys(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_keys(path)


@pytest.mark.parametrize("content", ["", "ab", "zz" * 32, "ab" * 32 + "\nab\n", "é"])
def test_what_is_no_key_is_refused_and_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"audit\.key_file"):
        open_keys(path)
    assert path.read_text() == content


def test_a_ring_does_not_show_its_keys() -> None:
    ring = Keyring.of(b"k" * 32)
    assert "kkkk" not in repr(ring) + str(ring)
