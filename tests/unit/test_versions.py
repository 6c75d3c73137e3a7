"""Versions of a model side by side: which one the name means, and how to go back."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ai.catalog import Catalog, bundle_digest
from imaging_ai.catalog.current import choose, go_back, read_choices
from imaging_ai.errors import BundleInvalid, ConfigError, NotFound, WrongState
from imaging_ai.install import install


def bundle(folder: Path, version: str, more: str = "") -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text("{}")
    (folder / "dicom.toml").write_text(f'[model]\nversion = "{version}"\n{more}')
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with versions 1 and 2 of a model, 2 being current."""
    for version in ("1", "2"):
        install(bundle(tmp_path / version, version), tmp_path / "models", "spleen")
    return tmp_path / "models"


def test_the_name_means_the_version_that_was_installed_last(models: Path) -> None:
    catalog = Catalog([models])
    assert (catalog.get("spleen").name, catalog.get("spleen").version) == ("spleen", "2")
    assert catalog.get("spleen").algorithm.name == "spleen"
    assert catalog.get("spleen@2").version == "2"
    assert [one.version for one in catalog.versions("spleen")] == ["2", "1"]
    assert catalog.names() == ("spleen", "spleen@2")


def test_a_job_that_is_pinned_finds_its_version_whatever_is_current(models: Path) -> None:
    catalog = Catalog([models])
    first, second = sorted(catalog.versions("spleen"), key=lambda one: one.version)
    for current in ("1", "2"):
        choose(models, "spleen", {"1": "", "2": "2"}[current])
        assert catalog.pinned("spleen", first.digest).version == "1"
        assert catalog.pinned("spleen", second.digest).version == "2"
    assert catalog.pinned("spleen", "0" * 64).version == "2", "the caller sees that the digest is another"


def test_going_back_is_possible_as_often_as_there_were_choices(models: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path / "3", "3"), models, "spleen")
    catalog = Catalog([models])
    assert catalog.get("spleen").version == "3"
    assert [go_back(models, "spleen"), catalog.get("spleen").version] == ["2", "2"]
    assert [go_back(models, "spleen"), catalog.get("spleen").version] == ["", "1"]
    with pytest.raises(WrongState, match="no earlier version"):
        go_back(models, "spleen")


def test_choosing_what_is_current_already_leaves_nothing_to_go_back_over(models: Path) -> None:
    choose(models, "spleen", "2")
    assert read_choices(models) == {"spleen": ("2", "")}


def test_a_chosen_version_that_is_gone_is_not_replaced_by_another(models: Path) -> None:
    (models / "spleen@2").rename(models.parent / "taken away")
    catalog = Catalog([models])
    assert "spleen" not in catalog.names()
    with pytest.raises(NotFound, match="means 'spleen@2', which is not there"):
        catalog.get("spleen")
    kept = bundle_digest(models / "spleen")
    assert catalog.pinned("spleen", kept).version == "1", "a job that is pinned to another one still finds it"


def test_a_damaged_list_of_choices_is_named(models: Path) -> None:
    (models / "current.json").write_text("[")
    with pytest.raises(ConfigError, match=r"current\.json"):
        Catalog([models]).names()


def test_a_version_of_a_shipped_model_lies_in_the_data_directory(models: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    entry = install(bundle(tmp_path / "9", "9"), own, "spleen", taken=("spleen",))
    assert (entry.path, entry.name) == (own / "spleen@9", "spleen")
    catalog = Catalog([own, models])
    assert catalog.get("spleen").version == "9"
    assert {one.version for one in catalog.versions("spleen")} == {"1", "2", "9"}


def test_the_same_version_again_is_refused(models: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        with pytest.raises(WrongState, match=f"version {version} of the model spleen is installed already"):
            install(tmp_path / version, models, "spleen")


@pytest.mark.parametrize("version", ["../../etc", "a/b", ".."])
def test_a_version_is_no_path(models: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(BundleInvalid, match="is no version"):
        install(bundle(tmp_path / "odd", version), models, "spleen")
    assert {path.name for path in models.iterdir()} == {"spleen", "spleen@2", "current.json"}


def test_a_bundle_of_another_digest_than_wanted_is_not_installed(tmp_path: Path) -> None:
    source = bundle(tmp_path / "thing", "1")
    with pytest.raises(BundleInvalid, match="was wanted: it is not installed"):
        install(source, tmp_path / "models", digest="0123abcd")
    assert list((tmp_path / "models").iterdir()) == []
    entry = install(source, tmp_path / "models")
    assert install(source, tmp_path / "other", digest=entry.digest[:12].upper()).digest == entry.digest
