"""WADO-RS (PS3.18 10.4): retrieving instances, frames, metadata and bulk data."""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["wado_handlers"]


def wado_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    return []
