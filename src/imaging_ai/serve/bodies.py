"""JSON that is none, told as such: of bodies that are not UTF-8 or nest without end the decoder has errors of its own.

RFC 8259 section 8.1: JSON is UTF-8. Litestar answers what msgspec calls a decoding error with 400, and nothing else.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.exceptions import ClientException

__all__ = ["CarefulRequest"]


class CarefulRequest(Request[Any, Any, Any]):
    """A request whose body may be anything."""

    async def json(self) -> Any:
        """Read the body as JSON.

        Raises
        ------
        ClientException
            If it is not text in UTF-8, or nests too deep.
        """
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError):
            raise ClientException("the body is not JSON in UTF-8, or nests too deep") from None
