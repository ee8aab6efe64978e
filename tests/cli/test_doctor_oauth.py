"""`limen doctor oauth`: each leg that is broken is named, with its field and what to do; one that works is not."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner, Result

from entra_provider import EntraProvider, running_entra
from gateway.running import running
from launched import free_port
from limen.cli.main import app
from limen.cli.oauth_provider import asked_scopes
from limen.config.load import load_config
from limen.opening import open_token_keys, open_vault
from limen.storage import State

JSON, HTML = {"content-type": "application/json"}, {"content-type": "text/html", "content-security-policy": ""}
SAFE = "default-src 'none'; frame-ancestors 'none'"


@dataclass
class Front:
    """What a client would meet under `listen.url`; each answer can be replaced: status, headers, body."""

    url: str = ""
    answers: dict[str, tuple[int, dict[str, str], Any]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def honest(self) -> None:
        url = self.url
        about = f"{url}/.well-known/oauth-protected-resource/mcp"
        server = {
            "issuer": url, "authorization_endpoint": f"{url}/oauth/authorize", "token_endpoint": f"{url}/oauth/token",
            "jwks_uri": f"{url}/oauth/jwks", "code_challenge_methods_supported": ["S256"],
        }  # fmt: skip
        self.answers = {
            "/healthz": (200, JSON, {"status": "ok"}),
            "/.well-known/oauth-authorization-server": (200, JSON, server),
            "/.well-known/openid-configuration": (200, JSON, server),
            "/oauth/jwks": (200, JSON, {"keys": [{"kty": "EC", "kid": "k1"}]}),
            "/oauth/authorize": (400, {**HTML, "content-security-policy": SAFE}, "no client"),
            "/oauth/token": (401, {**JSON, "cache-control": "no-store"}, {"error": "invalid_client"}),
            "/oauth/callback": (400, HTML, "no state"),
            "/.well-known/oauth-protected-resource": (200, JSON, {}),
        }
        for path in ("/mcp", "/mcp/hr"):
            place = about + path.removeprefix("/mcp")
            self.answers[place.removeprefix(url)] = (
                200, JSON, {"resource": url + path, "authorization_servers": [url]},
            )  # fmt: skip
            self.answers[path] = (401, {"www-authenticate": f'Bearer resource_metadata="{place}"'}, "")


@contextmanager
def answering(front: Front) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            front.seen.append(path)
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, headers, body = front.answers.get(path, (404, {}, ""))
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@dataclass
class World:
    front: Front
    entra: EntraProvider
    config: Path

    def write(self, **provider: Any) -> None:
        chosen = {**self.entra.settings(), **provider}
        if chosen["client_secret"] is not None:
            secret = self.config.with_name("secret")
            secret.write_text(chosen["client_secret"])
            secret.chmod(0o600)
            chosen["client_secret"] = "${file:secret}"
        settings = {
            "listen": {"url": self.front.url},
            "mcpServers": {"hr": {"url": "http://127.0.0.1:9/mcp"}},
            "oauth": {"provider": chosen},
        }
        self.config.write_text(json.dumps(settings))
        self.config.chmod(0o600)

    def doctor(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        result = run(self.config, *arguments, "--json", status=status)
        found: list[dict[str, Any]] = json.loads(result.stdout)
        return found

    def failing(self, *arguments: str) -> list[tuple[str, str, str]]:
        return [
            (one["leg"], one["check"], one["field"])
            for one in self.doctor(*arguments, status=1)
            if one["state"] == "failed"
        ]


def run(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), "doctor", "oauth", *arguments])
    assert result.exit_code == status, (result.stdout[-3000:], result.stderr, result.exception)
    return result


@pytest.fixture(scope="module")
def running_world(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    front = Front()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with answering(front), running_entra([f"{front.url}/oauth/callback"], tls=context) as entra:
        yield World(front, entra, Path())


@pytest.fixture
def world(running_world: World, tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> World:
    """Everything as it should be."""
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    running_world.front.honest()
    entra = running_world.entra
    entra.discovery, entra.replaced, entra.skew, entra.secret_expired, entra.seen = {}, {}, 0.0, False, []
    fresh = World(running_world.front, entra, tmp_path / "limen.yaml")
    fresh.write()
    return fresh


def test_all_is_well(world: World) -> None:
    found = world.doctor()
    assert [one for one in found if one["state"] != "ok"] == []
    assert {one["leg"] for one in found} == {
        "here", "front door", "resource metadata", "challenge", "server metadata", "our keys", "our endpoints",
        "provider metadata", "scopes", "provider keys", "clock", "our client there", "way back",
    }  # fmt: skip
    assert all("resource" not in request.form for request in world.entra.seen)
    shown = run(world.config).stdout
    assert "way back: redirect_uri: registered" in shown and world.entra.client_secret not in shown


# our side


@pytest.mark.parametrize(
    ("path", "change", "leg", "wrong"),
    [
        ("/healthz", (404, {}, "welcome"), "front door", "listen.url"),
        ("/healthz", (503, JSON, {"status": "unavailable"}), "front door", "audit"),
        ("/.well-known/oauth-protected-resource/mcp/hr", (404, {}, ""), "resource metadata", "path"),
        ("/.well-known/oauth-protected-resource", (404, {}, ""), "resource metadata", "path"),
        (
            "/.well-known/oauth-protected-resource/mcp/hr",
            (200, JSON, {"resource": "https://other.example/mcp/hr"}),
            "resource metadata",
            "resource",
        ),
        ("/mcp/hr", (403, {}, ""), "challenge", "Host"),
        ("/mcp/hr", (404, {}, ""), "challenge", "path"),
        ("/mcp/hr", (200, JSON, {}), "challenge", "identity.unsafe_anonymous"),
        ("/mcp/hr", (401, {}, ""), "challenge", "WWW-Authenticate"),
        (
            "/mcp/hr",
            (401, {"www-authenticate": 'Bearer resource_metadata="http://inside/x"'}, ""),
            "challenge",
            "resource_metadata",
        ),
        ("/.well-known/oauth-authorization-server", (404, {}, ""), "server metadata", "path"),
        ("/.well-known/openid-configuration", (200, JSON, {"issuer": "http://inside"}), "server metadata", "issuer"),
        ("/oauth/jwks", (200, JSON, {"keys": []}), "our keys", "jwks_uri"),
        ("/oauth/jwks", (200, JSON, {"keys": [{"kty": "EC", "d": "x"}]}), "our keys", "keys"),
        ("/oauth/authorize", (404, {}, ""), "our endpoints", "path"),
        ("/oauth/authorize", (400, {"content-security-policy": "default-src *"}, ""), "our endpoints",
         "Content-Security-Policy"),
        ("/oauth/token", (404, {}, ""), "our endpoints", "path"),
        ("/oauth/token", (401, JSON, {"error": "invalid_client"}), "our endpoints", "Cache-Control"),
        ("/oauth/token", (503, JSON, {"error": "temporarily_unavailable"}), "our endpoints", "storage"),
        ("/oauth/callback", (302, {"location": "/"}, ""), "our endpoints", "path"),
    ],
)  # fmt: skip
def test_our_side(world: World, path: str, change: Any, leg: str, wrong: str) -> None:
    world.front.answers[path] = change
    failed = world.failing()
    assert {(one[0], one[2]) for one in failed} == {(leg, wrong)}
    found = next(one for one in world.doctor(status=1) if one["state"] == "failed")
    assert len(found["remedy"]) > 30


def test_metadata_that_is_rewritten(world: World) -> None:
    for name, value in (("token_endpoint", "http://inside/token"), ("code_challenge_methods_supported", ["plain"])):
        world.front.honest()
        path = "/.well-known/oauth-authorization-server"
        status, headers, document = world.front.answers[path]
        world.front.answers[path] = (status, headers, {**document, name: value})
        assert ("server metadata", path, name) in world.failing()


def test_nothing_listens(world: World) -> None:
    settings = json.loads(world.config.read_text())
    world.config.write_text(json.dumps({**settings, "listen": {"url": "http://127.0.0.1:9"}}))
    found = world.doctor(status=1)
    assert ("front door", "listen.url") in [(one["leg"], one["field"]) for one in found if one["state"] == "failed"]
    assert "Nothing listens" in next(one for one in found if one["leg"] == "front door")["remedy"]


def test_one_server(world: World) -> None:
    assert {one["check"] for one in world.doctor("--server", "hr") if one["leg"] == "challenge"} == {"/mcp/hr"}
    assert "no server or bundle" in run(world.config, "--server", "nope", status=2).stderr


def test_against_a_running_gateway(tmp_path: Path) -> None:
    """The legs a gateway without an authorization server of its own has, and its honest twin without a token."""
    with running(tmp_path, approved=()) as gateway:
        found = json.loads(run(gateway.config, "--json").stdout)
    assert {one["leg"] for one in found} == {"here", "front door", "resource metadata", "challenge"}
    assert {one["state"] for one in found} == {"ok"}


def test_against_a_running_authorization_server(tmp_path: Path) -> None:
    """The honest twin of all of the above: the real endpoints, and a client that gives up is in the record."""
    port = free_port()
    with running_entra([f"http://127.0.0.1:{port}/oauth/callback"]) as entra:
        secret = tmp_path / "secret"
        secret.write_text(entra.client_secret)
        secret.chmod(0o600)
        provider = {**entra.settings(), "kind": "generic", "client_secret": "${file:secret}"}
        with running(tmp_path, approved=(), port=port, oauth={"provider": provider}) as gateway:
            found = json.loads(run(gateway.config, "--json").stdout)
            told = gateway.until(lambda: json.loads(gateway.limen("signins", "list", "--json")))
    assert told >= 0
    assert [one for one in found if one["state"] == "failed"] == []
    assert {(one["check"], one["state"]) for one in found if one["state"] != "ok"} <= {
        ("PKCE", "unsure"), ("credentials", "unsure"), ("announced", "unsure"),
    }  # fmt: skip
    assert {"our endpoints", "our keys", "server metadata", "way back"} <= {one["leg"] for one in found}


# the provider


@pytest.mark.parametrize(
    ("settings", "leg", "wrong", "hint"),
    [
        ({"client_secret": "wrong"}, "our client there", "oauth.provider.client_secret", "*Value*"),
        ({"client_id": "66666666-aaaa-4bbb-8ccc-000000000006"}, "our client there", "oauth.provider.client_id",
         "no such app"),
        ({"scopes": ["profile"]}, "scopes", "oauth.provider.scopes", "openid"),
        ({"scopes": ["openid", "nothing"]}, "way back", "invalid_client", "does not exist on the API"),
        ({"scopes": ["openid", "api://a/x", "api://b/y"]}, "scopes", "oauth.provider.scopes", "more than one API"),
    ],
)  # fmt: skip
def test_our_client_at_the_provider(world: World, settings: Any, leg: str, wrong: str, hint: str) -> None:
    world.write(**settings)
    found = [one for one in world.doctor("--provider-only", status=1) if one["state"] == "failed"]
    assert (leg, wrong) in [(one["leg"], one["field"]) for one in found]
    assert any(hint in one["remedy"] for one in found)


def test_no_secret_at_all(world: World) -> None:
    """Entra does not tell before somebody signs in: said so, with what to do if it fails."""
    world.write(client_secret=None)
    (found,) = [one for one in world.doctor("--provider-only") if one["state"] != "ok"]
    assert (found["state"], found["field"]) == ("unsure", "oauth.provider.client_secret")


def test_an_expired_secret(world: World) -> None:
    world.entra.secret_expired = True
    (found,) = [one for one in world.doctor("--provider-only", status=1) if one["state"] == "failed"]
    assert "AADSTS7000222" in found["found"] and "expired" in found["remedy"]


def test_an_address_that_is_not_registered(world: World) -> None:
    kept, world.entra.redirect_uris = world.entra.redirect_uris, ["https://gw.example/oauth/callback"]
    (found,) = [one for one in world.doctor("--provider-only", status=1) if one["state"] == "failed"]
    world.entra.redirect_uris = kept
    assert (found["leg"], found["field"], found["found"]) == ("way back", "redirect_uri", "AADSTS50011")
    assert f"{world.front.url}/oauth/callback" in found["remedy"]


@pytest.mark.parametrize(
    ("discovery", "leg", "wrong"),
    [
        ({"issuer": "https://login.example/other"}, "provider metadata", "issuer"),
        ({"token_endpoint": None}, "provider metadata", "token_endpoint"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "provider metadata", "authorization_endpoint"),
        ({"token_endpoint": "http://login.example/token"}, "provider metadata", "token_endpoint"),
        ({"code_challenge_methods_supported": ["plain"]}, "provider metadata", "code_challenge_methods_supported"),
        ({"response_types_supported": ["id_token"]}, "provider metadata", "response_types_supported"),
        ({"id_token_signing_alg_values_supported": ["HS256"]}, "provider keys", "keys"),
    ],
)
def test_the_providers_metadata(world: World, discovery: Any, leg: str, wrong: str) -> None:
    world.entra.discovery = discovery
    assert [(one[0], one[2]) for one in world.failing("--provider-only")] == [(leg, wrong)]


@pytest.mark.requirement("OA-47")
def test_our_secret_goes_to_nobody_but_the_provider(world: World) -> None:
    """OA-47: metadata of somebody else, whose endpoint would get the secret, is where the walk ends."""
    world.entra.discovery = {
        "issuer": "https://login.example/other", "code_challenge_methods_supported": ["plain"],
        "token_endpoint": f"{world.front.url}/steal",
    }  # fmt: skip
    world.failing("--provider-only")
    assert "/steal" not in world.front.seen


def test_the_clock(world: World) -> None:
    world.entra.skew = -300.0
    assert ("clock", "difference", "clock") in world.failing("--provider-only")
    world.entra.skew = 45.0
    assert [one["leg"] for one in world.doctor("--provider-only") if one["state"] == "unsure"] == ["clock"]


def test_no_provider_there(world: World) -> None:
    world.entra.replaced = {"/v2.0/.well-known/openid-configuration": (404, b"")}
    assert world.failing("--provider-only")[0][2] == "oauth.provider.issuer"
    world.entra.replaced = {"/discovery/v2.0/keys": (500, b"")}
    assert world.failing("--provider-only") == [("provider keys", "published", "jwks_uri")]


def test_a_certificate_nobody_vouches_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    found = [one for one in world.doctor("--provider-only", status=1) if one["state"] == "failed"]
    assert "certificate" in found[0]["remedy"]


def test_scopes_are_spelled_as_the_provider_does(world: World) -> None:
    world.write(scopes=["openid", "access_as_user"])
    settings = load_config(world.config).config.oauth
    assert settings is not None
    assert asked_scopes(settings.provider) == ("openid", f"{world.entra.app_uri}/access_as_user")
    assert world.doctor("--provider-only")


# here


def test_keys_others_can_read(world: World) -> None:
    config = load_config(world.config).config
    open_token_keys(config)
    assert [one["state"] for one in world.doctor() if one["check"] == "signing keys"] == ["ok"]
    keys = next(config.storage.path.parent.glob("token-keys*/signing"))
    keys.chmod(0o644)
    assert [one[:2] for one in world.failing()] == [("here", "signing keys")]


def test_a_vault_without_its_key(world: World) -> None:
    config = load_config(world.config).config
    config.storage.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = State.open(config)
    open_vault(config, state).seal("owner", "place", b"secret")
    state.close()
    assert [one["state"] for one in world.doctor() if one["check"] == "vault"] == ["ok"]
    for path in config.storage.path.parent.glob("vault-keys*/*"):
        path.unlink()
    assert [one[2] for one in world.failing()] == ["vault.keys"]


def test_a_store_that_cannot_be_used(world: World) -> None:
    config = load_config(world.config).config
    config.storage.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.storage.path.write_bytes(b"not a database at all" * 1000)
    assert ("here", "tables", "storage") in world.failing()


@pytest.mark.requirement("OA-40")
def test_a_client_that_is_inside(world: World) -> None:
    """OA-40: documents are fetched as the gateway fetches them, from public addresses only."""
    assert world.failing("--client", "https://127.0.0.1/client.json") == [
        ("client metadata", "document", "client_id"),
    ]  # fmt: skip


def test_the_registration_script(world: World, tmp_path: Path) -> None:
    """It runs (with a stand-in for az), sends what Graph wants, and writes the secret where nobody else reads it."""
    shown = run(world.config, "--entra-setup").stdout
    (tmp_path / "az").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" >> calls\ncase "$*" in *appId*) echo app-1;; *password*) echo s3cret;; '
        "*tenantId*) echo tenant-1;; *) echo object-1;; esac\n"
    )
    (tmp_path / "az").chmod(0o700)
    done = subprocess.run(
        ["sh"], input=shown, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=30, check=True,
    )  # fmt: skip
    assert "client_secret: ${file:limen-entra.secret}" in done.stdout and "s3cret" not in done.stdout
    assert (tmp_path / "limen-entra.secret").stat().st_mode & 0o777 == 0o600
    calls = (tmp_path / "calls").read_text()
    sent = json.loads(calls[calls.index('{\n  "identifierUris"') : calls.index("\n}\n") + 2])
    assert sent["identifierUris"] == ["api://app-1"] and sent["api"]["requestedAccessTokenVersion"] == 2
    assert sent["web"]["redirectUris"] == [f"{world.front.url}/oauth/callback"]
    document = json.loads(run(world.config, "--entra-setup", "--json").stdout)
    assert document["appRoles"][0]["id"] == sent["appRoles"][0]["id"]


def test_misuse(world: World) -> None:
    assert CliRunner().invoke(app, ["-c", str(world.config), "doctor", "--server", "hr"]).exit_code == 2
    world.config.write_text(json.dumps({"mcpServers": {}}))
    assert "no `oauth` section" in run(world.config, "--provider-only", status=2).stderr


# the servers behind


def behind(world: World, credential: dict[str, Any]) -> dict[str, Any]:
    """What the doctor says of the credential of one server."""
    settings = json.loads(world.config.read_text())
    settings["mcpServers"]["hr"] = {"url": f"{world.front.url}/up", "security": {"credential": credential}}
    world.config.write_text(json.dumps(settings))
    found = json.loads(CliRunner().invoke(app, ["-c", str(world.config), "doctor", "oauth", "--json"]).stdout)
    (one,) = [one for one in found if one["leg"] == "upstream credential"]
    return dict(one)


@pytest.mark.parametrize(
    ("answer", "state", "hint"),
    [
        ((200, JSON, {"access_token": "t", "token_type": "Bearer", "expires_in": 60}), "ok", ""),
        ((401, JSON, {"error": "invalid_client"}), "failed", "does not let us in"),
        ((400, JSON, {"error": "invalid_scope"}), "failed", "scope"),
        ((404, {}, ""), "failed", "cannot be used"),
    ],
)
def test_client_credentials_are_tried_for_real(world: World, answer: Any, state: str, hint: str) -> None:
    world.front.answers["/as/token"] = answer
    client = {"id": "limen", "secret": "${file:secret}"}
    found = behind(
        world, {"kind": "client_credentials", "token_endpoint": f"{world.front.url}/as/token", "client": client}
    )
    assert found["state"] == state and hint in found["remedy"], found


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((400, JSON, {"error": "invalid_grant"}), "ok"),
        ((400, JSON, {"error": "invalid_request"}), "unsure"),
        ((401, JSON, {"error": "invalid_client"}), "failed"),
        ((200, JSON, {"access_token": "t", "token_type": "Bearer", "expires_in": 60}), "failed"),
    ],
)
def test_an_exchange_is_offered_a_token_of_nobody(world: World, answer: Any, state: str) -> None:
    world.front.answers["/as/token"] = answer
    client = {"id": "limen", "secret": "${file:secret}"}
    exchange = {"kind": "exchange", "token_endpoint": f"{world.front.url}/as/token", "client": client}
    assert behind(world, {**exchange, "subject_issuer": world.entra.issuer})["state"] == state


@pytest.mark.requirement("CLI-01")
def test_where_people_connect_accounts(world: World) -> None:
    """CLI-01: found by its metadata, and not pinned by looking."""
    url = world.front.url
    world.front.answers |= {
        "/up": (401, {"www-authenticate": f'Bearer resource_metadata="{url}/prm"'}, ""),
        "/prm": (200, JSON, {"resource": f"{url}/up", "authorization_servers": [f"{url}/as"]}),
        "/.well-known/oauth-authorization-server/as": (
            200, JSON,
            {"issuer": f"{url}/as", "authorization_endpoint": f"{url}/as/a", "token_endpoint": f"{url}/as/t",
             "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]},
        ),
    }  # fmt: skip
    found = behind(world, {"kind": "user", "private": True})
    assert found["state"] == "ok", found
    state = State.open(load_config(world.config).config)
    assert not list(state.vault.scan(""))
    state.close()
    world.front.answers["/prm"] = (200, JSON, {"resource": "https://other.example", "authorization_servers": []})
    assert behind(world, {"kind": "user", "private": True})["state"] == "failed"
