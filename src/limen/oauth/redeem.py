"""One request to another server's token endpoint and what it gave (RFC 6749 sections 4.1.3, 5 and 6)."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from limen.core.ports import Exchange, Fetched
from limen.oauth.web import SCOPE
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

_ANSWER: Final = JsonLimits(size=256 << 10, depth=8, members=500, string=64 << 10)
_LATER: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_DIGITS: Final = re.compile(r"[0-9]{1,9}\Z")
_LONGEST: Final = 31_536_000


class RedeemRefused(Exception):
    """No tokens came. `field` names what was wrong; the detail is the other server's own words, for the operator."""

    def __init__(self, field: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.field, self.retryable = field, retryable
        self.detail = "".join(letter if letter.isprintable() else " " for letter in detail)[:500]


@dataclass(frozen=True, slots=True)
class Redemption:
    """What is asked, where, and how we show who we are there."""

    endpoint: str
    method: str  # none, client_secret_basic, client_secret_post
    client_id: str
    secret: str = field(repr=False)
    form: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What came. `lifetime` in seconds, 0 when it was not said."""

    access: str = field(repr=False)
    id_token: str = field(repr=False)
    refresh: str = field(repr=False)
    lifetime: int
    scopes: tuple[str, ...]


async def redeem(exchange: Exchange, wanted: Redemption) -> Redeemed:
    """Ask once. Raises RedeemRefused, DependencyFault."""
    form, headers = (
        dict(wanted.form),
        {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
    )
    if wanted.method == "client_secret_basic":  # each half form-encoded first (section 2.3.1)
        pair = f"{quote_plus(wanted.client_id)}:{quote_plus(wanted.secret)}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    else:
        form["client_id"] = wanted.client_id
        if wanted.method == "client_secret_post":
            form["client_secret"] = wanted.secret
    return _read(await exchange.post(wanted.endpoint, urlencode(form).encode(), headers))


def _read(answer: Fetched) -> Redeemed:
    try:
        document: Any = parse(answer.body, _ANSWER)
    except NotJson as error:
        raise RedeemRefused("token", f"status {answer.status}, {error}", retryable=answer.status >= 500) from None
    if not isinstance(document, dict):
        raise RedeemRefused("token", f"status {answer.status}, not an object")
    if answer.status != 200 or "error" in document:
        code, text = str(document.get("error", ""))[:64], str(document.get("error_description", ""))
        again = answer.status >= 500 or answer.status == 429 or code in _LATER
        raise RedeemRefused(code or "token", f"status {answer.status}, {code}: {text}", retryable=again)
    if str(document.get("token_type", "")).casefold() != "bearer":
        raise RedeemRefused("token_type", "not Bearer")
    scope = document.get("scope", "")
    scopes = tuple(one for one in scope.split(" ") if SCOPE.match(one)) if isinstance(scope, str) else ()
    return Redeemed(
        _text(document, "access_token", needed=True),
        _text(document, "id_token"),
        _text(document, "refresh_token"),
        _seconds(document.get("expires_in", 0)),
        scopes,
    )


def _text(document: dict[str, Any], name: str, *, needed: bool = False) -> str:
    value = document.get(name, "")
    if not isinstance(value, str) or not value.isascii() or (needed and not value):
        raise RedeemRefused(name, "missing or not text")
    return value


def _seconds(value: Any) -> int:
    """Some servers say it as text."""
    if isinstance(value, str) and _DIGITS.match(value):
        value = int(value)
    return min(value, _LONGEST) if type(value) is int and value > 0 else 0
