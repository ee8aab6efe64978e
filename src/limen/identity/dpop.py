"""Proof of possession of the key a token is bound to (RFC 9449).

A proof is good once, for one method and one URL, with one token. The URL is the configured one: what Host or a proxy's
headers say has no part in it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final
from urllib.parse import urlsplit

from limen.core.call import Binding, Presented
from limen.core.encoding import encode_base64url
from limen.core.ports import Table
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.identity.keys import (
    AlgorithmList,
    VerificationKey,
    decode_base64url,
    read_key,
    signature_holds,
)
from limen.identity.nonces import Nonces
from limen.identity.settings import DpopSettings
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

MAX_PROOF: Final = 8 << 10
_LIMITS: Final = JsonLimits(size=MAX_PROOF, depth=4, members=64, string=MAX_PROOF)
# A pointer to another key, and whatever changes how the rest is to be read.
_REFUSED_HEADERS: Final = frozenset({"crit", "jku", "x5u", "x5c", "b64", "enc", "zip", "p2c", "p2s", "epk"})
_MAX_TEXT: Final = 1024
_SKEW: Final = 60  # seconds the clocks of replicas may differ: a proof is remembered that much longer
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_PORTS: Final = {"https": 443, "http": 80}


class ProofRefused(Exception):
    """The proof is not accepted. The message is for the audit."""


class NonceWanted(Exception):
    """The proof may be good, but holds no recent nonce of ours. `nonce` is one to try again with."""

    def __init__(self, nonce: str) -> None:
        super().__init__("no nonce, or an old one")
        self.nonce = nonce


@dataclass(frozen=True, slots=True)
class Proof:
    """A well-formed proof. Nothing in it is proven yet."""

    token: bytes = field(repr=False)
    key: VerificationKey
    jti: str
    htm: str
    htu: str
    iat: int
    ath: str
    nonce: str | None


def read_proof(proof: bytes, algorithms: frozenset[str], *, bare: bool = False) -> Proof:
    """Take a proof apart (RFC 9449 section 4.2). Raises ProofRefused.

    The key is public, of a kind and strength we take, and fits the algorithm; its private half must not be there.
    `bare`: it comes without a token, so there is no `ath`, which is "" then.
    """
    if len(proof) > MAX_PROOF:
        raise ProofRefused("larger than a proof may be")
    segments = proof.decode("ascii", "replace").split(".")
    if len(segments) != 3:
        raise ProofRefused("not a compact JWS")
    try:
        header, claims = (parse(decode_base64url(segment), _LIMITS) for segment in segments[:2])
        decode_base64url(segments[2])
    except (ValueError, NotJson) as error:
        raise ProofRefused(f"malformed: {error}") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ProofRefused("header and payload must be JSON objects")
    if header.get("typ") != "dpop+jwt":
        raise ProofRefused("typ is not dpop+jwt")
    if refused := _REFUSED_HEADERS.intersection(header):
        raise ProofRefused(f"header parameter not accepted: {', '.join(sorted(refused))}")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise ProofRefused("algorithm not accepted")
    key = read_key(header.get("jwk"))
    if key is None or algorithm not in key.algorithms:
        raise ProofRefused("jwk is not one public key that fits the algorithm")
    issued = claims.get("iat")
    if type(issued) is not int:
        raise ProofRefused("iat is not a whole number of seconds")
    nonce = _text(claims, "nonce") if "nonce" in claims else None
    jti, htm, htu = (_text(claims, name) for name in ("jti", "htm", "htu"))
    ath = "" if bare else _text(claims, "ath")
    return Proof(proof, key, jti, htm, htu, issued, ath, nonce)


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise ProofRefused(f"{name} is not a short string")
    return value


def normal_url(url: str) -> str:
    """A URL as RFC 3986 sections 6.2.2 and 6.2.3 compare it. Raises ValueError.

    A query or fragment is not left out but refused: `htu` is without them (RFC 9449 section 4.2).
    """
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in ' \\?#@"<>'):
        raise ValueError("not a URL without user, query and fragment")
    parts = urlsplit(url)
    scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    if scheme not in _PORTS or not host:
        raise ValueError("not an http(s) URL with a host")
    shown = f"[{host}]" if ":" in host else host
    place = shown if port is None or port == _PORTS[scheme] else f"{shown}:{port}"
    return f"{scheme}://{place}{_normal_path(_ESCAPE.sub(_normal_escape, parts.path))}"


def _normal_escape(match: re.Match[str]) -> str:
    letter = chr(int(match[1], 16))
    return letter if letter in _UNRESERVED else match[0].upper()


def _normal_path(path: str) -> str:
    """Without dot segments (RFC 3986 section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_resource_url = lru_cache(maxsize=4096)(normal_url)  # of the configuration: few, and always the same


class Proofs:
    """Judges proofs. `seen` remembers them for all replicas that share it."""

    def __init__(self, settings: DpopSettings, leeway: int, seen: Table, now: Callable[[], float] = time.time) -> None:
        self._settings, self._leeway, self._seen, self._now = settings, leeway, seen, now
        self._algorithms = AlgorithmList(settings.algorithms)
        self._names = frozenset(settings.algorithms)
        self._nonces = Nonces(seen, now) if settings.nonce == "required" else None

    async def check(self, presented: Presented, token: bytes, binding: Binding, passed: Pass) -> Verdict:
        """`passed`, if the request proves possession of the key that `binding` names (RFC 9449 section 4.3).

        Everything cheap is looked at before the signature, and the replay last: what is wrong is not remembered.
        Refusals: identity.proof, identity.nonce. Raises DependencyFault.
        """
        if len(presented.proofs) != 1:
            return refuse("identity.proof", f"{len(presented.proofs)} DPoP headers where one must be")
        try:
            proof = read_proof(presented.proofs[0], self._names)
            self._compare(proof, presented, token, binding)
            if not signature_holds(proof.token, proof.key, self._algorithms):
                raise ProofRefused("the signature does not hold")
        except ProofRefused as refused:
            return refuse("identity.proof", str(refused))
        if (stale := self._stale(proof)) is not None:
            return stale
        if not await self._first(proof):
            return refuse("identity.proof", "replayed")
        return passed

    async def prover(self, proofs: Sequence[bytes], method: str, url: str) -> str:
        """The thumbprint of the key that a request for a token proves to have, "" for one that proves none (RFC 9449
        section 5). `url` is that of the endpoint, as configured. Raises ProofRefused, NonceWanted, DependencyFault."""
        if not proofs:
            return ""
        if len(proofs) != 1:
            raise ProofRefused(f"{len(proofs)} DPoP headers where one must be")
        proof = read_proof(proofs[0], self._names, bare=True)
        self._place(proof, method, url)
        if not signature_holds(proof.token, proof.key, self._algorithms):
            raise ProofRefused("the signature does not hold")
        if self._nonces is not None and not (proof.nonce is not None and self._nonces.holds(proof.nonce)):
            raise NonceWanted(self._nonces.issue())
        if not await self._first(proof):
            raise ProofRefused("replayed")
        return proof.key.thumbprint

    async def _first(self, proof: Proof) -> bool:
        """Whether it was never seen before; it is from now on."""
        name = f"proof:{sha256(f'{proof.key.thumbprint} {proof.jti}'.encode('utf-8', 'surrogatepass')).hexdigest()}"
        until = float(proof.iat + self._settings.max_age + self._leeway + _SKEW)
        # In a thread: it waits for the disk, or for the database the replicas share.
        return await asyncio.to_thread(self._seen.swap, name, None, b"1", until)

    def _compare(self, proof: Proof, presented: Presented, token: bytes, binding: Binding) -> None:
        if not compare_digest(proof.key.thumbprint, binding.jkt):
            raise ProofRefused("made with another key than the token is bound to")
        self._place(proof, presented.method, presented.resource)
        if not compare_digest(proof.ath.encode("utf-8", "replace"), encode_base64url(sha256(token).digest()).encode()):
            raise ProofRefused("made for another token")

    def _place(self, proof: Proof, method: str, url: str) -> None:
        """Made for this request, and lately."""
        if proof.htm != method:
            raise ProofRefused("made for another method")
        try:
            same = normal_url(proof.htu) == _resource_url(url)
        except ValueError:
            same = False
        if not same:
            raise ProofRefused("made for another URL")
        now = self._now()
        if not now - self._settings.max_age <= proof.iat <= now + self._leeway:
            raise ProofRefused("too old, or made in the future")

    def _stale(self, proof: Proof) -> Refuse | None:
        """Section 9: without a recent nonce of ours the client is given one to try again with."""
        if self._nonces is None or (proof.nonce is not None and self._nonces.holds(proof.nonce)):
            return None
        return refuse("identity.nonce", "no nonce, or an old one", dpop_nonce=self._nonces.issue())
