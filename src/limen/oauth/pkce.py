"""Proof key for code exchange, S256 and nothing else (RFC 7636)."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from limen.core.encoding import encode_base64url

CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")  # SHA-256 in base64url without padding


def challenge_of(verifier: str) -> str:
    """The challenge of a verifier (section 4.2)."""
    return encode_base64url(sha256(verifier.encode("ascii")).digest())
