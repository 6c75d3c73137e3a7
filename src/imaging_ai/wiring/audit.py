"""The audit trail and its keys, from the settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imaging_ai.audit.anchor import Anchor, anchor, anchors_in
from imaging_ai.audit.keys import Keyring, open_keys, rotate
from imaging_ai.audit.trail import head
from imaging_ai.audit.verify import Report, verify
from imaging_ai.config import Settings
from imaging_ai.wiring.parts import make_current_database

__all__ = ["anchor_audit", "rotate_audit_key", "verify_audit"]


def verify_audit(settings: Settings, path: Path | None = None, *, anchored: bool = True) -> Report:
    """Verify the trail, and its end against the anchors of a file (that of the settings)."""
    database, keys = make_current_database(settings), open_keys(settings.audit_key_path)
    anchors: Iterable[Anchor | None] = ()
    if anchored and head(database) is not None:
        anchors = anchors_in(path or settings.audit_anchor_path)
    return verify(database, keys, anchors)


def anchor_audit(settings: Settings, path: Path | None = None) -> Anchor | None:
    """Note the end of the trail in a file (that of the settings)."""
    return anchor(make_current_database(settings), path or settings.audit_anchor_path)


def rotate_audit_key(settings: Settings) -> Keyring:
    """Add a new key to the key file."""
    open_keys(settings.audit_key_path)
    return rotate(settings.audit_key_path)
