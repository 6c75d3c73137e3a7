"""Models kept warm: loaded once, told apart by digest, the least recently used dropped first."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import phantoms
from imaging_ai.catalog import Catalog
from imaging_ai.errors import ConfigError
from imaging_ai.infer.device import choose_device
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.registry import Registry


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for name, threshold in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        phantoms.threshold_bundle(tmp_path / name, threshold)
    return Catalog([tmp_path])


def test_a_model_is_loaded_once_whoever_asks(catalog: Catalog) -> None:
    registry = Registry("cpu", 1 << 20)
    got: list[LoadedModel] = []
    threads = [threading.Thread(target=lambda: got.append(registry.get(catalog.get("a")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model) for model in got}) == 1


def test_the_least_recently_used_goes_first(catalog: Catalog) -> None:
    one = Registry("cpu", 1 << 20).get(catalog.get("a")).nbytes
    assert one == 16
    registry = Registry("cpu", 2 * one)
    registry.get(catalog.get("a"))
    registry.get(catalog.get("b"))
    registry.get(catalog.get("a"))
    registry.get(catalog.get("c"))
    assert registry.names() == ("a", "c")


def test_the_peak_of_a_run_counts_against_the_budget(catalog: Catalog) -> None:
    registry = Registry("cpu", 1000)
    registry.get(catalog.get("a"))
    registry.get(catalog.get("b")).peak_bytes = 990
    registry.get(catalog.get("b"))
    assert registry.names() == ("b",)


def test_the_model_in_use_stays_whatever_its_size(catalog: Catalog) -> None:
    registry = Registry("cpu", 0)
    assert registry.get(catalog.get("a")) is registry.get(catalog.get("a"))


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu", threads=1).type == "cpu"
    with pytest.raises(ConfigError, match="device 'tpu9'"):
        choose_device("tpu9", threads=1)
    with pytest.raises(ConfigError, match="GPUs; use cpu or auto"):
        choose_device("cuda:99", threads=1)
