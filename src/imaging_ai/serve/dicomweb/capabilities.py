"""Capabilities (PS3.18 8.9, Annex H): OPTIONS at any resource tells what it and those below it can do.

The description is made of the routes themselves, so it cannot say what is not there: as WADL
(application/vnd.sun.wadl+xml) or as JSON of the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import msgspec
from litestar import Request, Response, route
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from imaging_ai.serve.dicomweb.media import JSON, choose
from imaging_ai.serve.dicomweb.wire import answer, base_url

__all__ = ["WADL", "Method", "Resource", "capabilities_handlers", "resources_of"]

AnyRequest = Request[Any, Any, Any]

WADL = "application/vnd.sun.wadl+xml"
_SEARCHES = re.compile(r"(patients|studies|series|instances|workitems)\Z")
_SEARCH_PARAMETERS = ("limit", "offset", "includefield", "fuzzymatching", "{attributeID}")
_RENDERING_PARAMETERS = ("annotation", "quality", "viewport", "window", "iccprofile")


class Method(msgspec.Struct, frozen=True):
    """What can be done with a resource."""

    name: str
    parameters: tuple[str, ...]
    represented_as: tuple[str, ...]


class Resource(msgspec.Struct, frozen=True):
    """A resource, by the template of its path below the root."""

    path: str
    methods: tuple[Method, ...]


def resources_of(handlers: Sequence[BaseRouteHandler]) -> tuple[Resource, ...]:
    """Return the resources that handlers answer for."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        if isinstance(handler, HTTPRouteHandler):
            for path in handler.paths:
                methods.setdefault(_template(path), set()).update(handler.http_methods)
    return tuple(
        Resource(path, tuple(_method(name, path) for name in sorted(names))) for path, names in sorted(methods.items())
    )


def capabilities_handlers(handlers: Sequence[BaseRouteHandler]) -> list[BaseRouteHandler]:
    """Return the handler that describes all of these."""
    resources = resources_of(handlers)
    paths = sorted({"/", *(path for one in handlers if isinstance(one, HTTPRouteHandler) for path in one.paths)})

    @route(paths, http_method=["OPTIONS"], sync_to_thread=False, opt={"needs": "nothing"}, status_code=200)
    def capabilities(request: AnyRequest) -> Response[bytes]:
        media_type = choose(request, [WADL, JSON])
        place = request.url.path.rstrip("/").partition("/dicom-web")[2].strip("/")
        below = [one for one in resources if _matches(one.path, place)]
        allowed = {method.name for one in below for method in one.methods if _same(one.path, place)} | {"OPTIONS"}
        headers = {"Allow": ", ".join(sorted(allowed))}
        if media_type == JSON:
            body = msgspec.json.encode({"base": base_url(request), "resources": below})
        else:
            body = _wadl(base_url(request), below)
        return answer(request, body, media_type, headers=headers)

    return [capabilities]


def _template(path: str) -> str:
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path).strip("/")


def _pattern(path: str) -> str:
    return re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))


def _same(path: str, place: str) -> bool:
    return re.fullmatch(_pattern(path), place) is not None


def _matches(path: str, place: str) -> bool:
    """Say whether a resource is at a place or below it."""
    pieces, wanted = path.split("/"), place.split("/") if place else []
    return len(pieces) >= len(wanted) and _same("/".join(pieces[: len(wanted)]), place)


def _method(name: str, path: str) -> Method:
    if path.endswith(("/rendered", "/thumbnail")):
        types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "multipart/related")
        return Method(name, _RENDERING_PARAMETERS, types)
    if name != "GET":
        return Method(name, (), ("application/dicom+json", "application/dicom+xml"))
    if _SEARCHES.search(path):
        types = ("application/dicom+json", 'multipart/related; type="application/dicom+xml"')
        return Method(name, _SEARCH_PARAMETERS, types)
    if path.endswith("/metadata") or path.startswith("workitems"):
        return Method(name, (), ("application/dicom+json", 'multipart/related; type="application/dicom+xml"'))
    if "/frames/" in path or path.endswith("/pixeldata") or "/bulkdata" in path:
        types = ('multipart/related; type="application/octet-stream"', 'multipart/related; type="image/*"')
        return Method(name, (), (*types, "application/octet-stream"))
    return Method(name, (), ('multipart/related; type="application/dicom"; transfer-syntax=*', "application/dicom"))


def _wadl(base: str, resources: Sequence[Resource]) -> bytes:
    pieces = ['<?xml version="1.0" encoding="UTF-8"?>', '<application xmlns="http://wadl.dev.java.net/2009/02">']
    pieces.append(f"<resources base={quoteattr(base)}>")
    for resource in resources:
        pieces.append(f"<resource path={quoteattr(resource.path)}>")
        for method in resource.methods:
            pieces.append(f"<method name={quoteattr(method.name)}><request>")
            pieces += [f'<param name={quoteattr(name)} style="query"/>' for name in method.parameters]
            pieces.append("</request><response>")
            pieces += [f"<representation mediaType={quoteattr(media_type)}/>" for media_type in method.represented_as]
            pieces.append("</response></method>")
        pieces.append("</resource>")
    pieces.append("</resources></application>")
    return "".join(pieces).encode()
