"""Models kept warm: loaded once, pinned by digest, the least recently used dropped first."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

import phantoms
from imaging_ai.catalog import Catalog
from imaging_ai.errors import BundleInvalid, ConfigError, NotFound
from imaging_ai.infer.device import choose_device
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.registry import Registry


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for name, threshold in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        phantoms.threshold_bundle(tmp_path / name, threshold)
    return Catalog([tmp_path])


def test_a_model_is_loaded_once_whoever_asks(catalog: Catalog) -> None:
    registry = Registry(catalog, "cpu", 1 << 20)
    got: list[LoadedModel] = []
    threads = [threading.Thread(target=lambda: got.append(registry.get("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model) for model in got}) == 1


def test_the_least_recently_used_goes_first(catalog: Catalog) -> None:
    one = Registry(catalog, "cpu", 1 << 20).get("a").nbytes
    assert one == 16
    registry = Registry(catalog, "cpu", 2 * one)
    registry.get("a")
    registry.get("b")
    registry.get("a")
    registry.get("c")
    assert registry.names() == ("a", "c")


def test_the_peak_of_a_run_counts_against_the_budget(catalog: Catalog) -> None:
    registry = Registry(catalog, "cpu", 1000)
    registry.get("a")
    registry.get("b").peak_bytes = 990
    registry.get("b")
    assert registry.names() == ("b",)


def test_the_model_in_use_stays_whatever_its_size(catalog: Catalog) -> None:
    registry = Registry(catalog, "cpu", 0)
    assert registry.get("a") is registry.get("a")


def test_a_changed_byte_is_refused_even_with_the_old_time(catalog: Catalog, tmp_path: Path) -> None:
    digest = catalog.get("a").digest
    weights = tmp_path / "a" / "models" / "model.pt"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleInvalid, match=f"the job wants {digest[:12]}: its files were changed"):
        Registry(catalog, "cpu", 1 << 20).get("a", digest)


def test_another_version_than_the_jobs_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    digest = catalog.get("a").digest
    shutil.copy(tmp_path / "b" / "models" / "model.pt", tmp_path / "a" / "models" / "model.pt")
    registry = Registry(catalog, "cpu", 1 << 20)
    with pytest.raises(BundleInvalid, match="retry the job"):
        registry.get("a", digest)
    assert registry.get("a").entry.digest != digest


def test_a_model_that_is_not_there_is_named(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no model 'x'"):
        Registry(catalog, "cpu", 1 << 20).get("x")


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu", threads=1).type == "cpu"
    with pytest.raises(ConfigError, match="device 'tpu9'"):
        choose_device("tpu9", threads=1)
    with pytest.raises(ConfigError, match="GPUs; use cpu or auto"):
        choose_device("cuda:99", threads=1)
