"""I1: the catalogue is complete. Every record the source writes has a row, every row is written, all is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limen.audit.catalogue import CATALOGUE, row_of
from limen.audit.events import CATEGORIES
from limen.audit.events_page import page
from limen.audit.members import COMMON, MEMBERS, WHO
from limen.core.events import SEVERITIES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "limen"
# Functions that write a record whose type is their first argument.
WRITERS = {"event", "_event", "record", "_record", "tell", "_emit", "told"}
# Functions that write a record of one type: file -> name -> its type; their first argument is the second part.
OF_ONE = {
    "adapters/egress_report.py": {"_event": "egress"},
    "oauth/asking.py": {"_alert": "security"},
    "identity/misuse.py": {"_alert": "security"},
    "identity/bind_session.py": {"alert": "security"},
    "oauth/redeeming.py": {"tell": "grant"},
    "identity/sessions.py": {"_tell": "session"},
    "identity/api_keys.py": {"_members": "key"},
    "oauth/consent.py": {"_members": "consent"},
    "oauth/registration.py": {"_tell": ""},
    "cli/servers.py": {"_recorded": "package"},
    "credentials/sources.py": {"_note": "credential"},
    "containing.py": {"_tell": ""},
    "audit/follow.py": {"_tell_log": "follower"},
}
# The member that names the second part, and the types in whose writing it is no constant: where, and what it can be.
SECOND = {
    "security": ("event",), "catalog": ("change",), "cell": ("event",), "egress": ("what",),
    "consent": ("change", "event"), "signin": ("event",), "grant": ("state",), "reload": ("ok",),
    "upstream_issuer": ("accepted",), "vault": ("act",), "labels": ("act",), "protect": ("act",),
    "quarantine": ("act",), "session": ("act",), "approval": ("act",), "revocation": ("act",),
    "parameters": ("act",), "package": ("act",), "key": ("change",), "credential": ("outcome",),
    "incident": ("act",), "playbook": ("act",), "follower": ("act",), "hold": ("act",), "prune": ("act",),
    "restart": ("ok",), "certificate": ("ok",), "config": ("change",), "risk": ("act",),
    "alert_suppression": ("act",), "delivery": ("act",),
}  # fmt: skip
OPEN = {
    ("chronicle.py", "catalog"): "new changed returned rejected_again held gone finding approved voted rejected "
    "rolled_back dropped repaired tampered",
    ("oauth/grants.py", "grant"): "access_token_revoked refresh_token_revoked grant_revoked",
    ("cli/content.py", "protect"): "rotated destroyed",
    ("cli/approvals.py", "approval"): "approved rejected",
    ("oauth/flow.py", "security"): "signin.other_browser signin.mix_up",
    ("identity/misuse.py", "security"): "token.wrong_audience token.expired_burst token.invalid_burst "
    "token.revoked_use handle.probing",
    ("adapters/egress_report.py", "egress"): "refused learned",
    ("incidents/incident.py", "incident"): "opened noted changed closed",
    ("incidents/runs.py", "playbook"): "invalid unapproved waits expired fired limited rolled_back",
    ("cli/playbooks.py", "playbook"): "agreed refused undo",
    ("incidents/delivery.py", "delivery"): "dead",
    ("cli/audit_keep.py", "hold"): "lifted lifting",
}  # fmt: skip
# Calls that pass a record on whose type somebody else gave it, or that are another kind of event: file -> arguments.
PASSING = {
    "logbook.py": "self.head",
    "containing.py": "event",
    "audit/follow.py": "OWN",
    "exporting.py": "OWN",
    "adapters/egress_report.py": "what",
    "assemble.py": "kind",
    "catalog/decide.py": "subject",
    "cli/alerts.py": "one.severity",
    "cli/connections.py": "event",
    "cli/contain.py": "event",
    "cli/incidents.py": "event",
    "cli/consents.py": "event",
    "cli/wrapping.py": "found.path",
    "credentials/vault.py": "digest",
    "gateway/app.py": "call notification",
    "gateway/dialogue.py": "message",
    "gateway/http.py": "reply.body",
    "gateway/run.py": "name event",
    "gateway/stdio.py": "refusal_reply reply.body",
    "gateway/upstream_describe.py": "self.session session",
    "gateway/upstream_exchange.py": "session",
    "gateway/upstream_http.py": "session",
    "identity/sessions.py": "act",
    "inspection.py": "inspection.kept_feeds inspection.read_feeds current().read_feeds await",
    "oauth/grants.py": "event",
    "oauth/registration.py": "event",
    "policy/arguments.py": "schema",
    "policy/limit.py": "step.key",
    "sandbox/packages.py": "value['record']",
    "storage.py": "fields.pop",
}
# Types that are put together from constants of the file they are written in.
NAMED = {
    "assemble.py": ("revoked", "unrevoked"),
    "exporting.py": ("follower.behind", "follower.recovered"),
    "credentials/sources.py": ("credential.ok", "credential.refused"),
}
CALLS = {"intent": "call.intent", "outcome": "call.outcome", "local": "call.local", "refusal": "call.refused"}
# They put the first part to what others made.
THROUGH = {("delegation.py", "credential"), ("continuity.py", "session"), ("gateway/run.py", "egress"),
           ("gateway/run.py", "cell")}  # fmt: skip
# Forwarded whole: the type is put on by somebody else.
CELLS = {"gateway/upstream_run.py", "gateway/upstream_stdio.py"}


@dataclass(frozen=True)
class Written:
    """One place of the source, and the type that is written there; with `*` where the second part is no constant."""

    file: str
    line: int
    type: str


def constant(node: ast.AST | None) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return "ok" if node.value else "failed"
    return None


def second(kind: str, call: ast.AST) -> str:
    """The type with its second part, looked for among keywords and members of dicts in the call."""
    for name in SECOND.get(kind, ()):
        for node in ast.walk(call):
            if isinstance(node, ast.keyword) and node.arg == name and (found := constant(node.value)):
                return f"{kind}.{found}"
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if constant(key) == name and (found := constant(value)):
                        return f"{kind}.{found}"
    return f"{kind}.*" if kind in SECOND else CALLS.get(kind, kind)


def written() -> Iterator[Written]:
    """Every place that writes. Raises AssertionError for one whose type cannot be told."""
    for path in sorted(SOURCE.rglob("*.py")):
        file = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                yield from _dict(file, node)
            elif isinstance(node, ast.Call):
                yield from _call(file, node)


def _dict(file: str, node: ast.Dict) -> Iterator[Written]:
    members = {constant(key): value for key, value in zip(node.keys, node.values, strict=True)}
    if (kind := constant(members.get("t"))) and "n" not in members and file != "audit/members.py":
        yield Written(file, node.lineno, second(kind, node))
    elif file in CELLS and (kind := constant(members.get("event"))):
        yield Written(file, node.lineno, f"cell.{kind}")


def _call(file: str, node: ast.Call) -> Iterator[Written]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    if (kind := OF_ONE.get(file, {}).get(name)) is not None:
        text = constant(node.args[1] if kind in ("credential", "package") and len(node.args) > 1 else first)
        if text is not None:
            yield Written(file, node.lineno, f"{kind}.{text}" if kind else text)
    elif name in WRITERS and (kind := constant(first)) is not None:
        if kind.replace("_", "").replace(".", "").isalnum():
            yield Written(file, node.lineno, second(kind, node))
    elif isinstance(first, ast.Constant) and isinstance(first.value, bytes) and b'"t":"' in first.value:
        yield Written(file, node.lineno, first.value.decode().split('"')[3])


PLACES = list(written())


def types() -> set[str]:
    found = {one for names in NAMED.values() for one in names}
    for place in PLACES:
        if place.type.endswith(".*"):
            kind = place.type[:-2]
            found |= {f"{kind}.{one}" for one in OPEN.get((place.file, kind), "").split()}
        else:
            found.add(place.type)
    return found


def test_the_source_is_found() -> None:
    """The test would be worth nothing if it found nothing."""
    assert len(PLACES) > 60
    assert {"call.intent", "call.refused", "session.begun", "grant.ended", "cell.exit", "vault.shredded"} <= types()


def test_I1_what_is_written_has_a_row() -> None:
    """I1: nothing is written that the catalogue does not know."""
    missing = [
        f"{one.file}:{one.line} {one.type}"
        for one in PLACES
        if not one.type.endswith(".*") and row_of(one.type) is None
    ]
    assert not missing
    security = [one for one in types() if one.startswith("security.") and one not in CATALOGUE]
    assert not security


def test_I1_open_types_are_named_where_they_are_written() -> None:
    """I1: where the second part is no constant, the test's table says what it can be; nothing stands there in vain."""
    found = {(one.file, one.type[:-2]) for one in PLACES if one.type.endswith(".*")} - THROUGH
    wrappers = {(file, kind) for file, names in OF_ONE.items() for kind in names.values() if kind}
    assert found - wrappers - set(OPEN) == set()
    assert set(OPEN) <= found | wrappers


def test_I1_nothing_is_written_under_a_name_nobody_knows() -> None:
    """I1: whoever passes a type on as a variable stands in the test's table, so that a new place is looked at."""
    for path in sorted(SOURCE.rglob("*.py")):
        file = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if name not in WRITERS or not isinstance(node, ast.Call) or not node.args:
                continue
            if isinstance(node.args[0], ast.Constant | ast.Dict):
                continue
            first = ast.unparse(node.args[0])
            text = first.partition("(")[0] if not first.startswith("current()") else "current().read_feeds"
            assert text.split()[0] in PASSING.get(file, "").split(), f"{file}:{node.lineno} {first}"


def test_I1_named_types_stand_in_their_files() -> None:
    """I1: what the table above says is put together there can be."""
    for file, names in NAMED.items():
        text = (SOURCE / file).read_text()
        assert all(f'"{name.rpartition(".")[2]}"' in text for name in names)


def test_I1_each_row_is_written() -> None:
    """I1: the catalogue promises nothing that nobody writes."""
    assert {row for row in CATALOGUE if row not in types()} == set()


def test_I1_rows_are_complete() -> None:
    """I1: each has a sentence, a category, a severity, and members whose meaning is said, each of them used."""
    used = set[str]()
    for row in CATALOGUE.values():
        assert row.category in CATEGORIES and row.severity in SEVERITIES, row.id
        assert (row.text.endswith(".") and 3 <= len(row.text.split()) <= 14) or row.text in (
            "Approved.",
            "Rejected.",
            "It ended.",
            "It ends.",
            "It acted.",
        ), row.id
        used |= set(row.members)
    known = {*COMMON, *WHO, *MEMBERS}
    assert used - known == set()
    assert set(MEMBERS) - used - set(WHO) == set()


def test_the_page_is_the_catalogue() -> None:
    """docs/events.md says what the table says."""
    assert (ROOT / "docs" / "events.md").read_text() == page(), "limen audit events --markdown > docs/events.md"


@pytest.mark.parametrize("row", sorted(CATALOGUE))
def test_a_type_is_documented(row: str) -> None:
    """One line each, by which it is found."""
    assert f"| `{row}` |" in page()
