"""What the token endpoint costs: a code redeemed, a token refreshed, in memory and on disk, against one signature.
Run by hand: python bench/oauth.py [--rounds 300]

Microseconds a request, best of five; one request at a time, then eight at once. Nothing is fetched.
"""

import argparse
import asyncio
import json
import tempfile
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.jwk import ECKey

from limen.adapters.sqlite import SqliteTable
from limen.oauth.codes import Codes
from limen.oauth.families import Families
from limen.oauth.grants import Grants
from limen.oauth.minting import Mint
from limen.oauth.model import Asked, Client, User
from limen.oauth.redeeming import Redeemer, Ties
from limen.oauth.settings import TokenSettings
from limen.oauth.web import Visit
from limen.policy.buckets import MemoryCounter

ISSUER, RESOURCE, REDIRECT = "https://gw.example", "https://gw.example/mcp/one", "http://127.0.0.1:7777/cb"
VERIFIER = "v" * 64
CHALLENGE = urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
APP = Client("app", "registered", "App", (REDIRECT,), digest="d")
ALICE = User("https://idp.example", "alice", "Alice", ("staff", "dev"), (), ("pwd", "mfa"), "gold", 1)
ASKED = Asked("app", "d", REDIRECT, RESOURCE, "one", ("read", "write"), CHALLENGE)
HEADERS = {"content-type": ("application/x-www-form-urlencoded",)}


class Signer:
    def __init__(self):
        self.key = ECKey.generate_key("P-256", {"kid": "k"})

    def sign(self, kind, claims):
        return jwt.encode({"alg": "ES256", "kid": "k", "typ": kind}, dict(claims), self.key)

    def key_set(self):
        return json.dumps({"keys": [self.key.as_dict(private=False)]}).encode()


class Vault:
    def __init__(self):
        self.cipher, self.number = AESGCM(b"k" * 32), 0

    def seal(self, owner, place, secret):
        self.number += 1
        nonce = self.number.to_bytes(12, "big")
        return nonce + self.cipher.encrypt(nonce, secret, f"{owner}|{place}".encode())

    def open(self, owner, place, sealed):
        return self.cipher.decrypt(sealed[:12], sealed[12:], f"{owner}|{place}".encode())


class Known:
    async def authenticate(self, visit, form, endpoint_url):
        return APP

    async def used(self, client):
        """Not measured."""


class Quiet:
    def note(self, *said, **more):
        pass


class Memory:
    """The least a table can cost."""

    def __init__(self):
        self.rows = {}

    def get(self, key):
        return self.rows.get(key)

    def put(self, key, value, expires=None):
        self.rows[key] = value

    def swap(self, key, old, new, expires=None):
        if self.rows.get(key) != old:
            return False
        self.rows[key] = new
        return True


async def nothing_proven(visit):
    return ""


def endpoint(table, signer):
    settings = TokenSettings()
    ties = Ties(
        holds=lambda consent: True, revoked=lambda user, client, token: False, revoke=lambda *what: None,
        possession=nothing_proven, recorder=Quiet(), record=lambda event, fields: None, counter=MemoryCounter(),
    )  # fmt: skip
    codes, families = Codes(table, 60), Families(table, Vault(), settings, ties.revoke)
    mint = Mint(ISSUER, signer, 600)
    redeemer = Redeemer(codes, families, mint, ties, settings, alone=True)
    return Grants(ISSUER, codes, families, mint, redeemer, Known(), ties, key_set=signer.key_set)


def visit(number, **form):
    """Each from another address: no limit is what is measured here."""
    body = urlencode({"client_id": "app", "resource": RESOURCE, **form}).encode()
    return Visit("POST", "/oauth/token", "", HEADERS, body, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


async def timed(grants, visits, width):
    """Seconds, and what was answered."""
    queue, replies = list(reversed(visits)), []

    async def worker():
        while queue:
            replies.append(await grants.token(queue.pop()))

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(width)))
    took = time.perf_counter() - started
    assert {reply.status for reply in replies} == {200}
    return took, [json.loads(reply.body)["refresh_token"] for reply in replies]


async def measure(name, table, signer, rounds, unit):
    grants = endpoint(table, signer)
    for width in (1, 8):
        found = {"code": [], "refresh": []}
        for turn in range(5):
            start = turn * rounds
            codes = [grants.code(ASKED, ALICE, "c") for _ in range(rounds)]
            ask = {"grant_type": "authorization_code", "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
            redeem = [visit(start + at, code=code, **ask) for at, code in enumerate(codes)]
            took, tokens = await timed(grants, redeem, width)
            found["code"].append(took)
            renew = [
                visit(start + at, grant_type="refresh_token", refresh_token=token) for at, token in enumerate(tokens)
            ]
            found["refresh"].append((await timed(grants, renew, width))[0])
        for what, times in found.items():
            cost = min(times) / rounds * 1e6
            print(f"{name:<7} {width} at once   {what:<8} {cost:8.0f} us {1e6 / cost:7.0f}/s {cost / unit:6.1f}x")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    signer = Signer()
    claims = {"iss": ISSUER, "sub": "alice", "aud": RESOURCE, "exp": 1, "iat": 1, "jti": "x" * 40, "scope": "read"}
    signer.sign("at+jwt", claims)
    costs = []
    for _ in range(9):
        started = time.perf_counter()
        for _ in range(rounds):
            signer.sign("at+jwt", claims)
        costs.append((time.perf_counter() - started) / rounds * 1e6)
    unit = min(costs)
    print(f"one signature (ES256) {unit:.0f} us, the unit of the last column")
    asyncio.run(measure("memory", Memory(), signer, rounds, unit))
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure("sqlite", SqliteTable(Path(directory, "state.db"), "oauth"), signer, rounds, unit))


if __name__ == "__main__":
    main()
