"""The files of the installed viewer, as its installation wrote them down.

The server gives what the list names and nothing else, so no path of a request can lead out of the folder.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

__all__ = ["LIST", "ViewerFile", "ViewerFiles", "ViewerFolder"]

LIST = "viewer.json"


class ViewerFile(msgspec.Struct, frozen=True):
    """One file; `immutable` when its name changes with its content, `compressed` when `<name>.gz` lies beside it."""

    media_type: str
    etag: str
    immutable: bool = False
    compressed: bool = False


class ViewerFiles(msgspec.Struct, frozen=True):
    """What is installed, and by which recipe; `scripts` are the hashes of the page's own (CSP level 3, 2.3.1)."""

    package: str
    version: str
    files: dict[str, ViewerFile]
    scripts: tuple[str, ...] = ()
    recipe: str = ""

    @classmethod
    def read(cls, folder: Path) -> ViewerFiles | None:
        """Read the list of a folder, or return None where nothing (whole) is installed."""
        try:
            return msgspec.json.decode((folder / LIST).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, folder: Path) -> None:
        """Write the list into a folder."""
        (folder / LIST).write_bytes(msgspec.json.format(msgspec.json.encode(self)))


class ViewerFolder:
    """A folder with a viewer, or without one yet: what is installed while the server runs is seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._files: ViewerFiles | None = None

    def files(self) -> ViewerFiles | None:
        """Return what is installed now."""
        try:
            status = (self.path / LIST).stat()
        except OSError:
            return None
        seen = status.st_mtime_ns, status.st_ino
        with self._lock:
            if seen != self._seen:
                self._files, self._seen = ViewerFiles.read(self.path), seen
            return self._files
