"""Pins (C10): a server that shows another certificate gets not a byte, even if a trusted authority vouches for it."""

import asyncio
import ssl
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
import trustme
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from limen.config.servers import ServerConfig
from limen.core.faults import ConfigFault, UpstreamFault
from limen.gateway.upstream_http import HttpUpstream
from limen.gateway.upstream_target import pinned
from upstreams.minted import Heard, permit
from upstreams.raw_server import RawServer, echo


def pin(data: bytes) -> str:
    return "sha256/" + b64encode(sha256(data).digest()).decode()


def shown(cert: trustme.LeafCert) -> tuple[bytes, bytes]:
    """DER of the certificate and of its public key."""
    loaded = x509.load_pem_x509_certificate(cert.cert_chain_pems[0].bytes())
    key = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return loaded.public_bytes(Encoding.DER), key


def reach(
    cert: trustme.LeafCert, trusted: tuple[trustme.CA, ...], pins: tuple[str, ...], run: Any = asyncio.run
) -> bool:
    """Whether the call went through. A refused one must not have sent anything, on any connection."""

    async def scenario() -> bool:
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        cert.configure_cert(serving)
        trusting = ssl.create_default_context()
        for authority in trusted:
            authority.configure_trust(trusting)
        async with RawServer(echo, tls=serving) as server:
            upstream = HttpUpstream("up", server.url, tls=trusting, pins=pins)
            try:
                return bool((await upstream.forward(await permit(), Heard()))["content"])
            except UpstreamFault as fault:
                assert "pinned" in str(fault)
                with pytest.raises(UpstreamFault, match="pinned"):
                    await upstream.describe()
                assert not server.asked
                return False
            finally:
                await upstream.close()

    return bool(run(scenario()))


def test_c10_a_swapped_certificate_is_refused_and_the_pinned_one_passes() -> None:
    ours, other = trustme.CA(), trustme.CA()
    honest, spare, swapped = ours.issue_cert("localhost"), ours.issue_cert("localhost"), other.issue_cert("localhost")
    certificate, key = shown(honest)
    _, spare_key = shown(spare)
    trusted = (ours, other)  # both would pass without a pin
    assert reach(swapped, trusted, ())
    assert reach(honest, trusted, (pin(key),))
    assert reach(honest, trusted, (pin(certificate),))
    assert reach(honest, trusted, (pin(key),), uvloop.run)
    assert reach(spare, trusted, (pin(key), pin(spare_key)))  # the backup takes over
    assert not reach(swapped, trusted, (pin(key), pin(spare_key)))
    assert not reach(swapped, trusted, (pin(key),), uvloop.run)
    assert not reach(spare, trusted, (pin(key),))  # of the same authority, for the same name
    assert not reach(honest, trusted, (pin(b"something else"),))


def test_a_certificate_that_cannot_be_read_is_not_pinned() -> None:
    assert not pinned(None, frozenset({sha256(b"").digest()}))
    assert not pinned(b"junk", frozenset({sha256(b"other").digest()}))


def test_pins_in_the_configuration() -> None:
    good = pin(b"key")
    server = ServerConfig.model_validate({"url": "https://a.example/mcp", "security": {"pin": [good]}})
    assert server.security.pin == (good,)
    for wrong in ("sha256/abc=", good + "\n", good[7:], "sha1/" + good[7:], good[:-2] + "B="):
        with pytest.raises(ValidationError, match="a pin reads"):
            ServerConfig.model_validate({"url": "https://a.example/mcp", "security": {"pin": [wrong]}})
    with pytest.raises(ValidationError, match="pin needs an https url"):
        ServerConfig.model_validate({"url": "http://127.0.0.1:1/mcp", "security": {"pin": [good]}})
    with pytest.raises(ConfigFault, match="pins need https"):
        HttpUpstream("up", "http://127.0.0.1:1/mcp", pins=(good,))
