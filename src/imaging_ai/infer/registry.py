"""Loaded models, kept warm within a memory budget: loaded once, told apart by the digest of the whole bundle.

The least recently used go first when the budget is full. A model needs the memory of its parameters and buffers, and
one model at a time the peak that its runs were seen to need.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict

import torch

from imaging_ai.catalog import ModelEntry
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel

__all__ = ["Registry"]

logger = logging.getLogger(__name__)


class Registry:
    """Models on one device.

    `memory_budget` is in bytes; the model in use stays, whatever its size.
    """

    def __init__(self, device: torch.device | str, memory_budget: int, *, allow_scripts: bool = False) -> None:
        self._device = torch.device(device)
        self._budget = memory_budget
        self._allow_scripts = allow_scripts
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, entry: ModelEntry) -> LoadedModel:
        """Return a model, loaded. That its files are those of the digest is for the caller to see to.

        Raises
        ------
        BundleInvalid
            If the bundle cannot be loaded.
        """
        with self._lock:
            if entry.digest in self._loaded:
                self._loaded.move_to_end(entry.digest)
                self._make_room()
                return self._loaded[entry.digest]
            return self._load(entry)

    def names(self) -> tuple[str, ...]:
        """Name the models that are loaded, the least recently used first."""
        with self._lock:
            return tuple(model.entry.name for model in self._loaded.values())

    def _load(self, entry: ModelEntry) -> LoadedModel:
        started = time.monotonic()
        model = load_bundle(entry, self._device, allow_scripts=self._allow_scripts)
        self._loaded[entry.digest] = model
        logger.info(
            "loaded model %s digest %s: %d MB in %.1f s",
            entry.name,
            entry.digest[:12],
            model.nbytes >> 20,
            time.monotonic() - started,
        )
        self._make_room()
        return model

    def _make_room(self) -> None:
        while len(self._loaded) > 1 and self._needed() > self._budget:
            _, model = self._loaded.popitem(last=False)
            logger.info("dropped model %s to make room", model.entry.name)
            del model
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _needed(self) -> int:
        models = self._loaded.values()
        return sum(model.nbytes for model in models) + max(model.peak_bytes for model in models)
