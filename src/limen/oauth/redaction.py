"""What is left of a text before it is kept about somebody's sign-in: no secret, nothing a terminal obeys, not long."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

HIDDEN: Final = "[hidden]"
LONGEST: Final = 400  # characters of a detail
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_NAMES: Final = (
    "code|state|nonce|csrf|password|cookie|assertion|client_assertion|subject_token|actor_token|token|id_token"
    "|access_token|refresh_token|registration_access_token|client_secret|secret|code_verifier|verifier|code_challenge"
    "|device_code|user_code|session_state|saml_request|saml_response|request|id_token_hint|login_hint|logout_token"
)
# name=value of a query, "name": "value" of JSON, and headers to the end of their line
_NAMED: Final = re.compile(
    rf"(?<![A-Za-z0-9_-])({_NAMES})(?P<between>\"?\s*(?:=\s*\"?|:\s*\"))[^\s&;,\"')}}\]]+", re.IGNORECASE
)
_HEADERS: Final = re.compile(r"\b(set-cookie|cookie|authorization|dpop)\s*:\s*\S.*", re.IGNORECASE)
_SCHEMES: Final = re.compile(r"\b(Bearer|DPoP|Basic)\s+[A-Za-z0-9._~+/=-]+", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)*")
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_RUN: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9_~+=-]){16,}")
_RUN_AT_MOST: Final = 40  # letters alone may be this long a word
_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")


def plain(text: str, longest: int = LONGEST) -> str:
    """One line without control, bidirectional or invisible characters."""
    return _UNSAFE.sub(" ", text[: 4 * longest]).strip()[:longest]


def redacted(text: str, longest: int = LONGEST) -> str:
    """The same, and whatever may be a token, code, secret, state, verifier, cookie or assertion is hidden.

    Errs on the side of hiding: a run of 16 characters or more that has letters and digits is taken for a secret,
    unless it is a GUID, which is how providers name tenants, applications and traces.
    """
    text = plain(text, 4 * longest)
    if ":" in text:
        text = _HEADERS.sub(rf"\1: {HIDDEN}", text)
    text = _JWT.sub(HIDDEN, _SCHEMES.sub(rf"\1 {HIDDEN}", text))
    if "=" in text or '"' in text:
        text = _NAMED.sub(lambda found: f"{found[1]}{found['between']}{HIDDEN}", text)
    return _RUN.sub(_run, text)[:longest]


def pseudonym(salt: bytes, name: str) -> str:
    """The same twelve digits for the same person, and nobody's name without the salt."""
    return blake2b(name.encode(), key=salt, digest_size=6).hexdigest() if name else ""


def without_people(text: str, salt: bytes) -> str:
    """E-mail addresses replaced by pseudonyms."""
    return _EMAIL.sub(lambda found: pseudonym(salt, found[0].casefold()), text)


def _run(found: re.Match[str]) -> str:
    text = found[0]
    mixed = any(char.isdigit() for char in text) and any(char.isalpha() for char in text)
    if _GUID.match(text) or not (mixed or len(text) > _RUN_AT_MOST):
        return text
    return HIDDEN
