"""OA-85, DPOP-01..05, B6, B7: stolen, replayed, moved, forged and downgraded proofs, each beside its honest twin."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.adapters.sqlite import SqliteTable
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.dpop import ProofRefused, normal_url, read_proof
from limen.identity.nonces import WINDOW, Nonces
from minting import NOW, RESOURCE, Clock, Key, b64, caller, dump, reason
from proving import Door, Holder, thumb

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ISSUED = Key()
HOLDERS = {name: Holder(name) for name in ("ES256", "EdDSA", "RS256", "PS256")}
ALICE, THIEF = HOLDERS["ES256"], Holder()
TOKEN = ISSUED.token(cnf=ALICE.cnf)
PROOF, BINDING, NONCE = "identity.proof", "identity.binding", "identity.nonce"


@pytest.fixture(scope="module")
def door() -> Door:
    return Door(ISSUED)


def shown(door: Door, *proofs: str | bytes, token: str = TOKEN, **presented: Any) -> str:
    return reason(door.judge(f"DPoP {token}", *proofs, **presented))


@pytest.mark.requirement("DPOP-01")
@pytest.mark.parametrize("algorithm", HOLDERS)
def test_holder_of_the_key_is_let_in_dpop01(door: Door, algorithm: str) -> None:
    holder = HOLDERS[algorithm]
    token = ISSUED.token(cnf=holder.cnf)
    for scheme in ("DPoP", "dpop", "DPOP"):
        alice = caller(door.judge(f"{scheme} {token}", holder.proof(token)))
    assert alice.subject == "alice" and alice.binding is not None and alice.binding.kinds == {"dpop"}
    assert shown(door, THIEF.proof(token), token=token) == PROOF


def test_thumbprint_is_that_of_rfc7638() -> None:
    """The example of RFC 7638 section 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok"
        "njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu"
        "6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8"
        "awapJzKnqDKgw"
    )
    from limen.identity.keys import read_key

    jwk = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    key = read_key(jwk)
    assert key is not None and key.thumbprint == thumb(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.requirement("OA-85", "AU-19")
def test_bearer_downgrade_of_a_bound_token_oa85(door: Door) -> None:
    for proofs in ((), (ALICE.proof(TOKEN),)):
        for _ in range(2):  # remembered or not
            assert reason(door.judge(f"Bearer {TOKEN}", *proofs)) == BINDING
    assert shown(door, ALICE.proof(TOKEN)) == "passed"
    assert reason(door.judge(f"Bearer {TOKEN}")) == BINDING  # remembered by then


def test_dpop_scheme_with_a_token_that_is_bound_to_nothing(door: Door) -> None:
    loose = ISSUED.token()
    assert shown(door, ALICE.proof(loose), token=loose) == BINDING
    assert shown(door, token=loose) == BINDING
    assert caller(door.judge(f"Bearer {loose}")).binding is None
    assert caller(door.judge(f"Bearer {loose}", ALICE.proof(loose)))  # a proof nobody asked for


@pytest.mark.requirement("DPOP-01", "OA-85")
def test_proof_missing_twice_or_joined(door: Door) -> None:
    one, two = ALICE.proof(TOKEN), ALICE.proof(TOKEN)
    assert shown(door) == PROOF
    assert shown(door, one, two) == PROOF
    assert shown(door, one, one) == PROOF
    assert shown(door, f"{one}, {two}") == PROOF
    assert shown(door, one) == "passed"  # none of this used it up


@pytest.mark.requirement("DPOP-04", "OA-85")
def test_replayed_jti_oa85_b6(door: Door) -> None:
    proof = ALICE.proof(TOKEN)
    assert shown(door, proof) == "passed"
    assert shown(door, proof) == PROOF
    assert shown(door, ALICE.proof(TOKEN, jti="same")) == "passed"
    assert shown(door, ALICE.proof(TOKEN, jti="same", iat=NOW - 1)) == PROOF
    other = HOLDERS["EdDSA"]
    mine = ISSUED.token(cnf=other.cnf)
    assert shown(door, other.proof(mine, jti="same"), token=mine) == "passed"  # another key's: no denial by guessing


def test_wrong_proof_uses_nothing_up(door: Door) -> None:
    assert shown(door, ALICE.proof(TOKEN, jti="once", htm="GET")) == PROOF
    assert shown(door, THIEF.proof(TOKEN, jti="once")) == PROOF
    assert shown(door, ALICE.proof(TOKEN, jti="once")) == "passed"


@pytest.mark.requirement("DPOP-02", "OA-85")
@pytest.mark.parametrize(("offset", "passes"), [(0, True), (-299, True), (29, True), (-301, False), (31, False)])
def test_iat_window_dpop02(door: Door, offset: int, passes: bool) -> None:
    assert shown(door, ALICE.proof(TOKEN, iat=NOW + offset)) == ("passed" if passes else PROOF)


@pytest.mark.parametrize("iat", [None, True, "1900000000", float(NOW), -1, 0, 1 << 70, [NOW], NOW * 1000])
def test_iat_of_the_wrong_kind(door: Door, iat: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, iat=iat)) == PROOF


def test_proof_is_remembered_as_long_as_it_would_be_taken() -> None:
    clock = Clock()
    door, proof = Door(ISSUED, clock=clock), ALICE.proof(TOKEN, iat=NOW + 29)
    assert shown(door, proof) == "passed"
    for after in (1, 100, 300, 328, 329, 330):
        clock.now = NOW + after
        fresh = ISSUED.token(cnf=ALICE.cnf, exp=NOW + 3000)
        assert reason(door.judge(f"DPoP {fresh}", proof)) == PROOF
        assert shown(door, proof) == PROOF or after >= 330  # the token's own end


@pytest.mark.requirement("DPOP-01", "OA-85")
@pytest.mark.parametrize("method", ["GET", "post", "Post", "POST ", "", None, "DELETE", ["POST"], 1])
def test_wrong_htm_oa85(door: Door, method: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, htm=method)) == PROOF


def test_htm_is_that_of_the_request(door: Door) -> None:
    for method in ("GET", "DELETE", "POST"):
        assert shown(door, ALICE.proof(TOKEN, htm=method), method=method) == "passed"
        assert shown(door, ALICE.proof(TOKEN, htm="PUT"), method=method) == PROOF


@pytest.mark.requirement("DPOP-01", "OA-85")
@pytest.mark.parametrize(
    "url",
    [
        "https://gw.example/HR/mcp",  # case of the path
        "https://gw.example/hr/mcp/",
        "https://gw.example/hr/mc",
        "https://gw.example/hr/mcp?x=1",
        "https://gw.example/hr/mcp?",
        "https://gw.example/hr/mcp#f",
        "https://gw.example:444/hr/mcp",
        "https://gw.example:80/hr/mcp",
        "https://gw.example:99999/hr/mcp",
        "http://gw.example/hr/mcp",
        "https://evil.example/hr/mcp",
        "https://gw.example./hr/mcp",
        "https://gw.example@evil.example/hr/mcp",
        "https://u:p@gw.example/hr/mcp",
        "https://gw.example\\@evil.example/hr/mcp",
        "https://gw.example/hr%2fmcp",
        "https://gw.example//hr/mcp",
        "https://gw.example/fin/mcp",
        "https://gw.example/",
        "https://gw.example",
        "//gw.example/hr/mcp",
        "/hr/mcp",
        " https://gw.example/hr/mcp",
        "https://gw.example/hr/mcp\n",
        "https://gw.exampl\u0435/hr/mcp",
        "https://[::1",
        "javascript:alert(1)",
        "",
        None,
        7,
    ],
)
def test_wrong_htu_oa85(door: Door, url: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, htu=url)) == PROOF


@pytest.mark.parametrize(
    "url",
    [
        RESOURCE,
        "HTTPS://GW.EXAMPLE/hr/mcp",
        "https://gw.example:443/hr/mcp",
        "https://gw.example:/hr/mcp",
        "https://gw.example/%68r/mcp",
        "https://gw.example/x/../hr/./mcp",
    ],
)
def test_same_url_by_rfc3986(door: Door, url: str) -> None:
    assert shown(door, ALICE.proof(TOKEN, htu=url)) == "passed"


@pytest.mark.requirement("DPOP-05")
def test_url_is_the_configured_one_and_route_and_audience_still_count_dpop05(door: Door) -> None:
    finance = "https://gw.example/fin/mcp"
    moved = ALICE.proof(TOKEN, htu=finance)
    assert shown(door, moved, resource=finance) == "identity.audience"
    other = ISSUED.token(cnf=ALICE.cnf, aud=finance)
    assert shown(door, ALICE.proof(other), token=other) == "identity.audience"


@given(st.text(st.sampled_from("abAB/.%2eE~-_"), max_size=12))
def test_normal_form_is_a_fixed_point(path: str) -> None:
    once = normal_url(f"https://gw.example/{path}")
    assert normal_url(once) == once and "/../" not in once


@pytest.mark.requirement("DPOP-01", "OA-85")
def test_proof_for_another_token_oa85(door: Door) -> None:
    stolen = ISSUED.token(cnf=ALICE.cnf, sub="bob")
    assert shown(door, ALICE.proof(TOKEN), token=stolen) == PROOF
    good = b64(hashlib.sha256(TOKEN.encode()).digest())
    for ath in (
        None,
        "",
        good + "=",
        good[:-1],
        good.swapcase(),
        hashlib.sha256(TOKEN.encode()).hexdigest(),
        7,
        "\ud800",
    ):
        assert shown(door, ALICE.proof(TOKEN, ath=ath)) == PROOF
    assert shown(door, ALICE.proof(TOKEN, ath=good)) == "passed"


@pytest.mark.parametrize("jti", [None, "", 7, ["a"], "x" * 1025, {}])
def test_jti_of_the_wrong_kind(door: Door, jti: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, jti=jti)) == PROOF


@pytest.mark.requirement("DPOP-01", "OA-85")
@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS256", "ES384", "ES256K", "RS1", 7, None, ["ES256"]])
def test_algorithms_that_are_not_taken_oa85(door: Door, algorithm: Any) -> None:
    claims = ALICE.claims(TOKEN)
    honest = ALICE.key.sign(ALICE.header(), claims)
    head = {**ALICE.header(), "alg": algorithm}
    for signature in ("", honest.split(".")[2]):
        assert shown(door, f"{b64(dump(head))}.{b64(dump(claims))}.{signature}") == PROOF
    assert shown(door, honest) == "passed"


@pytest.mark.requirement("OA-85")
def test_symmetric_proof_oa85(door: Door) -> None:
    for secret, jwk in ((b"s" * 32, {"kty": "oct", "k": b64(b"s" * 32)}), (dump(ALICE.jwk), ALICE.jwk)):
        token = ISSUED.token(cnf={"jkt": b64(hashlib.sha256(dump(jwk)).digest())})
        message = f"{b64(dump(ALICE.header(alg='HS256', jwk=jwk)))}.{b64(dump(ALICE.claims(token)))}"
        mac = b64(hmac.digest(secret, message.encode(), "sha256"))
        assert shown(door, f"{message}.{mac}", token=token) == PROOF


@pytest.mark.requirement("OA-85")
def test_private_key_inside_the_proof_oa85(door: Door) -> None:
    numbers = ALICE.key.private.private_numbers()
    leaked = {**ALICE.jwk, "d": b64(numbers.private_value.to_bytes(32, "big"))}
    assert shown(door, ALICE.proof(TOKEN, {"jwk": leaked})) == PROOF
    for member in ("p", "q", "dp", "dq", "qi", "oth", "k", "d"):
        assert shown(door, ALICE.proof(TOKEN, {"jwk": {**ALICE.jwk, member: "AA"}})) == PROOF
    assert shown(door, ALICE.proof(TOKEN, {"jwk": {**ALICE.jwk, "kid": "x", "use": "sig"}})) == "passed"


@pytest.mark.parametrize(
    "jwk", [None, {}, [], "jwk", {"kty": "EC"}, {"kty": "oct", "k": "AA"}, {"kty": "RSA", "n": "AQ", "e": "AQAB"}]
)
def test_key_that_is_none(door: Door, jwk: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, {"jwk": jwk})) == PROOF


def test_weak_rsa_key(door: Door) -> None:
    weak = Holder("RS256", bits=1024)
    token = ISSUED.token(cnf=weak.cnf)
    assert shown(door, weak.proof(token), token=token) == PROOF


def test_point_that_is_not_on_the_curve(door: Door) -> None:
    bent = {**ALICE.jwk, "x": b64(b"\1" * 32)}
    token = ISSUED.token(cnf={"jkt": thumb(bent)})
    assert shown(door, ALICE.proof(token, {"jwk": bent}), token=token) == PROOF


def test_algorithm_of_another_key_kind(door: Door) -> None:
    rsa, ed = HOLDERS["RS256"], HOLDERS["EdDSA"]
    for head, holder in (({"alg": "ES256"}, rsa), ({"alg": "RS256"}, ed), ({"alg": "EdDSA"}, ALICE)):
        token = ISSUED.token(cnf=holder.cnf)
        assert shown(door, holder.key.sign(holder.header(**head), holder.claims(token)), token=token) == PROOF


@pytest.mark.requirement("DPOP-01", "AU-19")
def test_thief_with_the_right_key_in_the_header_but_his_own_signature(door: Door) -> None:
    assert shown(door, THIEF.key.sign(ALICE.header(), ALICE.claims(TOKEN))) == PROOF
    head, body, signature = ALICE.proof(TOKEN).split(".")
    other = ALICE.proof(TOKEN).split(".")
    assert shown(door, f"{head}.{body}.{other[2]}") == PROOF
    assert shown(door, f"{head}.{other[1]}.{signature}") == PROOF
    assert shown(door, f"{head}.{body}.{b64(bytes(64))}") == PROOF  # r = s = 0
    assert shown(door, f"{head}.{body}.{signature}") == "passed"


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "dpop", "DPOP+JWT ", "application/dpop+jwt", "", None, 7])
def test_typ_of_something_else(door: Door, kind: Any) -> None:
    assert shown(door, ALICE.proof(TOKEN, {"typ": kind})) == PROOF


@pytest.mark.parametrize("name", ["crit", "jku", "x5u", "x5c", "b64", "enc", "zip"])
def test_headers_that_change_the_meaning(door: Door, name: str) -> None:
    assert shown(door, ALICE.proof(TOKEN, {name: ["b64"]})) == PROOF


def test_malformed_proofs(door: Door) -> None:
    honest = ALICE.proof(TOKEN)
    head, body, signature = honest.split(".")
    twice = b64(dump(ALICE.header())[:-1] + b',"alg":"none"}')
    for bad in (
        "", "a", "a.b", "..", f"{head}.{body}", f"{honest}.x", f"{honest}=", f"{honest} ",
        f"{head}.{body}=.{signature}", f"{twice}.{body}.{signature}", f"{b64(b'[]')}.{body}.{signature}",
        f"{head}.{b64(b'[]')}.{signature}",
        "x" * 9000, f"{head}.{b64(dump({'a': 'x' * 9000}))}.{signature}", b"\xff\xfe", TOKEN,
    ):  # fmt: skip
        assert shown(door, bad) == PROOF
    assert shown(door, honest) == "passed"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "crit"]), JSON, max_size=4), JSON)
def test_nothing_but_a_refusal_comes_of_anything(junk: bytes, header: dict[str, Any], claims: Any) -> None:
    honest = {**ALICE.header(), **header}
    for proof in (junk, f"{b64(dump(honest))}.{b64(dump(claims))}.{b64(junk)}".encode()):
        with pytest.raises(ProofRefused):
            read_proof(proof, frozenset({"ES256"}))


# nonces


def offered(verdict: Verdict) -> str:
    assert isinstance(verdict, Refuse) and verdict.reason.id == NONCE
    return str(verdict.public["dpop_nonce"])


@pytest.mark.requirement("DPOP-04", "OA-85")
def test_nonce_when_required_oa85_dpop04() -> None:
    clock = Clock()
    door = Door(ISSUED, clock=clock, dpop={"nonce": "required"})
    given = offered(door.judge(f"DPoP {TOKEN}", ALICE.proof(TOKEN)))
    for nonce in (
        "",
        "x",
        given[:-1],
        given[:-1] + ("A" if given[-1] != "A" else "B"),
        b64(bytes(24)),
        given.lower(),
        7,
    ):
        assert shown(door, ALICE.proof(TOKEN, nonce=nonce)) in (NONCE, PROOF)
    assert shown(door, ALICE.proof(TOKEN, nonce=given)) == "passed"
    clock.now += 2 * WINDOW
    assert offered(door.judge(f"DPoP {TOKEN}", ALICE.proof(TOKEN, nonce=given, iat=int(clock.now)))) != given
    bad = door.judge(f"DPoP {TOKEN}", THIEF.proof(TOKEN))
    assert isinstance(bad, Refuse) and "dpop_nonce" not in bad.public


def test_nonces_of_replicas_and_of_strangers() -> None:
    clock, shared = Clock(), Door(ISSUED).seen
    one, two, stranger = Nonces(shared, clock), Nonces(shared, clock), Nonces(Door(ISSUED).seen, clock)
    assert two.holds(one.issue()) and not stranger.holds(one.issue())
    day_ago = one.issue()
    clock.now += 86_400
    assert two.holds(one.issue()) and not one.holds(day_ago)
    assert not two.holds(stranger.issue())


# replicas


@pytest.mark.requirement("DPOP-04")
def test_twenty_parallel_replays_let_one_in_b6(tmp_path: Path) -> None:
    """Two gateways with a connection each to one table, ten requests at each, all with one proof."""
    tables = [SqliteTable(tmp_path / "seen.db", "seen", Clock()) for _ in range(2)]
    doors = [Door(ISSUED, seen=table) for table in tables]

    async def story() -> list[Verdict]:
        for door in doors:
            await door.world.issuers.warm()
        proof = ALICE.proof(TOKEN)
        return await asyncio.gather(*(doors[at % 2].ask(f"DPoP {TOKEN}", proof) for at in range(20)))

    reasons = sorted(map(reason, asyncio.run(story())))
    assert reasons == [PROOF] * 19 + ["passed"]
    for table in tables:
        table.close()


def _replay(path: Path, proof: str, answers: Any) -> None:
    table = SqliteTable(path, "seen", Clock())
    answers.put(reason(Door(ISSUED, seen=table).judge(f"DPoP {TOKEN}", proof)))
    table.close()


def test_replay_to_another_process_b6(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    answers, proof = forked.Queue(), ALICE.proof(TOKEN)
    children = [forked.Process(target=_replay, args=(tmp_path / "seen.db", proof, answers)) for _ in range(4)]
    for child in children:
        child.start()
    assert sorted(answers.get(timeout=60) for _ in children) == [PROOF] * 3 + ["passed"]
    for child in children:
        child.join(30)


class Broken:
    """A table whose disk is gone."""

    def swap(self, *_: Any) -> bool:
        raise DependencyFault("table", "disk I/O error")


def test_table_that_fails_lets_nobody_in() -> None:
    with pytest.raises(DependencyFault):
        Door(ISSUED, seen=Broken()).judge(f"DPoP {TOKEN}", ALICE.proof(TOKEN))


def test_without_a_table_no_bound_token_is_good() -> None:
    from minting import World

    assert reason(World(ISSUED).judge(f"DPoP {TOKEN}".encode())) == BINDING


# what a route demands


def test_route_that_demands_a_binding_b7() -> None:
    loose = ISSUED.token()
    for kinds, both in (({"any"}, "passed"), ({"dpop"}, "passed"), ({"mtls"}, BINDING), ({"dpop", "mtls"}, BINDING)):
        door = Door(ISSUED, demands={"hr": frozenset(kinds)})
        assert reason(door.judge(f"Bearer {loose}")) == BINDING
        assert shown(door, ALICE.proof(TOKEN)) == both
    elsewhere = Door(ISSUED, demands={"fin": frozenset({"dpop"})})
    assert caller(elsewhere.judge(f"Bearer {loose}"))


def test_nobody_is_anonymous_where_a_binding_is_demanded() -> None:
    from limen.core.call import Presented
    from minting import context

    door = Door(ISSUED, demands={"hr": frozenset({"any"})}, unsafe_anonymous=True)
    verdict = door.world.guard.check(context(Presented(resource=RESOURCE)))
    assert isinstance(verdict, Refuse) and verdict.reason.id == "identity.missing"
    free = Door(ISSUED, unsafe_anonymous=True)
    assert isinstance(free.world.guard.check(context(Presented(resource=RESOURCE))), Pass)


def test_remembered_token_still_needs_its_proof() -> None:
    door = Door(ISSUED)

    async def story() -> None:
        await door.world.issuers.warm()
        assert isinstance(await door.ask(f"DPoP {TOKEN}", ALICE.proof(TOKEN)), Pass)
        assert door.world.guard._verifier._verified
        assert reason(await door.ask(f"DPoP {TOKEN}")) == PROOF
        assert reason(await door.ask(f"DPoP {TOKEN}", THIEF.proof(TOKEN))) == PROOF
        assert isinstance(await door.ask(f"DPoP {TOKEN}", ALICE.proof(TOKEN)), Pass)

    asyncio.run(story())
