"""Keys in a file and at a service, and the ring of data keys over them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging_ai.errors import ConfigError, KeyUnavailable, StorageCorrupted
from imaging_ai.keys.cabinet import FolderCabinet
from imaging_ai.keys.file import FileKeys, add_key
from imaging_ai.keys.ring import KEEP_SECONDS, KeyRing
from imaging_ai.keys.service import KeyService, KeyServices, Wrapped
from imaging_ai.keys.transit import TransitKeys, open_transit
from sealing import key_file
from services.transit import TOKEN, Transit, transit

KEY, ABOUT = bytes(range(32)), b"about"


@pytest.fixture(scope="module")
def vault() -> Iterator[Transit]:
    with transit() as service:
        yield service


def at(vault: Transit, folder: Path, token: str = TOKEN) -> TransitKeys:
    file = folder / "token"
    file.write_text(f"{token}\n")
    return open_transit(vault.url, str(file))


@pytest.fixture(params=["file", "service"])
def service(request: pytest.FixtureRequest, vault: Transit, tmp_path: Path) -> KeyService:
    return FileKeys(key_file(tmp_path)) if request.param == "file" else at(vault, tmp_path)


def turn(service: KeyService, vault: Transit, tmp_path: Path) -> None:
    """Have a new key."""
    if isinstance(service, FileKeys):
        add_key(tmp_path / "storage.keys", f"key-{os.urandom(4).hex()}")
    else:
        vault.rotate()


def test_what_is_wrapped_is_unwrapped_as_the_same_and_as_nothing_else(service: KeyService) -> None:
    wrapped = service.wrap(KEY, ABOUT)
    assert wrapped.key_id == service.current()
    assert service.holds(wrapped.key_id)
    assert KEY.hex() not in wrapped.text and base64.b64encode(KEY).decode() not in wrapped.text
    assert service.unwrap(wrapped, ABOUT) == KEY
    with pytest.raises(StorageCorrupted):
        service.unwrap(wrapped, b"another")
    with pytest.raises(StorageCorrupted):
        changed = "A" if wrapped.text[-6] != "A" else "B"
        service.unwrap(Wrapped(wrapped.key_id, wrapped.text[:-6] + changed + wrapped.text[-5:]), ABOUT)


def test_a_new_key_wraps_at_once_and_the_old_ones_still_open(
    service: KeyService, vault: Transit, tmp_path: Path
) -> None:
    old = service.wrap(KEY, ABOUT)
    turn(service, vault, tmp_path)
    new = service.wrap(KEY, ABOUT)
    assert new.key_id == service.current() != old.key_id
    assert service.unwrap(old, ABOUT) == service.unwrap(new, ABOUT) == KEY


def test_one_service_takes_over_from_another(vault: Transit, tmp_path: Path) -> None:
    file, service = FileKeys(key_file(tmp_path)), at(vault, tmp_path)
    old = file.wrap(KEY, ABOUT)
    both = KeyServices([service, file])
    assert both.current().startswith("transit:storage:v")
    assert both.unwrap(old, ABOUT) == both.unwrap(both.wrap(KEY, ABOUT), ABOUT) == KEY
    with pytest.raises(KeyUnavailable, match="file:first is not known"):
        KeyServices([service]).unwrap(old, ABOUT)
    with pytest.raises(KeyUnavailable, match="no key is set"):
        KeyServices([]).current()


# -- the file


def test_others_may_not_read_the_file_of_keys(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        FileKeys(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a remark\n",
        "one\n",
        f"one {'A' * 20}\n",
        f"a/b {'A' * 43}=\n",
        f"one {'A' * 43}=\none {'B' * 43}=\n",
    ],
)
def test_a_file_without_proper_keys_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigError, match="base64") as error:
        FileKeys(path)
    assert "AAAA" not in str(error.value)


def test_a_file_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encryption_key_file"):
        FileKeys(tmp_path / "none")


def test_while_the_file_is_unusable_the_keys_in_force_stay(tmp_path: Path) -> None:
    keys = FileKeys(path := key_file(tmp_path))
    wrapped = keys.wrap(KEY, ABOUT)
    text = path.read_text()
    path.write_text("half a li")
    assert keys.unwrap(wrapped, ABOUT) == KEY
    path.unlink()
    assert keys.unwrap(wrapped, ABOUT) == KEY
    path.touch(0o600)
    path.write_text(text)
    assert keys.unwrap(wrapped, ABOUT) == KEY


def test_a_key_that_left_the_file_is_named(tmp_path: Path) -> None:
    keys = FileKeys(path := key_file(tmp_path))
    wrapped = keys.wrap(KEY, ABOUT)
    path.unlink()
    add_key(path, "second")
    with pytest.raises(KeyUnavailable, match="'first' is no longer"):
        keys.unwrap(wrapped, ABOUT)


def test_a_new_key_goes_first_and_no_id_is_given_twice(tmp_path: Path) -> None:
    path = key_file(tmp_path, "one", "two")
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["two", "one"]
    for name in ("one", "a b", ""):
        with pytest.raises(ConfigError):
            add_key(path, name)
    assert len(path.read_text().splitlines()) == 2


# -- the service


def test_a_service_that_refuses_or_is_away_is_no_damage_to_the_storage(vault: Transit, tmp_path: Path) -> None:
    wrapped = at(vault, tmp_path).wrap(KEY, ABOUT)
    with pytest.raises(KeyUnavailable, match="403"):
        at(vault, tmp_path, "another token").unwrap(wrapped, ABOUT)
    vault.is_sealed = True
    try:
        for act in (lambda: at(vault, tmp_path).unwrap(wrapped, ABOUT), lambda: at(vault, tmp_path).wrap(KEY, ABOUT)):
            with pytest.raises(KeyUnavailable, match="503"):
                act()
    finally:
        vault.is_sealed = False
    away = TransitKeys("http://127.0.0.1:9", "storage", tmp_path / "token")
    with pytest.raises(KeyUnavailable, match="ConnectError"):
        away.current()
    (tmp_path / "token").unlink()
    with pytest.raises(KeyUnavailable, match="token_file"):
        away.current()


def test_a_renewed_token_is_used_at_once(vault: Transit, tmp_path: Path) -> None:
    keys = at(vault, tmp_path, "expired")
    with pytest.raises(KeyUnavailable):
        keys.current()
    (tmp_path / "token").write_text(TOKEN)
    assert keys.current()


@pytest.mark.parametrize(
    "url",
    [
        "vault+http://vault.hospital.example/v1/transit/keys/storage",
        "https://host/v1/transit/keys/storage",
        "vault+https:///v1/transit/keys/storage",
        "vault+https://host/v1/transit/storage",
        "vault+https://token@host/v1/transit/keys/storage",
    ],
)
def test_a_service_is_asked_over_tls_or_on_this_machine(url: str) -> None:
    with pytest.raises(ConfigError, match="encryption_key_service"):
        open_transit(url, "token")


def test_a_service_without_a_token_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="encryption_token_file"):
        open_transit("vault+https://host/v1/transit/keys/storage", "")


# -- the ring


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_data_key_is_kept_before_it_is_used_and_found_by_others(service: KeyService, tmp_path: Path) -> None:
    cabinet = FolderCabinet(tmp_path / "keys")
    ring = KeyRing(cabinet, service)
    key = ring.current()
    assert ring.current() is key
    assert KeyRing(cabinet, service).fetch(key.id) == key
    (file,) = (tmp_path / "keys").rglob("*.key")
    assert file.stem == key.id.hex()
    assert key.key.hex() not in file.read_text()
    assert repr(key).find(repr(key.key)) < 0


def test_data_keys_are_forgotten_and_fetched_again(vault: Transit, tmp_path: Path) -> None:
    clock, cabinet = Clock(), FolderCabinet(tmp_path / "keys")
    key = KeyRing(cabinet, at(vault, tmp_path)).current()
    ring = KeyRing(cabinet, at(vault, tmp_path), clock=clock)
    ring.fetch(key.id)
    before = vault.calls["decrypt/storage"]
    ring.fetch(key.id)
    assert ring.at_hand(key.id) == key
    assert vault.calls["decrypt/storage"] == before
    clock.now += KEEP_SECONDS
    assert ring.at_hand(key.id) is None
    ring.fetch(key.id)
    assert vault.calls["decrypt/storage"] == before + 1


def test_a_data_key_is_renewed_after_a_day_or_as_soon_as_the_service_is_back(vault: Transit, tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(FolderCabinet(tmp_path / "keys"), at(vault, tmp_path), clock=clock)
    first = ring.current()
    clock.now += 86_400
    vault.is_sealed = True
    try:
        assert ring.current() == first, "what is in use stays in use"
    finally:
        vault.is_sealed = False
    clock.now += 60
    assert ring.current() != first
    assert ring.census().total() == 2


def test_without_the_service_no_first_data_key_is_made(vault: Transit, tmp_path: Path) -> None:
    vault.is_sealed = True
    try:
        with pytest.raises(KeyUnavailable):
            KeyRing(FolderCabinet(tmp_path / "keys"), at(vault, tmp_path)).current()
    finally:
        vault.is_sealed = False
    assert list(FolderCabinet(tmp_path / "keys").names()) == []


def test_rewrapping_changes_no_data_key_and_may_stop_anywhere(
    service: KeyService, vault: Transit, tmp_path: Path
) -> None:
    cabinet = FolderCabinet(tmp_path / "keys")
    made = [KeyRing(cabinet, service).current() for _ in range(5)]
    turn(service, vault, tmp_path)
    ring = KeyRing(cabinet, service)
    rewrapping = ring.rewrap()
    assert [next(rewrapping), next(rewrapping)] == [True, True]
    rewrapping.close()
    assert sorted(ring.census().values()) == [2, 3]
    assert sorted(ring.rewrap()) == [False, False, True, True, True]
    assert ring.census() == {service.current(): 5}
    assert [KeyRing(cabinet, service).fetch(key.id) for key in made] == made


def test_killed_while_rewrapping_every_data_key_is_whole(tmp_path: Path) -> None:
    cabinet, keys = FolderCabinet(tmp_path / "keys"), key_file(tmp_path)
    made = [KeyRing(cabinet, FileKeys(keys)).current() for _ in range(20)]
    add_key(keys, "second")
    script = """
import os, sys, threading
from pathlib import Path
from imaging_ai.keys.cabinet import FolderCabinet
from imaging_ai.keys.file import FileKeys
from imaging_ai.keys.ring import KeyRing
ring = KeyRing(FolderCabinet(Path(sys.argv[1])), FileKeys(Path(sys.argv[2])))
real, count = Path.replace, iter(range(100))
def replace(self, target):
    if next(count) == 7:
        os.kill(os.getpid(), 9)
    return real(self, target)
Path.replace = replace
list(ring.rewrap())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "keys"), str(keys)], check=False)
    assert done.returncode == -9
    ring = KeyRing(cabinet, FileKeys(keys))
    assert ring.census() == {"file:second": 7, "file:first": 13}
    assert [KeyRing(cabinet, FileKeys(keys)).fetch(key.id) for key in made] == made
    assert sum(ring.rewrap()) == 13


def test_data_keys_that_change_places_or_are_changed_do_not_open(tmp_path: Path) -> None:
    cabinet, keys = FolderCabinet(tmp_path / "keys"), FileKeys(key_file(tmp_path))
    one, other = (KeyRing(cabinet, keys).current().id for _ in range(2))
    text = cabinet.load(one.hex())
    assert text is not None
    cabinet.save(other.hex(), text)
    ring = KeyRing(cabinet, keys)
    with pytest.raises(StorageCorrupted):
        ring.fetch(other)
    for damaged in (b"", text[:-3], text.replace(b'"version":1', b'"version":"x"')):
        cabinet.save(one.hex(), damaged)
        with pytest.raises(StorageCorrupted):
            ring.fetch(one)
    cabinet.save(one.hex(), text.replace(b'"version":1', b'"version":2'))
    with pytest.raises(KeyUnavailable, match="newer version"):
        ring.fetch(one)
    with pytest.raises(KeyUnavailable, match="back-up"):
        ring.fetch(b"\0" * 16)


def test_a_service_that_does_not_give_back_what_it_was_given_is_not_used(tmp_path: Path) -> None:
    class Forgetful(FileKeys):
        def unwrap(self, wrapped: Wrapped, about: bytes) -> bytes:
            return bytes(32)

    with pytest.raises(KeyUnavailable, match="give back"):
        KeyRing(FolderCabinet(tmp_path / "keys"), Forgetful(key_file(tmp_path))).current()
    assert list(FolderCabinet(tmp_path / "keys").names()) == []
