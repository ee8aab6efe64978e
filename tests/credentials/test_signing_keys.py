"""Keys that sign our tokens (B2, AS: JWKS with rotation): verified by another implementation, rotated without a token
being refused, shared by replicas, readable by nobody else."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading

import jwt as pyjwt
import pytest

from limen.adapters.signing_keys import SigningKeys
from limen.core.faults import ConfigFault, DependencyFault

CLAIMS = {"iss": "http://127.0.0.1:8300", "sub": "alice", "aud": "https://limen/mcp/x", "scope": "read", "jti": "1"}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}


class Clock:
    def __init__(self):
        self.at = 1_000_000.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path, clock):
    return SigningKeys(tmp_path / "keys", warming=600, lifetime=960, now=clock)


def verify(token, key_set, **more):
    """By PyJWT, from the published set alone. Raises if no published key verifies it."""
    header = pyjwt.get_unverified_header(token)
    (key,) = [one for one in json.loads(key_set)["keys"] if one["kid"] == header["kid"]]
    options = {"verify_aud": False}
    return header, pyjwt.decode(token, pyjwt.PyJWK(key).key, algorithms=[key["alg"]], options=options, **more)


def kid(token):
    return pyjwt.get_unverified_header(token)["kid"]


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_another_implementation_verifies_what_is_signed(tmp_path, algorithm):
    keys = SigningKeys(tmp_path / "keys", algorithm=algorithm)
    header, claims = verify(keys.sign("at+jwt", CLAIMS), keys.key_set())
    assert header == {"alg": algorithm, "typ": "at+jwt", "kid": header["kid"]}
    assert claims == CLAIMS
    (published,) = json.loads(keys.key_set())["keys"]
    assert (published["alg"], published["use"], published["kid"]) == (algorithm, "sig", header["kid"])
    assert verify(keys.sign("JWT", CLAIMS), keys.key_set())[0]["typ"] == "JWT"


def test_the_key_id_is_the_thumbprint(keys):
    """RFC 7638: whoever has the key can name it, and two keys never share a name."""
    import hashlib
    from base64 import urlsafe_b64encode

    (key,) = json.loads(keys.key_set())["keys"]
    members = json.dumps({name: key[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":")).encode()
    assert key["kid"] == urlsafe_b64encode(hashlib.sha256(members).digest()).rstrip(b"=").decode()


def test_only_public_members_are_published(tmp_path):
    for algorithm in ("ES256", "EdDSA", "RS256"):
        keys = SigningKeys(tmp_path / algorithm, algorithm=algorithm)
        keys.rotate()
        (secret, *_) = json.loads((tmp_path / algorithm / "signing").read_bytes())["keys"]
        for key in json.loads(keys.key_set())["keys"]:
            assert not PRIVATE & key.keys()
        assert secret["jwk"]["d"] not in keys.key_set().decode() + repr(keys) + repr(keys.published())


def test_a_changed_token_does_not_verify(keys):
    head, body, signature = keys.sign("at+jwt", CLAIMS).split(".")
    other = keys.sign("at+jwt", {**CLAIMS, "sub": "bob"}).split(".")[1]
    with pytest.raises(pyjwt.InvalidSignatureError):
        verify(f"{head}.{other}.{signature}", keys.key_set())
    verify(f"{head}.{body}.{signature}", keys.key_set())


def test_a_new_key_is_published_before_it_signs(keys, clock):
    """A resource server with a JWK set of up to ten minutes ago verifies everything that is signed now."""
    old = kid(keys.sign("at+jwt", CLAIMS))
    fresh = keys.rotate()
    cached = keys.key_set()
    assert {one["kid"] for one in json.loads(cached)["keys"]} == {old, fresh}
    clock.at += 599
    assert kid(keys.sign("at+jwt", CLAIMS)) == old
    clock.at += 1
    token = keys.sign("at+jwt", CLAIMS)
    assert kid(token) == fresh
    verify(token, cached)
    assert [state for _, state in keys.published()] == ["signing", "verifying"]


def test_an_old_key_is_published_until_its_last_token_is_over(tmp_path, keys, clock):
    old = kid(keys.sign("at+jwt", CLAIMS))
    fresh = keys.rotate()
    clock.at += 599
    last = keys.sign("at+jwt", CLAIMS)
    assert kid(last) == old
    clock.at += 960
    verify(last, keys.key_set())
    clock.at += 1.5
    assert [one["kid"] for one in json.loads(keys.key_set())["keys"]] == [fresh]
    assert old in ids_on_disk(tmp_path)
    assert not keys.renew(older_than=1e9)  # nothing is due, but what is over leaves the disk
    assert ids_on_disk(tmp_path) == [fresh]
    assert kid(keys.sign("at+jwt", CLAIMS)) == fresh


def ids_on_disk(tmp_path):
    from joserfc.jwk import ECKey

    rows = json.loads((tmp_path / "keys" / "signing").read_bytes())["keys"]
    return [ECKey.import_key(row["jwk"]).thumbprint() for row in rows]


def test_a_distrusted_key_is_gone_at_once(keys):
    token = keys.sign("at+jwt", CLAIMS)
    fresh = keys.rotate(distrust=True)
    assert [one["kid"] for one in json.loads(keys.key_set())["keys"]] == [fresh]
    assert kid(keys.sign("at+jwt", CLAIMS)) == fresh != kid(token)


def test_keys_are_renewed_when_they_are_old_and_by_one_replica_only(tmp_path, keys, clock):
    other = SigningKeys(tmp_path / "keys", now=clock)
    assert not keys.renew(older_than=3600)
    clock.at += 3600
    assert [keys.renew(3600), other.renew(3600), keys.renew(3600)] == [True, False, False]
    assert len(json.loads(other.key_set())["keys"]) == 2


def test_a_replica_picks_a_rotation_up(tmp_path, keys, monkeypatch):
    """Within a second, and at once for whoever asks for the published set."""
    other = SigningKeys(tmp_path / "keys", now=keys._now)
    fresh = keys.rotate(distrust=True)
    assert kid(other.sign("at+jwt", CLAIMS)) != fresh
    monkeypatch.setattr("limen.adapters.signing_keys._LOOK", 0.0)
    assert kid(other.sign("at+jwt", CLAIMS)) == fresh
    assert other.key_set() == keys.key_set()


def _start(directory, start, out):
    start.wait(30)
    out.put(SigningKeys(directory).key_set())


def test_replicas_that_start_together_make_one_key(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(3), context.Queue()
    replicas = [context.Process(target=_start, args=(tmp_path / "keys", start, out)) for _ in range(3)]
    for one in replicas:
        one.start()
    assert len({out.get(timeout=60) for _ in replicas}) == 1
    for one in replicas:
        one.join(30)


def test_rotation_under_signers_fails_no_token(tmp_path):
    """B4: while six threads sign and verify, keys are rotated again and again: every token verifies when it is made."""
    keys = SigningKeys(tmp_path / "keys", warming=0.0, lifetime=960)
    done, trouble, signed = threading.Event(), [], [0] * 6

    def work(number):
        try:
            while not done.is_set() or not signed[number]:
                verify(keys.sign("at+jwt", CLAIMS), keys.key_set())
                signed[number] += 1
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for one in threads:
        one.start()
    try:
        for _ in range(8):
            keys.rotate()
    finally:
        done.set()
        for one in threads:
            one.join(60)
    assert not trouble
    assert all(signed)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_others_may_use_is_refused(tmp_path, keys, mode):
    (tmp_path / "keys" / "signing").chmod(mode)
    with pytest.raises(ConfigFault, match="0600"):
        SigningKeys(tmp_path / "keys")


def test_a_file_that_others_may_use_while_we_run_signs_no_more(tmp_path, keys, monkeypatch):
    """Fail closed, and as the fault a handler expects; mended, it goes on."""
    monkeypatch.setattr("limen.adapters.signing_keys._LOOK", 0.0)
    keys.sign("at+jwt", CLAIMS)
    SigningKeys(tmp_path / "keys").rotate()
    (tmp_path / "keys" / "signing").chmod(0o644)
    for work in (lambda: keys.sign("at+jwt", CLAIMS), keys.key_set):
        with pytest.raises(DependencyFault, match="0600"):
            work()
    (tmp_path / "keys" / "signing").chmod(0o600)
    verify(keys.sign("at+jwt", CLAIMS), keys.key_set())


def test_a_directory_others_may_use_and_a_link_are_refused(tmp_path, keys):
    (tmp_path / "keys").chmod(0o750)
    with pytest.raises(ConfigFault, match="0700"):
        SigningKeys(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o700)
    os.rename(tmp_path / "keys" / "signing", tmp_path / "elsewhere")
    (tmp_path / "keys" / "signing").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="symbolic links"):
        SigningKeys(tmp_path / "keys")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"keys":[]}', b'{"version":1,"keys":[{"alg":"HS256"}]}'])
def test_what_cannot_be_read_is_refused_and_not_replaced(tmp_path, keys, content):
    """B4: no fallback key."""
    (tmp_path / "keys" / "signing").write_bytes(content)
    with pytest.raises(ConfigFault, match="cannot be read"):
        SigningKeys(tmp_path / "keys")
    assert (tmp_path / "keys" / "signing").read_bytes() == content


def test_a_public_key_or_one_of_another_kind_is_refused(tmp_path, keys):
    held = json.loads((tmp_path / "keys" / "signing").read_bytes())
    public = {name: value for name, value in held["keys"][0]["jwk"].items() if name != "d"}
    for change in ({"jwk": public}, {"alg": "RS256"}, {"alg": "none"}):
        row = {**held["keys"][0], **change}
        (tmp_path / "keys" / "signing").write_text(json.dumps({"version": 1, "keys": [row]}))
        with pytest.raises(ConfigFault, match="cannot be read"):
            SigningKeys(tmp_path / "keys")


def test_a_clock_set_back_still_signs(keys, clock):
    clock.at -= 86_400
    verify(keys.sign("at+jwt", CLAIMS), keys.key_set())
