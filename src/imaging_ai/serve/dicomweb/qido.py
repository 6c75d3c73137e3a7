"""QIDO-RS (PS3.18 10.6): searching."""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["qido_handlers"]


def qido_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    return []
