"""The members of client metadata (RFC 7591 section 2) that count here, each read in one way. Others are ignored."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from limen.core.urls import read_url
from limen.oauth.web import SCOPE, OAuthError
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

GRANTS: Final = frozenset({"authorization_code", "refresh_token"})
DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"  # RFC 8628
_NAME: Final = 100  # characters
_SCOPES: Final = 100
_NEVER_SHOWN: Final = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})
_MARKS: Final = 3  # on one letter: more hide what stands below


def read_object(data: bytes, size: int) -> dict[str, Any]:
    """One strict JSON object. Raises ValueError."""
    try:
        value = parse(data, JsonLimits(size=size, depth=8, members=500, string=size))
    except NotJson as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def wrong(member: str, text: str) -> OAuthError:
    """The refusal of one member."""
    return OAuthError("invalid_client_metadata", f"{member}: {text}")


def read_name(value: object) -> tuple[str, bool]:
    """The name to be shown, and whether something was in it that is not seen. Raises OAuthError."""
    if not isinstance(value, str) or len(value) > _NAME:
        raise wrong("client_name", f"not a text of at most {_NAME} characters")
    if any(unicodedata.category(one) in _NEVER_SHOWN for one in value):
        raise wrong("client_name", "holds control characters or ends of lines")
    seen = "".join(one for one in value if unicodedata.category(one) != "Cf")
    name = " ".join(unicodedata.normalize("NFC", seen).split())
    if not any(one.isalnum() for one in name):
        raise wrong("client_name", "nothing to be read")
    return name, seen != value or _longest_run(name) > _MARKS


def _longest_run(text: str) -> int:
    longest = run = 0
    for one in text:
        run = run + 1 if unicodedata.category(one) in ("Mn", "Me") else 0
        longest = max(longest, run)
    return longest


def read_scopes(value: object) -> frozenset[str]:
    """The scopes of a space-separated list. Raises OAuthError."""
    if value is None or value == "":
        return frozenset()
    found = value.split(" ") if isinstance(value, str) else [""]
    if len(found) > _SCOPES or not all(SCOPE.match(one) for one in found):
        raise wrong("scope", "not a list of scopes separated by single spaces")
    return frozenset(found)


def read_grants(value: object, *, strict: bool) -> frozenset[str]:
    """Grant types, of those there are here; left out: code and refresh. `strict` refuses others, also the one for
    devices, else they do not count. Raises OAuthError."""
    if value is None:
        return GRANTS
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise wrong("grant_types", "not a list of texts")
    found = frozenset(value)
    if "authorization_code" not in found or (strict and not found <= GRANTS):
        raise wrong("grant_types", "authorization_code, and refresh_token besides")
    return found & (GRANTS | {DEVICE})


def check_responses(value: object) -> None:
    """`response_types`: code, or left out. Raises OAuthError."""
    if value is not None and value != ["code"]:
        raise wrong("response_types", 'only ["code"]')


def read_page(document: Mapping[str, Any], member: str) -> str:
    """An https address of a page, "" when left out. Raises OAuthError."""
    value = document.get(member)
    if value is None or value == "":
        return ""
    try:
        if not isinstance(value, str) or read_url(value).scheme != "https":
            raise ValueError("not an https URL")
    except ValueError as error:
        raise wrong(member, str(error)) from None
    return value
