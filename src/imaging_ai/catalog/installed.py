"""The models below some folders, with their versions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from imaging_ai.catalog.current import folder_of, read_choices
from imaging_ai.catalog.digest import Signature, signature_of
from imaging_ai.catalog.entry import CONFIGS, ModelEntry, read_model
from imaging_ai.errors import NotFound

__all__ = ["Catalog"]


class Catalog:
    """The models below some folders; one installed while we run is seen at the next question.

    A model is asked for by its name, which means its current version, or as `NAME@VERSION`.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[tuple[Path, str], tuple[Signature, ModelEntry]] = {}

    def names(self) -> tuple[str, ...]:
        """Name the installed models and their versions, in order."""
        return tuple(sorted(self._paths()))

    def get(self, name: str) -> ModelEntry:
        """Return the model `name` as it lies on disk now.

        Raises
        ------
        NotFound
            If no folder has it, or the version that the name means is gone.
        ConfigError
            If its `dicom.toml` or its metadata cannot be used.
        """
        path = self._paths().get(name)
        if path is None and (version := self._choices().get(name)):
            wanted = folder_of(name, version)
            raise NotFound(f"the model {name!r} means {wanted!r}, which is not there; choose another by `models use`")
        if path is None:
            raise NotFound(f"no model {name!r}; installed: {', '.join(self.names()) or 'none'}")
        return self._entry(path, name)

    def folders(self) -> tuple[str, ...]:
        """Name the folders that hold a model, in order: every version once."""
        return tuple(sorted(self._paths_by_folder()))

    def versions(self, name: str) -> tuple[ModelEntry, ...]:
        """Return the versions of a model: the current one first, then the others by their folders."""
        current = self.get(name)
        plain = name.partition("@")[0]
        others = (self._entry(path, name) for path in self._folders_of(plain) if path != current.path)
        return (current, *others)

    def pinned(self, name: str, digest: str) -> ModelEntry:
        """Return the version of a model that has this digest, current or not; the current one when none has.

        Raises
        ------
        NotFound, ConfigError
            As `get`.
        """
        plain = name.partition("@")[0]
        with suppress(NotFound):
            if (current := self.get(name)).digest == digest:
                return current
        others = (self._entry(path, name) for path in self._folders_of(plain))
        return next((one for one in others if one.digest == digest), None) or self.get(name)

    def _entry(self, path: Path, name: str) -> ModelEntry:
        signature = signature_of(path)
        known = self._read.get((path, name))
        if known is not None and known[0] == signature:
            return known[1]
        entry = read_model(path, name)
        self._read[path, name] = (signature, entry)
        return entry

    def _folders_of(self, plain: str) -> list[Path]:
        return [path for folder, path in self._paths_by_folder().items() if folder.partition("@")[0] == plain]

    def _paths(self) -> dict[str, Path]:
        """Return where each name leads: folders by their own, chosen versions by the plain one."""
        found = self._paths_by_folder()
        for name, version in self._choices().items():
            if path := found.get(folder_of(name, version)):
                found[name] = path
            else:  # not the next best: somebody chose that one
                found.pop(name, None)
        return found

    def _choices(self) -> dict[str, str]:
        choices: dict[str, str] = {}
        for folder in self._folders:
            for name, versions in read_choices(folder).items():
                choices.setdefault(name, versions[0])
        return choices

    def _paths_by_folder(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if any((path / config).is_file() for config in (*CONFIGS, "dicom.toml")):
                    found.setdefault(path.name, path)
        return found
