"""How a person's account at a server behind us gets connected: from a call that was refused to a grant that is kept.

1. `offer`: a handle for the caller, in a URL that opens nothing by itself.
2. `recognised`: whoever opened it has signed in; only the person the handle was made for gets further (MCP URL mode
   elicitation: the person who opens the URL is the one who started it).
3. `approved`: that browser's click uses the handle up and leads to the server's authorization server.
4. `finished`: the answer, from the same browser, once, for the authorization server it was asked of.

Every record expires, is found by the digest of a secret, and is used up by compare-and-set.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import orjson

from limen.core.encoding import digest, encode_base64url
from limen.core.faults import DependencyFault
from limen.core.ports import Sealer, Table
from limen.core.verdict import Refuse, refuse
from limen.credentials.connection import Person
from limen.credentials.discovery import Discovery, Found
from limen.credentials.upstream_client import Clients, Denied, Identity, token
from limen.credentials.user_grants import Account, Linked, UserGrants

OFFER: Final = "connect/"
WAY: Final = "connecting/"
LASTS: Final = 600.0  # seconds from the refused call to the click, and from there to the answer
_OWNER: Final = "limen"
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person is asked: whether to connect `server` with an account at `host`. `token` proves that the page was
    rendered to them."""

    id: str
    token: str = field(repr=False)
    server: str
    host: str
    issuer: str
    scopes: tuple[str, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Made:
    """A connection that was made."""

    server: str
    host: str


class Linking:
    """`base`: our own public URL. `secret`s are random, 256 bits, and kept as SHA-256 only."""

    def __init__(
        self,
        table: Table,
        sealer: Sealer,
        accounts: Mapping[str, Account],
        discovery: Discovery,
        clients: Clients,
        grants: UserGrants,
        base: str,
        record: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table, self._sealer, self._accounts = table, sealer, accounts
        self._discovery, self._clients, self._grants = discovery, clients, grants
        self._base, self._record, self._now = base, record, now
        self._offered: OrderedDict[tuple[Person, str], tuple[float, tuple[str, ...], str]] = OrderedDict()

    # 1. a call was refused

    def offer(self, person: Person, server: str, scopes: tuple[str, ...], challenge: str = "") -> tuple[str, str]:
        """The id and the URL to open. The same one again while it is good, and one at a time for a person and a server:
        nobody can fill the table by calling."""
        now, about = self._now(), (person, server)
        until, asked, handle = self._offered.get(about, (0.0, (), ""))
        key = OFFER + digest(handle)
        raw = self._table.get(key) if handle else None
        if raw is None or until < now or asked != scopes:
            if raw is not None and asked != scopes:
                self._table.swap(key, raw, None)
            handle = secrets.token_urlsafe(32)
            key = OFFER + digest(handle)
            record = {
                "server": server, "issuer": person.issuer, "subject": person.subject,
                "scopes": list(scopes), "challenge": challenge,
            }  # fmt: skip
            self._table.put(key, orjson.dumps(record), now + LASTS)
            self._offered[about] = (now + LASTS / 2, scopes, handle)
            while len(self._offered) > _REMEMBERED:
                self._offered.popitem(last=False)
        url = f"{self._base}/oauth/connect/{quote(server)}?handle={handle}"
        return key.removeprefix(OFFER)[:32], url

    def opened(self, server: str, handle: str) -> str | Refuse:
        """The id of the offer this handle stands for. Uses nothing up: links are opened by more than people."""
        id = digest(handle)
        raw = self._table.get(OFFER + id)
        if raw is None or orjson.loads(raw)["server"] != server:
            return refuse("credentials.link", "an unknown, used or expired handle, or one for another server")
        return id

    # 2. somebody signed in

    async def recognised(self, id: str, issuer: str, subject: str, name: str, browser: str) -> Shown | Refuse:
        """What to ask the person who signed in; refused, and the offer is gone, unless it is their own.

        Raises DependencyFault when the server's authorization server cannot be found out.
        """
        raw = await asyncio.to_thread(self._table.get, OFFER + id)
        if raw is None:
            return refuse("credentials.link", "the offer is gone")
        offer = orjson.loads(raw)
        if (issuer, subject) != (offer["issuer"], offer["subject"]) or not browser:
            await asyncio.to_thread(self._table.swap, OFFER + id, raw, None)
            asked = {"iss": offer["issuer"], "sub": offer["subject"], "server": offer["server"]}
            self._record("connect_by_another", {**asked, "came_iss": issuer, "came_sub": subject})
            return refuse("credentials.stranger", f"{subject!r} signed in on a link of {offer['subject']!r}")
        account, found = await self._found(offer)
        shown = secrets.token_urlsafe(32)
        record = {**offer, "token": digest(shown), "browser": browser, "name": name[:200]}
        until = self._now() + LASTS
        if not await asyncio.to_thread(self._table.swap, OFFER + id, raw, orjson.dumps(record), until):
            return refuse("credentials.link", "the offer was used meanwhile")
        host = urlsplit(found.server.authorization_endpoint).netloc
        scopes = self._scopes(account, offer, found)
        return Shown(id, shown, offer["server"], host, found.server.issuer, scopes, name)

    async def _found(self, offer: Mapping[str, Any]) -> tuple[Account, Found]:
        account = self._accounts.get(offer["server"])
        if account is None:
            raise DependencyFault("upstream sign-in", f"{offer['server']} is not configured", retryable=False)
        return account, await self._discovery.find(account.place, offer["challenge"])

    def _scopes(self, account: Account, offer: Mapping[str, Any], found: Found) -> tuple[str, ...]:
        """An operator's choice is the whole of it; else what the server needs, with what it asked for since."""
        if account.place.scopes is not None:
            return account.place.scopes
        return tuple(dict.fromkeys((*found.scopes, *offer["scopes"])))

    # 3. and agreed

    async def approved(self, server: str, id: str, shown: str, browser: str) -> str | Refuse:
        """The URL to go on to. Uses the offer up. Raises DependencyFault before anything is used up."""
        raw = await asyncio.to_thread(self._table.get, OFFER + id)
        offer = orjson.loads(raw) if raw is not None else {}
        if raw is None or offer["server"] != server or "token" not in offer:
            return refuse("credentials.link", "the offer is gone, or nobody signed in for it")
        if not _same(offer["token"], digest(shown)) or not _same(offer["browser"], browser):
            self._record("connect_by_another", {"server": server, "iss": offer["issuer"], "sub": offer["subject"]})
            return refuse("credentials.stranger", "an answer from another page or browser than was asked")
        account, found = await self._found(offer)
        client = account.client or await self._clients.at(found.server, account.exchange)
        return await asyncio.to_thread(self._depart, id, raw, offer, account, found, client)

    def _depart(
        self, id: str, raw: bytes, offer: Mapping[str, Any], account: Account, found: Found, client: Identity
    ) -> str | Refuse:
        if not self._table.swap(OFFER + id, raw, None):
            return refuse("credentials.link", "the offer was used meanwhile")
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        key, scopes = WAY + digest(state), self._scopes(account, offer, found)
        hidden = self._sealer.seal(_OWNER, key, orjson.dumps([verifier, client.secret]))
        way = {
            **{name: offer[name] for name in ("server", "issuer", "subject", "browser", "name")},
            "authorization_server": found.server.issuer,
            "says_issuer": found.server.says_issuer,
            "token_endpoint": found.server.token_endpoint,
            "revocation_endpoint": found.server.revocation_endpoint,
            "resource": found.resource,
            "client": [client.id, client.method, client.source],
            "scopes": list(scopes),
            "hidden": b64encode(hidden).decode(),
        }
        self._table.put(key, orjson.dumps(way), self._now() + LASTS)
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": self._clients.redirect_uri,
            "state": state,
            "code_challenge": encode_base64url(sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "resource": found.resource,
            **({"scope": " ".join(scopes)} if scopes else {}),
            **({"prompt": "consent"} if "offline_access" in scopes else {}),  # OpenID Connect Core section 11
        }
        endpoint = found.server.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def declined(self, server: str, id: str, shown: str, browser: str) -> Refuse:
        """The person said no: the offer is gone."""
        raw = await asyncio.to_thread(self._table.get, OFFER + id)
        offer = orjson.loads(raw) if raw is not None else {}
        if raw is not None and offer["server"] == server and "token" in offer:
            if not _same(offer["token"], digest(shown)) or not _same(offer["browser"], browser):
                return refuse("credentials.stranger", "an answer from another page or browser than was asked")
            await asyncio.to_thread(self._table.swap, OFFER + id, raw, None)
        return refuse("credentials.declined", "the person said no")

    # 4. the way back

    async def finished(self, answer: Mapping[str, str], browser: str) -> Made | Refuse:
        """Redeem the code of an authorization response where it was asked for. Raises DependencyFault."""
        state = answer.get("state", "")
        key = WAY + digest(state)
        raw = await asyncio.to_thread(self._table.get, key)
        if not state or raw is None or not await asyncio.to_thread(self._table.swap, key, raw, None):
            return refuse("credentials.link", "an unknown, used or expired state")
        way = orjson.loads(raw)
        if not _same(way["browser"], browser):
            self._record("connect_by_another", {"server": way["server"], "iss": way["issuer"], "sub": way["subject"]})
            return refuse("credentials.stranger", "the answer came back in another browser")
        # RFC 9207 section 2.4: compared as it is, and before anything of the answer counts, errors included.
        told = answer.get("iss")
        if told != way["authorization_server"] and (told is not None or way["says_issuer"]):
            shown = "no iss" if told is None else f"iss {told[:200]!r}"
            self._record("connect_mix_up", {"server": way["server"], "known": way["authorization_server"]})
            return refuse("credentials.link", f"{shown} in the answer of {way['authorization_server']!r}")
        if "error" in answer:
            if "code" in answer:
                return refuse("credentials.link", "an answer with both a code and an error")
            return refuse("credentials.declined", f"{way['authorization_server']}: {answer['error'][:64]!r}")
        if not 0 < len(answer.get("code", "")) <= 4096:
            return refuse("credentials.link", "an answer without a code")
        return await self._redeem(key, way, answer["code"])

    async def _redeem(self, key: str, way: Mapping[str, Any], code: str) -> Made | Refuse:
        account = self._accounts.get(way["server"])
        if account is None:
            return refuse("credentials.link", f"{way['server']} is not configured any more")
        hidden = await asyncio.to_thread(self._sealer.open, _OWNER, key, b64decode(way["hidden"]))
        verifier, secret = orjson.loads(hidden)
        identifier, method, source = way["client"]
        client = Identity(identifier, method, secret, source)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._clients.redirect_uri,
            "code_verifier": verifier,
            "resource": way["resource"],
        }
        try:
            granted = await token(account.exchange, way["token_endpoint"], client, form)
        except Denied as denied:
            if denied.code == "invalid_client" and source == "registered":
                await asyncio.to_thread(self._clients.forget, way["authorization_server"])
            return refuse("credentials.unusable", f"{way['server']}: the token endpoint says {denied.code}")
        person = Person(way["issuer"], way["subject"])
        linked = Linked(
            person, way["name"], way["server"], way["authorization_server"], way["resource"], way["token_endpoint"],
            way["revocation_endpoint"], client, tuple(way["scopes"]), granted,
        )  # fmt: skip
        await self._grants.keep(linked)
        return Made(way["server"], urlsplit(way["authorization_server"]).netloc)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
