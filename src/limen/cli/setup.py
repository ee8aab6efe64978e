"""`limen init`, `check`, `posture` and `doctor`: from nothing to something that can be trusted to run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, load, run_async
from limen.cli.terminal import complain, emit, line, table
from limen.core.faults import ConfigFault, Fault

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

_LOW_DISK: Final = 256 << 20
_EXAMPLE: Final = """\
# Limen: the guarded threshold in front of MCP servers. `limen check` explains this file, `limen config schema` prints
# its JSON Schema. Relative paths start from this file. Secrets only by reference: ${env:NAME} or ${file:path}.
version: 1

listen:
  url: http://127.0.0.1:8300          # public base URL; clients use <url>/mcp/<server>
  # bind: 0.0.0.0:8443                # where to listen, when url is not loopback
  # tls: {certificate: tls/cert.pem, key: tls/key.pem}

# Servers, exactly as clients write them; additions stand under `security`.
mcpServers: {}
  # docs:
  #   url: https://mcp.example.com/docs
  #   headers: {Authorization: "Bearer ${env:DOCS_TOKEN}"}
  # hr:                               # with a token of its own for each caller: docs/upstream-credentials.md
  #   url: https://hr.example.com/mcp
  #   security: {credential: {kind: minted}}
  # time:
  #   command: mcp-server-time
  #   security: {directories: [{path: /srv/data, write: true}]}   # it runs in a sandbox, and sees this besides itself

# Servers a client already knows; `security` is added above, under the same name.
# include: [~/.cursor/mcp.json]

identity:
  issuers:
    - issuer: https://login.example.com/    # replace: whose access tokens are accepted
      # audience: api://limen               # accepted besides the address of each server

# Where clients cannot do what the provider needs (registration, metadata, `resource`), Limen signs people in there and
# issues tokens of its own; then `identity` can go. Register <listen.url>/oauth/callback there. docs/oauth.md
# oauth:
#   provider: {issuer: https://login.example.com, client_id: limen, client_secret: "${file:limen.secret}"}
#   clients: {registration: true}     # for clients without a metadata document

policy:
  rules: []                           # nothing is allowed that no rule allows
    # - {allow: "group:writers", call: "docs/search", scopes: [docs.read]}
    # - {allow: "group:editors", call: "docs/delete_page", require: [mfa, approval]}
    # - {deny: anyone, call: "docs/*", when: 'resource.effect == "destructive"'}
  # cedar: [policies/finance.cedar]   # full Cedar beside the rules

limits: {rate: 100, burst: 200}       # calls a second for each caller

audit:
  durable: false                      # true: every call waits until it is on disk
"""


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("limen.yaml"),
    as_json: JsonOption = False,
) -> None:
    """Write a commented example to start from; never over an existing file. Example: limen init limen.yaml"""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists already") from None
    except OSError as fault:
        raise Refused(f"{path}: {fault.strerror or fault}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(_EXAMPLE)
    if as_json:
        emit({"path": str(path.absolute())})
    else:
        line(f"wrote {path}; next: add servers and your issuer (or `oauth`), then `limen check`")


def check(
    context: typer.Context,
    local: Annotated[bool, typer.Option("--stdio", help="For `limen stdio`: no issuer is needed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the file means and what is wrong with it; status 2 if it cannot be used. Example: limen check"""
    from limen.cli import readiness
    from limen.cli.policy import compiled
    from limen.cli.reviews import due
    from limen.config.load import check_consistency
    from limen.config.model import loosened
    from limen.signin import check_signin

    loaded = load(context, config)
    problem: ConfigFault | None = None
    warnings = list(loaded.warnings)
    if (reviewed := due(loaded.config)) is not None and not reviewed[0]:
        warnings.append(f"access: {reviewed[1]}")
    try:
        warnings.extend(compiled(loaded)[1].warnings)
        if not local:
            check_consistency(loaded.config)
            check_signin(loaded.config)
    except ConfigFault as fault:
        problem = fault
    found: dict[str, Any] = {
        "ok": problem is None,
        "path": str(loaded.path),
        "url": loaded.config.listen.url,
        "servers": _servers(loaded.config),
        "issuers": list(loaded.config.issuers),
        "oauth": _signing_in(loaded.config),
        "watching": readiness.configured(loaded.config),
        "loosened": list(loosened(loaded.config)),
        "warnings": warnings,
    }
    if as_json:
        emit({**found, "problem": str(problem) if problem else None})
    else:
        _explain(found)
    if problem is not None:
        raise problem


def _signing_in(config: Config) -> dict[str, Any] | None:
    """What of the authorization server is on; None where there is none."""
    if (oauth := config.oauth) is None:
        return None
    clients = [f"{len(oauth.clients.known)} known"] if oauth.clients.known else []
    if oauth.clients.documents.enabled:
        clients.append("documents of trusted hosts" if oauth.clients.documents.only_trusted else "documents")
    if oauth.clients.registration:
        clients.append("registration")
    return {
        "provider": oauth.provider.issuer,
        "kind": oauth.provider.kind,
        "callback": f"{config.listen.url}/oauth/callback",
        "clients": clients,
        "devices": oauth.tokens.device,
    }


def _servers(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "server": name,
            "transport": server.transport,
            "target": server.target,
            "credential": _credential(server),
            "address": "" if server.disabled else f"{config.listen.url}/mcp/{name}",
            "disabled": server.disabled,
        }
        for name, server in config.mcpServers.items()
    ]


def _credential(server: ServerConfig) -> str:
    """What goes with a call: the kind of token that is obtained for it, else fixed headers, else nothing."""
    if server.security.credential is not None:
        return server.security.credential.kind
    return "headers" if server.headers else ""


def _explain(found: dict[str, Any]) -> None:
    line(f"{found['path']}: clients connect to {found['url']}/mcp/<server>")
    if found["servers"]:
        table(("server", "transport", "target", "credential", "address", "disabled"), found["servers"])
    for issuer in found["issuers"]:
        line(f"issuer: {issuer}")
    if (oauth := found["oauth"]) is not None:
        line(f"people sign in at {oauth['provider']} ({oauth['kind']}), which sends them back to {oauth['callback']}")
        line(f"clients that may ask: {', '.join(oauth['clients']) or 'none'}{'; devices' if oauth['devices'] else ''}")
    watching = found["watching"]
    for what in ("followers", "playbooks"):
        if watching[what]:
            line(f"{what}: {', '.join(watching[what])}")
    line(f"alerts: {', '.join(watching['alerts']) or 'nobody is told (alerts.routes); see `limen alerts list`'}")
    line(f"log: {watching['retention']}")
    for switch in found["loosened"]:
        line(f"LOOSENED: {switch}", red=True)
    for warning in found["warnings"]:
        line(f"warning: {warning}")


def posture(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every control, the guard that enforces it, and whether it is loosened. Example: limen posture"""
    from limen.cli.controls import describe

    rows = describe(load(context, config).config)
    if as_json:
        emit(rows)
    else:
        table(("control", "guard", "state", "evidence", "loosened"), rows, red="loosened")


def doctor(
    context: typer.Context,
    part: Annotated[
        str, typer.Argument(metavar="[sandbox|oauth]", help="Only what local servers run in, or each leg of a sign-in.")
    ] = "",
    server: Annotated[str, typer.Option(help="oauth: only the way to this server or bundle.")] = "",
    client: Annotated[str, typer.Option(help="oauth: also fetch this client's metadata document.")] = "",
    provider_only: Annotated[bool, typer.Option("--provider-only", help="oauth: only the identity provider.")] = False,
    entra_setup: Annotated[
        bool, typer.Option("--entra-setup", help="oauth: print a script that registers Limen at Microsoft Entra ID.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything the gateway depends on; status 1 if something is wrong. Example: limen doctor oauth

    `limen doctor oauth` walks every leg of a sign-in while the gateway runs, names the field that is wrong and says
    what to do. Examples: limen doctor oauth --server hr; limen doctor oauth --provider-only --json
    """
    if part not in ("", "sandbox", "oauth"):
        raise Misused(f"there is nothing called {part!r} to look at: sandbox, oauth, or nothing for everything")
    if part != "oauth" and (server or client or provider_only or entra_setup):
        raise Misused("--server, --client, --provider-only and --entra-setup are for `limen doctor oauth`")
    if part == "oauth":
        from limen.cli.doctor_oauth import doctor_oauth, print_entra_setup

        chosen = load(context, config).config
        if entra_setup:
            print_entra_setup(chosen, as_json)
        else:
            doctor_oauth(chosen, server, client, provider_only, as_json)
        return
    if part:
        rows = run_async(_sandbox())
    else:
        loaded = load(context, config)
        from limen.cli import readiness

        found = [("configuration", True, str(loaded.path)), *_disk(loaded), *run_async(_network(loaded))]
        found += readiness.found(loaded.config)
        rows = [{"check": name, "ok": ok, "found": text, "bad": not ok} for name, ok, text in found]
    shown = tuple(name for name in rows[0] if name != "bad")
    if as_json:
        emit([{key: row[key] for key in shown} for row in rows])
    else:
        table(shown, rows, red="bad")
    if any(row["bad"] for row in rows):
        complain("something is wrong")
        raise typer.Exit(1)


async def _sandbox() -> list[dict[str, Any]]:
    """Every property of a sandbox, tried here by a program that attacks its own."""
    from limen.adapters.bubblewrap import Bubblewrap
    from limen.adapters.podman import Podman

    containers = [replace(one, needed=False) for one in await Podman().properties()]  # for servers that ask for them
    return [
        {
            "check": one.name, "ok": one.holds, "needed": one.needed, "found": one.found,
            "remedy": "" if one.holds else one.remedy, "bad": one.needed and not one.holds,
        }
        for one in (*await Bubblewrap().properties(), *containers)
    ]  # fmt: skip


def _disk(loaded: Loaded) -> list[tuple[str, bool, str]]:
    import shutil

    config = loaded.config
    found: list[tuple[str, bool, str]] = []
    for name, path in (("storage", config.storage.path.parent), ("audit log", config.audit.path)):
        place = _nearest(path)
        good = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        found.append((f"{name} directory", good, f"{path}{'' if good else f': {place} cannot be written to'}"))
        free = shutil.disk_usage(place).free
        found.append((f"{name} disk", free >= _LOW_DISK, f"{free >> 20} MiB free"))
    from limen.cli.reviews import due

    reviewed = due(config)
    return [*found, _key(config), *([("access review", *reviewed)] if reviewed is not None else [])]


def _nearest(path: Path) -> Path:
    """The path itself, or the directory that would hold what has to be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _key(config: Config) -> tuple[str, bool, str]:
    from limen.adapters.keys import FileSigner

    if not config.audit.key.exists():
        return "signing key", True, f"{config.audit.key}: made at first use"
    try:
        return "signing key", True, FileSigner.open(config.audit.key, config.audit.name, create=False).verifier_key
    except Fault as fault:
        return "signing key", False, str(fault)


async def _network(loaded: Loaded) -> list[tuple[str, bool, str]]:
    """Every issuer's keys, every server's definitions."""
    from limen.adapters.http import HttpFetch
    from limen.gateway.run import probe
    from limen.identity.issuers import Issuers

    identity = loaded.config.identity
    issuers = Issuers(identity, HttpFetch())
    try:
        trouble = await issuers.warm()
    finally:
        await issuers.close()
    found = [
        (f"issuer {one.issuer}", one.issuer not in trouble, trouble.get(one.issuer, "keys found"))
        for one in identity.each_issuer
    ]
    if not loaded.config.issuers and not identity.unsafe_anonymous:
        found.append(("issuers", False, "none configured"))
    return [*found, *((f"server {name}", ok, text) for name, ok, text in await probe(loaded))]
