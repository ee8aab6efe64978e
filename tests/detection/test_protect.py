"""Tokens come back for their tenant only, survive rotation, refuse every change, and die with the tenant's keys."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.adapters.datakeys import FileKeyStore
from limen.core.faults import ConfigFault, DependencyFault
from limen.detection.protect import KeyDestroyed, KeyStore, NotRevealed, Protector
from limen.detection.sensitive import find

TEXT = "4111 1111 1111 1111"


class MemoryKeyStore:
    """The smallest thing that keeps the protocol."""

    def __init__(self) -> None:
        self._kek, self.records = os.urandom(32), dict[str, bytes]()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(self._kek).encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return AESGCM(self._kek).decrypt(wrapped[:12], wrapped[12:], context)
        except InvalidTag as fault:
            raise DependencyFault("memory", "changed") from fault

    def read(self, tenant: str) -> bytes | None:
        return self.records.get(tenant)

    def swap(self, tenant: str, old: bytes | None, new: bytes) -> bool:
        if self.records.get(tenant) != old:
            return False
        self.records[tenant] = new
        return True


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    return MemoryKeyStore() if request.param == "memory" else FileKeyStore(tmp_path / "keys")


@pytest.fixture
def protector(store: KeyStore) -> Protector:
    return Protector(store)


def test_a_token_comes_back_for_its_tenant(protector: Protector) -> None:
    token = protector.protect("card", TEXT, "acme")
    assert "4111" not in token
    assert token.startswith("lp1.card.")
    assert protector.reveal(token, "acme") == TEXT


@given(text=st.text(max_size=300), equal=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_text_comes_back(text: str, equal: bool) -> None:
    protector = Protector(MemoryKeyStore())
    token = protector.protect("email", text, "acme", equal=equal)
    assert protector.reveal(token, "acme") == text
    assert protector.uncover(f"<{token}>", "acme") == f"<{text}>"


def test_odd_texts_come_back(protector: Protector) -> None:
    for text in ("", "\x00\x00", "\x80", "a\x80\x00", "\ud800 lone", "한" * 1000):
        assert protector.reveal(protector.protect("x", text, "acme"), "acme") == text


def test_equality_is_kept_only_where_it_is_asked_for(protector: Protector) -> None:
    assert protector.protect("card", TEXT, "acme") != protector.protect("card", TEXT, "acme")
    same = protector.protect("card", TEXT, "acme", equal=True)
    assert same == protector.protect("card", TEXT, "acme", equal=True)
    assert same != protector.protect("phone", TEXT, "acme", equal=True).replace("phone", "card")
    assert same != protector.protect("card", TEXT, "globex", equal=True)


def test_the_wrong_tenant_gets_nothing(protector: Protector) -> None:
    token = protector.protect("card", TEXT, "acme")
    protector.protect("card", "x", "globex")
    for tenant in ("globex", "nobody", "", "acme ", "ACME"):
        with pytest.raises(NotRevealed):
            protector.reveal(token, tenant)


def test_every_change_is_refused(protector: Protector) -> None:
    token = protector.protect("card", TEXT, "acme")
    dice = random.Random(1)
    for place in range(len(token)):
        other = dice.choice([sign for sign in "ABCabc012_-." if sign != token[place]])
        with pytest.raises(NotRevealed):
            protector.reveal(token[:place] + other + token[place + 1 :], "acme")
    for changed in (token[:-1], token + "A", token + "=", " " + token, token.replace("card", "email"), "", "lp1.card."):
        with pytest.raises(NotRevealed):
            protector.reveal(changed, "acme")


def test_destroyed_means_gone_everywhere(store: KeyStore) -> None:
    first, second = Protector(store), Protector(store)
    token, other = first.protect("card", TEXT, "acme"), first.protect("card", TEXT, "globex")
    assert second.reveal(token, "acme") == TEXT
    first.destroy("acme")
    for protector in (first, second, Protector(store)):
        for act in (
            lambda p=protector: p.reveal(token, "acme"),
            lambda p=protector: p.protect("card", TEXT, "acme"),
            lambda p=protector: p.rotate("acme"),
            lambda p=protector: p.uncover(f"a {token}", "acme"),
        ):
            with pytest.raises(KeyDestroyed):
                act()
        assert protector.reveal(other, "globex") == TEXT
    first.destroy("acme")


def test_rotation_while_in_use(store: KeyStore) -> None:
    protector, beside = Protector(store), Protector(store)
    tokens = [protector.protect("card", f"{TEXT} {number}", "acme") for number in range(5)]
    before = protector.protect("card", TEXT, "acme", equal=True)
    protector.rotate("acme")
    assert [beside.reveal(token, "acme") for token in tokens] == [f"{TEXT} {number}" for number in range(5)]
    assert protector.protect("card", TEXT, "acme", equal=True) != before
    renewed = beside.renew(before, "acme", equal=True)
    assert renewed == protector.protect("card", TEXT, "acme", equal=True)
    with pytest.raises(NotRevealed):
        protector.renew("not a token", "acme")


def test_first_use_and_rotation_by_many_threads_lose_nothing(store: KeyStore) -> None:
    def work(number: int) -> tuple[str, str]:
        protector = Protector(store)
        token = protector.protect("card", str(number), "acme")
        if number % 8 == 0:
            protector.rotate("acme")
        return token, str(number)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(32)))
    protector = Protector(store)
    assert all(protector.reveal(token, "acme") == text for token, text in made)


def test_hits_are_covered_and_uncovered(protector: Protector) -> None:
    text = f"주문: card {TEXT}, mail jane.doe@contoso.org"
    covered = protector.cover(text, find(text), "acme")
    assert "4111" not in covered
    assert "jane" not in covered
    assert protector.uncover(covered, "acme") == text
    protector.protect("card", "x", "globex")
    assert protector.uncover(covered, "globex") == covered


@pytest.mark.parametrize(("kind", "tenant"), [("", "a"), ("Card", "a"), ("a.b", "a"), ("x" * 41, "a"), ("card", "")])
def test_bad_kinds_and_tenants_are_refused(protector: Protector, kind: str, tenant: str) -> None:
    with pytest.raises(ValueError):
        protector.protect(kind, TEXT, tenant)


def test_too_much_text_is_refused(protector: Protector) -> None:
    with pytest.raises(ValueError):
        protector.protect("card", "x" * ((1 << 20) + 1), "acme")
    long = "x" * (1 << 20)
    assert protector.reveal(protector.protect("card", long, "acme"), "acme") == long


def test_records_of_two_tenants_cannot_be_exchanged() -> None:
    store = MemoryKeyStore()
    protector = Protector(store)
    token = protector.protect("card", TEXT, "acme")
    protector.protect("card", TEXT, "globex")
    store.records["globex"] = store.records["acme"]
    with pytest.raises(DependencyFault):
        Protector(store).reveal(token, "globex")


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"version":2,"keys":{}}', b'{"version":1,"keys":{"1":"?"}}'])
def test_a_damaged_record_is_a_fault_and_not_a_new_key(record: bytes) -> None:
    store = MemoryKeyStore()
    store.records["acme"] = record
    with pytest.raises(DependencyFault):
        Protector(store).protect("card", TEXT, "acme")
    assert store.records["acme"] == record


class Files:
    """What is particular to the files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = FileKeyStore(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "keys")


def test_key_encryption_keys_rotate_and_retire(files: Files) -> None:
    protector = Protector(files.store)
    token = protector.protect("card", TEXT, "acme")
    forgotten = protector.protect("card", TEXT, "globex")
    files.store.rotate()
    assert protector.reveal(token, "acme") == TEXT
    protector.rewrap("acme")
    files.store.retire(files.store.wrap(bytes(32), b""))
    again = Protector(FileKeyStore(files.path))
    assert again.reveal(token, "acme") == TEXT
    with pytest.raises(DependencyFault):
        again.reveal(forgotten, "globex")


def test_files_are_private_and_hold_no_tenant_name_and_no_old_key(files: Files) -> None:
    protector = Protector(files.store)
    protector.protect("card", TEXT, "acme")
    (record,) = (path for path in files.path.iterdir() if len(path.name) == 64)
    with record.open("rb") as opened:
        before = opened.read()
        protector.destroy("acme")
        opened.seek(0)
        assert opened.read() == bytes(len(before))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.path.iterdir())
    assert not [path for path in files.path.iterdir() if "acme" in path.name or b"acme" in path.read_bytes()]


def break_mode(path: Path) -> None:
    path.joinpath("kek").chmod(0o644)


def break_directory(path: Path) -> None:
    path.chmod(0o755)


def break_link(path: Path) -> None:
    path.joinpath("kek").rename(path / "real")
    path.joinpath("kek").symlink_to(path / "real")


def break_content(path: Path) -> None:
    path.joinpath("kek").write_text("1:AAAA\n")


@pytest.mark.parametrize("harm", [break_mode, break_directory, break_link, break_content])
def test_key_files_others_can_use_or_change_are_refused(files: Files, harm: Callable[[Path], None]) -> None:
    harm(files.path)
    with pytest.raises((ConfigFault, DependencyFault)):
        FileKeyStore(files.path)


def test_nothing_shows_a_key(files: Files) -> None:
    protector = Protector(files.store)
    protector.protect("card", TEXT, "acme")
    key = files.path.joinpath("kek").read_text().split(":")[1].strip()
    assert key not in repr(protector) + repr(files.store) + str(NotRevealed())
