"""What an operator may and may not write about certificates, proofs, introspection and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limen.config.load import Loaded, check_consistency, load_config
from limen.core.faults import ConfigFault

ONE = {"url": "http://127.0.0.1:9/mcp"}
LOOPBACK = {"url": "https://127.0.0.1:8443"}
TLS = {"certificate": "tls.pem", "key": "tls.key"}
ASK = {"client_id": "limen", "client_secret": "${env:SECRET}"}


def load(directory: Path, **settings: Any) -> Loaded:
    path = directory / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"one": ONE}, **settings}))
    return load_config(path, {"SECRET": "s3cret-value"})


def demanding(kind: Any) -> dict[str, Any]:
    return {"one": {**ONE, "security": {"sender_constrained": kind}}, "two": ONE, "three": ONE}


def test_demands_of_servers_and_of_bundles_with_them(tmp_path: Path) -> None:
    config = load(
        tmp_path, mcpServers=demanding("dpop"), bundles={"team": ["one", "two"], "free": ["two", "three"]}
    ).config
    assert {name for name, kinds in config.demands.items() if kinds} == {"one", "team", ""}
    assert config.demands["team"] == {"dpop"} and config.demands["free"] == frozenset()
    assert load(tmp_path, mcpServers=demanding(True)).config.demands["one"] == {"any"}
    assert load(tmp_path, mcpServers=demanding(False)).config.demands["one"] == frozenset()


def test_certificates_are_demanded_only_where_they_can_come(tmp_path: Path) -> None:
    servers = demanding("mtls")
    with pytest.raises(ConfigFault, match="needs listen"):
        load(tmp_path, mcpServers=servers)
    for listen in ({"tls": {**TLS, "client_ca": "ca.pem"}}, {"client_certificate": {"peers": ["127.0.0.1"]}}):
        config = load(tmp_path, mcpServers=servers, listen={**LOOPBACK, **listen}).config
        assert config.demands["one"] == {"mtls"}
    assert load(tmp_path, listen={**LOOPBACK, "tls": {**TLS, "client_ca": "ca.pem"}}).config.listen.tls is not None


def test_paths_start_from_the_file(tmp_path: Path) -> None:
    tls = load(tmp_path, listen={**LOOPBACK, "tls": {**TLS, "client_ca": "ca.pem"}}).config.listen.tls
    assert tls is not None and tls.client_ca == tmp_path / "ca.pem"
    bare = load(tmp_path, listen={**LOOPBACK, "tls": TLS}).config.listen.tls
    assert bare is not None and bare.client_ca is None


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": {**LOOPBACK, "tls": {**TLS, "require_client_certificate": True}}},
        {"listen": {"client_certificate": {"peers": []}}},
        {"listen": {"client_certificate": {"peers": ["0.0.0.0/0"]}}},
        {"listen": {"client_certificate": {"peers": ["::/0"]}}},
        {"listen": {"client_certificate": {"peers": ["proxy.example"]}}},
        {"listen": {"client_certificate": {"peers": ["10.0.0.1/8"]}}},
        {"listen": {"client_certificate": {"header": "a b", "peers": ["127.0.0.1"]}}},
        {"listen": {"client_certificate": {"form": "guess", "peers": ["127.0.0.1"]}}},
        {"mcpServers": demanding("bearer")},
        {"identity": {"dpop": {"nonce": "sometimes"}}},
        {"identity": {"dpop": {"max_age": 301}}},
        {"identity": {"dpop": {"algorithms": []}}},
        {"identity": {"dpop": {"algorithms": ["HS256"]}}},
        {"identity": {"dpop": {"algorithms": ["none"]}}},
        {"identity": {"api_keys": "yes please"}},
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigFault):
        load(tmp_path, **settings)


def test_secret_of_introspection_comes_by_reference_and_stays_hidden(tmp_path: Path) -> None:
    def identity(**changes: str) -> dict[str, Any]:
        return {"issuers": [{"issuer": "https://id.example", "introspection": {**ASK, **changes}}]}

    config = load(tmp_path, identity=identity()).config
    ask = config.identity.issuers[0].introspection
    assert ask is not None and ask.client_secret.get_secret_value() == "s3cret-value"
    assert "s3cret-value" not in repr(config)
    with pytest.raises(ConfigFault, match="must not stand in the file") as refused:
        load(tmp_path, identity=identity(client_secret="s3cret-value"))
    assert "s3cret-value" not in str(refused.value)
    with pytest.raises(ConfigFault, match="https"):
        load(tmp_path, identity=identity(endpoint="http://id.example/introspect"))


def test_keys_alone_are_a_way_in(tmp_path: Path) -> None:
    check_consistency(load(tmp_path, identity={"api_keys": True}).config)
    with pytest.raises(ConfigFault, match="no issuer"):
        check_consistency(load(tmp_path).config)
