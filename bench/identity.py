"""What it costs to verify an access token, remembered and not, and to look at the sign-in again on every call.
Run by hand: python bench/identity.py [--rounds 2000]

Microseconds of processor time, best of nine; nothing is fetched.
"""

import argparse
import json
import time
from types import MappingProxyType

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from limen.core.call import Call, Caller, Context, Era, Peer, Presented
from limen.core.verdict import Pass
from limen.identity.authenticate import Authenticate
from limen.identity.issuers import IdentitySettings, Issuers
from limen.identity.keys import signature_holds
from limen.identity.token import read_caller, read_compact
from limen.policy.assurance import unsatisfied

RESOURCE = "https://gw.example/mcp/one"
TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"
API = "77777777-aaaa-4bbb-8ccc-000000000007"


def best(function, rounds):
    """Microseconds of one call."""
    found = []
    for _ in range(9):
        started = time.process_time()
        for at in range(rounds):
            function(at)
        found.append((time.process_time() - started) / rounds * 1e6)
    return min(found)


def guard(key, **issuer):
    public = {**key.as_dict(private=False), "kid": "k", "use": "sig"}
    settings = IdentitySettings.model_validate(
        {"issuers": [{"jwks": json.dumps({"keys": [public]}), **issuer}], "scope_implies": {"admin": ["read"]}}
    )
    return settings, Authenticate(Issuers(settings, None), {"one": RESOURCE}, settings)


def context(token):
    call = Call("tools/call", "one", "one", era=Era.MODERN, revision="2026-07-28", id=1, peer=Peer("http"))
    return Context(call, Presented((f"Bearer {token}".encode(),), RESOURCE), float("inf"), "r")


def measure(name, key, algorithm, issuer, claims, rounds):
    settings, authenticate = guard(key, **issuer)
    now = int(time.time())
    tokens = [
        jwt.encode(
            {"alg": algorithm, "kid": "k", "typ": "JWT"}, {**claims, "exp": now + 3000, "iat": now, "jti": str(at)}, key
        )
        for at in range(64)
    ]
    contexts = [context(token) for token in tokens]
    assert all(type(authenticate.check(one)) is Pass for one in contexts)
    hit = best(lambda at: authenticate.check(contexts[at % 64]), rounds)

    def cold(at):
        authenticate.revoke_all()
        authenticate.check(contexts[at % 64])

    miss = best(cold, rounds // 10)
    compact, one = read_compact(tokens[0].encode()), settings.each_issuer[0]
    claimed = best(lambda at: read_caller(compact, one, settings, RESOURCE, now), rounds)
    fitting = authenticate._verifier._issuers.find(claims["iss"])
    (found,) = fitting.find(algorithm, "k")
    signed = best(lambda at: signature_holds(compact.token, found, fitting.algorithms), rounds // 10)
    print(
        f"{name:<16} remembered {hit:5.2f}   not remembered {miss:6.1f}: claims {claimed:5.1f}, signature {signed:6.1f}"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2000)
    rounds = parser.parse_args().rounds
    generic = {"iss": "https://id.example", "sub": "alice", "aud": RESOURCE, "client_id": "app", "scope": "read admin"}
    entra = {
        "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0", "aud": API, "sub": "s", "oid": "o", "tid": TENANT,
        "ver": "2.0", "azp": "app", "azpacr": "0", "scp": "read admin", "roles": ["r"], "amr": ["pwd", "mfa"],
    }  # fmt: skip
    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    measure("generic RS256", rsa, "RS256", {"issuer": generic["iss"]}, generic, rounds)
    measure("generic ES256", ec, "ES256", {"issuer": generic["iss"]}, generic, rounds)
    measure("entra RS256", rsa, "RS256", {"issuer": entra["iss"], "kind": "entra", "audience": API}, entra, rounds)
    caller = Caller("i", "s", amr=frozenset({"mfa"}), acr="gold", auth_time=int(time.time()), device="compliant")
    now = time.time()
    for requires in (("approval",), ("mfa",), ("mfa", "fresh(600s)", "acr(gold)", "device(compliant)", "user")):
        asked = frozenset(requires)
        cost = best(lambda _, asked=asked: unsatisfied(asked, caller, now, MappingProxyType({})), rounds * 5)
        print(f"sign-in looked at again {cost:6.2f}   {', '.join(requires)}")


if __name__ == "__main__":
    main()
