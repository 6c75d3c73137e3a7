"""Loaded models, kept warm within a memory budget: loaded once, pinned by the digest of the whole bundle.

The least recently used go first when the budget is full. A model needs the memory of its parameters and buffers, and
one model at a time the peak that its runs were seen to need.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict
from typing import Protocol

import torch

from imaging_ai.catalog import Catalog, ModelEntry, bundle_digest
from imaging_ai.errors import BundleInvalid
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel

__all__ = ["Registry"]

logger = logging.getLogger(__name__)


class _Entries(Protocol):
    def get(self, name: str) -> ModelEntry: ...
    def pinned(self, name: str, digest: str) -> ModelEntry: ...


class Registry:
    """The models of a catalog on one device.

    `memory_budget` is in bytes; the model in use stays, whatever its size.
    """

    def __init__(
        self,
        catalog: Catalog | _Entries,
        device: torch.device | str,
        memory_budget: int,
        *,
        allow_scripts: bool = False,
    ) -> None:
        self._catalog = catalog
        self._device = torch.device(device)
        self._budget = memory_budget
        self._allow_scripts = allow_scripts
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, digest: str = "") -> LoadedModel:
        """Return the model `name`, loaded; `digest` is that of the bundle that the job was scheduled for.

        Raises
        ------
        NotFound
            If there is no such model.
        BundleInvalid
            If the bundle on disk is another than `digest`, or cannot be loaded.
        """
        with self._lock:
            entry = self._catalog.pinned(name, digest) if digest else self._catalog.get(name)
            wanted = digest or entry.digest
            if wanted in self._loaded:
                self._loaded.move_to_end(wanted)
                self._make_room()
                return self._loaded[wanted]
            found = bundle_digest(entry.path)
            if found != wanted:
                raise BundleInvalid(
                    f"{name}: the bundle has the digest {found[:12]}, the job wants {wanted[:12]}: its files were "
                    "changed; retry the job to run the bundle as it is now"
                )
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
