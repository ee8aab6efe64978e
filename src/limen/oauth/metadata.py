"""What the authorization server says of itself (RFC 8414, OpenID Connect Discovery 1.0, RFC 9207, RFC 9728 section 4).

Built from the configuration, never from a request (OA-49, OA-93), and only what is true: under the well-known name of
OpenID Connect stands the same document, which says that no ID token is signed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from limen.oauth.authorize import Offer
from limen.oauth.recorder import Recorder
from limen.oauth.settings import OAuthSettings
from limen.oauth.web import Handler, Reply, Visit

WELL_KNOWN: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
_METHODS: Final = ("client_secret_basic", "client_secret_post", "private_key_jwt")
_DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
# Anybody's page may read it: there is nothing in it that is not public, and no cookie has a part in it (OA-90).
_OPEN: Final = ("access-control-allow-origin", "*")
_ASKED_FIRST: Final = (
    _OPEN,
    ("access-control-allow-methods", "GET"),
    ("access-control-allow-headers", "MCP-Protocol-Version"),
    ("access-control-max-age", "600"),
)


def server_metadata(
    issuer: str,
    settings: OAuthSettings,
    offers: Mapping[str, Offer],
    *,
    algorithms: Iterable[str] = ("RS256", "ES256", "PS256", "EdDSA"),
    proofs: Iterable[str] = (),
    grants: Iterable[str] = (),
) -> dict[str, Any]:
    """The document. `algorithms`: of clients' assertions; `proofs`: of DPoP proofs; `grants`: other types of grant."""
    device = settings.tokens.device
    document: dict[str, Any] = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "jwks_uri": f"{issuer}/oauth/jwks",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", *([_DEVICE] if device else []), *grants],
        "token_endpoint_auth_methods_supported": ["none", *_METHODS],
        "token_endpoint_auth_signing_alg_values_supported": list(algorithms),
        "revocation_endpoint_auth_methods_supported": ["none", *_METHODS],
        "revocation_endpoint_auth_signing_alg_values_supported": list(algorithms),
        "introspection_endpoint_auth_methods_supported": list(_METHODS),
        "introspection_endpoint_auth_signing_alg_values_supported": list(algorithms),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": True,
        "protected_resources": list(offers),
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [],
    }
    if scopes := list(dict.fromkeys(scope for offer in offers.values() for scope in offer.scopes)):
        document["scopes_supported"] = scopes
    if settings.clients.registration:
        document["registration_endpoint"] = f"{issuer}/oauth/register"
    if device:
        document["device_authorization_endpoint"] = f"{issuer}/oauth/device_authorization"
    if proven := list(proofs):
        document["dpop_signing_alg_values_supported"] = proven
    return document


class Metadata:
    """Answers with the document, which is rendered once."""

    def __init__(self, document: Mapping[str, Any], recorder: Recorder) -> None:
        self._body, self._recorder = orjson.dumps(document), recorder

    def endpoints(self) -> dict[bytes, Handler]:
        """By exact path. The issuer has no path, so nothing is inserted or appended to these (RFC 8414 section 3.1)."""
        return {path.encode(): self.serve for path in WELL_KNOWN}

    async def serve(self, visit: Visit) -> Reply:
        """GET, and what a browser asks before it."""
        if visit.method == "OPTIONS":
            return Reply(204, b"", _ASKED_FIRST)
        if visit.method not in ("GET", "HEAD"):
            return Reply(405, b"", (("allow", "GET, HEAD, OPTIONS"),))
        self._recorder.note("server_metadata", "ok", visit=visit)
        return Reply(200, self._body, (("content-type", "application/json"), _OPEN))
