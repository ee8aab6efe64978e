"""`limen access` (A11) over a real log: reports, proposals that apply, attestations, and what is not believed."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.catalog_commands import announce, tool
from gateway.running import running
from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import SqliteTable
from limen.audit.ledger import Ledger
from limen.audit.read import CHECKPOINT, read
from limen.cli.main import app
from limen.cli.survey import moment, rules_of
from limen.config.load import Loaded, load_config
from limen.storage import State

TEXT = """\
# our gateway
mcpServers:
  files: {url: "http://127.0.0.1:9/mcp"}
identity:
  issuers: [{issuer: "http://127.0.0.1:9"}]
policy:
  review_every: 30   # days
  rules:
    # developers
    - allow: group:dev
      call: files/*          # everything of the server
      scopes: [files.read]
    - {allow: "user:old", call: "files/rm"}   # from last year
    - deny: anyone
      call: files/rm
      unless: principal.groups.contains("ops")
"""
WHO = {"iss": "http://127.0.0.1:9", "sub": "ann", "client": "cli"}
STANDING = {"scopes": ["files.read"], "roles": [], "groups": ["dev"], "amr": [], "acr": ""}


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str, status: int = 0) -> Any:
    return json.loads(limen(config, *arguments, "--json", status=status).stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    announce(path, tool("read_file", annotations={"readOnlyHint": True}), tool("list"), tool("rm"))
    limen(path, "tools", "approve", "files", "--all", "--by", "ann", "--reason", "first look")
    return path


def loaded(config: Path) -> Loaded:
    return load_config(config)


def write_log(config: Path, *records: dict[str, Any]) -> None:
    """A signed log of these records, as the gateway would leave it."""
    audit = loaded(config).config.audit
    audit.path.mkdir(exist_ok=True)
    ledger = Ledger.open(audit.path, FileSigner.open(audit.key, audit.name))
    for record in records:
        ledger.append(json.dumps(record).encode())
    ledger.close_now()


def intent(
    config: Path, name: str, days: float = 1, rules: tuple[str, ...] = ("rule-1",), **more: Any
) -> dict[str, Any]:
    made = rules_of(loaded(config))
    approved = made.catalog.find("files", "tool", name)
    assert approved is not None
    return {
        "t": "intent", "ts": time.time() - days * 86_400, **WHO, "method": "tools/call", "upstream": "files",
        "tool": name, "name": name, "digest": approved.digest, "rules": rules, "policy": made.policy.digest, **more,
    }  # fmt: skip


@pytest.fixture
def used(config: Path) -> Path:
    """In the last month ann read a file; the log is older than that."""
    early = {"t": "start", "ts": time.time() - 400 * 86_400, "policy": rules_of(loaded(config)).policy.digest}
    write_log(config, early, intent(config, "read_file", standing=STANDING), intent(config, "read_file"))
    return config


# who can, what can


def test_who_can_tells_rules_callers_and_use(used: Path) -> None:
    found = answer(used, "access", "who-can", "files/read_file")
    assert [(rule["id"], rule["who"], rule["scopes"]) for rule in found["rules"]] == [
        ("rule-1", ["group:dev"], ["files.read"])
    ]
    (ann,) = found["callers"]
    assert (ann["subject"], ann["reaches"], ann["used"], ann["rules"]) == ("ann", True, 2, ["rule-1"])
    denied = answer(used, "access", "who-can", "files/rm")
    assert [(rule["effect"], rule["unless"]) for rule in denied["rules"]][-1] == (
        "deny",
        'principal.groups.contains("ops")',
    )
    assert denied["callers"] == []
    assert "ann" in limen(used, "access", "who-can", "files/read_file").stdout
    assert "not approved" in limen(used, "access", "who-can", "files/nothing", status=1).stderr
    limen(used, "access", "who-can", "nonsense", status=2)


def test_what_can_by_options_claims_and_what_the_log_recorded(used: Path) -> None:
    by_option = answer(used, "access", "what-can", "ann", "--group", "dev", "--scope", "files.read")
    assert [row["definition"] for row in by_option["reaches"]] == ["files/list", "files/read_file"]
    claims = json.dumps({"iss": WHO["iss"], "sub": "ann", "scope": "files.read x", "groups": ["dev", "ops"], "exp": 1})
    by_claims = answer(used, "access", "what-can", "--claims", claims)
    assert [row["definition"] for row in by_claims["reaches"]] == ["files/list", "files/read_file", "files/rm"]
    assert by_claims["caller"]["scopes"] == ["files.read", "x"]
    seen = answer(used, "access", "what-can", "ann", "--last-seen")
    assert seen["caller"]["groups"] == ["dev"]
    assert [row["definition"] for row in seen["reaches"]] == ["files/list", "files/read_file"]
    assert answer(used, "access", "what-can", "ann")["reaches"] == []
    assert "0 of 3" in limen(used, "access", "what-can", "--subject", "zoe").stdout
    for wrong in (
        ["--claims", "[]"],
        ["--claims", "{"],
        ["--claims", '{"sub": 7}'],
        ["ann", "--claims", "{}"],
        ["--last-seen"],
    ):
        limen(used, "access", "what-can", *wrong, status=2)
    assert "does not know" in limen(used, "access", "what-can", "zoe", "--last-seen", status=1).stderr


# review


def test_a_review_proposes_a_narrower_policy_and_changes_nothing(used: Path) -> None:
    found = answer(used, "access", "review")
    assert found["never_used"] == ["files/list", "files/rm"]
    assert {row["id"]: row["calls"] for row in found["rules"]} == {"rule-1": 2, "rule-2": 0, "rule-3": None}
    assert [(one["rule"], one["act"]) for one in found["proposal"]["changes"]] == [(1, "narrow"), (2, "remove")]
    assert found["period"]["doubts"] == []
    assert used.read_text() == TEXT  # nothing is changed by itself
    shown = limen(used, "access", "review").stdout
    assert "-      call: files/*" in shown
    assert "never used: files/list, files/rm" in shown


@pytest.mark.skipif(shutil.which("patch") is None, reason="the program patch is missing")
def test_the_diff_applies_and_keeps_comments(used: Path) -> None:
    patch = used.parent / "narrower.diff"
    limen(used, "access", "review", "--diff", str(patch))
    copy = used.parent / "copy"
    copy.mkdir()
    shutil.copy(used, copy / "limen.yaml")
    subprocess.run(["patch", "-p0", "-i", str(patch)], cwd=copy, check=True, timeout=30, capture_output=True)
    text = (copy / "limen.yaml").read_text()
    assert "call: files/read_file" in text.replace('"', "")
    assert "# everything of the server" in text
    assert "# developers" in text
    assert "last year" not in text
    after = yaml.safe_load(text)["policy"]["rules"]
    assert [rule.get("call") for rule in after] == ["files/read_file", "files/rm"]


def test_a_review_outside_the_period_proposes_nothing(used: Path) -> None:
    offer = answer(used, "access", "review", "--since", "2h")["proposal"]
    assert (offer["changes"], offer["diff"]) == ([], "")
    assert "no call was made" in offer["why_not"]


def test_a_young_log_and_a_young_policy_are_said(config: Path) -> None:
    write_log(config, intent(config, "list", days=2))
    doubts = answer(config, "access", "review")["period"]["doubts"]
    assert "the log begins" in doubts[0]
    assert "younger rules look unused" in doubts[1]


def test_times(used: Path) -> None:
    assert moment("2d", 200_000.0) == 27_200.0
    assert moment("2026-01-01") == 1767225600.0
    for wrong in ("", "0d", "-1d", "soon", "5", "999999d"):
        limen(used, "access", "review", "--since", wrong, status=2)


# a log that is not what was signed


def test_nothing_is_concluded_from_a_forged_log(used: Path) -> None:
    """I2: somebody with the disk adds a use, so that a rule he needs looks needed; or takes one away."""
    directory = loaded(used).config.audit.path
    (journal,) = [path for path in directory.rglob("*") if path.is_file() and b'"intent"' in path.read_bytes()][:1]
    for path in directory.rglob("*"):
        if path.is_file() and b'"read_file"' in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(b'"ann"', b'"eve"'))
    for command in (["review"], ["who-can", "files/list"], ["what-can", "ann", "--last-seen"]):
        assert "cannot be believed" in limen(used, "access", *command, status=1).stderr
    attesting = ["access", "review", "--attest", "--reason", "fine"]
    assert "cannot be believed" in limen(used, *attesting, status=1).stderr
    assert answer(used, "access", "reviews") == []
    assert answer(used, "access", "who-can", "files/list", "--no-log")["callers"] == []
    assert journal.exists()


@pytest.mark.parametrize("harm", ["cut", "unsigned", "other key", "no checkpoint"])
def test_a_log_that_is_cut_or_signed_by_another_is_not_believed(used: Path, tmp_path: Path, harm: str) -> None:
    directory = loaded(used).config.audit.path
    if harm == "cut":
        for path in directory.rglob("*"):
            if path.is_file() and b'"intent"' in path.read_bytes():
                path.unlink()
    elif harm == "unsigned":
        (directory / CHECKPOINT).write_bytes((directory / CHECKPOINT).read_bytes().replace(b"\n3\n", b"\n2\n"))
    elif harm == "no checkpoint":
        (directory / CHECKPOINT).unlink()
    key = FileSigner.open(tmp_path / "other", "limen").verifier_key if harm == "other key" else ""
    result = limen(used, "access", "review", *(["--key", key] if key else []), status=1)
    assert "cannot be believed" in result.stderr
    assert result.stdout == ""


def test_records_after_the_checkpoint_are_not_counted(used: Path) -> None:
    """A record written after the last signature is nobody's yet: it makes no rule look used."""
    directory = loaded(used).config.audit.path
    before = (directory / CHECKPOINT).read_bytes()
    write_log(used, intent(used, "rm", rules=("rule-2",)))
    (directory / CHECKPOINT).write_bytes(before)
    found = answer(used, "access", "review")
    assert found["period"]["unsigned"] == 1
    assert {row["id"]: row["calls"] for row in found["rules"]}["rule-2"] == 0


def test_what_cannot_be_read_ends_in_no_proposal(used: Path) -> None:
    write_log(used, {"t": "intent", "ts": time.time()})
    found = answer(used, "access", "review")
    assert found["period"]["unreadable"] == 1
    assert (found["proposal"]["diff"], found["proposal"]["changes"]) == ("", [])
    assert "not every use" in found["proposal"]["why_not"]


def test_hostile_names_are_printed_safely(config: Path) -> None:
    """A subject or tool name that a terminal would obey."""
    hostile = intent(config, "list", sub="x\x1b[2J\u202eevil\nann", tool="gone\x1b]0;pwned\x07")
    write_log(config, hostile)
    for command in (["review"], ["review", "--json"], ["who-can", "files/list"]):
        shown = limen(config, "access", *command).stdout
        assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert answer(config, "access", "review")["callers"][0]["subject"] == hostile["sub"]


# attestation


def test_an_attestation_is_signed_listed_and_told_to_the_log(used: Path) -> None:
    report = used.parent / "report.json"
    assert "access: never reviewed" in limen(used, "check").stdout
    limen(used, "access", "review", "--attest", status=2)  # without a reason
    arguments = ["access", "review", "--attest", "--by", "ann", "--reason", "quarterly", "--save", str(report)]
    made = answer(used, *arguments)
    assert made["attested"] is True
    assert sha256(report.read_bytes()).hexdigest() == made["report"]
    (row,) = answer(used, "access", "reviews")
    assert (row["authentic"], row["by"], row["reason"], row["report"]) == (True, "ann", "quarterly", made["report"])
    assert (row["policy"], row["records"], row["changes"]) == (made["policy"], 3, 2)
    assert "quarterly" in limen(used, "access", "reviews").stdout
    state = State.open(loaded(used).config)
    told = [json.loads(raw) for _, raw in state.told.scan("")]
    state.close()
    event = next(one for one in told if one["event"] == "access_review")
    assert (event["by"], event["report"]) == ("ann", made["report"])
    assert "access:" not in limen(used, "check").stdout
    assert "exists" in limen(used, *arguments, status=1).stderr  # a saved report is not written over


def test_a_review_becomes_due_again(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limen(used, "access", "review", "--attest", "--by", "ann", "--reason", "q1")
    later = time.time() + 31 * 86_400
    monkeypatch.setattr("limen.cli.reviews.time.time", lambda: later)
    assert "last reviewed 31 days ago by ann" in limen(used, "check").stdout
    (row,) = [row for row in answer(used, "doctor", status=1) if row["check"] == "access review"]
    assert row["ok"] is False


def test_a_forged_attestation_counts_for_nothing(used: Path) -> None:
    """Somebody who can write to the database cannot make up a review, nor pass another note by the same key as one."""
    limen(used, "access", "review", "--attest", "--by", "ann", "--reason", "q1")
    config = loaded(used).config
    table = SqliteTable(config.storage.path, "reviews")
    ((place, note),) = table.scan("")
    forgeries = {
        "1": note.replace(b'"by":"ann"', b'"by":"eve"'),
        "2": (config.audit.path / CHECKPOINT).read_bytes(),
        "3": b"by ann",
    }
    for key, forged in forgeries.items():
        table.put(key, forged)
    rows = json.loads(limen(used, "access", "reviews", "--json", status=1).stdout)
    assert [row["authentic"] for row in rows] == [row["id"] == place for row in rows]
    assert sum(row["authentic"] for row in rows) == 1
    table.swap(place, note, None)
    table.close()
    assert "never reviewed" in limen(used, "check").stdout


def test_without_a_log_nothing_is_known_and_no_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "limen.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    assert "no log yet" in limen(path, "access", "review", status=1).stderr
    assert answer(path, "access", "reviews") == []
    assert answer(path, "access", "what-can", "ann")["reaches"] == []
    assert not (tmp_path / "limen-state").exists()


# the running gateway


def test_the_log_of_a_running_gateway_is_reviewed(tmp_path: Path) -> None:
    rules = [
        {"allow": "group:dev", "call": "*/*", "scopes": ["use"]},
        {"allow": "group:ops", "call": "one/danger"},
    ]
    with running(tmp_path, policy={"rules": rules}) as gateway:
        token = gateway.token(groups=["dev"])
        assert [gateway.call("echo", token)[0] for _ in range(2)] == [200, 200]
        gateway.call("danger", gateway.token(subject="bob"))
        assert gateway.stop() == 0
        records = [json.loads(raw) for _, raw in read(loaded(gateway.config).config.audit.path)]
        standings = [record.get("standing") for record in records if record["t"] == "intent"]
        assert [standing["groups"] if standing else None for standing in standings] == [["dev"], None]
        found = answer(gateway.config, "access", "review")
        who = answer(gateway.config, "access", "who-can", "two/echo")
    assert {row["id"]: row["calls"] for row in found["rules"]} == {"rule-1": 2, "rule-2": 0}
    assert {row["subject"]: (row["calls"], row["refused"]) for row in found["callers"]} == {
        "alice": (2, 0),
        "bob": (0, 1),
    }
    assert [(one["rule"], one["act"], one["call"]) for one in found["proposal"]["changes"]] == [
        (1, "narrow", {"0": ["one/echo"]}),
        (2, "remove", {}),
    ]
    assert '"one/echo"' in found["proposal"]["diff"]
    assert [(row["subject"], row["reaches"], row["used"]) for row in who["callers"]] == [("alice", True, 0)]
