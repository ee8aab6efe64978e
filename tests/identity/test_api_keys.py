"""A15: keys of our own, as records, as credentials, as commands, and at the running gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.memory import MemoryTable
from gateway.running import ISSUER, KEY, META, Running, running, written
from limen.cli.main import app
from limen.core.call import Presented
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.api_keys import ApiKeys, create, find, last_used, revoke
from minting import NOW, RESOURCE, Clock, World, caller, context, reason
from minting import Key as SigningKey

ISSUED = SigningKey()
INVALID = "identity.invalid"


class Office:
    """A guard that takes keys, and whoever makes them."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.table, self.seen = MemoryTable(self.clock), MemoryTable(self.clock)
        self.told: list[dict[str, Any]] = []
        demands = settings.pop("demands", {})
        parts = {"keys": ApiKeys(self.table, self.seen, self.clock), "demands": demands}
        self.world = World(ISSUED, clock=self.clock, parts=parts, **settings)

    def make(self, **changes: Any) -> str:
        terms = {
            "owner": "nightly",
            "servers": ("hr",),
            "scopes": ("read",),
            "by": "carol",
            "days": 90.0,
            "now": self.clock(),
        }
        return create(self.table, self.tell, **{**terms, **changes})[0]

    def tell(self, event: str, **members: Any) -> None:
        assert event == "key"
        self.told.append(members)

    def ask(self, *, bearer: str = "", header: tuple[str, ...] = (), route: str = "hr", **shown: Any) -> Verdict:
        async def run() -> Verdict:
            await self.world.issuers.warm()
            values = (f"Bearer {bearer}".encode(),) if bearer else ()
            keys = tuple(one.encode() for one in header)
            place = {"resource": RESOURCE if route == "hr" else "https://gw.example/fin/mcp", "private": True, **shown}
            answer = self.world.guard.check(context(Presented(values, api_keys=keys, **place), route))
            return answer if isinstance(answer, Pass | Refuse) else await answer

        return asyncio.run(run())


@pytest.mark.requirement("AU-15")
def test_key_is_a_machine_with_the_scopes_it_was_given() -> None:
    office = Office()
    key = office.make(scopes=("read", "call"))
    for verdict in (office.ask(bearer=key), office.ask(header=(key,))):
        nightly = caller(verdict)
        assert (nightly.issuer, nightly.subject, nightly.machine) == ("api-key", "nightly", True)
        assert nightly.scopes == {"read", "call"} and not nightly.groups and not nightly.roles
        assert nightly.expires == NOW + 90 * 86_400 and nightly.client == f"key:{nightly.token_id}"
        assert key not in repr(nightly) and key[19:83] not in repr(verdict)


@pytest.mark.requirement("AUTH-19", "OA-92")
def test_what_is_stored_is_no_key() -> None:
    office = Office()
    key = office.make()
    assert re.fullmatch(r"limen_[0-9a-f]{12}_[0-9a-f]{72}", key)
    stored = b" ".join(value for _, value in office.table.scan(""))
    assert key[19:83].encode() not in stored and key[6:18].encode() in stored
    record = find(office.table)[0]
    assert record.digest not in repr(record)
    assert (
        reason(office.ask(bearer=f"limen_{record.id}_{record.digest}{'0' * 8}")) == INVALID
    )  # nor does the record open


def altered(key: str) -> Iterator[str]:
    """Every key that differs in one digit, and other spellings."""
    for at in range(6, len(key)):
        if key[at] != "_":
            yield key[:at] + ("1" if key[at] == "0" else "0") + key[at + 1 :]
    yield from (key.upper(), key + "0", key[:-1], key.replace("limen_", "Limen_"), f"{key}\n", key[:6] + key[7:] + "0")


def test_no_digit_can_be_changed() -> None:
    office = Office()
    key = office.make()
    for other in altered(key):
        assert reason(office.ask(header=(other,))) == INVALID
    assert caller(office.ask(header=(key,)))


def test_checksum_alone_opens_nothing() -> None:
    import zlib

    office = Office()
    body = office.make()[:19] + "0" * 64
    assert reason(office.ask(bearer=f"{body}{zlib.crc32(body.encode()):08x}")) == INVALID
    unknown = "limen_" + "0" * 12 + "_" + "0" * 64
    assert reason(office.ask(bearer=f"{unknown}{zlib.crc32(unknown.encode()):08x}")) == INVALID


def test_revocation_and_expiry_take_effect_at_once() -> None:
    office = Office()
    kept, ended = office.make(), office.make(days=1.0)
    name = ended[6:18]
    assert caller(office.ask(bearer=ended))
    assert revoke(office.table, office.tell, name, by="dan", now=office.clock()).revoked_by == "dan"
    assert reason(office.ask(bearer=ended)) == INVALID
    assert revoke(office.table, office.tell, name, by="eve", now=office.clock()).revoked_by == "dan"  # once
    with pytest.raises(LookupError):
        revoke(office.table, office.tell, "0" * 12, by="dan", now=0)
    office.clock.now += 90 * 86_400 - 1
    assert caller(office.ask(bearer=kept))
    office.clock.now += 1
    assert reason(office.ask(bearer=kept)) == "identity.expired"


def test_key_is_for_its_servers_only() -> None:
    office = Office()
    key, every = office.make(), office.make(servers=("*",))
    assert reason(office.ask(bearer=key, route="fin")) == "identity.audience"
    assert caller(office.ask(bearer=key)) and caller(office.ask(bearer=every, route="fin"))


def test_key_is_not_taken_over_plain_http_from_elsewhere() -> None:
    office = Office()
    key = office.make()
    for form in ({"bearer": key}, {"header": (key,)}):
        assert reason(office.ask(private=False, **form)) == "identity.exposed"
    assert caller(office.ask(bearer=key))
    assert caller(office.ask(bearer=ISSUED.token(), private=False))  # what was configured for tokens is not changed


def test_key_is_bound_to_nothing_so_a_route_may_refuse_it() -> None:
    office = Office(demands={"hr": frozenset({"any"})})
    key = office.make(servers=("*",))
    assert reason(office.ask(bearer=key)) == "identity.binding"
    assert caller(office.ask(bearer=key, route="fin"))


def test_one_credential_only() -> None:
    office = Office()
    key = office.make()
    for keys in ((key, key), (key, "")):
        assert reason(office.ask(header=keys)) == "identity.ambiguous"
    assert reason(office.ask(bearer=ISSUED.token(), header=(key,))) == "identity.ambiguous"
    assert reason(office.ask(bearer=key, header=(key,))) == "identity.ambiguous"


def test_keys_mean_nothing_where_they_are_not_configured() -> None:
    office, closed = Office(), World(ISSUED)
    key = office.make()
    assert reason(closed.judge(key)) == INVALID
    verdict = closed.guard.check(context(Presented(resource=RESOURCE, api_keys=(key.encode(),), private=True)))
    assert reason(verdict) == "identity.missing"  # type: ignore[arg-type]
    assert caller(closed.judge(ISSUED.token()))


def test_use_is_noted_to_the_minute() -> None:
    office = Office()
    key = office.make()
    name = key[6:18]
    assert last_used(office.seen, name) is None
    for later in (0, 30, 59):
        office.clock.now = NOW + later
        assert caller(office.ask(bearer=key))
        assert last_used(office.seen, name) == NOW
    office.clock.now = NOW + 60
    assert caller(office.ask(bearer=key)) and last_used(office.seen, name) == NOW + 60


@pytest.mark.parametrize(
    "terms",
    [
        {"owner": ""}, {"owner": "a\nb"},
        {"owner": "x" * 256}, {"servers": ()}, {"scopes": ("a b",)}, {"scopes": ("",)},
        {"days": 0.0}, {"days": -1.0}, {"days": 367.0}, {"days": float("nan")}, {"days": float("inf")},
    ],
)  # fmt: skip
def test_keys_nobody_should_have(terms: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Office().make(**terms)


def test_changes_are_there_to_be_recorded_once() -> None:
    office = Office()
    key = office.make()
    (made,) = office.told
    assert (made["change"], made["owner"], made["by"]) == ("create", "nightly", "carol")
    revoke(office.table, office.tell, key[6:18], by="dan", now=NOW + 5.0)
    (_, ended) = office.told
    assert (ended["change"], ended["key"], ended["by"]) == ("revoke", key[6:18], "dan")
    assert key[19:83] not in json.dumps([made, ended])


# commands


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    servers = {"one": {"url": "http://127.0.0.1:9/mcp"}, "two": {"url": "http://127.0.0.1:9/mcp"}}
    path.write_text(json.dumps({"version": 1, "identity": {"api_keys": True}, "mcpServers": servers}))
    return path


def limen(config: Path, *arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["-c", str(config), "keys", "api", *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return json.loads(result.stdout) if "--json" in arguments and not status else result


def test_life_of_a_key_in_commands(config: Path) -> None:
    made = limen(config, "create", "nightly", "--server", "one", "--scope", "use", "--days", "30", "--json")
    assert made["key"].startswith(f"limen_{made['id']}_") and made["state"] == "active" and made["servers"] == ["one"]
    shown = limen(config, "create", "other", "--server", "*")
    key = shown.stdout.strip()
    assert re.fullmatch(r"limen_[0-9a-f]{12}_[0-9a-f]{72}", key) and "once" in shown.stderr
    listed = limen(config, "list", "--json")
    assert {one["owner"] for one in listed} == {"nightly", "other"}
    for text in (json.dumps(listed), limen(config, "list").stdout, limen(config, "show", key[6:12]).stdout):
        assert key[19:] not in text and made["key"][19:] not in text
    assert [one["owner"] for one in limen(config, "list", key, "--json")] == ["other"]  # by a key that was found
    assert limen(config, "revoke", made["id"], "--by", "dan", "--json")["state"] == "revoked"
    assert [one["owner"] for one in limen(config, "list", "--json")] == ["other"]
    assert len(limen(config, "list", "--all", "--json")) == 2
    limen(config, "show", "zzzz", status=1)
    limen(config, "revoke", "", status=1)  # two keys begin so
    limen(config, "create", "x", "--server", "nowhere", status=2)
    limen(config, "create", "x", "--server", "one", "--days", "400", status=2)
    limen(config, "create", "x", status=2)


# the running gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    jwks = json.dumps({"keys": [KEY.as_dict(private=False)]})
    identity = {"issuers": [{"issuer": ISSUER, "jwks": jwks}], "api_keys": True}
    with running(tmp_path_factory.mktemp("keys"), approved=("one",), tools=("echo",), identity=identity) as started:
        yield started


def call(gateway: Running, server: str = "one", **headers: str) -> int:
    params = {"name": "echo", "arguments": {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    return gateway.post(message, None, server, **mirrored, **headers)[0]


@pytest.mark.requirement("AUTH-07", "AU-02", "OA-92")
def test_key_at_the_gateway_until_it_is_revoked_a15(gateway: Running) -> None:
    made = json.loads(gateway.limen("keys", "api", "create", "nightly", "--server", "one", "--scope", "use", "--json"))
    key, before = made["key"], gateway.calls_seen()
    assert call(gateway, X_API_Key=key) == call(gateway, Authorization=f"Bearer {key}") == 200
    assert gateway.calls_seen() == before + 2
    sent = json.dumps([(head, body.decode()) for head, body in gateway.recorder.seen])
    assert key not in sent and "x-api-key" not in sent.lower()  # AUTH-07
    assert call(gateway, "two", X_API_Key=key) == 401
    assert call(gateway, X_API_Key=key, Authorization=f"Bearer {gateway.token()}") == 400
    assert gateway.call("echo", gateway.token())[0] == 200
    assert json.loads(gateway.limen("keys", "api", "show", made["id"], "--json"))["used"]
    weak = json.loads(gateway.limen("keys", "api", "create", "nobody", "--server", "one", "--json"))
    assert call(gateway, X_API_Key=weak["key"]) == 403  # no scope, no rule
    gateway.limen("keys", "api", "revoke", made["id"], "--by", "dan")
    assert call(gateway, X_API_Key=key) == call(gateway, Authorization=f"Bearer {key}") == 401

    def recorded() -> list[tuple[str, str, str]]:
        return [(one["change"], one["owner"], one["key"]) for one in gateway.records("key")]

    gateway.until(lambda: len(recorded()) == 3)
    assert {("create", "nightly", made["id"]), ("revoke", "nightly", made["id"])} <= set(recorded())
    used = [one for one in gateway.records("intent") if one["token"] == made["id"]]
    assert len(used) == 2 and used[0]["sub"] == "nightly" and used[0]["iss"] == "api-key"
    secret = key[19:83].encode()
    held = [path for path, content in written(gateway.directory).items() if secret in content]
    assert not held  # neither the log nor the audit, nor any record


def test_key_is_not_taken_from_another_address_of_plain_http(tmp_path: Path) -> None:
    listen = {"url": "http://gw.example", "bind": "127.0.0.1:0", "unsafe_plain_http": True}
    from launched import free_port

    port = free_port()
    listen["bind"] = f"127.0.0.1:{port}"
    settings = {
        "listen": listen,
        "identity": {"api_keys": True},
        "mcpServers": {key: {"url": "http://127.0.0.1:9/mcp"} for key in ("one", "two")},
    }
    with running(tmp_path, port=port, approved=(), **settings) as gateway:
        key = json.loads(gateway.limen("keys", "api", "create", "n", "--server", "one", "--json"))["key"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        sent = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Host": "gw.example",
        }
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
        mirrored = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list", "X-API-Key": key}
        connection.request("POST", "/mcp/one", json.dumps(message), {**sent, **mirrored})
        assert connection.getresponse().status == 403
        connection.close()
        assert gateway.records("refusal")[-1]["reason"] == "identity.exposed"
        gateway.stop()
        gateway.limen("keys", "api", "revoke", key[6:18], "--by", "dan")  # while nobody runs
        gateway.start()
        gateway.until(lambda: [one["change"] for one in gateway.records("key")] == ["create", "revoke"])
