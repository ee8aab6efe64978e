"""A token issuer for tests: signs anything, well-formed or not, with PyJWT's primitives (not with the code under test),
and an in-process Fetch that serves its keys."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from limen.core.call import Call, Caller, Context, Era, Peer, Presented
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import Authenticate
from limen.identity.issuers import IdentitySettings, Issuers, IssuerSettings

NOW = 1_900_000_000
ISSUER = "https://id.example"
RESOURCE = "https://gw.example/hr/mcp"
ALGORITHMS = ("RS256", "ES256", "PS256", "EdDSA")


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def dump(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Clock:
    """Time that moves only when told to."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Key:
    """A signing key with its public JWK."""

    def __init__(self, algorithm: str = "ES256", kid: str | None = "k1", **members: Any) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: Any
        if algorithm[:2] in ("RS", "PS"):
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=members.pop("bits", 2048))
        elif algorithm[:2] == "ES":
            curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1, "ES256K": ec.SECP256K1}
            self.private = ec.generate_private_key(curve[algorithm]())
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()
        text: Any = jwt.get_algorithm_by_name(algorithm).to_jwk(self.private.public_key())
        self.jwk: dict[str, Any] = {**json.loads(text), "alg": algorithm, "use": "sig", **members}
        self.jwk.pop("key_ops", None)
        if kid is not None:
            self.jwk["kid"] = kid
        self.jwk = {name: value for name, value in self.jwk.items() if value is not None}

    def signature(self, message: bytes, algorithm: str | None = None) -> bytes:
        signed: bytes = jwt.get_algorithm_by_name(algorithm or self.algorithm).sign(message, self.private)
        return signed

    def sign(self, header: Any, claims: Any, algorithm: str | None = None) -> str:
        message = f"{b64(dump(header))}.{b64(dump(claims))}"
        return f"{message}.{b64(self.signature(message.encode(), algorithm))}"

    def header(self, **changes: Any) -> dict[str, Any]:
        return without({"alg": self.algorithm, "typ": "at+jwt", "kid": self.kid, **changes})

    def token(self, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """An honest token but for what is changed; None leaves a member out."""
        return self.sign(self.header(**(header or {})), good_claims(**changes))


def without(value: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if member is not None}


def good_claims(**changes: Any) -> dict[str, Any]:
    honest = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": RESOURCE,
        "exp": NOW + 300,
        "iat": NOW,
        "jti": "t-1",
        "client_id": "app",
        "scope": "read call",
    }
    return without({**honest, **changes})


class FakeFetch:
    """Serves JWK sets from memory and counts. `down` makes it fail, `wait` makes it slow."""

    def __init__(self, documents: dict[str, Any] | None = None) -> None:
        self.documents: dict[str, Any] = documents or {}
        self.calls: list[str] = []
        self.down, self.wait = False, 0.0
        self.answers: dict[str, Any] = {}  # of introspection, by token
        self.forms: list[tuple[str, dict[str, str], str, str]] = []

    def publish(self, *keys: Key | dict[str, Any], url: str = f"{ISSUER}/jwks") -> None:
        self.documents[url] = {"keys": [key.jwk if isinstance(key, Key) else key for key in keys]}

    async def get_json(self, url: str) -> bytes:
        self.calls.append(url)
        await asyncio.sleep(self.wait)
        if self.down or url not in self.documents:
            raise DependencyFault("fetch", "down" if self.down else "status 404")
        return dump(self.documents[url])

    async def post_form(self, url: str, form: Mapping[str, str], user: str, password: str) -> bytes:
        self.forms.append((url, dict(form), user, password))
        await asyncio.sleep(self.wait)
        if self.down:
            raise DependencyFault("fetch", "down")
        return dump(self.answers.get(form["token"], {"active": False}))


class World:
    """Authenticate in front of one issuer whose keys come from memory."""

    def __init__(
        self,
        *keys: Key | dict[str, Any],
        clock: Clock | None = None,
        parts: Mapping[str, Any] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        self.clock, self.fetch = clock or Clock(), FakeFetch()
        self.fetch.publish(*keys)
        identity = {name: settings.pop(name) for name in list(settings) if name in IdentitySettings.model_fields}
        default = (IssuerSettings(issuer=ISSUER, jwks_uri=f"{ISSUER}/jwks", **settings),)
        self.settings = IdentitySettings(**{"issuers": default, **identity})
        self.issuers = Issuers(self.settings, self.fetch, self.clock)
        audiences = {"hr": RESOURCE, "fin": "https://gw.example/fin/mcp"}
        self.guard = Authenticate(self.issuers, audiences, self.settings, **parts)

    async def ask(self, *authorization: bytes | str, route: str = "hr", resource: str = RESOURCE) -> Verdict:
        raw = tuple(one if isinstance(one, bytes) else f"Bearer {one}".encode() for one in authorization)
        answer = self.guard.check(context(Presented(raw, resource), route))
        return answer if isinstance(answer, Pass | Refuse) else await answer

    def judge(self, *authorization: bytes | str, **place: str) -> Verdict:
        """A fresh loop per question; keys are fetched first."""

        async def run() -> Verdict:
            await self.issuers.warm()
            return await self.ask(*authorization, **place)

        return asyncio.run(run())


def context(presented: Presented, route: str = "hr", transport: str = "http") -> Context:
    call = Call(
        method="tools/list",
        server=route,
        route=route,
        era=Era.MODERN,
        revision="2026-07-28",
        id=1,
        peer=Peer(transport),
    )
    return Context(call, presented, deadline=float("inf"), reference="r-1")


def caller(verdict: Verdict) -> Caller:
    assert isinstance(verdict, Pass), verdict.detail
    (fact,) = verdict.facts
    assert isinstance(fact, Caller)
    return fact


def reason(verdict: Verdict) -> str:
    return verdict.reason.id if isinstance(verdict, Refuse) else "passed"
