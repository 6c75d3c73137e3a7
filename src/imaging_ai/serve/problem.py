"""Errors on HTTP: every one is a problem document (RFC 9457), and this is the one place that makes them.

`code` is the error's own short word (`errors`), stable for programs; `detail` is for people. Errors of ours tell their
HTTP status themselves. Anything else is a fault of this server: it is logged under an `incident` number, and the
answer says no more than that number.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import BaseRouteHandler

from imaging_ai.errors import BadParameterError, ImagingAiError, OverLimit, UnavailableError
from imaging_ai.serve.guards import query_name

__all__ = ["MEDIA_TYPE", "BadParameter", "Problem", "problem", "respond"]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class BadParameter(msgspec.Struct, frozen=True):
    """A parameter of the request that cannot be taken, and why."""

    parameter: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document (RFC 9457) with our extension members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    parameters: tuple[BadParameter, ...] = ()
    failed: tuple[str, ...] = ()
    incident: str = ""


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    parameters: tuple[BadParameter, ...] = (),
    failed: tuple[str, ...] = (),
    incident: str = "",
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    """Make the answer that tells a problem."""
    document = Problem(
        type=f"urn:imaging-ai:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        parameters=parameters,
        failed=failed,
        incident=incident,
    )
    return Response(document, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer an error, whatever it is."""
    if isinstance(error, UnavailableError):
        return problem(error.http_status, error.code, error.message, headers={"Retry-After": "5"})
    if isinstance(error, OverLimit):
        return problem(
            error.http_status, error.code, error.message, headers={"Retry-After": str(math.ceil(error.retry_after))}
        )
    if isinstance(error, BadParameterError):
        bad = BadParameter(error.parameter, error.reason)
        return problem(error.http_status, error.code, error.message, parameters=(bad,))
    if isinstance(error, ImagingAiError) and error.http_status < 500:
        return problem(error.http_status, error.code, error.message)
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _refusal(error, request.scope.get("route_handler"))
    if isinstance(error, RecursionError):  # of a parser; litestar takes it for no error of the body
        return problem(400, "bad-request", "the body is nested too deeply")
    incident = secrets.token_hex(4)
    logger.error("incident %s: a request could not be answered", incident, exc_info=error)
    return problem(500, "internal", "this server made a mistake; its log has the incident", incident=incident)


def _refusal(error: HTTPException, handler: BaseRouteHandler | None) -> Response[Problem]:
    status = error.status_code
    code = HTTPStatus(status).phrase.lower().replace(" ", "-")
    told = {"allow", "www-authenticate"}
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() in told}
    if isinstance(error, NotFoundException):
        return problem(status, code, "there is nothing at this address")
    parameters = tuple(_bad_parameters(error.extra, handler))
    detail = "; ".join(f"{bad.parameter}: {bad.message}" for bad in parameters) or error.detail
    return problem(status, code, detail, parameters=parameters, headers=headers)


def _bad_parameters(extra: object, handler: BaseRouteHandler | None) -> Iterator[BadParameter]:
    """Read what litestar tells of arguments (by the handler's names), and our guards of parameters."""
    for entry in extra if isinstance(extra, list) else ():
        if not isinstance(entry, dict) or "message" not in entry:
            continue
        key = entry.get("key", "")
        name = entry.get("parameter") or (query_name(handler, key) if handler else key)
        yield BadParameter(name, entry["message"])
