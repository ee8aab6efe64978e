"""The vault (B4): sealed secrets open for their owner and place alone, and their keys are made, replaced and destroyed
while others use them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.memory import MemoryTable
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.sqlite import SqliteTable
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import owner_of
from limen.credentials.vault import LIVES, MOST, Vault, in_use

ALICE, BOB = owner_of("https://id.example", "alice"), owner_of("https://id.example", "bob")
TOKEN = b"planted-upstream-token-5f2c91"


class Clock:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


class Counting(FileKeyStore):
    """Counts what would be requests to a device or service; a barrier may stop several in the middle of one."""

    unwrapped = wrapped = 0
    fault = None

    def wrap(self, key, context):
        if self.fault:
            raise self.fault
        self.wrapped += 1
        return super().wrap(key, context)

    def unwrap(self, wrapped, context):
        if self.fault:
            raise self.fault
        self.unwrapped += 1
        return super().unwrap(wrapped, context)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(tmp_path):
    made = SqliteTable(tmp_path / "limen.db", "vault", shredded=True)
    yield made
    made.close()


@pytest.fixture
def wrap(tmp_path):
    return Counting(tmp_path / "keys")


@pytest.fixture
def vault(table, wrap, clock):
    return Vault(table, wrap, clock)


def refused(work):
    """The fault is final, and says nothing of the secret."""
    with pytest.raises(DependencyFault) as told:
        work()
    assert not told.value.retryable
    assert TOKEN.decode() not in repr(told.value) + str(told.value)


# one secret


def test_what_is_sealed_opens_for_its_owner_and_place(vault, table, wrap):
    sealed = vault.seal(ALICE, "upstream/github", TOKEN)
    assert vault.open(ALICE, "upstream/github", sealed) == TOKEN
    assert Vault(table, wrap).open(ALICE, "upstream/github", sealed) == TOKEN
    assert vault.seal(ALICE, "upstream/github", TOKEN) != sealed
    assert vault.open(ALICE, "", vault.seal(ALICE, "", b"")) == b""
    assert TOKEN not in sealed
    assert repr(vault) == "Vault()"


def test_a_foreign_owner_or_place_opens_nothing(vault):
    """B4: a row moved to another person's record, or to another purpose, is worth nothing."""
    sealed = vault.seal(ALICE, "upstream/github", TOKEN)
    vault.seal(BOB, "upstream/github", TOKEN)  # somebody with keys
    for owner, place in ((BOB, "upstream/github"), (ALICE, "upstream/gitlab"), (ALICE, ""), ("nobody", "x"), ("", "")):
        refused(lambda owner=owner, place=place: vault.open(owner, place, sealed))
    assert vault.open(ALICE, "upstream/github", sealed) == TOKEN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((owner_of("https://a", "b"), "p"), (owner_of("https://ab", ""), "p")),
        ((owner_of("https://a", "bob"), "place"), (owner_of("https://a", "bo"), "bplace")),
        (("a", "bc"), ("ab", "c")),
    ],
)
def test_names_that_run_together_are_told_apart(vault, one, other):
    assert one != other
    refused(lambda: vault.open(*other, vault.seal(*one, TOKEN)))


def test_no_bit_can_be_changed_and_no_byte_left_out(vault):
    sealed = vault.seal(ALICE, "place", TOKEN)
    for at in range(len(sealed)):
        for bit in (1, 128):
            changed = bytearray(sealed)
            changed[at] ^= bit
            refused(lambda changed=changed: vault.open(ALICE, "place", bytes(changed)))
        refused(lambda at=at: vault.open(ALICE, "place", sealed[:at]))
    refused(lambda: vault.open(ALICE, "place", sealed + b"\0"))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_a_fault_and_nothing_else(data):
    vault = Vault(MemoryTable(), _Plain())
    vault.seal(ALICE, "place", TOKEN)
    refused(lambda: vault.open(ALICE, "place", data))
    refused(lambda: vault.open(ALICE, "place", b"\x01" + data))


class _Plain:
    """Wraps nothing: for what does not depend on it."""

    def wrap(self, key, context):
        return key

    def unwrap(self, wrapped, context):
        return wrapped


def test_nobodys_secret_and_a_huge_one_are_not_sealed(vault):
    for owner, secret in (("", TOKEN), (ALICE, bytes((1 << 20) + 1))):
        with pytest.raises(ValueError, match="nobody's secret"):
            vault.seal(owner, "place", secret)


def test_a_record_that_was_changed_is_a_fault(vault, table, wrap):
    sealed = vault.seal(ALICE, "place", TOKEN)
    vault.seal(BOB, "place", TOKEN)
    alice, bob = sorted(table.scan("key/"), key=lambda row: row[0] != _place(table, vault, ALICE))
    for forged in (bob[1], b"{}", b"", b"\xff", alice[1][:-2], alice[1].replace(b'"version":1', b'"version":2')):
        table.put(alice[0], forged)
        refused(lambda: Vault(table, wrap).open(ALICE, "place", sealed))
    table.put(alice[0], alice[1])
    assert Vault(table, wrap).open(ALICE, "place", sealed) == TOKEN


def _place(table, vault, owner):
    """Where an owner's record is, found by destroying it and putting it back."""
    before = dict(table.scan("key/"))
    vault.destroy(owner)
    (gone,) = before.keys() - dict(table.scan("key/")).keys()
    table.put(gone, before[gone])
    return gone


def test_records_do_not_name_people(vault, table):
    vault.seal(ALICE, "place", TOKEN)
    (row,) = table.scan("key/")
    assert "alice" not in row[0] + row[1].decode()


# what is kept in memory


def test_a_data_key_is_unwrapped_once_and_let_go_of(vault, wrap, clock):
    sealed = vault.seal(ALICE, "place", TOKEN)
    for _ in range(5):
        vault.open(ALICE, "place", sealed)
    assert wrap.unwrapped == 1
    clock.at = LIVES
    vault.forget()
    assert not vault._held
    vault.open(ALICE, "place", sealed)
    assert wrap.unwrapped == 2
    clock.at += LIVES + 1
    vault.open(ALICE, "place", vault.seal(BOB, "other", b"") and sealed)
    assert len(vault._held) == 2


def test_memory_is_bounded(vault, monkeypatch):
    monkeypatch.setattr("limen.credentials.vault._CACHED", 8)
    sealed = {owner: vault.seal(owner, "place", TOKEN) for owner in map(str, range(30))}
    assert len(vault._held) == 8
    assert {vault.open(owner, "place", blob) for owner, blob in sealed.items()} == {TOKEN}
    assert len(vault._held) == 8


def test_twenty_who_need_one_key_make_one_request(table, wrap, clock):
    """A burst of calls of one caller is one request to the service that holds the key-encryption key."""
    sealed = Vault(table, wrap, clock).seal(ALICE, "place", TOKEN)
    fresh, before, start = Vault(table, wrap, clock), wrap.unwrapped, threading.Barrier(20)

    def use(_):
        start.wait(20)
        return fresh.open(ALICE, "place", sealed)

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(use, range(20))) == {TOKEN}
    assert wrap.unwrapped == before + 1


def test_a_service_that_is_away_is_a_fault_and_not_a_new_key(vault, table, wrap):
    """B4: fail closed. What is at hand still opens; nothing is sealed under a key that could not be wrapped."""
    sealed = vault.seal(ALICE, "place", TOKEN)
    wrap.fault = DependencyFault("key vault", "away")
    assert vault.open(ALICE, "place", sealed) == TOKEN
    with pytest.raises(DependencyFault, match="away"):
        vault.seal(BOB, "place", TOKEN)
    with pytest.raises(DependencyFault, match="away"):
        Vault(table, wrap).open(ALICE, "place", sealed)
    assert len(list(table.scan("key/"))) == 1
    wrap.fault = None
    assert vault.open(BOB, "place", vault.seal(BOB, "place", TOKEN)) == TOKEN


def test_a_key_that_others_may_read_while_we_run_is_used_no_more(tmp_path, vault, clock):
    sealed = vault.seal(ALICE, "place", TOKEN)
    clock.at = LIVES
    (tmp_path / "keys" / "kek").chmod(0o644)
    for work in (lambda: vault.open(ALICE, "place", sealed), lambda: vault.seal(BOB, "place", TOKEN)):
        refused(work)
    (tmp_path / "keys" / "kek").chmod(0o600)
    assert vault.open(ALICE, "place", sealed) == TOKEN


# races


def test_twenty_threads_make_one_first_data_key(table, wrap):
    start = threading.Barrier(20)

    def use(_):
        start.wait(20)
        return Vault(table, wrap).seal(ALICE, "place", TOKEN)

    with ThreadPoolExecutor(20) as pool:
        sealed = list(pool.map(use, range(20)))
    assert len({blob[1:9] for blob in sealed}) == 1
    assert {Vault(table, wrap).open(ALICE, "place", blob) for blob in sealed} == {TOKEN}


def _replica(directory, start, out):
    """A process of its own: seals for people that the other one seals for at the same moment."""
    vault = Vault(SqliteTable(directory / "limen.db", "vault"), FileKeyStore(directory / "keys"))
    start.wait(30)
    out.put({str(number): vault.seal(str(number), "place", TOKEN) for number in range(20)})


def test_two_processes_make_one_first_data_key_each(tmp_path, table, wrap):
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(2), context.Queue()
    replicas = [context.Process(target=_replica, args=(tmp_path, start, out)) for _ in range(2)]
    for one in replicas:
        one.start()
    answers = [out.get(timeout=60) for _ in replicas]
    for one in replicas:
        one.join(30)
    vault = Vault(table, wrap)
    for answer in answers:
        assert {vault.open(owner, "place", blob) for owner, blob in answer.items()} == {TOKEN}
    assert vault.status().keys == vault.status().owners == 20


# rotation


def test_a_new_data_key_seals_and_the_old_one_still_opens(vault, wrap):
    before = vault.seal(ALICE, "place", TOKEN)
    vault.rotate(ALICE)
    after = vault.seal(ALICE, "place", TOKEN)
    assert before[1:9] != after[1:9]
    assert vault.open(ALICE, "place", before) == vault.open(ALICE, "place", after) == TOKEN
    assert vault.rotate_all() == 1
    assert vault.status().keys == 3


def test_generations_are_bounded(vault):
    vault.seal(ALICE, "place", TOKEN)
    for _ in range(MOST - 1):
        vault.rotate(ALICE)
    with pytest.raises(DependencyFault, match="too many"):
        vault.rotate(ALICE)


def test_every_key_is_rotated_while_twenty_people_call(tmp_path, wrap):
    """B4: key-encryption key, data keys and all that wraps them are replaced under callers, who notice nothing."""
    owners = [owner_of("https://id.example", str(number)) for number in range(20)]
    tables = [SqliteTable(tmp_path / "limen.db", "vault") for _ in range(3)]
    replicas = [Vault(tables[0], wrap), Vault(tables[1], FileKeyStore(tmp_path / "keys"))]
    operator = Vault(tables[2], FileKeyStore(tmp_path / "keys"))
    done, trouble, opened = threading.Event(), [], [0] * len(owners)

    def call(number):
        owner, vault = owners[number], replicas[number % 2]
        try:
            while not done.is_set() or opened[number] < 3:
                secret = secrets.token_bytes(40)
                sealed = vault.seal(owner, "place", secret)
                assert replicas[1 - number % 2].open(owner, "place", sealed) == secret
                opened[number] += 1
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(owners))]
    for one in threads:
        one.start()
    try:
        for _ in range(3):
            operator.rotate_all()
            operator._wrap.rotate()
            with ThreadPoolExecutor(2) as pool:  # two replicas rewrap at once
                list(pool.map(lambda vault: vault.rewrap(), (operator, replicas[0])))
    finally:
        done.set()
        for one in threads:
            one.join(60)
    assert not trouble
    operator.rewrap()
    assert operator.status().behind == 0
    operator.retire()
    for number, owner in enumerate(owners):
        assert replicas[number % 2].open(owner, "p", operator.seal(owner, "p", TOKEN)) == TOKEN
    for one in tables:
        one.close()


def test_rewrapping_reports_is_repeatable_and_changes_no_secret(vault, table, wrap):
    sealed = {owner: vault.seal(owner, "place", TOKEN) for owner in (ALICE, BOB)}
    vault.prove()
    wrap.rotate()
    assert vault.status().behind == 3
    with pytest.raises(ConfigFault, match="rewrap first"):
        vault.retire()
    seen = []
    assert vault.rewrap(lambda done, of: seen.append((done, of))) == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert vault.rewrap() == 0
    vault.retire()
    fresh = Vault(table, wrap)
    fresh.prove()
    assert {fresh.open(owner, "place", blob) for owner, blob in sealed.items()} == {TOKEN}


def test_an_interrupted_rewrap_loses_nothing_and_goes_on(vault, table, wrap):
    owners = list(map(str, range(6)))
    sealed = {owner: vault.seal(owner, "place", TOKEN) for owner in owners}
    wrap.rotate()
    calls = iter(range(3))

    def stop(done, of):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vault.rewrap(stop)
    assert 0 < vault.status().behind < 6
    assert {Vault(table, wrap).open(owner, "place", blob) for owner, blob in sealed.items()} == {TOKEN}
    assert vault.rewrap() == 2
    assert vault.status().behind == 0


def test_a_rotation_between_look_and_act_loses_nothing(vault, table, wrap):
    """Two operators at once: one retires while the other makes a newer key; what is in use stays."""
    sealed = vault.seal(ALICE, "place", TOKEN)
    wrap.rotate()
    vault.rewrap()
    status = vault.status

    def looked():
        found = status()
        wrap.rotate()
        return found

    vault.status = looked
    vault.retire()
    assert Vault(table, wrap).open(ALICE, "place", sealed) == TOKEN
    assert len(wrap._keks()) == 2


# destruction


def test_destroyed_keys_open_nothing_ever_and_others_stay(vault, table, wrap):
    sealed, other = vault.seal(ALICE, "place", TOKEN), vault.seal(BOB, "place", TOKEN)
    assert vault.destroy(ALICE)
    assert not vault.destroy(ALICE)
    refused(lambda: vault.open(ALICE, "place", sealed))
    again = vault.seal(ALICE, "place", b"a new beginning")
    assert vault.open(ALICE, "place", again) == b"a new beginning"
    refused(lambda: vault.open(ALICE, "place", sealed))
    refused(lambda: Vault(table, wrap).open(ALICE, "place", sealed))
    assert vault.open(BOB, "place", other) == TOKEN
    with pytest.raises(ValueError, match="stays"):
        vault.destroy("")


def test_a_key_that_is_being_unwrapped_is_destroyed_as_well(vault, table, wrap, clock):
    """The other thread has asked the key's place already when the record goes: it does not put the key back to hand."""
    sealed = vault.seal(ALICE, "place", TOKEN)
    clock.at = LIVES
    asked, go_on, unwrap = threading.Event(), threading.Event(), wrap.unwrap

    def slow(wrapped, context):
        asked.set()
        go_on.wait(20)
        return unwrap(wrapped, context)

    wrap.unwrap = slow
    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(vault.open, ALICE, "place", sealed)
        asked.wait(20)
        destroying = pool.submit(vault.destroy, ALICE)
        go_on.set()
        assert opening.result(20) == TOKEN  # it came first
        assert destroying.result(20)
    refused(lambda: vault.open(ALICE, "place", sealed))


def test_destruction_reaches_other_replicas_within_a_minute(vault, table, wrap, clock):
    other = Vault(table, wrap, clock)
    sealed = vault.seal(ALICE, "place", TOKEN)
    assert other.open(ALICE, "place", sealed) == TOKEN
    vault.destroy(ALICE)
    clock.at = LIVES + 0.1
    refused(lambda: other.open(ALICE, "place", sealed))


def test_a_destroyed_key_is_in_no_byte_of_the_database(tmp_path, vault, table, wrap):
    """Crypto-shredding is worth nothing if the wrapped key stays on a free page or in the write-ahead log."""
    vault.seal(BOB, "place", TOKEN)
    vault.seal(ALICE, "place", TOKEN)
    vault.rotate(ALICE)
    records = dict(table.scan("key/"))
    vault.destroy(ALICE)
    (gone,) = records.keys() - dict(table.scan("key/")).keys()
    files = b"".join(path.read_bytes() for path in tmp_path.glob("limen.db*"))
    for wrapped in json.loads(records[gone])["keys"].values():
        assert wrapped.encode() not in files
    (left,) = dict(table.scan("key/")).values()
    assert json.loads(left)["newest"].encode() in files


# the right key-encryption key


def test_another_key_encryption_key_is_noticed_at_once(tmp_path, vault, table):
    vault.prove()
    vault.prove()
    assert in_use(table)
    before = dict(table.scan(""))
    with pytest.raises(ConfigFault, match="another key-encryption key"):
        Vault(table, FileKeyStore(tmp_path / "others")).prove()
    assert dict(table.scan("")) == before


def test_nothing_of_a_secret_is_logged(vault, caplog):
    caplog.set_level(logging.DEBUG)
    vault.open(ALICE, "place", vault.seal(ALICE, "place", TOKEN))
    refused(lambda: vault.open(BOB, "place", vault.seal(ALICE, "place", TOKEN)))
    assert TOKEN.decode() not in caplog.text
