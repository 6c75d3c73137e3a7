"""OHIF at `/viewer`: the files of its installation, and a configuration that leads it to this server.

The viewer itself knows nothing of any patient; what it shows it asks of `/dicom-web`, as any other client does. It may
load and ask for nothing outside this server (Content-Security-Policy): "unsafe-eval" is for its image decoders, which
Emscripten made so. Cross-origin isolation (COEP) is left out: OHIF does not need it, and it would want the header on
every document shown in a frame, such as an encapsulated PDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, Router, route

from imaging_ai.errors import NotFound
from imaging_ai.serve.dicomweb.wire import not_modified, takes_gzip
from imaging_ai.serve.guards import Door
from imaging_ai.serve.viewer_config import app_config
from imaging_ai.serve.viewer_files import ViewerFile, ViewerFiles, ViewerFolder

__all__ = ["PATH", "viewer_router"]

#: Its files are made for this address when they are installed.
PATH = "/viewer"

_PAGE = "index.html"
_CONFIG = "app-config.js"
_FOR_EVER = "public, max-age=31536000, immutable"

AnyRequest = Request[Any, Any, Any]


def viewer_router(folder: Path, doors: Sequence[Door] = ()) -> Router:
    """Answer everything under `/viewer` from the installation in `folder`."""
    viewer = ViewerFolder(folder)

    reading = [HttpMethod.GET, HttpMethod.HEAD]

    @route("/", http_method=reading, sync_to_thread=True, opt={"needs": "read"})
    def page(request: AnyRequest) -> Response[bytes]:
        return _give(viewer, request, _PAGE)

    @route("/{path:path}", http_method=reading, sync_to_thread=True, opt={"needs": "read"})
    def file(request: AnyRequest, path: str) -> Response[bytes]:
        return _give(viewer, request, path.strip("/"))

    return Router(
        PATH,
        route_handlers=[page, file],
        middleware=list(doors),
        response_headers={
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
        include_in_schema=False,
    )


def _give(viewer: ViewerFolder, request: AnyRequest, name: str) -> Response[bytes]:
    installed = viewer.files()
    if installed is None:
        raise NotFound("the viewer is not installed; `make viewer` or `imaging-ai viewer install` does that")
    if name == _CONFIG:
        body = app_config(PATH, "/dicom-web")
        return Response(body, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
    if name not in installed.files and "." not in name.rpartition("/")[2]:
        name = _PAGE  # an address within the application
    if name not in installed.files:
        raise NotFound("the viewer has no such file")
    return _file(request, viewer.path / name, installed.files[name], _page_headers(installed) if name == _PAGE else {})


def _file(request: AnyRequest, path: Path, file: ViewerFile, headers: dict[str, str]) -> Response[bytes]:
    zipped = file.compressed and takes_gzip(request)
    etag = f'{file.etag[:-1]}-gz"' if zipped else file.etag
    caching = _FOR_EVER if file.immutable else "no-cache"
    headers = {**headers, "Cache-Control": caching, "Vary": "Accept-Encoding", "ETag": etag}
    if not_modified(request, etag):
        return Response(b"", status_code=304, headers=headers)
    if zipped:
        headers["Content-Encoding"] = "gzip"
        path = path.with_name(f"{path.name}.gz")
    return Response(path.read_bytes(), media_type=file.media_type, headers=headers)


def _page_headers(installed: ViewerFiles) -> dict[str, str]:
    scripts = " ".join(f"'{one}'" for one in installed.scripts)
    policy = {
        "default-src": "'self'",
        "script-src": f"'self' 'unsafe-eval' {scripts}",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "object-src": "'self' blob:",
        "frame-src": "'self' blob:",
        "frame-ancestors": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {sources}".strip() for name, sources in policy.items()),
        "Referrer-Policy": "no-referrer",
    }
