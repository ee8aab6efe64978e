"""Our side of a sign-in, as a client sees it: through TLS, names and proxies, under `listen.url`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson

from limen.cli.oauth_legs import Finding, Leg, get, members, post, unreachable
from limen.core.ports import Exchange, Fetched
from limen.identity.metadata import metadata_url

_REACH: Final = Leg("front door")
_RESOURCE: Final = Leg("resource metadata")
_CHALLENGE: Final = Leg("challenge")
_SERVER: Final = Leg("server metadata")
_ENDPOINTS: Final = Leg("our endpoints")
_KEYS: Final = Leg("our keys")
_WELL_KNOWN: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
_PROXY: Final = (
    "A proxy in front of us does not pass this path on, or rewrites it: paths have to arrive as the client wrote them, "
    "/.well-known/ and /oauth/ as well as /mcp/."
)
_HOST: Final = (
    "The Host we are called by is not the one of `listen.url`: let the proxy keep the header, or correct `listen.url`."
)
_NAMED: Final = re.compile(r'resource_metadata="([^"]*)"')
_INITIALIZE: Final = orjson.dumps(
    {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "limen-doctor", "version": "1"}
        },
    }
)  # fmt: skip


async def look(
    base: str, resources: Sequence[str], facade: bool, exchange: Exchange, named: Sequence[str]
) -> AsyncIterator[Finding]:
    """Every leg in which a client talks to us. `facade`: we sign clients in, else the issuers `named` do."""
    answer = await get(exchange, f"{base}/healthz")
    if isinstance(answer, str):
        yield unreachable(_REACH, "healthz", answer, "listen.url", base)
        return
    yield _health(base, answer)
    for resource in resources:
        yield await _metadata(resource, metadata_url(resource), [base] if facade else list(named), exchange)
        yield await _challenged(resource, exchange)
    if not facade:
        return
    document: dict[str, Any] = {}
    for path in _WELL_KNOWN:
        found = await get(exchange, base + path)
        yield _server(base, path, found)
        document = document or (members(found) if isinstance(found, Fetched) else {})
    yield await _keys(document.get("jwks_uri") or f"{base}/oauth/jwks", exchange)
    yield await _authorize(document.get("authorization_endpoint") or f"{base}/oauth/authorize", exchange)
    yield await _token(document.get("token_endpoint") or f"{base}/oauth/token", exchange)
    yield await _callback(base, exchange)


def _health(base: str, answer: Fetched) -> Finding:
    if answer.status == 200 and members(answer).get("status") == "ok":
        return _REACH.ok("healthz", base)
    if members(answer).get("status") == "unavailable":
        return _REACH.failed("healthz", "unavailable", "audit", "Limen runs and cannot write its log: `limen doctor`.")
    return _REACH.failed("healthz", f"status {answer.status}, not Limen's answer", "listen.url", _PROXY)


async def _metadata(resource: str, url: str, issuers: list[str], exchange: Exchange) -> Finding:
    """RFC 9728: at the path of this resource, naming exactly it and who signs clients in."""
    path = urlsplit(resource).path
    answer = await get(exchange, url)
    if isinstance(answer, str):
        return unreachable(_RESOURCE, path, answer, "listen.url", url)
    if answer.status != 200:
        return _RESOURCE.failed(path, f"{url}: status {answer.status}", "path", _PROXY)
    document = members(answer)
    if document.get("resource") != resource:
        found = f"resource is {document.get('resource')!r}, not {resource!r}"
        return _RESOURCE.failed(
            path,
            found,
            "resource",
            "What answers has another `listen.url` than this file: another instance, or a running one that has not "
            "read the file again (SIGHUP).",
        )
    if document.get("authorization_servers") != issuers:
        found = f"authorization_servers is {document.get('authorization_servers')!r}, not {issuers!r}"
        remedy = "The running gateway has another configuration than this file: reload it (SIGHUP)."
        return _RESOURCE.failed(path, found, "authorization_servers", remedy)
    if path == "/mcp":  # the root form is the bundle's
        root = url.removesuffix(path)
        if isinstance(other := await get(exchange, root), str) or other.status != 200:
            return _RESOURCE.failed(path, f"{root} does not answer", "path", _PROXY)
    return _RESOURCE.ok(path, url)


async def _challenged(resource: str, exchange: Exchange) -> Finding:
    """A request without a token: 401, and the way to the metadata (RFC 9728 section 5.1)."""
    path = urlsplit(resource).path
    answer = await post(exchange, resource, _INITIALIZE, {"content-type": "application/json"})
    if isinstance(answer, str):
        return unreachable(_CHALLENGE, path, answer, "listen.url", resource)
    if answer.status in (403, 421):
        return _CHALLENGE.failed(path, f"status {answer.status}", "Host", _HOST)
    if answer.status == 200:
        remedy = "Nobody is asked for a token: `identity.unsafe_anonymous` is on, or something else answers."
        return _CHALLENGE.failed(path, "answered without a token", "identity.unsafe_anonymous", remedy)
    if answer.status != 401:
        return _CHALLENGE.failed(path, f"status {answer.status}, not 401", "path", _PROXY)
    told = _NAMED.search(answer.headers.get("www-authenticate", ""))
    wanted = metadata_url(resource)
    if told is None:
        remedy = "A proxy takes the header WWW-Authenticate out of answers, or answers 401 itself: clients need it."
        return _CHALLENGE.failed(path, "401 without resource_metadata", "WWW-Authenticate", remedy)
    if told[1] != wanted:
        remedy = "The gateway that answers has another `listen.url`, or a proxy rewrites the header."
        return _CHALLENGE.failed(path, f"{told[1]}, not {wanted}", "resource_metadata", remedy)
    return _CHALLENGE.ok(path, f"401, {told[1]}")


def _server(base: str, path: str, answer: Fetched | str) -> Finding:
    """RFC 8414 sections 2 and 3.3, as strict clients read it."""
    if isinstance(answer, str):
        return unreachable(_SERVER, path, answer, "listen.url", base + path)
    if answer.status != 200:
        remedy = f"{_PROXY} Or the running gateway has no `oauth` section yet: restart it."
        return _SERVER.failed(path, f"status {answer.status}", "path", remedy)
    document = members(answer)
    if document.get("issuer") != base:
        found = f"issuer is {document.get('issuer')!r}, not {base!r}"
        remedy = "`listen.url` must be the address clients use, letter by letter; reload the gateway after a change."
        return _SERVER.failed(path, found, "issuer", remedy)
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not str(document.get(name, "")).startswith(f"{base}/"):
            found = f"{name} is {document.get(name)!r}"
            return _SERVER.failed(path, found, name, "Something between rewrites our metadata: it must not.")
    if document.get("code_challenge_methods_supported") != ["S256"]:
        found = f"code_challenge_methods_supported is {document.get('code_challenge_methods_supported')!r}"
        return _SERVER.failed(path, found, "code_challenge_methods_supported", "Clients refuse to go on without S256.")
    return _SERVER.ok(path, f"issuer {base}")


async def _keys(url: str, exchange: Exchange) -> Finding:
    answer = await get(exchange, url)
    if isinstance(answer, str):
        return unreachable(_KEYS, "published", answer, "jwks_uri", url)
    keys = members(answer).get("keys")
    if answer.status != 200 or not isinstance(keys, list) or not keys:
        remedy = (
            "No key is published: tokens we issue cannot be verified by anybody. `limen doctor oauth` below `keys`."
        )
        return _KEYS.failed("published", f"{url}: status {answer.status}, no key", "jwks_uri", remedy)
    if any(not isinstance(key, dict) or key.get("kty") == "oct" or "d" in key for key in keys):
        remedy = "A PRIVATE key is published. Stop the gateway, replace the keys, and revoke what they signed."
        return _KEYS.failed("published", url, "keys", remedy)
    return _KEYS.ok("published", f"{len(keys)} keys: {', '.join(str(key.get('kid', '?'))[:20] for key in keys)}")


async def _authorize(url: str, exchange: Exchange) -> Finding:
    """Without parameters it shows a page that says so, under our headers."""
    answer = await get(exchange, url, "text/html")
    if isinstance(answer, str):
        return unreachable(_ENDPOINTS, "authorize", answer, "authorization_endpoint", url)
    if answer.status not in (400, 401):
        return _ENDPOINTS.failed("authorize", f"{url}: status {answer.status}", "path", _PROXY)
    if "frame-ancestors 'none'" not in answer.headers.get("content-security-policy", ""):
        remedy = "Content-Security-Policy does not arrive: a proxy removes or replaces it, and the consent page could "
        remedy += "be framed by others. Let our header pass."
        return _ENDPOINTS.failed("authorize", "no frame-ancestors 'none'", "Content-Security-Policy", remedy)
    return _ENDPOINTS.ok("authorize", url)


async def _token(url: str, exchange: Exchange) -> Finding:
    form = {"grant_type": "authorization_code", "code": "limen-doctor", "client_id": "limen-doctor"}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await post(exchange, url, urlencode(form).encode(), headers)
    if isinstance(answer, str):
        return unreachable(_ENDPOINTS, "token", answer, "token_endpoint", url)
    error = members(answer).get("error")
    if error in ("invalid_client", "invalid_request", "invalid_grant", "invalid_target"):
        if "no-store" not in answer.headers.get("cache-control", ""):
            remedy = "A proxy takes Cache-Control out of answers that hold tokens: let it pass, and do not cache."
            return _ENDPOINTS.failed("token", "no Cache-Control: no-store", "Cache-Control", remedy)
        return _ENDPOINTS.ok("token", f"refuses a code nobody issued: {error}")
    if error == "temporarily_unavailable":
        return _ENDPOINTS.failed("token", "temporarily_unavailable", "storage", "The store or the keys cannot be used.")
    return _ENDPOINTS.failed("token", f"{url}: status {answer.status}", "path", _PROXY)


async def _callback(base: str, exchange: Exchange) -> Finding:
    """Where the provider sends browsers back to. Without a state it refuses, on a page of ours."""
    url = f"{base}/oauth/callback"
    answer = await get(exchange, url, "text/html")
    if isinstance(answer, str):
        return unreachable(_ENDPOINTS, "callback", answer, "listen.url", url)
    if answer.status not in (400, 403):
        return _ENDPOINTS.failed("callback", f"{url}: status {answer.status}", "path", _PROXY)
    return _ENDPOINTS.ok("callback", url)
