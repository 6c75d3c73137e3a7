"""WADO-RS rendered and thumbnail resources (PS3.18 10.4.1.1.3, 10.4.1.1.4)."""

from __future__ import annotations

from litestar.handlers import BaseRouteHandler

from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["rendered_handlers"]


def rendered_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    return []
