"""The models below some folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imaging_ai.catalog.digest import Signature, signature_of
from imaging_ai.catalog.entry import CONFIGS, ModelEntry, read_model
from imaging_ai.errors import NotFound

__all__ = ["Catalog"]


class Catalog:
    """The models below some folders; one installed while we run is seen at the next question."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[Path, tuple[Signature, ModelEntry]] = {}

    def names(self) -> tuple[str, ...]:
        """Name the installed models, in order."""
        return tuple(sorted(self._paths()))

    def get(self, name: str) -> ModelEntry:
        """Return the model `name` as it lies on disk now.

        Raises
        ------
        NotFound
            If no folder has it.
        ConfigError
            If its `dicom.toml` or its metadata cannot be used.
        """
        path = self._paths().get(name)
        if path is None:
            raise NotFound(f"no model {name!r}; installed: {', '.join(self.names()) or 'none'}")
        signature = signature_of(path)
        known = self._read.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        entry = read_model(path)
        self._read[path] = (signature, entry)
        return entry

    def _paths(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if any((path / config).is_file() for config in (*CONFIGS, "dicom.toml")):
                    found.setdefault(path.name, path)
        return found
