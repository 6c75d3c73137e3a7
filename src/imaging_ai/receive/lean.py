"""Keeping a receiver small."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

__all__ = ["leave_out_decoders"]

#: The decoders, and what pydicom fetches sample files with.
_UNUSED = ("gdcm", "pylibjpeg", "jpeg_ls", "PIL", "requests")


def leave_out_decoders() -> None:
    """Keep pydicom from loading pixel decoders: a fifth of the memory of a process that never decodes a pixel.

    To be called before pydicom is imported. A module that is None in `sys.modules` counts as not installed.
    """
    for name in _UNUSED:
        sys.modules.setdefault(name, cast(ModuleType, None))
