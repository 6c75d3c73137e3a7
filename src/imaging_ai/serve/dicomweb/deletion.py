"""DELETE of studies, series and instances (as PS3.18 does not have it, but archives do)."""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["deletion_handlers"]


def deletion_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    return []
