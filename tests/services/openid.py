"""An OpenID provider: the authorization server of Authlib (RFC 6749, 7636, 9068, 9207) with a page to log in.

Its issuer is `http://localhost:…`, which to a browser is another site than `http://127.0.0.1:…`.
"""

from __future__ import annotations

import html
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flask
import werkzeug.serving
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from authlib.oauth2.rfc9207 import IssuerParameter
from authlib.oidc.core.grants import OpenIDCode
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from services import free_port

__all__ = ["PASSWORD", "OpenIdProvider"]

PASSWORD = "known to the provider alone"

_FORM = """<!doctype html><title>The hospital</title><p role="alert">{told}</p>
<form method="post"><input name="name"><input name="password" type="password"><button>Enter</button></form>"""


@dataclass
class Client(ClientMixin):
    """Who may ask for tokens. A public client has no secret."""

    client_id: str
    secret: str = ""
    redirect_uris: tuple[str, ...] = ()

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uris[0]

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(one for one in (scope or "").split() if one in ("openid", "profile"))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return bool(self.secret) and client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == ("client_secret_basic" if self.secret else "none")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code" or (grant_type == "client_credentials" and bool(self.secret))


@dataclass
class User:
    """Somebody whom the hospital knows, by the claims of an ID token."""

    claims: dict[str, Any]

    def get_user_id(self) -> str:
        return str(self.claims["sub"])


@dataclass
class Code(AuthorizationCodeMixin):
    """An authorization code, good once."""

    code: str
    user: User
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class OpenIdProvider:
    """A provider on a free port, and what it knows. `asked` counts requests by path."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://localhost:{self.port}"
        self.clients: dict[str, Client] = {}
        self.users: dict[str, User] = {}
        self.codes: dict[str, Code] = {}
        self.keys: list[RSAKey | ECKey] = []
        self.asked: Counter[str] = Counter()
        self.audience = ""
        self.rotate()
        self.app = _application(self)
        self._server: werkzeug.serving.BaseWSGIServer | None = None
        self._thread = threading.Thread(target=lambda: None)

    def start(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = werkzeug.serving.make_server("127.0.0.1", self.port, self.app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def rotate(self, *, keep: bool = False, curve: str = "") -> None:
        """Sign with another key from now on; `keep` goes on publishing those that there were."""
        told = {"kid": f"key-{time.monotonic_ns()}", "use": "sig"}
        fresh = ECKey.generate_key(curve, told) if curve else RSAKey.generate_key(2048, told)
        self.keys = [fresh, *(self.keys if keep else [])]

    @property
    def algorithm(self) -> str:
        return "ES256" if isinstance(self.keys[0], ECKey) else "RS256"

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
        """Sign what no provider would say."""
        told = {"alg": self.algorithm, "kid": self.keys[0].kid, **(header or {})}
        return jwt.encode(told, claims, self.keys[0], algorithms=[told["alg"]])


def _application(provider: OpenIdProvider) -> flask.Flask:
    app = flask.Flask("openid")
    server = AuthorizationServer(app, query_client=provider.clients.get, save_token=lambda _token, _request: None)
    server.register_grant(_code_grant(provider), [_id_tokens(provider), CodeChallenge(required=True)])
    server.register_grant(grants.ClientCredentialsGrant)
    server.register_token_generator("default", _access_tokens(provider))
    server.register_extension(_issuer_parameter(provider))
    app.before_request(lambda: provider.asked.update([flask.request.path]))

    @app.get("/.well-known/openid-configuration")
    def discovery() -> dict[str, Any]:
        return {
            "issuer": provider.issuer,
            "authorization_endpoint": f"{provider.issuer}/authorize?tenant=1",
            "token_endpoint": f"{provider.issuer}/token",
            "jwks_uri": f"{provider.issuer}/keys",
        }

    @app.get("/keys")
    def keys() -> Any:
        return KeySet(provider.keys).as_dict(private=False)

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.route("/authorize", methods=["GET", "POST"])
    def authorize() -> Any:
        try:
            grant = server.get_consent_grant()
        except OAuth2Error as error:
            return flask.Response(html.escape(str(error)), 400)
        user = provider.users.get(flask.request.form.get("name", ""))
        if user is not None and flask.request.form.get("password") == PASSWORD:
            return server.create_authorization_response(grant=grant, grant_user=user)
        return _FORM.format(told="Who?" if flask.request.form else "")

    return app


def _code_grant(provider: OpenIdProvider) -> type[grants.AuthorizationCodeGrant]:
    class CodeGrant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "none")

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            told = (data.get("nonce"), data.get("code_challenge"), data.get("code_challenge_method"))
            payload = request.payload
            provider.codes[code] = Code(
                code, request.user, payload.client_id, payload.redirect_uri, payload.scope, *told
            )

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            found = provider.codes.get(code)
            return found if found is not None and found.client_id == client.client_id else None

        def delete_authorization_code(self, authorization_code: Code) -> None:
            del provider.codes[authorization_code.code]

        def authenticate_user(self, authorization_code: Code) -> User:
            return authorization_code.user

    return CodeGrant


def _id_tokens(provider: OpenIdProvider) -> OpenIDCode:
    class IdTokens(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return any(code.nonce == nonce for code in provider.codes.values())

        def resolve_client_private_key(self, client: Client) -> Any:
            return provider.keys[0]

        def get_client_algorithm(self, client: Client) -> str:
            return provider.algorithm

        def get_encode_header(self, client: Client) -> dict[str, str]:
            return {"alg": provider.algorithm, "kid": str(provider.keys[0].kid)}

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": provider.issuer, "aud": client.client_id}

        def generate_user_info(self, user: User, scope: str) -> dict[str, Any]:
            return user.claims

    return IdTokens(require_nonce=True)


def _access_tokens(provider: OpenIdProvider) -> Callable[..., Any]:
    class AccessTokens(JWTBearerTokenGenerator):
        def get_jwks(self) -> Any:
            self.alg = provider.algorithm
            return KeySet(provider.keys[:1])

        def get_audiences(self, client: Client, user: User | None, scope: str) -> str:
            return provider.audience or client.client_id

        def get_extra_claims(self, client: Client, grant_type: str, user: User | None, scope: str) -> dict[str, Any]:
            return user.claims if user else {"groups": ["programs"]}

    return AccessTokens(issuer=provider.issuer)


def _issuer_parameter(provider: OpenIdProvider) -> IssuerParameter:
    class Issuer(IssuerParameter):
        def get_issuer(self) -> str:
            return provider.issuer

    return Issuer()
