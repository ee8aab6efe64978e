"""What AttachCredential costs a call: headers that are written down, a credential that is kept, one that is minted for
it. Run by hand: python bench/attach.py [--rounds 20000]

Microseconds of processor time, best of nine, and each beside the first.
"""

import argparse
import asyncio
import secrets
import time

from joserfc import jwt
from joserfc.jwk import ECKey

from limen.core.call import Approved, Call, Caller, Context, Era, Grant, Presented
from limen.core.verdict import Pass
from limen.credentials.attach import AttachCredential
from limen.credentials.minted import EachCall, MintedToken
from limen.credentials.settings import Minted
from limen.credentials.sources import Obtained, Remembered

UP = "https://up.example/mcp"


class Instant:
    kind, personal = "exchange", True

    def differs(self, context):
        return None

    async def obtain(self, context):
        return Obtained(("authorization", "Bearer " + secrets.token_urlsafe(600)), time.time() + 3600)


class Signer:
    key = ECKey.generate_key("P-256")

    def sign(self, kind, claims):
        return jwt.encode({"alg": "ES256", "typ": kind}, claims, self.key, algorithms=["ES256"])


def context(number, server):
    caller = Caller(
        "https://idp.example", f"user-{number}", "client", frozenset({"read", "write"}), groups=frozenset({"a", "b"}),
        amr=frozenset({"pwd", "otp"}), token_id=f"t{number}",
    )  # fmt: skip
    call = Call("tools/call", "up", "up", Era.MODERN, "2026-07-28", 1, "echo", b'{"text":"' + b"x" * 400 + b'"}')
    facts = {type(one): one for one in (caller, Approved(server, "tool", "echo", "d", b"{}"), Grant((), "p"))}
    token = b"Bearer " + secrets.token_urlsafe(600).encode()
    return Context(call, Presented((token,)), float("inf"), "r", facts)


def best(guard, contexts, rounds):
    """Microseconds of one call."""
    found = []
    for _ in range(9):
        started = time.process_time()
        for at in range(rounds):
            guard.check(contexts[at % len(contexts)])
        found.append((time.process_time() - started) / rounds * 1e6)
    return min(found)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    token = MintedToken(Minted(kind="minted"), UP, "https://limen.example", Signer())
    sources = {"kept": Remembered(Instant(), UP), "minted": EachCall(token, UP)}
    guard = AttachCredential({"written": [("authorization", "Bearer x")]}, sources)
    first = None
    for server, times in (("written", rounds), ("kept", rounds), ("minted", rounds // 20)):
        contexts = [context(number, server) for number in range(1000)]
        for one in contexts:
            answer = guard.check(one)
            assert isinstance(answer if isinstance(answer, Pass) else await answer, Pass)
        cost = best(guard, contexts, times)
        first = first or cost
        print(f"{server:<8} {cost:7.2f} us   {cost / first:6.1f} times headers that are written down")


if __name__ == "__main__":
    asyncio.run(main())
