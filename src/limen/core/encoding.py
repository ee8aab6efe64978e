"""How bytes and secrets of ours are written. Pure."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256


def encode_base64url(data: bytes) -> str:
    """RFC 7515 section 2: without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def digest(secret: str) -> str:
    """How a secret of ours is kept and compared: SHA-256, hexadecimal. Enough where the secret is random."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
