"""The file as a whole: every mistake is named with its place, and nothing secret is ever shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limen.config.load import ConfigFaults, Loaded, check_consistency, config_schema, load_config
from limen.config.model import Config, loosened
from limen.core.faults import ConfigFault

SECRET = "s3cr3t-value-nobody-may-see"
ROOT = Path(__file__).resolve().parents[2]


def load(tmp_path: Path, text: str, **environment: str) -> Loaded:
    path = tmp_path / "limen.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, environment)


def fault(tmp_path: Path, text: str, **environment: str) -> ConfigFault:
    with pytest.raises(ConfigFault) as caught:
        load(tmp_path, text, **environment)
    return caught.value


SERVER = "mcpServers:\n  s:\n    url: https://mcp.example.com/\n"


@pytest.mark.requirement("AUTH-20", "HTTP-03", "AS-44")
@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "", "must be a mapping"),
        ("- a\n", ":1:1", "must be a mapping"),
        ("version: 2\n", ":1:10 version", "Input should be 1"),
        ("polcy: {}\n", ":1:1 polcy", "unknown key; did you mean policy?"),
        ("listen: {urll: x}\n", ":1:10 listen.urll", "did you mean url?"),
        ("listen: {url: ftp://x}\n", ":1:15 listen.url", "http(s)://host"),
        ("listen: {url: 'https://u:p@h'}\n", ":1:15 listen.url", "user or password"),
        ("listen: {url: 'https://h/path'}\n", ":1:15 listen.url", "no path"),
        ("listen: {url: 'https://mcp.example.com'}\n", ":1:9 listen", "bind is needed"),
        ("listen:\n  bind: 0.0.0.0:8300\n", ":2:3 listen", "without TLS"),
        ("listen: {bind: ':8300'}\n", ":1:16 listen.bind", "host of bind"),
        ("listen: {bind: '::1:8300'}\n", ":1:16 listen.bind", "host:port"),
        ("listen: {bind: '127.0.0.1:99999'}\n", ":1:16 listen.bind", "host:port"),
        ("listen: {url: 'http://mcp.example.com', bind: '127.0.0.1:1'}\n", ":1:9 listen", "must be https"),
        ("listen: {tls: {certificate: a, key: b}}\n", ":1:9 listen", "must be https when tls"),
        ("listen: {origins: ['https://a/']}\n", ":1:19 listen.origins", "scheme://host"),
        ("mcpServers: {s: {}}\n", ":1:17 mcpServers.s", "either command or url"),
        (SERVER + "    command: x\n", ":3:5 mcpServers.s", "either command or url"),
        (SERVER + "    args: [x]\n", ":3:5 mcpServers.s", "args does not go with url"),
        (SERVER + "    type: stdio\n", ":3:5 mcpServers.s", "type stdio does not go with url"),
        (SERVER + "    trust: true\n", ":4:5 mcpServers.s.trust", "unknown key"),
        (
            SERVER + "    security:\n      unsafe_nosandbox: true\n",
            ":5:7 mcpServers.s.security.unsafe_nosandbox",
            "unsafe_no_sandbox",
        ),
        (SERVER + "    security: {effects: {x: nothing}}\n", ":4:29 mcpServers.s.security.effects.x", "read"),
        (SERVER + "    security: {scopes: ['a b']}\n", ":4:24 mcpServers.s.security.scopes", "scope"),
        (SERVER + "    timeout: 30000\n", ":4:14 mcpServers.s.timeout", "3600"),
        (SERVER + "    headers: {Host: x}\n", ":4:14 mcpServers.s.headers", "header of the protocol"),
        (SERVER + "    headers: {'X-A b': x}\n", ":4:14 mcpServers.s.headers", "not a header name"),
        (SERVER + "    headers: {X-A: 1, x-a: 2}\n", ":4:20 mcpServers.s.headers.X-A", "string"),
        (SERVER + "    headers: {X-A: 'a', x-a: 'b'}\n", ":4:14 mcpServers.s.headers", "twice"),
        ("mcpServers: {s: {url: 'http://mcp.example.com'}}\n", ":1:23 mcpServers.s.url", "https is needed"),
        ("mcpServers: {s: {url: 'https://h/?api_key=x'}}\n", ":1:23 mcpServers.s.url", "ends up in logs"),
        (
            "mcpServers: {s: {command: x, security: {directories: [{path: /etc}]}}}\n",
            "directories[0].path",
            "grant directories inside it",
        ),
        ("mcpServers: {s: {command: x, security: {directories: [{path: /run/docker.sock}]}}}\n", "path", "leads out"),
        ("mcpServers: {s: {command: x, security: {directories: [{path: /srv/../etc}]}}}\n", "path", "no . or .."),
        ("mcpServers: {s: {command: x, security: {limits: {memory: 1Ki}}}}\n", "limits.memory", "greater than"),
        ("mcpServers: {s: {command: x, security: {limits: {memory: lots}}}}\n", "limits.memory", "a size is"),
        ("mcpServers: {s: {url: 'https://h/', security: {limits: {}}}}\n", "mcpServers.s", "goes with command"),
        ("mcpServers: {a__b: {url: 'https://h/'}}\n", ":1:13 mcpServers", "two underscores"),
        ("mcpServers: {'a/b': {url: 'https://h/'}}\n", ":1:13 mcpServers", "not a server name"),
        ("mcpServers: {'..': {url: 'https://h/'}}\n", ":1:13 mcpServers", "not a server name"),
        ("mcpServers: {a: {url: 'https://h/'}, A: {url: 'https://h/'}}\n", ":1:13 mcpServers", "upper and lower"),
        ("policy:\n  rules:\n    - {allow: a, deny: b, call: c/*}\n", ":3:7 policy.rules[0]", "either allow or deny"),
        ("policy:\n  rules:\n    - {allow: anyone}\n", ":3:7 policy.rules[0].call", "is needed"),
        ("policy: {cedar: [none.cedar]}\n", ":1:18 policy.cedar[0]", "No such file"),
        (
            "identity:\n  issuers:\n    - {issuer: 'http://login.example.com'}\n",
            ":3:16 identity.issuers[0].issuer",
            "https",
        ),
        ("include: [none.json]\n", ":1:11 include[0]", "No such file"),
        ("include: none.json\n", ":1:10 include", "list of paths"),
        ("listen: {url: '${input:x}'}\n", ":1:15 listen.url", "only ${env:NAME} and ${file:path}"),
        ("listen: {url: '${URL}'}\n", ":1:15 listen.url", "unknown reference"),
        ("listen: {url: '${env:URL'}\n", ":1:15 listen.url", "not closed"),
        ("listen: {url: '${env:UNSET_HERE}'}\n", ":1:15 listen.url", "UNSET_HERE is not set"),
        ("storage: {kind: mysql}\n", ":1:17 storage.kind", "sqlite"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    found = fault(tmp_path, text)
    assert place in found.where
    assert words in str(found)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found = fault(tmp_path, "version: 3\nlisten: {bad: 1}\naudit: {durable: 7}\n")
    assert isinstance(found, ConfigFaults)
    assert [line.split()[1].rstrip(":") for line in str(found).splitlines()] == [
        "version",
        "listen.bad",
        "audit.durable",
    ]


@pytest.mark.requirement("HTTP-03")
def test_only_servers_is_enough(tmp_path: Path) -> None:
    loaded = load(tmp_path, SERVER)
    config = loaded.config
    assert list(config.servers) == ["s"]
    assert config.listen.address == ("127.0.0.1", 8300)
    assert config.storage.path == tmp_path / "limen-state" / "limen.db"
    assert config.audit.path == loaded.state / "audit"
    assert list(loosened(config)) == []


@pytest.mark.requirement("AUTH-02")
def test_serving_needs_an_issuer(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"no issuer configured.*identity\.unsafe_anonymous: true"):
        check_consistency(load(tmp_path, SERVER).config)
    check_consistency(load(tmp_path, SERVER + "identity: {unsafe_anonymous: true}\n").config)
    check_consistency(load(tmp_path, SERVER + "identity: {issuers: [{issuer: 'https://login.example.com/'}]}\n").config)


def test_honest_listeners(tmp_path: Path) -> None:
    tls = load(
        tmp_path, "listen: {url: 'https://mcp.example.com/', bind: '0.0.0.0:443', tls: {certificate: c, key: k}}"
    )
    assert tls.config.listen.url == "https://mcp.example.com"
    assert tls.config.listen.address == ("0.0.0.0", 443)
    assert tls.config.listen.tls is not None
    assert tls.config.listen.tls.key == tmp_path / "k"
    proxied = load(tmp_path, "listen: {url: 'https://mcp.example.com', bind: '[::]:80', unsafe_plain_http: true}")
    assert list(loosened(proxied.config)) == ["listen.unsafe_plain_http"]
    assert (
        load(tmp_path, "listen: {url: 'https://mcp.example.com', bind: '127.0.0.1:80'}").config.listen.address[1] == 80
    )
    assert load(tmp_path, "listen: {url: 'http://[::1]:9'}").config.listen.address == ("::1", 9)


def test_a_command_says_that_it_is_not_confined(tmp_path: Path) -> None:
    loaded = load(tmp_path, "mcpServers: {s: {command: x, cwd: sub, security: {unsafe_no_sandbox: true}}}")
    assert loaded.config.servers["s"].cwd == tmp_path / "sub"
    assert list(loosened(loaded.config)) == ["mcpServers.s.security.unsafe_no_sandbox"]
    disabled = load(tmp_path, "mcpServers: {s: {command: x, disabled: true, env: {A: '${env:NOT_SET}'}}}")
    assert disabled.config.servers == {}


def test_secrets_by_reference_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"file-{SECRET}\n")
    (tmp_path / "token").chmod(0o600)
    loaded = load(
        tmp_path,
        SERVER + "    headers: {Authorization: 'Bearer ${env:TOKEN}', X-Api-Key: '${file:token}'}\n"
        "  l:\n    command: x\n    args: ['--key=${env:TOKEN}', plain]\n    env: {A: 'pre-${env:TOKEN}'}\n"
        "    security: {unsafe_no_sandbox: true}\n",
        TOKEN=SECRET,
    )
    server, local = loaded.config.servers["s"], loaded.config.servers["l"]
    assert dict(server.header_values()) == {"Authorization": f"Bearer {SECRET}", "X-Api-Key": f"file-{SECRET}"}
    assert local.arguments() == [f"--key={SECRET}", "plain"]
    assert local.environment() == {"A": f"pre-{SECRET}"}
    for shown in (repr(loaded), str(loaded.config), loaded.config.model_dump_json(), repr(loaded.config.model_dump())):
        assert SECRET not in shown
    assert any("l.args" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    "text",
    [
        SERVER + "    headers: {Authorization: 'Bearer ${env:TOKEN}\n\n   x'}\n",
        SERVER + "    headers: {Host: '${env:TOKEN}'}\n",
        SERVER + "    security: {scopes: ['${env:TOKEN} x']}\n",
        "listen: {url: '${env:TOKEN}'}\n",
        "listen: {bind: '${env:TOKEN}'}\n",
        "version: '${env:TOKEN}'\n",
        "mcpServers: {s: {url: 'https://${env:TOKEN}:x/'}}\n",
        "mcpServers: {s: {url: 'https://h/?k=${env:TOKEN}'}}\n",
        "identity: {issuers: [{issuer: '${env:TOKEN}'}]}\n",
        "identity: {issuers: [{issuer: 'https://i.example', jwks: '${env:TOKEN}'}]}\n",
        "identity: {issuers: [{issuer: 'https://i.example', algorithms: ['${env:TOKEN}']}]}\n",
        "policy: {rules: [{allow: anyone, call: x/*, require: ['${env:TOKEN}']}]}\n",
        "storage: {kind: '${env:TOKEN}'}\n",
        'mcpServers: {s: {command: x, env: {A: "${env:TOKEN}\\0"}, security: {unsafe_no_sandbox: true}}}\n',
    ],
)
def test_no_error_holds_a_secret(tmp_path: Path, text: str) -> None:
    found = fault(tmp_path, text, TOKEN=SECRET)
    assert SECRET not in str(found)
    assert SECRET not in repr(found)
    assert found.__cause__ is None


@pytest.mark.parametrize(
    "headers",
    [
        f"{{Authorization: {SECRET}}}",
        f"{{authorization: Bearer {SECRET}}}",
        f"{{X-Api-Key: {SECRET}}}",
        f"{{X-Whatever: Bearer {SECRET}}}",
        f"{{X-Whatever: ghp_{SECRET}}}",
        f"{{Cookie: a={SECRET}}}",
    ],
)
def test_a_credential_does_not_stand_in_the_file(tmp_path: Path, headers: str) -> None:
    found = fault(tmp_path, SERVER + f"    headers: {headers}\n")
    assert ":4:" in found.where
    assert "reference" in found.message
    assert SECRET not in str(found)


def test_a_header_that_is_no_credential(tmp_path: Path) -> None:
    loaded = load(tmp_path, SERVER + "    headers: {X-Region: eu}\n")
    assert loaded.config.servers["s"].header_values() == (("X-Region", "eu"),)


def test_a_secret_in_env_is_remarked_upon(tmp_path: Path) -> None:
    text = "mcpServers: {s: {command: x, env: {API_TOKEN: abc, HOME: /h}, security: {unsafe_no_sandbox: true}}}"
    (warning,) = [one for one in load(tmp_path, text).warnings if "secret" in one]
    assert "s.env.API_TOKEN" in warning
    assert "abc" not in warning


def test_referenced_files_are_judged(tmp_path: Path) -> None:
    token = tmp_path / "token"
    text = SERVER + "    headers: {Authorization: '${file:token}'}\n"
    assert "No such file" in str(fault(tmp_path, text))
    token.write_text("")
    assert "empty" in str(fault(tmp_path, text))
    token.write_text(SECRET)
    token.chmod(0o646)
    assert "everybody may write" in str(fault(tmp_path, text))
    token.chmod(0o644)
    assert any("everybody on this machine may read token" in one for one in load(tmp_path, text).warnings)
    token.chmod(0o600)
    assert not any("may read" in one for one in load(tmp_path, text).warnings)
    token.write_bytes(b"x" * (70 << 10))
    assert "larger" in str(fault(tmp_path, text))


def test_what_clients_write_and_we_ignore(tmp_path: Path) -> None:
    loaded = load(tmp_path, SERVER + "    autoApprove: [a]\n    alwaysAllow: [b]\n    description: x\n    timeout: 5\n")
    assert sum("has no effect here" in warning for warning in loaded.warnings) == 3
    assert any(warning.startswith(f"{tmp_path}/limen.yaml:4:5 mcpServers.s.autoApprove") for warning in loaded.warnings)
    assert loaded.config.servers["s"].call_timeout == 5


CLIENT = {"other": 1, "servers": {"files": {"command": "npx", "args": ["-y", "x"]}, "web": {"url": "https://h/"}}}


def test_including_a_client_file(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text(json.dumps(CLIENT, indent="\t"))
    plain = load(tmp_path, "include: [mcp.json]\n").config.servers["files"]  # it runs in a cell: nothing to accept
    assert not plain.security.unsafe_no_sandbox
    assert plain.security.bounds is not None
    loaded = load(
        tmp_path,
        "include: [mcp.json]\nmcpServers:\n  files: {security: {unsafe_no_sandbox: true, timeout: 3}}\n  own: {url: 'https://o/'}\n",
    )
    assert sorted(loaded.config.servers) == ["files", "own", "web"]
    assert loaded.config.servers["files"].call_timeout == 3
    assert loaded.config.include == (tmp_path / "mcp.json",)


def test_an_included_file_cannot_loosen_anything(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text(
        '{"mcpServers": {"files": {"command": "x", "security": {"unsafe_no_sandbox": true}}},\n "identity": {}}'
    )
    found = fault(tmp_path, "include: [mcp.json]\n")
    assert "belongs in Limen's own file" in found.message
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"s": {"url": "https://evil.example/"}}}')
    assert "configured twice" in fault(tmp_path, "include: [mcp.json]\n" + SERVER).message
    (tmp_path / "mcp.json").write_text('{"mcpServers": {}, "identity": {"unsafe_anonymous": true}}')
    assert not load(tmp_path, "include: [mcp.json]\n").config.identity.unsafe_anonymous
    (tmp_path / "mcp.json").write_text('{"mcpServers": {}, "servers": {}}')
    assert "exactly one" in fault(tmp_path, "include: [mcp.json]\n").message


def test_an_addition_keeps_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"web": {"url": "https://h/"}}}')
    found = fault(tmp_path, "include: [mcp.json]\nmcpServers:\n  web:\n    security: {timeout: -1}\n")
    assert "limen.yaml:4:25 mcpServers.web.security.timeout" in found.where


def test_references_of_an_included_file_start_there(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "token").write_text(SECRET)
    (tmp_path / "sub" / "mcp.json").write_text(
        '{"mcpServers": {"s": {"url": "https://h/", "headers": {"Authorization": "${file:token}"}}}}'
    )
    loaded = load(tmp_path, "include: [sub/mcp.json]\n")
    assert loaded.config.servers["s"].header_values() == (("Authorization", SECRET),)
    (tmp_path / "sub" / "mcp.json").write_text(
        '{"mcpServers": {"s": {"url": "https://h/", "headers": {"Authorization": "inline"}}}}'
    )
    assert "must not stand in the file" in fault(tmp_path, "include: [sub/mcp.json]\n").message


def test_cedar_is_read_from_files(tmp_path: Path) -> None:
    text = "permit (principal, action, resource);\n"
    (tmp_path / "a.cedar").write_text(text)
    loaded = load(tmp_path, f"policy: {{cedar: [a.cedar, '${{file:a.cedar}}', '{text.strip()}']}}\n")
    assert loaded.config.policy.cedar == (text, text, text.strip())


def test_values_never_change_after_loading(tmp_path: Path) -> None:
    config = load(tmp_path, SERVER).config
    with pytest.raises(ValueError, match="frozen"):
        config.listen.url = "http://evil"  # type: ignore[misc]


def test_the_configuration_itself_is_not_a_link(tmp_path: Path) -> None:
    load(tmp_path, SERVER)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "limen.yaml")
    with pytest.raises(ConfigFault, match="symbolic link"):
        load_config(tmp_path / "link.yaml", {})


def test_the_schema_is_committed() -> None:
    assert json.loads((ROOT / "schema" / "limen.schema.json").read_text()) == json.loads(json.dumps(config_schema())), (
        "run: limen config schema > schema/limen.schema.json"
    )


def test_everything_that_loosens_is_named_so() -> None:
    """`loosened` finds every boolean that is named unsafe_, wherever it stands."""
    names = [
        name for part in [config_schema(), *config_schema()["$defs"].values()] for name in part.get("properties", ())
    ]
    assert sorted(name for name in names if name.startswith("unsafe_")) == [
        "unsafe_anonymous", "unsafe_continue", "unsafe_foreign_redirects", "unsafe_localhost_ports",
        "unsafe_no_sandbox", "unsafe_observe", "unsafe_observe", "unsafe_observe",
        "unsafe_plain", "unsafe_plain_http", "unsafe_unverified",
    ]  # fmt: skip
    assert list(loosened(Config())) == []


def test_the_file_of_places_is_found_beside_the_configuration(tmp_path: Path) -> None:
    loaded = load(tmp_path, SERVER + "sessions: {geoip: places.mmdb}\n")
    assert loaded.config.sessions.geoip == tmp_path / "places.mmdb"
    assert load(tmp_path, SERVER).config.sessions.geoip is None
    assert "step_up comes before end" in str(fault(tmp_path, SERVER + "sessions: {risk: {step_up: 0.9}}\n"))
    assert "idle is not longer" in str(fault(tmp_path, SERVER + "sessions: {idle: 900, absolute: 60}\n"))
