"""Microsoft Entra ID on loopback, over HTTP: one tenant that signs people in for one app registration, version 2.0.

    with running_entra(redirect_uris=["https://gw.example/oauth/callback"]) as entra:
        settings = entra.settings()            # of `oauth.provider`, as JSON
        back = entra.follow(url)               # what a browser does: the redirect back to us, with code or error
        entra.user = ""                        # the next person sees a page and types who they are
        entra.challenge = CLAIMS               # conditional access: what is redeemed from now on is refused
        entra.seen[-1].form                    # what was sent to it

It refuses as the service does, in its words: an AADSTS number in `error_description` and `error_codes`, 200 and a page
where it will not redirect. Known quirks are kept: no registration, no `code_challenge_methods_supported`, no `iss` in
the response, no `resource` that its scopes do not name, a scope on every leg, one resource for all scopes, another
`sub` for each client. Numbers and words come from public reports of the service, which could not be asked itself.
"""

from __future__ import annotations

import hashlib
import html
import json
import secrets
import ssl
import time
import uuid
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import httpx2
import jwt

from minting import Key

TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"
CLIENT = "77777777-aaaa-4bbb-8ccc-000000000007"
GRAPH = "00000003-0000-0000-c000-000000000000"
CLAIMS = '{"access_token":{"capolids":{"essential":true,"values":["c1"]}}}'
_PLAIN = frozenset({"openid", "profile", "email", "offline_access"})
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TEXTS = {
    1002012: "The provided value for scope is not valid. Client credential flows must have a scope value with "
    "/.default suffixed to the resource identifier (application ID URI).",
    28000: "Provided value for the input parameter scope is not valid because it contains more than one resource.",
    50011: "The redirect URI '{0}' specified in the request does not match the redirect URIs configured for the "
    "application '{1}'.",
    500011: "The resource principal named {0} was not found in the tenant.",
    500112: "The reply address '{0}' does not match the reply address provided when requesting Authorization code.",
    50013: "Assertion failed signature validation.",
    500131: "Assertion audience does not match the Client app presenting the assertion.",
    50058: "A silent sign-in request was sent but no user is signed in.",
    50076: "Due to a configuration change made by your administrator, or because you moved to a new location, you must "
    "use multi-factor authentication to access '{0}'.",
    501481: "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
    53003: "Access has been blocked by Conditional Access policies.",
    54005: "OAuth2 Authorization code was already redeemed.",
    65001: "The user or administrator has not consented to use the application with ID '{0}'.",
    650053: "The application asked for scope '{0}' that doesn't exist on the resource '{1}'.",
    65004: "User declined to consent to access the app.",
    700016: "Application with identifier '{0}' was not found in the directory.",
    700027: "The certificate with identifier used to sign the client assertion is not registered on application.",
    70008: "The provided authorization code or refresh token has expired due to inactivity.",
    70011: "The provided value for the input parameter 'scope' isn't valid. The scope '{0}' isn't valid.",
    7000114: "Application '{0}' is not allowed to make application on-behalf-of calls.",
    7000215: "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, "
    "not the client secret ID.",
    7000218: "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    7000222: "The provided client secret keys are expired.",
    70003: "The app requested an unsupported grant type '{0}'.",
    900144: "The request body must contain the following parameter: '{0}'.",
    901002: "The 'resource' request parameter is not supported.",
    9002313: "Invalid request. Request is malformed or invalid.",
    9010010: "The resource parameter provided in the request doesn't match with the requested scopes.",
}


class Refused(Exception):
    """An answer with an AADSTS number. `page`: nothing is sent back to a client whose address is not known."""

    def __init__(self, code: int, error: str, *words: str, status: int = 400, page: bool = False, **more: Any) -> None:
        super().__init__(code)
        self.error, self.status, self.page, self.more = error, status, page, more
        self.code, trace = code, str(uuid.uuid4())
        text = _TEXTS[code].format(*words)
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        self.document = {
            "error": error,
            "error_description": f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {trace} Timestamp: {when}",
            "error_codes": [code], "timestamp": when, "trace_id": trace, "correlation_id": trace,
            "error_uri": f"https://login.microsoftonline.com/error?code={code}", **more,
        }  # fmt: skip


@dataclass
class Seen:
    """One request, as it came."""

    method: str
    path: str
    form: dict[str, str]  # of the query or the body
    headers: Mapping[str, str] = field(repr=False)


@dataclass
class _Grant:
    user: str
    client: str
    scopes: tuple[str, ...]
    redirect: str = ""
    challenge: str = ""
    nonce: str = ""
    used: bool = False
    at: float = field(default_factory=time.time)


class EntraProvider:
    """The tenant. Attributes may be changed while it runs; the next request meets the change."""

    def __init__(self, redirect_uris: Sequence[str], scopes: Sequence[str], downstream: Mapping[str, Sequence[str]]):
        self.issuer = ""  # known when it listens
        self.client_id, self.client_secret = CLIENT, "S3cr~et." + secrets.token_urlsafe(12)
        self.app_uri = f"api://{CLIENT}"
        self.redirect_uris = list(redirect_uris)
        self.offered = {self.app_uri: list(scopes), GRAPH: ["User.Read"]}  # scopes by resource
        self.offered.update({uri: list(names) for uri, names in downstream.items()})
        self.key = Key("RS256", kid="entra-1")
        self.client_keys: list[Any] = []  # public keys of a certificate credential
        self.user = "alice"  # who is signed in already; "": a page asks
        self.claims: dict[str, dict[str, Any]] = {}  # more claims of the tokens, by user
        self.consented, self.secret_expired, self.blocked = True, False, False
        self.challenge = ""  # claims that conditional access demands of what is redeemed
        self.skew = 0.0  # seconds its clock is ahead
        self.discovery: dict[str, Any] = {}  # members to change; None leaves one out
        self.replaced: dict[str, tuple[int, bytes]] = {}  # status and body by path
        self.delay = 0.0
        self.seen: list[Seen] = []
        self.grants: dict[str, _Grant] = {}

    # -- for tests ------------------------------------------------------------------------------------------------
    @property
    def root(self) -> str:
        """Where the tenant's endpoints are."""
        return self.issuer.removesuffix("/v2.0")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """`oauth.provider` for this registration."""
        scopes = ["openid", "profile", "offline_access", f"{self.app_uri}/{self.offered[self.app_uri][0]}"]
        return {
            "issuer": self.issuer, "kind": "entra", "client_id": self.client_id, "client_secret": self.client_secret,
            "scopes": scopes, **changes,
        }  # fmt: skip

    def follow(self, url: str, user: str = "", verify: ssl.SSLContext | bool = True) -> str:
        """A browser without a past opens the URL and signs in: the address it is sent back to."""
        with httpx2.Client(timeout=20, trust_env=False, verify=verify) as client:
            page = client.get(url)
            if page.status_code == 200 and 'name="login"' in page.text:
                page = client.post(url.split("?")[0] + "?" + urlsplit(url).query, data={"login": user or "alice"})
            if not page.is_redirect:
                raise RuntimeError(f"no redirect: {page.status_code} {page.text[:300]}")
            return page.headers["location"]

    def token(self, user: str = "alice", scope: str = "", **changes: Any) -> str:
        """An access token for our registration, as a client that needs no Limen would bring it."""
        return self._access(user, (f"{self.app_uri}/{scope or self.offered[self.app_uri][0]}",), **changes)

    # -- the endpoints --------------------------------------------------------------------------------------------
    def answer(self, request: Seen) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        place = request.path.removeprefix(urlsplit(self.root).path)
        if request.path in self.replaced or place in self.replaced:
            status, body = self.replaced.get(request.path) or self.replaced[place]
            return status, {"content-type": "application/json"}, body
        if place == "/v2.0/.well-known/openid-configuration":
            return _json(200, self._discovery())
        if place == "/discovery/v2.0/keys":
            return _json(200, {"keys": [{**self.key.jwk, "issuer": self.issuer}]})
        if place == "/oauth2/v2.0/authorize":
            return self._authorize(request)
        if place == "/oauth2/v2.0/token" and request.method == "POST":
            try:
                return _json(200, self._token(request))
            except Refused as refused:
                return _json(refused.status, refused.document)
        return 404, {}, b""

    def _discovery(self) -> dict[str, Any]:
        honest = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.root}/oauth2/v2.0/authorize",
            "token_endpoint": f"{self.root}/oauth2/v2.0/token",
            "jwks_uri": f"{self.root}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "tenant_region_scope": "EU",
        }
        return {name: value for name, value in {**honest, **self.discovery}.items() if value is not None}

    def _authorize(self, request: Seen) -> tuple[int, dict[str, str], bytes]:
        form, typed = request.form, ""
        if request.method == "POST":  # the sign-in page
            typed = form.pop("login", "")
        try:
            self._known(form)
            signed_in = self._cookie(request) or ("" if "none" in form.get("prompt", "").split() else self.user)
            who = typed or signed_in
            back = self._decide(form, who, typed)
        except Refused as refused:
            if refused.page:
                text = html.escape(str(refused.document["error_description"]))
                return 200, {"content-type": "text/html; charset=utf-8"}, f"<title>Sign in</title>{text}".encode()
            back = {"error": refused.error, "error_description": refused.document["error_description"], **refused.more}
        if not back:
            page = '<title>Sign in</title><form method="post"><input name="login"><button>Next</button></form>'
            return 200, {"content-type": "text/html; charset=utf-8"}, page.encode()
        back = {**back, **({"state": form["state"]} if "state" in form else {})}
        headers = {"location": f"{form['redirect_uri']}{'&' if '?' in form['redirect_uri'] else '?'}{urlencode(back)}"}
        if "code" in back:
            headers["set-cookie"] = f"ESTSAUTH={who}; Path=/; HttpOnly; SameSite=Lax"
        return 302, headers, b""

    def _known(self, form: Mapping[str, str]) -> None:
        """What must hold before anything is sent to the address the request names."""
        if "client_id" not in form:
            raise Refused(900144, "invalid_request", "client_id", page=True)
        if form["client_id"] != self.client_id:
            raise Refused(700016, "unauthorized_client", form["client_id"], page=True)
        if form.get("redirect_uri") not in self.redirect_uris:
            raise Refused(50011, "invalid_request", form.get("redirect_uri", ""), self.client_id, page=True)

    def _decide(self, form: Mapping[str, str], who: str, typed: str) -> dict[str, str]:
        """The parameters sent back, or nothing: somebody has to sign in first."""
        if form.get("response_type") != "code":
            raise Refused(900144, "invalid_request", "response_type")
        scopes = self._scopes(form)
        silent = "none" in form.get("prompt", "").split()
        if silent and not who:
            raise Refused(50058, "login_required")
        if not who or (form.get("prompt") == "login" and not self.user and not typed):
            return {}
        if self.blocked:
            raise Refused(53003, "access_denied", page=not silent)
        if not self.consented:
            raise Refused(65001, "consent_required", self.client_id) if silent else Refused(65004, "access_denied")
        code = "1.A" + secrets.token_urlsafe(90)
        self.grants[code] = _Grant(
            who, self.client_id, scopes, form["redirect_uri"], form.get("code_challenge", ""), form.get("nonce", "")
        )
        return {"code": code, "session_state": str(uuid.uuid4())}

    def _scopes(self, form: Mapping[str, str], default: bool = False) -> tuple[str, ...]:
        """What is asked for, of one resource that exists."""
        if "scope" not in form:
            raise Refused(901002 if "resource" in form else 900144, "invalid_request", "scope")
        found: dict[str, None] = {}
        scopes = tuple(form["scope"].split())
        for scope in scopes:
            if scope in _PLAIN:
                continue
            resource, _, name = scope.rpartition("/")
            resource = {"": GRAPH, self.client_id: self.app_uri, "https://graph.microsoft.com": GRAPH}.get(
                resource, resource
            )
            if resource not in self.offered:
                if "://" in resource:
                    raise Refused(500011, "invalid_resource", resource)
                raise Refused(70011, "invalid_scope", scope)
            if name != ".default" and (default or name not in self.offered[resource]):
                if default:
                    raise Refused(1002012, "invalid_scope")
                raise Refused(650053, "invalid_client", name, resource)
            found[resource] = None
        if len(found) > 1:
            raise Refused(28000, "invalid_scope")
        if "resource" in form and form["resource"] not in found:
            raise Refused(9010010, "invalid_target")
        return scopes

    def _cookie(self, request: Seen) -> str:
        pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        return next((value for name, _, value in pairs if name == "ESTSAUTH"), "")

    # -- the token endpoint ---------------------------------------------------------------------------------------
    def _token(self, request: Seen) -> dict[str, Any]:
        form, kind = request.form, request.form.get("grant_type", "")
        if kind == "authorization_code" and not form.get("code", "").startswith("1."):
            raise Refused(9002313, "invalid_request")  # looked at before the client's secret is
        self._client(request)
        if kind == "client_credentials":
            return self._answer("", self._scopes(form, default=True), refresh=False)
        if kind == "authorization_code":
            return self._redeem(form)
        if kind == "refresh_token":
            grant = self.grants.get(form.get("refresh_token", ""))
            if grant is None:
                raise Refused(70008, "invalid_grant")
            self._conditional("invalid_grant")
            return self._answer(grant.user, self._scopes(form))
        if kind == _JWT_BEARER and form.get("requested_token_use") == "on_behalf_of":
            return self._on_behalf(form)
        raise Refused(70003, "unsupported_grant_type", kind)

    def _client(self, request: Seen) -> None:
        form = request.form
        name, secret = form.get("client_id", ""), form.get("client_secret", "")
        basic = request.headers.get("authorization", "")
        if basic.startswith("Basic "):
            name, _, secret = (unquote_plus(part) for part in b64decode(basic[6:]).decode().partition(":"))
        if name != self.client_id:
            raise Refused(700016, "unauthorized_client", name)
        if form.get("client_assertion_type") == _ASSERTION:
            if not any(self._asserted(form.get("client_assertion", ""), key) for key in self.client_keys):
                raise Refused(700027, "invalid_client", status=401)
        elif not secret:
            raise Refused(7000218, "invalid_client", status=401)
        elif secret != self.client_secret:
            raise Refused(7000215, "invalid_client", status=401)
        elif self.secret_expired:
            raise Refused(7000222, "invalid_client", status=401)

    def _asserted(self, assertion: str, key: Any) -> bool:
        try:
            audience = f"{self.root}/oauth2/v2.0/token"
            claims = jwt.decode(assertion, key, algorithms=["RS256", "PS256", "ES256"], audience=audience)
        except jwt.PyJWTError:
            return False
        return bool(claims["iss"] == claims["sub"] == self.client_id)

    def _redeem(self, form: Mapping[str, str]) -> dict[str, Any]:
        grant = self.grants.get(form["code"])
        if grant is None or time.time() - grant.at > 600:
            raise Refused(70008, "invalid_grant")
        if grant.used:
            raise Refused(54005, "invalid_grant")
        grant.used = True
        if form.get("redirect_uri") != grant.redirect:
            raise Refused(500112, "invalid_client", form.get("redirect_uri", ""))
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if grant.challenge and urlsafe_b64encode(verifier).rstrip(b"=").decode() != grant.challenge:
            raise Refused(501481, "invalid_grant")
        self._conditional("invalid_grant")
        return self._answer(grant.user, self._scopes(form), nonce=grant.nonce)

    def _on_behalf(self, form: Mapping[str, str]) -> dict[str, Any]:
        try:
            options: Any = {"verify_aud": False, "verify_nbf": False, "verify_iat": False}
            key = self.key.private.public_key()
            claims = jwt.decode(form.get("assertion", ""), key, algorithms=["RS256"], options=options)
        except jwt.PyJWTError:
            raise Refused(50013, "invalid_grant") from None
        if claims["aud"] not in (self.client_id, self.app_uri):
            raise Refused(500131, "invalid_grant")
        if "scp" not in claims:
            raise Refused(7000114, "invalid_grant", self.client_id)
        scopes = self._scopes(form)
        if not self.consented:
            raise Refused(65001, "invalid_grant", self.client_id, suberror="consent_required")
        self._conditional("interaction_required")
        return self._answer(claims["preferred_username"].partition("@")[0], scopes)

    def _conditional(self, error: str) -> None:
        if self.challenge:
            raise Refused(50076, error, self.client_id, suberror="basic_action", claims=self.challenge)

    # -- tokens ---------------------------------------------------------------------------------------------------
    def _answer(self, user: str, scopes: tuple[str, ...], nonce: str = "", refresh: bool = True) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "token_type": "Bearer", "scope": " ".join(one for one in scopes if one != "offline_access"),
            "expires_in": 4799, "ext_expires_in": 4799, "access_token": self._access(user, scopes),
        }  # fmt: skip
        if refresh and "offline_access" in scopes:
            token = "1.A" + secrets.token_urlsafe(120)
            self.grants[token] = _Grant(user, self.client_id, scopes)
            answer["refresh_token"] = token
        if user and "openid" in scopes:
            answer["id_token"] = self._sign({**self._person(user), "aud": self.client_id, "nonce": nonce or None})
        return answer

    def _access(self, user: str, scopes: tuple[str, ...], **changes: Any) -> str:
        places = [scope.rpartition("/") for scope in scopes if scope not in _PLAIN]
        resource = places[0][0] if places and places[0][0] else GRAPH
        names = [name for _, _, name in places if name != ".default"] or self.offered.get(resource, [])
        claims = {
            **(self._person(user) if user else {"sub": self.client_id, "oid": self.client_id, "idtyp": "app"}),
            "aud": resource.removeprefix("api://"), "azp": self.client_id, "azpacr": "1",
            "scp": " ".join(names) if user else None, "roles": None if user else ["Tasks.Run"],
        }  # fmt: skip
        return self._sign({**claims, **changes})

    def _person(self, user: str) -> dict[str, Any]:
        pairwise = hashlib.sha256(f"{self.client_id}/{user}".encode()).hexdigest()[:43]
        return {
            "sub": pairwise, "oid": str(uuid.uuid5(uuid.NAMESPACE_DNS, user)), "name": user.capitalize(),
            "preferred_username": f"{user}@contoso.example", **self.claims.get(user, {}),
        }  # fmt: skip

    def _sign(self, claims: dict[str, Any]) -> str:
        now = int(time.time() + self.skew)
        whole = {
            "iss": self.issuer, "tid": TENANT, "ver": "2.0", "iat": now, "nbf": now, "exp": now + 4799,
            "uti": secrets.token_urlsafe(12), **claims,
        }  # fmt: skip
        return self.key.sign(self.key.header(typ="JWT"), {k: v for k, v in whole.items() if v is not None})


def _json(status: int, document: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return (
        status,
        {"content-type": "application/json; charset=utf-8", "cache-control": "no-store"},
        json.dumps(document).encode(),
    )


@contextmanager
def running_entra(
    redirect_uris: Sequence[str] = ("http://127.0.0.1:9/oauth/callback",),
    scopes: Sequence[str] = ("access_as_user",),
    downstream: Mapping[str, Sequence[str]] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[EntraProvider]:
    """A tenant that listens. `downstream`: scopes of other APIs by application ID URI, for on-behalf-of. With `tls` it
    is at https://localhost, whose certificate the test brings."""
    tenant = EntraProvider(redirect_uris, scopes, downstream or {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            form = dict(parse_qsl(parts.query, keep_blank_values=True))
            if self.command == "POST":
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                form |= dict(parse_qsl(body, keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Seen(self.command, parts.path, form, headers)
            tenant.seen.append(request)
            time.sleep(tenant.delay)
            status, more, content = tenant.answer(request)
            self.send_response_only(status)
            self.send_header("date", formatdate(time.time() + tenant.skew, usegmt=True))
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Tests look at `seen`."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not trust the certificate hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    place = "http://127.0.0.1" if tls is None else "https://localhost"
    tenant.issuer = f"{place}:{server.server_address[1]}/{TENANT}/v2.0"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield tenant
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
