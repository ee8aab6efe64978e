"""What `limen posture` says: every guard in force, the controls it enforces, what shows it, and what loosens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from limen import posture
from limen.cli import readiness
from limen.config.model import loosened
from limen.core.faults import InvariantFault

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

_ROWS: Final = {
    "size": ("G7", "tests/protocol/test_inbound.py"),
    "origin": ("A13", "tests/protocol/test_inbound.py"),
    "strict_json": ("A9", "tests/protocol/test_jsonrpc.py"),
    "revision": ("L4", "tests/protocol/test_inbound.py"),
    "header_agreement": ("A9", "tests/protocol/test_inbound.py"),
    "known_method": ("A9", "tests/protocol/test_inbound.py"),
    "Authenticate": ("A1-A5 A13 A14 C3", "tests/attacks/test_tokens.py"),
    "Revoked": ("B9 J1", "tests/gateway/test_revocation.py"),
    "Halted": ("J1", "tests/gateway/test_containment.py"),
    "Contained": ("J1", "tests/gateway/test_containment.py"),
    "BindSession": ("B8 C1-C8", "tests/identity/test_sessions.py"),
    "SpendState": ("C2", "tests/identity/test_handles.py"),
    "Limit": ("A12", "tests/policy/test_limit.py"),
    "Resolve": ("E3 E6 E7 E8", "tests/catalog/test_resolve.py"),
    "Decoy": ("I9", "tests/gateway/test_decoys.py"),
    "Authorize": ("A6 A7 A9", "tests/policy/test_authorize.py"),
    "ValidateArguments": ("D6 E1", "tests/catalog/test_arguments.py"),
    "InspectArguments": ("B10 D1 D2 D3 D5 D6 D8 D11 D12 I7", "tests/detection/test_inspect.py"),
    "ReadFlow": ("D10", "tests/policy/test_flow_rules.py"),
    "CheckFlow": ("D10", "tests/detection/test_flow.py"),
    "Weigh": ("I7", "tests/incidents/test_weigh.py"),
    "RequireApproval": ("A9", "tests/policy/test_approval.py"),
    "Spend": ("A12 D12", "tests/policy/test_spend.py"),
    "AttachCredential": ("B1", "tests/upstreams/test_credential_attach.py"),
    "ValidateResult": ("D7", "tests/catalog/test_results.py"),
    "InspectResult": ("B10 D1 D2 D3 D5 D7 D8 D11", "tests/gateway/test_content.py"),
    "RecordFlow": ("D10", "tests/detection/test_flow.py"),
    "Protect": ("D9", "tests/detection/test_tokenise.py"),
    "Reveal": ("D9", "tests/detection/test_tokenise.py"),
    "Neutralise": ("D4 D12", "tests/detection/test_neutralise.py"),
    "InspectMessages": ("D1 D8", "tests/detection/test_inspect.py"),
    "inspect_definition": ("E2 E9", "tests/detection/test_inspect.py"),
    "ledger": ("A10 I2", "tests/audit/test_audit_verify.py"),
    "launch": ("H2", "tests/sandbox/test_verified_launch.py"),
    "vault": ("B4", "tests/attacks/test_oauth_vault.py"),
}
_LOOSENS: Final = {
    "unsafe_anonymous": "Authenticate",
    "unsafe_plain_http": "Authenticate",
    "unsafe_unverified": "launch",
    "unsafe_continue": "InspectResult",
}
_OBSERVED: Final = {
    "arguments": "InspectArguments",
    "results": "InspectResult",
    "messages": "InspectMessages",
    "definitions": "inspect_definition",
}
_OBSERVES: Final = {"CheckFlow": "content.flow.unsafe_observe", "Weigh": "risk.unsafe_observe"}


def describe(config: Config) -> list[dict[str, Any]]:
    """One row a guard, in order, and one for every control a switch has turned off. Raises InvariantFault when the
    posture lists a guard this table does not know."""
    switches = list(loosened(config))
    rows: list[dict[str, Any]] = []
    guards = (*posture.ADMIT, *posture.CALL, *posture.RESULT, posture.MESSAGES)
    observed = {_OBSERVED[one] for one in config.content.unsafe_observe}
    if config.content.flow.unsafe_observe:
        observed |= {"CheckFlow"}
    if config.risk.unsafe_observe:
        observed |= {"Weigh"}
    for name in (*(guard.__name__ for guard in guards), "inspect_definition", "ledger", "launch", "vault"):
        if name not in _ROWS:
            raise InvariantFault(f"{name} stands in the posture without saying which control it enforces")
        controls, evidence = _ROWS[name]
        loose = [switch for switch in switches if _LOOSENS.get(switch.rpartition(".")[2]) == name]
        if name in observed:
            loose.append(_OBSERVES.get(name, "content.unsafe_observe"))
        state = "observing" if name in observed else "loosened" if loose else "enforced"
        rows.append(_row(controls, name, state, evidence, loose))
    rows += [*_signing_in(config, switches), *_credentials(config), *_cells(config, switches)]
    return [*rows, *_watching(config, switches)]


def _watching(config: Config, switches: list[str]) -> list[dict[str, Any]]:
    """Who follows the log, watches and responds; a playbook that nobody approved says so."""
    plain = {f"follower {one.name}": f"audit.followers[{place}]" for place, one in enumerate(config.audit.followers)}
    found = []
    for controls, name, state, evidence in readiness.rows(config):
        loose = [switch for switch in switches if name in plain and switch.startswith(f"{plain[name]}.")]
        found.append(_row(controls, name, state, evidence, loose))
    return found


def _signing_in(config: Config, switches: list[str]) -> list[dict[str, Any]]:
    """What the authorization server holds to, where there is one."""
    if (oauth := config.oauth) is None:
        return []
    shown = (
        ("F1 F4 F5", "oauth", "tests/attacks/test_oauth_authorize.py"),
        ("F2 C9", "consent", "tests/attacks/test_oauth_consent.py"),
        ("F3 F6", "clients", "tests/attacks/test_oauth_clients.py"),
        ("F4", "tokens", "tests/attacks/test_oauth_token.py"),
        ("F7", "signins", "tests/oauth/test_attempts.py"),
    )
    loose = [switch for switch in switches if switch.startswith("oauth.clients.")]
    rows = []
    for controls, guard, evidence in shown:
        mine = loose if guard == "clients" else []
        rows.append(_row(controls, guard, "loosened" if mine else "enforced", evidence, mine))
    wider = [("registration", "F6", oauth.clients.registration, "tests/oauth/test_registration.py")]
    wider += [("devices", "F1", oauth.tokens.device, "tests/oauth/test_device_grant.py")]
    return rows + [_row(controls, name, "on", evidence, []) for name, controls, on, evidence in wider if on]


def _credentials(config: Config) -> list[dict[str, Any]]:
    """Where a token is obtained for each call, and of which kind."""
    evidence = "tests/attacks/test_oauth_upstream_credentials.py"
    kinds = {name: one.security.credential.kind for name, one in config.servers.items() if one.security.credential}
    return [_row("B1 B2 B3", f"credential {name}", kind, evidence, []) for name, kind in kinds.items()]


def _cells(config: Config, switches: list[str]) -> list[dict[str, Any]]:
    """What holds where local servers run, and for each of them where it may connect to."""
    local = {name: server for name, server in config.servers.items() if server.command is not None}
    kinds = {one.security.isolate for one in local.values() if not one.security.unsafe_no_sandbox}
    shown = (
        ("bubblewrap", "sandbox", "tests/sandbox/test_cell_escape.py"),
        ("podman", "container", "tests/sandbox/test_containers.py"),
    )
    rows = [_row("G1 G2 G3 G4 G6 G7 G8", guard, "enforced", where, []) for kind, guard, where in shown if kind in kinds]
    for switch in switches:
        if switch.endswith("unsafe_no_sandbox"):
            rows.append(_row("G1", "sandbox", "absent", "docs/isolation.md", [switch]))
    for name, server in local.items():
        state, switch = _egress(server)
        loose = [f"mcpServers.{name}.security.{switch}"] if switch else []
        rows.append(_row("G5", f"egress {name}", state, "tests/egress/test_egress_sandbox.py", loose))
    return rows


def _egress(server: ServerConfig) -> tuple[str, str]:
    """Where a local server may connect to, and the switch that loosens it."""
    security = server.security
    if security.unsafe_no_sandbox:
        return "absent", "unsafe_no_sandbox"
    if not security.egress.ports:
        return "no network", ""
    if security.egress.unsafe_ech:
        return "loosened", "egress.unsafe_ech"
    return ("learning" if security.egress.mode == "learn" else "enforced"), ""


def _row(controls: str, guard: str, state: str, evidence: str, loose: list[str]) -> dict[str, Any]:
    return {
        "control": controls,
        "guard": guard,
        "state": state,
        "evidence": evidence,
        "loosened": ", ".join(loose),
    }
