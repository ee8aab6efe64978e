"""What cannot work is refused when the file is read; what is secret is by reference and shown nowhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import ValidationError

from contracts.memory import MemoryTable
from credentials.authority import Authority, Box, Keys
from limen.config.load import load_config
from limen.config.model import Config
from limen.core.call import Caller, Context, UpstreamCredential
from limen.core.faults import ConfigFault, UpstreamFault
from limen.core.verdict import Pass, Verdict
from limen.credentials.attach import AttachCredential
from limen.credentials.minted import EachCall
from limen.credentials.settings import OwnClient
from limen.credentials.sources import Remembered
from limen.delegation import Delegation
from limen.identity.revoked import Revocation
from upstreams.minted import permit

AS, IDP = "https://as.example", "https://idp.example"
CLIENT = {"id": "limen", "secret": "x"}
GOOD: dict[str, dict[str, Any]] = {
    "own": {"kind": "client_credentials", "issuer": AS, "client": CLIENT},
    "exchange": {"kind": "exchange", "issuer": IDP, "client": CLIENT},
    "described": {"kind": "exchange", "issuer": IDP, "client": CLIENT, "describe": "client", "audience": ["up"]},
    "obo": {"kind": "on_behalf_of", "tenant": "t.example", "authority": "https://login.example", "client": CLIENT,
            "scopes": ["api://d/.default"]},
    "jag": {"kind": "id_jag", "provider": {"issuer": IDP, "client": CLIENT},
            "server": {"issuer": AS, "client": CLIENT}},
    "minted": {"kind": "minted"},
    "kept": {"kind": "minted", "bind": "caller", "exchange": {"server": ["minted"]}},
}  # fmt: skip
OAUTH = {"provider": {"issuer": IDP, "client_id": "limen", "client_secret": "x"}}
ISSUERS = {"issuers": [{"issuer": "https://login.example/t.example/v2.0"}]}


def whole(**credentials: Any) -> dict[str, Any]:
    servers = {
        name: {"url": f"https://{name}.example/mcp", "security": {"credential": one}}
        for name, one in credentials.items()
    }
    return {"mcpServers": servers, "oauth": OAUTH, "identity": ISSUERS}


def delegation(**more: Any) -> Delegation:
    return Delegation(MemoryTable(), MemoryTable(), Authority(), Authority(), lambda event, fields: None, **more)


def test_every_kind_has_a_source_and_unchanged_ones_keep_theirs() -> None:
    made = delegation(vault=Box(), keys=Keys())
    config = Config.model_validate(whole(**GOOD))
    planned = made.plan(config, None)
    first = planned.sources
    kinds = {name: type(source) for name, source in first.items()}
    assert kinds == {**dict.fromkeys(GOOD, Remembered), "minted": EachCall}
    assert made.plan(config, planned).sources == first
    changed = {**GOOD, "own": {**GOOD["own"], "scopes": ["more"]}}
    second = made.plan(Config.model_validate(whole(**changed)), planned).sources
    assert {name for name in GOOD if first[name] is not second[name]} == {"own"}
    moved = whole(**GOOD)
    moved["mcpServers"]["own"]["url"] = "https://elsewhere.example/mcp"
    third = made.plan(Config.model_validate(moved), planned).sources
    assert third["own"] is not first["own"]  # nothing of the old place is kept


def test_a_plan_that_is_not_adopted_changes_nothing() -> None:
    made = delegation(vault=Box(), keys=Keys())
    users = whole(person={"kind": "user"})
    before = made.plan(Config.model_validate(users), None)
    assert before.connections is not None
    made.adopt(before, AttachCredential({}, before.sources))
    users["listen"] = {"url": "https://other.example", "bind": "127.0.0.1:1"}
    users["listen"]["unsafe_plain_http"] = True
    refused = made.plan(Config.model_validate(users), before)
    assert refused.connections is not before.connections
    assert made.connections is before.connections


def test_without_keys_or_vault_nothing_weaker_takes_their_place() -> None:
    for kind in ("minted", "kept", "jag"):
        named = {kind: {**GOOD[kind], **({"exchange": {}} if kind == "kept" else {})}}
        with pytest.raises(ConfigFault, match=rf"mcpServers\.{kind}"):
            delegation().plan(Config.model_validate(whole(**named)), None)


def test_revoked_users_and_clients_are_forgotten_and_a_rejected_credential_is_told_to_its_source() -> None:
    told: list[tuple[str, Any]] = []

    class Noting:
        def forget(self, caller: Caller) -> None:
            told.append(("forget", caller.key))

        def rejected(self, caller: Caller, status: int, challenge: str) -> None:
            told.append(("rejected", (caller.subject, status, challenge)))

        async def close(self) -> None:
            told.append(("close", None))

        def credential(self, context: Context) -> Verdict:
            return Pass((UpstreamCredential(),))

    made = delegation()
    made.forget([Revocation("user", "alice")])  # nothing is in force yet
    made.attach = AttachCredential({}, {"up": Noting()})
    made.forget([Revocation("user", "alice", IDP), Revocation("client", "editor"), Revocation("token", "t1")])
    assert told == [("forget", (IDP, "alice", "")), ("forget", ("", "", "editor"))]
    told.clear()
    allowed = asyncio.run(permit())
    made.rejected(allowed, UpstreamFault("up", "no", status=401, challenge="Bearer"))
    asyncio.run(made.close())
    assert told == [("rejected", ("alice", 401, "Bearer")), ("close", None)]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("own", {"issuer": None}, "issuer or token_endpoint"),
    ("own", {"issuer": "http://as.example"}, "https is needed"),
    ("own", {"issuer": "https://a@as.example"}, "without user"),
    ("own", {"token_endpoint": "file:///x"}, "URL"),
    ("own", {"token_endpoint": "https://as.example/#x"}, "fragment"),
    ("own", {"client": {"id": "limen"}}, "secret or key"),
    ("own", {"client": {"id": "limen", "secret": "x", "key": "y"}}, "secret or key"),
    ("own", {"client": {"id": "limen", "send": "none"}}, "public client"),
    ("own", {"client": {"id": "limen", "key": "no pem"}}, "not the PEM"),
    ("own", {"client": {"id": "limen", "secret": "x", "algorithm": "ES256"}}, "go with key"),
    ("own", {"header": "Host"}, "of the protocol"),
    ("own", {"header": "Mcp-Session-Id"}, "of the protocol"),
    ("own", {"header": "a b"}, "not a header name"),
    ("own", {"scopes": ["a b"]}, "a scope is"),
    ("own", {"kind": "user_password"}, "kind"),
    ("own", {"kind": "minted", "lifetime": 901}, "900"),
    ("own", {"surprise": 1}, "Extra"),
    ("exchange", {"issuer": AS}, "no caller brings a token"),
    ("exchange", {"issuer": None, "token_endpoint": "https://as.example/t"}, "subject_issuer"),
    ("obo", {"tenant": "common"}, "one tenant"),
    ("obo", {"tenant": "../x"}, "one tenant"),
    ("obo", {"scopes": []}, "at least 1"),
    ("obo", {"tenant": "other.example"}, "no caller brings a token"),
    ("jag", {"server": {"token_endpoint": "https://as.example/t", "client": CLIENT}}, "addressed to it"),
    ("jag", {"provider": {"issuer": AS, "client": CLIENT}}, "sign in through"),
    ("kept", {"exchange": {"server": ["nowhere"]}}, "without minted credentials"),
    ("minted", {"scopes": {"echo": ["a b"]}}, "a scope is"),
    ("minted", {"audience": "HTTP://127.0.0.1:8300/mcp/own"}, "our own address"),  # good at another server of ours
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "told"), BAD, ids=lambda one: str(one)[:60])
def test_what_cannot_work_is_refused(name: str, change: dict[str, Any], told: str) -> None:
    changed = {key: value for key, value in {**GOOD[name], **change}.items() if value is not None}
    if change.get("kind") == "minted":
        changed = change
    with pytest.raises(ValidationError, match=told):
        Config.model_validate(whole(**{**GOOD, name: changed}))


@pytest.mark.parametrize(
    ("server", "told"),
    [({"command": "true", "security": {"credential": GOOD["own"], "unsafe_unverified": True}}, "goes with url"),
     ({"url": "https://u.example/mcp", "headers": {"authorization": "x"}, "security": {"credential": GOOD["own"]}},
      "both in headers"),
     ({"url": "https://u.example/mcp?a=b", "security": {"credential": GOOD["exchange"]}}, "names no resource")],
    ids=["stdio", "twice", "query"],
)  # fmt: skip
def test_what_does_not_go_with_the_server_is_refused(server: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Config.model_validate({**whole(), "mcpServers": {"up": server}})


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.mark.parametrize(
    ("key", "algorithm", "good"),
    [(ec.generate_private_key(ec.SECP256R1()), None, True), (ec.generate_private_key(ec.SECP384R1()), None, False),
     (ed25519.Ed25519PrivateKey.generate(), "EdDSA", True), (ed25519.Ed25519PrivateKey.generate(), "ES256", False),
     (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256", True),
     (rsa.generate_private_key(public_exponent=65537, key_size=1024), None, False)],
    ids=["P-256", "P-384", "Ed25519", "mismatch", "RSA", "small RSA"],
)  # fmt: skip
def test_keys_of_private_key_jwt(key: Any, algorithm: str | None, good: bool) -> None:
    given = {"id": "limen", "key": pem(key), "algorithm": algorithm}
    if good:
        assert "PRIVATE" not in repr(OwnClient.model_validate(given))
    else:
        with pytest.raises(ValidationError) as caught:
            OwnClient.model_validate(given)
        assert "PRIVATE" not in str(caught.value)


def test_secrets_are_by_reference_and_stay_wrapped(tmp_path: Path) -> None:
    key = pem(ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "key.pem").chmod(0o600)
    credentials = {
        "own": {**GOOD["own"], "client": {"id": "limen", "secret": "${env:SECRET}"}},
        "other": {**GOOD["own"], "client": {"id": "limen", "key": "${file:key.pem}"}},
        "jag": {**GOOD["jag"], "server": {"issuer": AS, "client": {"id": "x", "secret": "${env:SECRET}"}},
                "provider": {"issuer": IDP, "client": {"id": "x", "secret": "${env:SECRET}"}}},
    }  # fmt: skip
    path = tmp_path / "limen.yaml"
    oauth = {"provider": {**OAUTH["provider"], "client_secret": "${env:SECRET}"}}
    path.write_text(json.dumps({**whole(**credentials), "oauth": oauth}))
    path.chmod(0o600)
    config = load_config(path, {"SECRET": "canary-secret"}).config
    assert "canary-secret" not in repr(config)
    assert "PRIVATE KEY" not in repr(config)
    one = config.servers["own"].security.credential
    assert one is not None
    assert one.client.secret.get_secret_value() == "canary-secret"  # type: ignore[union-attr]
    for bad in ({"id": "limen", "secret": "in-the-file"}, {"id": "limen", "key": key}):
        path.write_text(json.dumps(whole(own={**GOOD["own"], "client": bad})))
        with pytest.raises(ConfigFault, match="must not stand in the file") as caught:
            load_config(path, {})
        assert "in-the-file" not in str(caught.value)
