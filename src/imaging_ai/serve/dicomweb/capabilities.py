"""Capabilities (PS3.18 8.9, Annex H) at OPTIONS."""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["capabilities_handlers"]


def capabilities_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    return []
