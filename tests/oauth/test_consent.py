"""The ledger: a row holds for exactly what one person was shown, until it ends; a broken one holds nothing."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.memory import MemoryTable
from limen.adapters.sqlite import SqliteTable
from limen.oauth.consent import MOST, Consent, Consents, place
from limen.oauth.model import User
from limen.oauth.settings import ConsentSettings
from limen.oauth.web import OAuthError
from oauth.asking_scene import ASKED, CLIENT, asked, client

USER = User("https://login.example", "alice", "Alice")
OURS = client(source="configured", digest="d1", verified=True)


class Ledger:
    """Consents on a table, a clock and a log of our own."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[Consent] = []
        self.table = MemoryTable(lambda: self.time)
        self.consents = Consents(
            self.table, lambda event, fields: self.events.append((event, dict(fields))),
            ConsentSettings(expires=100), lambda: self.time, self.ended.append,
        )  # fmt: skip


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_given_it_holds_until_it_expires(ledger: Ledger) -> None:
    given = ledger.consents.give(USER, ASKED, CLIENT)
    assert ledger.consents.holds(given)
    ledger.time += 99
    assert ledger.consents.holds(given)
    ledger.time += 1
    assert not ledger.consents.holds(given)
    assert ledger.consents.list() == ()


def test_given_again_it_is_the_same_and_lasts_longer(ledger: Ledger) -> None:
    given = ledger.consents.give(USER, ASKED, CLIENT)
    ledger.time += 60
    assert ledger.consents.give(USER, ASKED, CLIENT) == given
    ledger.time += 60
    assert ledger.consents.holds(given)
    assert len(ledger.consents.list()) == 1


DIFFERENT = {
    "person": {"user": replace(USER, subject="bob")},
    "person of another issuer": {"user": replace(USER, issuer="https://other.example")},
    "client": {"client": client(id="https://evil.example/c"), "asked": asked(client="https://evil.example/c")},
    "document": {"client": client(digest="d2"), "asked": asked(client_digest="d2")},
    "redirect": {"asked": asked(redirect_uri="https://app.example/other")},
    "resource": {"asked": asked(resource="https://limen.example/mcp/hr", route="hr")},
    "wider scopes": {"asked": asked(scopes=("files.read", "files.write", "offline_access", "admin"))},
}


@pytest.mark.requirement("AS-22", "AS-33", "AS-34", "OA-01", "OA-04", "OA-06", "OA-44")
@pytest.mark.parametrize("what", DIFFERENT)
def test_consent_is_for_what_was_shown_and_for_nothing_else_as22_oa06(ledger: Ledger, what: str) -> None:
    """OA-01, OA-04, OA-06, OA-44, AS-22, AS-33, AS-34: none of what differs is covered."""
    ours: dict[str, Any] = {"user": USER, "asked": ASKED, "client": OURS}
    given = ledger.consents.give(**ours)
    changed = {**ours, **DIFFERENT[what]}
    changed["client"] = replace(changed["client"], source="configured")
    assert ledger.consents.give(**ours) == given  # its honest twin
    other = ledger.consents.give(**changed)
    assert other != given
    ledger.consents.revoke(other, by="carol")
    assert ledger.consents.holds(given)


@pytest.mark.requirement("OA-44")
def test_a_client_that_changed_while_people_were_asked_gets_nothing_oa44(ledger: Ledger) -> None:
    """OA-44: what was shown was the other document."""
    with pytest.raises(OAuthError, match="changed"):
        ledger.consents.give(USER, ASKED, client(digest="d2"))
    assert ledger.consents.list() == ()


def test_revoked_it_holds_nothing_and_does_not_come_back(ledger: Ledger) -> None:
    """Consent that is given again later does not revive what was issued under the old one."""
    old = ledger.consents.give(USER, ASKED, OURS)
    ended = ledger.consents.revoke(old, by="carol", reason="lost laptop")
    assert [one.id for one in ledger.ended] == [ended.id] == [old]
    assert not ledger.consents.holds(old)
    new = ledger.consents.give(USER, ASKED, OURS)
    assert new != old
    assert ledger.consents.holds(new)
    assert not ledger.consents.holds(old)
    with pytest.raises(LookupError):
        ledger.consents.revoke(old, by="carol")


def test_every_change_is_recorded_before_it_is_made(ledger: Ledger) -> None:
    given = ledger.consents.give(USER, ASKED, CLIENT)
    ledger.consents.revoke(given, by="carol", reason="why")
    (one, first), (two, second) = ledger.events
    assert (one, first["change"], first["id"], first["subject"]) == ("consent", "give", given, "alice")
    assert first["scopes"] == ["files.read", "files.write", "offline_access"]
    assert (two, second["change"], second["by"], second["reason"]) == ("consent", "revoke", "carol", "why")

    def broken(event: str, fields: Any) -> None:
        raise OSError("the log is full")

    silent = Consents(ledger.table, broken, ConsentSettings(), lambda: ledger.time)
    with pytest.raises(OSError):
        silent.give(USER, ASKED, CLIENT)
    assert ledger.consents.list() == ()


@pytest.mark.requirement("AS-24")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: b"",
        lambda raw: b"[]",
        lambda raw: b'"text"',
        lambda raw: raw.replace(b"alice", b"mallo"),
        lambda raw: raw.replace(b"app.example/cb", b"evil.example/c"),
        lambda raw: raw.replace(b"files.write", b"admin"),
        lambda raw: json.dumps({**json.loads(raw), "expires": "never"}).encode(),
        lambda raw: json.dumps({**json.loads(raw), "expires": True}).encode(),
        lambda raw: json.dumps({**json.loads(raw), "scopes": [1]}).encode(),
        lambda raw: json.dumps({**json.loads(raw), "more": 1}).encode(),
        lambda raw: json.dumps({key: value for key, value in json.loads(raw).items() if key != "nonce"}).encode(),
    ],
)
def test_what_cannot_be_read_is_no_consent_as24(ledger: Ledger, spoil: Any) -> None:
    """AS-24: a row that is broken, or says something else than its key, holds nothing; asking again repairs it."""
    given = ledger.consents.give(USER, ASKED, OURS)
    ((key, raw),) = ledger.table.scan("")
    assert spoil(raw) != raw
    ledger.table.put(key, spoil(raw))
    assert not ledger.consents.holds(given)
    assert ledger.consents.list() == ()
    assert ledger.consents.holds(ledger.consents.give(USER, ASKED, OURS))


@pytest.mark.requirement("OA-06")
def test_a_row_put_in_another_persons_place_is_none_oa06(ledger: Ledger) -> None:
    ledger.consents.give(USER, ASKED, OURS)
    ledger.consents.give(replace(USER, subject="bob"), ASKED, OURS)
    rows = dict(ledger.table.scan(""))
    for key, other in zip(rows, reversed(list(rows.values())), strict=True):
        ledger.table.put(key, other)
    assert ledger.consents.list() == ()


@pytest.mark.parametrize("id", ["", "x", "../..", "0" * 50, f"{'0' * 16}-{'0' * 16}-{'0' * 16}", "é" * 50])
def test_ids_of_nothing(ledger: Ledger, id: str) -> None:
    ledger.consents.give(USER, ASKED, CLIENT)
    assert not ledger.consents.holds(id)


def test_no_digit_of_an_id_can_be_changed(ledger: Ledger) -> None:
    given = ledger.consents.give(USER, ASKED, CLIENT)
    for index, digit in enumerate(given):
        changed = given[:index] + ("1" if digit == "0" else "0") + given[index + 1 :]
        assert not ledger.consents.holds(changed)
    assert not ledger.consents.holds(given + "\n")


def test_loopback_ports_are_not_kept_and_everything_else_is() -> None:
    assert place("http://127.0.0.1:53211/cb") == "http://127.0.0.1/cb"
    assert place("http://[::1]:53211") == "http://[::1]"
    for whole in (
        "https://127.0.0.1:53211/cb", "http://localhost:53211/cb", "http://127.0.0.1:53211@evil.example/cb",
        "http://127.0.0.1:53211.evil.example/", "https://app.example:8443/cb",
    ):  # fmt: skip
        assert place(whole) == whole


def test_another_loopback_port_is_the_same_redirect(ledger: Ledger) -> None:
    one = ledger.consents.give(USER, asked(redirect_uri="http://127.0.0.1:4000/cb"), CLIENT)
    assert ledger.consents.give(USER, asked(redirect_uri="http://127.0.0.1:4001/cb"), CLIENT) == one
    assert ledger.consents.give(USER, asked(redirect_uri="http://127.0.0.1:4001/evil"), CLIENT) != one


def test_list_finds_by_person_client_and_server(ledger: Ledger) -> None:
    first = ledger.consents.give(USER, ASKED, CLIENT)
    ledger.time += 1
    second = ledger.consents.give(replace(USER, subject="bob"), asked(route="", resource="r"), CLIENT)
    assert [row.id for row in ledger.consents.list()] == [first, second]
    assert [row.id for row in ledger.consents.list(user="bob")] == [second]
    assert [row.id for row in ledger.consents.list(server="files")] == [first]
    assert [row.id for row in ledger.consents.list(server="")] == [second]
    assert ledger.consents.list(client="c") == ()


@pytest.mark.requirement("OA-05")
def test_rows_of_one_person_are_bounded_oa05(ledger: Ledger) -> None:
    for number in range(MOST):
        ledger.consents.give(USER, asked(redirect_uri=f"https://app.example/{number}"), CLIENT)
    with pytest.raises(OAuthError) as caught:
        ledger.consents.give(USER, ASKED, CLIENT)
    assert caught.value.code == "access_denied"
    assert ledger.consents.give(USER, asked(redirect_uri="https://app.example/7"), CLIENT)  # one of them, again
    assert ledger.consents.give(replace(USER, subject="bob"), ASKED, CLIENT)


def test_twenty_at_once_give_one_consent_and_one_revocation_ends_it(tmp_path: Path) -> None:
    """Replicas share the table: each has a connection of its own."""
    ids: list[str] = []
    ended: list[str] = []

    def work(job: str) -> None:
        table = SqliteTable(tmp_path / "state.db", "consents")
        ledger = Consents(table, lambda event, fields: None, ConsentSettings(), time.time)
        try:
            if job == "give":
                ids.append(ledger.give(USER, ASKED, CLIENT))
            else:
                ended.append(ledger.revoke(ids[0], by="carol").id)
        except LookupError:
            pass
        finally:
            table.close()

    for job in ("give", "revoke"):
        threads = [threading.Thread(target=work, args=(job,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(ids) == 20
    assert len(set(ids)) == 1
    assert len(ended) == 1
