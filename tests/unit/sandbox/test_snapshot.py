"""What is verified is what is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import phantoms
from imaging_ai.catalog import ModelEntry, bundle_digest, read_model
from imaging_ai.errors import BundleInvalid
from imaging_ai.sandbox.snapshot import Home, snapshot


@pytest.fixture
def entry(tmp_path: Path) -> ModelEntry:
    return read_model(phantoms.threshold_bundle(tmp_path / "threshold"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundles"
    made.mkdir()
    return made


def change(file: Path) -> None:
    """Change the last byte, and let nothing else tell of it."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_byte_is_refused_even_with_the_old_time(entry: ModelEntry, folder: Path) -> None:
    change(entry.path / "models" / "model.pt")
    with pytest.raises(BundleInvalid, match=f"the job wants {entry.digest[:12]}: its files were changed"):
        snapshot(entry, entry.digest, folder)
    assert list(folder.iterdir()) == [], "nothing of it is kept"


def test_what_is_changed_after_it_was_verified_is_not_what_runs(entry: ModelEntry, folder: Path) -> None:
    copied = snapshot(entry, entry.digest, folder)
    change(entry.path / "models" / "model.pt")
    assert bundle_digest(copied) == entry.digest
    assert snapshot(entry, entry.digest, folder) == copied


def test_byte_code_that_lies_in_a_bundle_is_no_part_of_it(entry: ModelEntry, folder: Path) -> None:
    cached = entry.path / "scripts" / "__pycache__"
    cached.mkdir(parents=True)
    (cached / "net.cpython-311.pyc").write_bytes(b"anything")
    copied = snapshot(entry, entry.digest, folder)
    assert not list(copied.rglob("*.pyc"))


def test_a_bundle_that_is_gone_is_named(entry: ModelEntry, folder: Path) -> None:
    (entry.path / "models" / "model.pt").unlink()
    with pytest.raises(BundleInvalid, match="threshold: the bundle has the digest"):
        snapshot(entry, entry.digest, folder)


def test_a_private_folder_is_removed_by_its_owner_or_by_the_next(tmp_path: Path) -> None:
    parent = tmp_path / "run"
    one, other = Home(parent), Home(parent)
    assert one.path.is_dir() and oct(one.path.stat().st_mode)[-3:] == "700"
    os.close(one._lock)  # as when its process is killed
    third = Home(parent)
    assert not one.path.exists() and other.path.is_dir()
    other.leave()
    third.leave()
    assert list(parent.iterdir()) == []
