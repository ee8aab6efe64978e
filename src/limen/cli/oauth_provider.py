"""The provider's side of a sign-in, without anybody signing in: metadata, keys, clock, our client and address there."""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

from limen.cli.oauth_legs import Finding, Leg, get, members, post, unreachable
from limen.core.encoding import encode_base64url
from limen.core.ports import Exchange, Fetched
from limen.oauth.provider_kinds import KINDS
from limen.oauth.remedies import ENTRA, entra_number, remedy
from limen.oauth.settings import ProviderSettings

_DISCOVERY: Final = Leg("provider metadata")
_KEYS: Final = Leg("provider keys")
_CLOCK: Final = Leg("clock")
_CLIENT: Final = Leg("our client there")
_RETURN: Final = Leg("way back")
_SCOPES: Final = Leg("scopes")
_SKEW: Final = 30.0  # seconds of difference that start to matter
_TOO_MUCH: Final = 60.0
_MICROSOFT: Final = ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn")
_PLAIN: Final = frozenset({"openid", "profile", "email", "offline_access", "address", "phone"})
_GOOD_SILENCE: Final = frozenset(
    {"login_required", "interaction_required", "consent_required", "account_selection_required"}
)
_ASYMMETRIC: Final = ("RS", "PS", "ES", "Ed")
_FORM: Final = "application/x-www-form-urlencoded"


async def look(settings: ProviderSettings, callback: str, exchange: Exchange) -> AsyncIterator[Finding]:
    """Every leg in which we talk to the provider. `callback`: where it sends browsers back to."""
    yield _kind(settings)
    for finding in _scopes(settings):
        yield finding
    document, where, answer = await _discover(settings.issuer, exchange)
    if document is None:
        yield _undiscovered(settings, where, answer)
        return
    assert isinstance(answer, Fetched)
    yield _clock(answer)
    wrong = set()
    for finding in _metadata(settings, document, where):
        if finding.state == "failed":
            wrong.add(finding.field)
        yield finding
    yield await _keys(document, exchange)
    if not wrong & {"issuer", "token_endpoint", "authorization_endpoint"}:  # our secret goes to nobody else
        yield await _client(settings, document, callback, exchange)
        yield await _return(settings, document, callback, exchange)


def _kind(settings: ProviderSettings) -> Finding:
    host, kind = urlsplit(settings.issuer).hostname or "", settings.kind
    tenant = urlsplit(settings.issuer).path.strip("/").split("/")[0]
    if host in _MICROSOFT and kind != "entra":
        text = "Set `oauth.provider.kind: entra`: it needs other parameters than OpenID Connect's (no `resource`)."
        return _DISCOVERY.failed("kind", f"{host} with kind {kind}", "oauth.provider.kind", text)
    if kind == "entra" and tenant in ("common", "organizations", "consumers"):
        text = "Name one tenant by its id: https://login.microsoftonline.com/<tenant id>/v2.0. With an alias anybody "
        text += "with any Microsoft account signs in."
        return _DISCOVERY.failed("kind", f"tenant {tenant}", "oauth.provider.issuer", text)
    if kind == "entra" and not settings.issuer.endswith("/v2.0"):
        text = "Version 2.0 is needed: https://login.microsoftonline.com/<tenant id>/v2.0, without a final slash."
        return _DISCOVERY.failed("kind", settings.issuer, "oauth.provider.issuer", text)
    return _DISCOVERY.ok("kind", kind)


def asked_scopes(settings: ProviderSettings) -> tuple[str, ...]:
    """Scopes as the provider spells them, as a sign-in asks for them."""
    more = ("offline_access",) if settings.refresh else ()
    return KINDS[settings.kind].scopes((*settings.scopes, *more), settings.client_id)


def _scopes(settings: ProviderSettings) -> list[Finding]:
    scopes = asked_scopes(settings)
    findings = []
    if "openid" not in scopes:
        text = "Add openid to `oauth.provider.scopes`: without it there is no ID token, and nobody is signed in."
        findings.append(_SCOPES.failed("openid", " ".join(scopes), "oauth.provider.scopes", text))
    apis = {scope.rpartition("/")[0] for scope in scopes if scope not in _PLAIN}
    if settings.kind == "entra" and len(apis) > 1:
        findings.append(_SCOPES.failed("one API", ", ".join(sorted(apis)), "oauth.provider.scopes", ENTRA[28000]))
    return findings or [_SCOPES.ok("asked for", " ".join(scopes))]


async def _discover(issuer: str, exchange: Exchange) -> tuple[dict[str, Any] | None, str, Fetched | str]:
    """OpenID Connect Discovery 4, then RFC 8414 section 3.1: the first that is a document of anybody's."""
    parts, first = urlsplit(issuer), None
    well_known = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
    for url in (f"{issuer.rstrip('/')}/.well-known/openid-configuration", well_known):
        answer = await get(exchange, url)
        first = first or (url, answer)
        if isinstance(answer, Fetched) and answer.status == 200 and (document := members(answer)):
            return document, url, answer
    assert first is not None
    return None, *first


def _undiscovered(settings: ProviderSettings, url: str, answer: Fetched | str) -> Finding:
    if isinstance(answer, str):
        return unreachable(_DISCOVERY, "document", answer, "oauth.provider.issuer", url)
    number = entra_number(answer.body.decode("utf-8", "replace"))
    text = ENTRA.get(number) or (
        "There is no metadata at this address. The issuer is what the provider's own metadata calls itself: Keycloak "
        "https://HOST/realms/REALM, Okta https://ORG.okta.com/oauth2/default, Auth0 https://TENANT.auth0.com/ (with "
        "the slash), Google https://accounts.google.com, Entra https://login.microsoftonline.com/TENANT/v2.0."
    )
    return _DISCOVERY.failed("document", f"{url}: status {answer.status}", "oauth.provider.issuer", text)


def _clock(answer: Fetched) -> Finding:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return _CLOCK.unsure("difference", "the provider's answer has no date")
    apart = time.time() - theirs
    found = f"{abs(apart):.0f} s {'behind' if apart < 0 else 'ahead of'} the provider"
    if abs(apart) > _TOO_MUCH:
        text = "Set this machine's clock (NTP): ID tokens will be refused as expired or not valid yet."
        return _CLOCK.failed("difference", found, "clock", text)
    if abs(apart) > _SKEW:
        return _CLOCK.unsure("difference", found, "clock", "Look after this machine's clock (NTP).")
    return _CLOCK.ok("difference", found)


def _metadata(settings: ProviderSettings, document: Mapping[str, Any], where: str) -> list[Finding]:
    findings, issuer = [], document.get("issuer")
    if issuer != settings.issuer:
        text = f"Write `oauth.provider.issuer: {issuer}` exactly so, if that is whom you mean (a final slash counts)."
        if "{tenantid}" in str(issuer):
            text = "Name one tenant by its id in `oauth.provider.issuer`."
        found = f"the provider calls itself {issuer!r}, the file {settings.issuer!r}"
        findings.append(_DISCOVERY.failed("issuer", found, "issuer", text))
    else:
        findings.append(_DISCOVERY.ok("issuer", where))
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        url = document.get(name)
        plain = isinstance(url, str) and urlsplit(url).scheme == "http" and not settings.issuer.startswith("http:")
        if not isinstance(url, str) or plain or urlsplit(url).scheme not in ("https", "http"):
            text = "The provider's metadata is not usable; if a proxy answers for the provider, it must not change it."
            findings.append(_DISCOVERY.failed(name, repr(url), name, text))
    methods = document.get("code_challenge_methods_supported")
    if methods is None and settings.kind == "entra":
        findings.append(_DISCOVERY.ok("PKCE", "not announced; Entra ID is known to take S256"))
    elif methods is None:
        findings.append(_DISCOVERY.unsure("PKCE", "code_challenge_methods_supported is not announced"))
    elif "S256" not in methods:
        text = "The provider takes no S256: choose one that does; without it a stolen code is good for a token."
        findings.append(_DISCOVERY.failed("PKCE", repr(methods), "code_challenge_methods_supported", text))
    else:
        findings.append(_DISCOVERY.ok("PKCE", "S256"))
    if "code" not in document.get("response_types_supported", ["code"]):
        text = "The provider does not offer the code flow, or not to this realm."
        findings.append(_DISCOVERY.failed("code flow", "not offered", "response_types_supported", text))
    offered = document.get("scopes_supported")
    unknown = [one for one in asked_scopes(settings) if offered and one not in offered and ":" not in one]
    if unknown:
        text = "Providers need not list all; if the sign-in fails with invalid_scope, these are the ones."
        findings.append(_SCOPES.unsure("announced", ", ".join(unknown), "scopes_supported", text))
    return findings


async def _keys(document: Mapping[str, Any], exchange: Exchange) -> Finding:
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        return _KEYS.failed("published", "no jwks_uri", "jwks_uri", "ID tokens cannot be verified without it.")
    answer = await get(exchange, url)
    if isinstance(answer, str):
        return unreachable(_KEYS, "published", answer, "jwks_uri", url)
    keys = members(answer).get("keys")
    if answer.status != 200 or not isinstance(keys, list):
        text = "There is no key set where the provider's metadata says: a proxy in between, or the provider is broken."
        return _KEYS.failed("published", f"{url}: status {answer.status}", "jwks_uri", text)
    usable = [
        one
        for one in keys
        if isinstance(one, dict) and one.get("kty") in ("RSA", "EC", "OKP") and one.get("use", "sig") == "sig"
    ]
    announced = document.get("id_token_signing_alg_values_supported", ["RS256"])
    if not usable or not any(str(one).startswith(_ASYMMETRIC) for one in announced):
        text = "ID tokens must be signed with a published key (RS256, ES256, ...): change it in the provider's client "
        text += "settings; HS256 and none are not taken."
        return _KEYS.failed("published", f"{len(keys)} keys, none to verify signatures with", "keys", text)
    return _KEYS.ok("published", f"{len(usable)} keys; ID tokens: {', '.join(map(str, announced))}")


async def _client(
    settings: ProviderSettings, document: Mapping[str, Any], callback: str, exchange: Exchange
) -> Finding:
    """Redeem a code nobody issued: whoever answers invalid_grant has let us in as the client."""
    secret = settings.client_secret.get_secret_value() if settings.client_secret is not None else ""
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    basic = bool(secret) and ("client_secret_basic" in methods or "client_secret_post" not in methods)
    form = {"grant_type": "authorization_code", "code": "limen-doctor", "redirect_uri": callback}
    form |= {"code_verifier": secrets.token_urlsafe(32), "client_id": settings.client_id}
    answer = await _redeem(str(document["token_endpoint"]), form, settings.client_id, secret, basic, exchange)
    if isinstance(answer, Fetched) and settings.kind == "entra" and secret and _inconclusive(answer):
        # Entra looks at the code before it looks at us; a token for ourselves it gives to nobody else.
        form = {"grant_type": "client_credentials", "scope": f"{settings.client_id}/.default"}
        form["client_id"] = settings.client_id
        answer = await _redeem(str(document["token_endpoint"]), form, settings.client_id, secret, basic, exchange)
    if isinstance(answer, str):
        return unreachable(_CLIENT, "credentials", answer, "token_endpoint", str(document["token_endpoint"]))
    said = members(answer)
    error, text = str(said.get("error", "")), str(said.get("error_description", ""))
    if answer.status == 200 or error == "invalid_grant":
        return _CLIENT.ok("credentials", f"{settings.client_id} is let in{'' if secret else ' without a secret'}")
    if error in ("invalid_client", "unauthorized_client"):
        number = entra_number(text)
        field = "client_id" if number in (700016, 70001) or error == "unauthorized_client" else "client_secret"
        what = ENTRA.get(number) or (
            "The provider does not let us in: compare `oauth.provider.client_id` and `client_secret` with its client "
            "settings, whether the client is confidential there, and whether it may use the code flow."
        )
        return _CLIENT.failed("credentials", f"{error} {text}", f"oauth.provider.{field}", what)
    if settings.kind == "entra" and not secret:
        return _CLIENT.unsure("credentials", "there is no secret", "oauth.provider.client_secret", ENTRA[7000218])
    what = remedy("provider", error, "", text) or "The sign-in itself will tell; look at it with `limen signins watch`."
    return _CLIENT.unsure("credentials", f"status {answer.status} {error} {text}", "oauth.provider.client_secret", what)


def _inconclusive(answer: Fetched) -> bool:
    return members(answer).get("error") not in ("invalid_client", "unauthorized_client")


async def _redeem(
    url: str, form: dict[str, str], client: str, secret: str, basic: bool, exchange: Exchange
) -> Fetched | str:
    headers = {"content-type": _FORM}
    if basic:
        pair = f"{quote_plus(client)}:{quote_plus(secret)}".encode()
        headers["authorization"] = f"Basic {b64encode(pair).decode()}"
    elif secret:
        form = {**form, "client_secret": secret}
    return await post(exchange, url, urlencode(form).encode(), headers)


async def _return(
    settings: ProviderSettings, document: Mapping[str, Any], callback: str, exchange: Exchange
) -> Finding:
    """Ask silently (prompt=none): only a registered address gets the answer that nobody is signed in."""
    challenge = encode_base64url(sha256(secrets.token_bytes(32)).digest())
    state = secrets.token_urlsafe(16)
    query = {
        "response_type": "code", "client_id": settings.client_id, "redirect_uri": callback, "state": state,
        "scope": " ".join(asked_scopes(settings)), "nonce": secrets.token_urlsafe(16), "prompt": "none",
        "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    endpoint = str(document["authorization_endpoint"])
    answer = await get(exchange, f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", "text/html")
    if isinstance(answer, str):
        return unreachable(_RETURN, "redirect_uri", answer, "authorization_endpoint", endpoint)
    place = answer.headers.get("location", "")
    register = f"Register {callback} at the provider, byte for byte, as a redirect address of a web application."
    if 300 <= answer.status < 400 and place.partition("?")[0] == callback:
        return _came_back(settings, document, parse_qs(urlsplit(place).query), state)
    page = answer.body.decode("utf-8", "replace")
    if number := entra_number(page):
        field = {700016: "oauth.provider.client_id", 50011: "redirect_uri"}.get(number, "redirect_uri")
        return _RETURN.failed("redirect_uri", f"AADSTS{number}", field, f"{ENTRA.get(number, '')} {register}".strip())
    if answer.status >= 400:
        found = f"the provider shows an error (status {answer.status}) instead of sending the browser back"
        what = f"{register} If it is there: `oauth.provider.client_id` names no client of this provider."
        return _RETURN.failed("redirect_uri", found, "redirect_uri", what)
    found = f"status {answer.status}: the provider shows a page, or goes elsewhere, where it was asked to be silent"
    return _RETURN.unsure("redirect_uri", found, "redirect_uri", f"Cannot be told from here. {register}")


def _came_back(
    settings: ProviderSettings, document: Mapping[str, Any], said: Mapping[str, list[str]], state: str
) -> Finding:
    error, text = said.get("error", [""])[0], said.get("error_description", [""])[0]
    if said.get("state") != [state]:
        what = "The provider does not give `state` back as it was: sign-ins will be refused."
        return _RETURN.failed("state", "changed", "state", what)
    if document.get("authorization_response_iss_parameter_supported") and said.get("iss") != [settings.issuer]:
        found = f"iss is {said.get('iss', [''])[0]!r}, not {settings.issuer!r}"
        return _RETURN.failed("iss", found, "iss", "The provider announces RFC 9207 and answers with another name.")
    if error in _GOOD_SILENCE or not error:
        return _RETURN.ok("redirect_uri", f"registered; a silent sign-in is answered {error or 'with a code'}")
    field = {"invalid_scope": "oauth.provider.scopes", "invalid_target": "resource"}.get(error, error)
    what = remedy("callback", error, "", text) or f"The provider refuses the request: {error}."
    return _RETURN.failed("request", f"{error} {text}", field, what)
