"""What access and refresh tokens look like, and how they are known to be ours.

An access token is a JWT (RFC 7519, with the header of RFC 9068) signed by HS256 and by nothing else: what a token says
of its algorithm is not believed (RFC 8725 3.1). A refresh token is opaque: its session, its number, and a keyed hash
of both, so that of all that were ever given out nothing has to be kept but the number of the newest.
"""

from __future__ import annotations

import base64
import hmac
import re
import time

import jwt

from imaging_ai.people.key import ServerKey

__all__ = ["Signing"]

_ISSUER = _AUDIENCE = "imaging-ai"
_TYPE = "at+jwt"
_ALGORITHM = "HS256"
_CLAIMS = ["iss", "aud", "exp", "iat", "sub", "sid"]
_LONGEST = 1024
_REFRESH = re.compile(r"(iar_(?P<session>[0-9a-f]{32})\.(?P<number>0|[1-9][0-9]{0,8}))\.(?P<mac>[A-Za-z0-9_-]{43})")


class Signing:
    """Makes tokens with the key of this server, and knows them again."""

    def __init__(self, key: ServerKey, access_seconds: float) -> None:
        self._access, self._refresh = key.derive("access token"), key.derive("refresh token")
        self.access_seconds = access_seconds

    def access(self, session: str, name: str) -> str:
        """Make an access token."""
        now = int(time.time())
        claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": name, "sid": session, "iat": now}
        claims["exp"] = now + int(self.access_seconds)
        return jwt.encode(claims, self._access, _ALGORITHM, headers={"typ": _TYPE})

    def session_of_access(self, token: str) -> str | None:
        """Return the session of an access token; None if it is not ours, was changed, or is over."""
        if len(token) > _LONGEST or token.count(".") != 2:
            return None
        try:
            whole = jwt.decode_complete(
                token,
                self._access,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={"require": _CLAIMS, "verify_iat": False},  # clocks of replicas differ a little
            )
        except jwt.InvalidTokenError:
            return None
        session = whole["payload"]["sid"]
        return session if whole["header"].get("typ") == _TYPE and isinstance(session, str) else None

    def refresh(self, session: str, number: int) -> str:
        """Make the refresh token of a number."""
        told = f"iar_{session}.{number}"
        return f"{told}.{self._mac(told)}"

    def read_refresh(self, token: str) -> tuple[str, int] | None:
        """Return session and number of a refresh token; None if it is not ours."""
        match = _REFRESH.fullmatch(token)
        if match is None or not hmac.compare_digest(match["mac"], self._mac(match[1])):
            return None
        return match["session"], int(match["number"])

    def _mac(self, told: str) -> str:
        digest = hmac.digest(self._refresh, told.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
