"""Installing a model: whole or not at all, and never outside its folder."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from imaging_ai.errors import BundleInvalid, ConfigError, WrongState
from imaging_ai.install import install


def bundle(folder: Path, toml: str = '[model]\nname = "Thing"\nversion = "2"\n') -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text("{}")
    (folder / "dicom.toml").write_text(toml)
    return folder


def packed(folder: Path, target: Path, base: str | None = None) -> Path:
    return Path(shutil.make_archive(str(target), "zip", folder, base))


def test_a_folder_is_copied_with_its_digest(tmp_path: Path) -> None:
    source = bundle(tmp_path / "thing")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "x.pyc").write_bytes(b"")
    entry = install(source, tmp_path / "models")
    again = install(source, tmp_path / "models", "other")
    assert (entry.name, entry.version, again.name) == ("thing", "2", "other")
    assert entry.digest == again.digest
    assert entry.path == tmp_path / "models" / "thing"
    assert not (entry.path / "__pycache__").exists()


@pytest.mark.parametrize("inside", [None, "thing"], ids=["the bundle itself", "a folder with the bundle"])
def test_a_zip_file_may_hold_the_bundle_or_its_folder(tmp_path: Path, inside: str | None) -> None:
    source = bundle(tmp_path / "sources" / "thing")
    archive = packed(source if inside is None else source.parent, tmp_path / "v1", inside)
    entry = install(archive, tmp_path / "models")
    assert entry.name == "v1"
    assert (entry.path / "configs" / "inference.json").is_file()


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    install(bundle(tmp_path / "thing"), tmp_path / "models")
    with pytest.raises(WrongState, match="is installed already"):
        install(tmp_path / "thing", tmp_path / "models")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "../away", "a\\b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleInvalid, match="is no name for a model"):
        install(bundle(tmp_path / "thing"), tmp_path / "models", name)


def nothing_is_left(models: Path) -> bool:
    return not models.exists() or list(models.iterdir()) == []


def test_what_is_no_bundle_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    for name, why in (("empty", "no configs/inference.json"), ("text.zip", "is no ZIP file")):
        with pytest.raises(BundleInvalid, match=why):
            install(tmp_path / name, tmp_path / "models")
    with pytest.raises(ConfigError, match=r"dicom\.toml"):
        install(bundle(tmp_path / "wrong", "[segment]\n"), tmp_path / "models")
    assert nothing_is_left(tmp_path / "models")


def test_an_archive_that_reaches_out_of_itself_reaches_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("configs/inference.json", "{}")
        archive.writestr("../../../slipped", "out")
        archive.writestr(f"{tmp_path}/absolute", "out")
    install(tmp_path / "slip.zip", tmp_path / "deep" / "models")
    assert not (tmp_path / "absolute").exists()
    outside = [path for path in tmp_path.rglob("slipped") if tmp_path / "deep" / "models" / "slip" not in path.parents]
    assert outside == []


def test_a_symbolic_link_in_an_archive_stays_text(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("models/model.pt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "linked.zip", "w") as archive:
        archive.writestr("configs/inference.json", "{}")
        archive.writestr(link, "/etc/passwd")
    entry = install(tmp_path / "linked.zip", tmp_path / "models")
    assert not (entry.path / "models" / "model.pt").is_symlink()


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("configs/inference.json", "{}")
        archive.writestr("one", "")
        archive.writestr("two", "")
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"PK\1\2", at + 1)) >= 0:  # the sizes, as the directory tells them
        data[at + 24 : at + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BundleInvalid, match="unpacks to more than 8 GB"):
        install(path, tmp_path / "models")
    assert nothing_is_left(tmp_path / "models")


def test_an_archive_with_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    archive = packed(bundle(tmp_path / "thing"), tmp_path / "cut")
    data = bytearray(archive.read_bytes())
    at = data.index(b'name = "Thing"') if b'name = "Thing"' in data else data.index(b"PK\3\4", 10) + 60
    data[at] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BundleInvalid, match="is no ZIP file"):
        install(archive, tmp_path / "models")
    assert nothing_is_left(tmp_path / "models")
