"""The flight recorder: steps find the attempt they belong to, hold no secret, and floods cost only themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from limen.adapters.sqlite import SqliteTable, open_tables
from limen.core.faults import DependencyFault
from limen.oauth import attempts as module
from limen.oauth.attempts import BURST, PER_ADDRESS, QUEUE, STEPS, Attempts, find, kept, state
from limen.oauth.redaction import HIDDEN, redacted
from limen.oauth.settings import RecorderSettings
from limen.oauth.web import Visit
from minting import Clock

RESOURCE = "https://gw.example/mcp/hr"
CODE = "Qm9vZ2llIHdvb2dpZQ_7a-" + "x" * 20
SECRETS = {
    "code": CODE, "state": "af0ifjsldkj1", "nonce": "n-0S6_WzA2Mj", "client_secret": "7Fjfp0ZBr1KtDRbnfVdmIw",
    "access_token": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "code_verifier": "dBjftJeZ4CVP-mB92K27uhbU",
    "client_assertion": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "refresh_token": "1.AXoA" + "b7" * 30,
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SqliteTable]:
    kept = SqliteTable(tmp_path / "attempts.db", "attempts", clock)
    yield kept
    kept.close()


clock = Clock()


@pytest.fixture(autouse=True)
def _time() -> None:
    clock.now = 1_900_000_000.0


def recorder(table: Any, **settings: Any) -> Attempts:
    return Attempts(table, RecorderSettings(**settings), now=clock)


def program(address: str = "192.0.2.7", agent: str = "vscode/1.9") -> Visit:
    return Visit("GET", "/", headers={"user-agent": (agent,)}, address=address)


def browser(address: str = "192.0.2.7") -> Visit:
    return program(address, "Mozilla/5.0")


def walk(log: Attempts, *, client: str = "https://app.example/client", user: str = "alice", run: str = "1") -> None:
    """One whole sign-in, as the endpoints tell it: each knows another part of it."""
    log.note("challenge", "ok", visit=program(), resource=RESOURCE)
    log.note("resource_metadata", "ok", visit=program(), resource=RESOURCE)
    log.note("server_metadata", "ok", visit=program())
    log.note("client", "ok", visit=browser(), client=client, resource=RESOURCE)
    log.note("authorize", "ok", visit=browser(), client=client, resource=RESOURCE, transaction=f"t{run}")
    log.note("consent", "ok", visit=browser(), transaction=f"t{run}", client=client)
    log.note("provider", "ok", visit=browser(), transaction=f"t{run}")
    log.note("callback", "ok", visit=browser(), transaction=f"t{run}", user=user, client=client, resource=RESOURCE)
    log.note("token", "ok", visit=program(), client=client, user=user, resource=RESOURCE, grant=f"g{run}")
    log.note("first_call", "ok", client=client, user=user, resource=RESOURCE, grant=f"g{run}")
    log.drain()


def rows(table: Any) -> list[dict[str, Any]]:
    return [row for _, row in kept(table)]


# which attempt a step belongs to


def test_one_sign_in_is_one_attempt(table: SqliteTable) -> None:
    walk(recorder(table))
    (row,) = rows(table)
    assert [step["leg"] for step in row["steps"]] == [
        "challenge", "resource_metadata", "server_metadata", "client", "authorize", "consent", "provider", "callback",
        "token", "first_call",
    ]  # fmt: skip
    assert (row["client"], row["user"], row["resource"]) == ("https://app.example/client", "alice", RESOURCE)
    assert state(row, clock.now) == "works"


def test_two_people_behind_one_address_are_two_attempts(table: SqliteTable) -> None:
    log = recorder(table)
    for run, user in (("1", "alice"), ("2", "bob")):
        log.note("authorize", "ok", visit=browser(), client="app", resource=RESOURCE, transaction=f"t{run}")
        log.note("callback", "ok", visit=browser(), transaction=f"t{run}", user=user, client="app", resource=RESOURCE)
    for run, user in (("1", "alice"), ("2", "bob")):
        log.note("token", "ok", visit=program(), client="app", user=user, resource=RESOURCE, grant=f"g{run}")
    log.drain()
    assert sorted((row["user"], len(row["steps"])) for row in rows(table)) == [("alice", 3), ("bob", 3)]


def test_a_second_sign_in_is_another_attempt(table: SqliteTable) -> None:
    log = recorder(table)
    walk(log)
    clock.now += 3600
    walk(log, run="2")
    assert [len(row["steps"]) for row in rows(table)] == [10, 10]


def test_a_refresh_days_later_belongs_to_its_grant(table: SqliteTable) -> None:
    log = recorder(table)
    walk(log)
    for _ in range(100):
        clock.now += 3600
        log.note("refresh", "ok", visit=program("198.51.100.1"), client="https://app.example/client", grant="g1")
        log.drain()
    (row,) = rows(table)
    assert (row["steps"][-1]["leg"], row["steps"][-1]["times"]) == ("refresh", 100)


def test_strangers_at_other_addresses_are_not_mixed(table: SqliteTable) -> None:
    log = recorder(table)
    log.note("challenge", "ok", visit=program("192.0.2.7"), resource=RESOURCE)
    log.note("authorize", "invalid_scope", visit=browser("203.0.113.9"), client="app", resource=RESOURCE)
    log.drain()
    assert len(rows(table)) == 2


def test_two_replicas_write_one_attempt(table: SqliteTable, tmp_path: Path) -> None:
    other = SqliteTable(tmp_path / "attempts.db", "attempts", clock)
    one, two = recorder(table), recorder(other)
    one.note("authorize", "ok", visit=browser(), client="app", resource=RESOURCE, transaction="t")
    one.drain()
    for number in range(10):
        one.note("consent", "ok", transaction="t", detail=f"one {chr(97 + number)}")
        two.note("callback", "ok", transaction="t", detail=f"two {chr(97 + number)}")
    threads = [threading.Thread(target=log.drain) for log in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row,) = rows(table)
    assert len(row["steps"]) + row["more"] + one.lost + two.lost == 21
    other.close()


# states


@pytest.mark.parametrize(
    ("leg", "outcome", "later", "expected"),
    [
        ("authorize", "invalid_scope", 0, "failed"),
        ("authorize", "ok", 0, "open"),
        ("authorize", "ok", 700, "left"),
        ("token", "ok", 0, "signed in"),
        ("server_metadata", "not_found", 0, "open"),
    ],
)
def test_states(table: SqliteTable, leg: Any, outcome: str, later: float, expected: str) -> None:
    log = recorder(table)
    log.note(leg, outcome, visit=browser(), client="app")
    log.drain()
    assert state(rows(table)[0], clock.now + later) == expected


# what is not kept


def _shapes(value: str) -> list[str]:
    """What a secret may stand in. Short ones are known by their names only."""
    named = ["{n}={v}", '"{n}": "{v}"', "?a=b&{n}={v}&c=d", "Bearer {v}"]
    return [*named, "got {v} instead"] if len(value) >= 16 else named


@pytest.mark.requirement("OA-92")
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in SECRETS for shape in _shapes(SECRETS[name])])
def test_no_secret_is_kept_in_any_text(tmp_path: Path, name: str, shape: str) -> None:
    """F7, OA-92: every byte of the file, not only the record."""
    value = SECRETS[name]
    place = tmp_path / "attempts.db"
    table = SqliteTable(place, "attempts")
    log = recorder(table)
    text = shape.format(n=name, v=value)
    visit = Visit("GET", "/", text, {"user-agent": (text,), "cookie": (value,), "authorization": (value,)}, b"x")
    log.note(
        "token", text[:64], visit=visit, client="app", transaction=value, grant=value, field=text, detail=text,
        resource=f"{RESOURCE}?{text}",
    )  # fmt: skip
    log.drain()
    assert rows(table)
    table.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert value.encode() not in raw and value[:20].encode() not in raw
    assert HIDDEN.encode() in raw


def test_what_helps_is_kept() -> None:
    told = (
        "AADSTS50011: The redirect URI 'https://gw.example/oauth/callback' specified in the request does not match. "
        "Trace ID: 64ab9ad5-447a-432c-ba42-83784ad85800 Timestamp: 2026-01-04 19:44:18Z client_secret_basic"
    )
    assert redacted(told) == told
    assert redacted("Cookie: a=b; c=d") == f"Cookie: {HIDDEN}"


@pytest.mark.requirement("OA-89")
def test_control_characters_do_not_reach_a_terminal() -> None:
    """OA-89."""
    assert redacted("a\r\nb\x1b[2Jc\u202ed") == "a b [2Jc d"
    assert len(redacted("long " * 1000)) <= 400


def test_people_are_hidden_where_the_operator_wants_it(tmp_path: Path) -> None:
    table = SqliteTable(tmp_path / "attempts.db", "attempts")
    log = recorder(table, people="hidden")
    for run in ("1", "2"):
        log.note(
            "callback", "access_denied", visit=browser(), transaction=f"t{run}", user="alice@contoso.example",
            detail="Alice.B@contoso.example is not assigned",
        )  # fmt: skip
    log.drain()
    one, two = rows(table)
    assert one["user"] == two["user"] != "" and one["address"] == "192.0.2.*"
    table.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"alice@" not in raw and b"Alice" not in raw and b"192.0.2.7" not in raw


# bounds


@pytest.mark.requirement("OA-88")
def test_a_flood_does_not_push_out_who_signed_in(table: SqliteTable) -> None:
    """F7, OA-88: not from one address, not from many."""
    log = recorder(table, attempts=50)
    walk(log)
    for number in range(400):
        log.note(
            "authorize", "invalid_client", visit=browser(f"203.0.{number >> 8}.{number & 255}"), client=f"c{number}"
        )
    log.drain()
    assert sum(row["user"] == "alice" for row in rows(table)) == 1
    assert len(rows(table)) == 51
    assert sum(1 for _ in table.scan("key/")) <= 51 * module.KEYS


def test_one_address_has_its_part_only(table: SqliteTable) -> None:
    log = recorder(table)
    log.note("authorize", "ok", visit=browser("198.51.100.1"), client="honest", transaction="t")
    for number in range(100):
        log.note("authorize", "ok", visit=browser(), client=f"c{number}", transaction=f"t{number}")
    log.drain()
    clients = {row["client"] for row in rows(table)}
    assert {"honest", "c99"} <= clients and len(clients) == 1 + PER_ADDRESS


def test_one_address_cannot_fill_the_queue(table: SqliteTable) -> None:
    told: list[Any] = []
    log = Attempts(table, RecorderSettings(), lambda event, fields: told.append((event, dict(fields))), clock)
    for _ in range(5000):
        log.note("challenge", "ok", visit=program(), resource=RESOURCE)
    log.note("challenge", "ok", visit=program("198.51.100.1"), resource=RESOURCE)
    log.drain()
    kept_of = {row["address"]: row["steps"][0]["times"] for row in rows(table)}  # of one moment: in no order
    assert kept_of == {"192.0.2.7": int(BURST), "198.51.100.1": 1}
    assert told == [("attempts_lost", {"steps": 5000 - int(BURST)})]
    clock.now += 30
    log.note("challenge", "ok", visit=program(), resource=RESOURCE)
    log.drain()
    (grown,) = (row for row in rows(table) if row["address"] == "192.0.2.7")
    assert grown["steps"][0]["times"] == int(BURST) + 1


def test_an_attempt_has_so_many_steps(table: SqliteTable) -> None:
    log = recorder(table)
    for number in range(STEPS + 20):
        log.note("authorize", "invalid_request", client="app", transaction="t", field=f"p{number}")
    log.drain()
    (row,) = rows(table)
    assert (len(row["steps"]), row["more"]) == (STEPS, 20)


def test_attempts_end_by_themselves(table: SqliteTable) -> None:
    log = recorder(table, days=1)
    walk(log)
    clock.now += 86_401
    assert rows(table) == [] and list(table.scan("key/")) == []


class Broken:
    """A store that is down."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise DependencyFault("table", "down")

        return fail


def test_a_store_that_is_down_costs_steps_and_nothing_else() -> None:
    told: list[Any] = []
    log = Attempts(Broken(), RecorderSettings(), lambda event, fields: told.append(dict(fields)), clock)
    for number in range(QUEUE + 10):
        log.note("token", "ok", client="app", user="alice", grant=f"g{number}")
    log.drain()
    log.drain()
    assert told == [{"steps": 10 + QUEUE // 2}]
    assert len(log._queue) == QUEUE // 2


def test_a_request_does_not_wait_for_the_store(table: SqliteTable) -> None:
    asked, answers, waited = threading.Event(), threading.Event(), list[bool]()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            asked.set()
            waited.append(answers.wait(30))
            return getattr(table, name)

    log = Attempts(Slow(), RecorderSettings(), now=clock)

    async def run() -> None:
        duty = asyncio.create_task(log.run())
        log.note("challenge", "ok", visit=program(), resource=RESOURCE)
        assert await asyncio.to_thread(asked.wait, 30)
        for _ in range(50):
            log.note("challenge", "ok", visit=program(), resource=RESOURCE)
            await asyncio.sleep(0)
        assert not waited  # the store has not answered yet
        answers.set()
        duty.cancel()

    asyncio.run(run())
    assert all(waited)


def test_a_damaged_record_hides_no_other(table: SqliteTable) -> None:
    walk(recorder(table))
    table.put("attempt/0", b"{")
    assert len(rows(table)) == 1
    id = next(id for id, _ in kept(table))
    assert find(table, id) is not None and find(table, "none") is None


def test_the_catalog_does_not_look_changed(tmp_path: Path) -> None:
    tables = open_tables(tmp_path / "limen.db", ("catalog", "attempts"))
    before = tables["catalog"].change_token()
    other = open_tables(tmp_path / "limen.db", ("catalog", "attempts"))
    other["attempts"].put("a", orjson.dumps({}))
    assert tables["catalog"].change_token() == before
    for one in (*tables.values(), *other.values()):
        one.close()
