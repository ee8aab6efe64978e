"""What an operator declares is certain: a violation scores 1.0, and what it allows is not doubted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from detection.arguments_kit import judge, score
from limen.detection.arguments import ArgumentRules
from limen.detection.roles import Role, infer
from limen.detection.rules import ArgumentRule, ArgumentSettings

ROOTS = {"roots": ["/srv/data"]}
HOSTS = {"hosts": ["api.example.org", "*.cdn.example.org", "10.1.0.0/16", "localhost:3000"]}
PEOPLE = {"recipients": ["@corp.example", "ann@partner.example", "#general"]}
READ = {"read_only": True}

REFUSED: list[tuple[str, dict[str, Any], Any]] = [
    *(("path", ROOTS, value) for value in (
        "/srv/data2/x", "/srv/database", "/srv", "/etc/hosts", "../x", "a/../../x", "/srv/data/../x",
        "/srv/data/%2e%2e/x", "/srv/data/..%252fx", "~/x",
        "/srv/data/a\x00b", "file:///etc/hosts", "http://e.test/", "\\\\host\\share", "C:/srv/data/x", "$HOME/x",
        "/srv/data/．．/x", "//srv/data/x",
        "/srv/data/x::$DATA", "..\\x", "/SRV/data/x", "a" * 9000, 5, {"a": 1}, ["ok.txt", "/x"],
        "file://host/srv/data/x", "/srv/data/..;/x",
    )),
    *(("url", HOSTS, value) for value in (
        "https://evil.test/", "https://api.example.org.evil.test/", "https://api.example.org@evil.test/",
        "https://evil.test#@api.example.org/",
        "https://evil.test\\@api.example.org/", "https://xapi.example.org/", "https://cdn.example.org/",
        "http://10.2.0.1/", "http://localhost:22/",
        "file:///x", "https://api.example.org:443@evil.test", "/relative", "https://10.1.1/",
        "ftp://api.example.org/", "https://api.example.org%2eevil.test/",
        "https://api。example.org/", "gopher://api.example.org/", "",
    )),
    *(("to", PEOPLE, value) for value in (
        "x@evil.test", "ann@corp.example, x@evil.test", "ann@corp.example.evil.test",
        "<x@evil.test> ann@corp.example", "ann@corp.example\nBcc: x@evil.test",
        '"ann@corp.example" <x@evil.test>', "#random", "x@corp.example@evil.test", ["ann@corp.example", "x@evil.test"],
    )),
    *(("sql", READ, value) for value in (
        "DELETE FROM t", "SELECT 1; DROP TABLE t", "SELECT 1; COMMIT; DELETE FROM t",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "SELECT * INTO u FROM t", "SELECT pg_read_file('x')", "SELECT pg_sleep(10)", "COPY t TO '/tmp/x'",
        "ATTACH 'x' AS y", "EXPLAIN ANALYZE DELETE FROM t",
        "SELECT 1 /*!50000 INTO OUTFILE 'x' */", "SELECT 'a\\' ; DROP TABLE t -- '",
        "SELECT 1 # ' \n; DROP TABLE t -- '", "SELECT 1--1; DROP TABLE t",
        "SELECT /* /* */ 1; DROP TABLE t */", "SELECT $$ ' $$; DROP TABLE t; --'", "SELECT 'unfinished",
        "SELECT 1 EXEC xp_cmdshell 'id'", "PRAGMA writable_schema=1",
        "SELECT load_extension('x')", "SELECT * FROM '/etc/passwd'", "SELECT U&\"pg\\005fread_file\"('x')",
        "SET x = 1", "", ";", "SELECT nextval('s')",
        "SELECT 1.INTO OUTFILE 'x'", "SELECT * FROM t FOR UPDATE", "SELECT \"pg_read_file\"('x')",
        "SELECT dblink('x', 'y')", "DO $$ begin end $$", "VACUUM",
        "SELECT a FROM t; SELECT b FROM t", "SELECT 1 \x00", "GRANT ALL ON t TO u", "BEGIN; SELECT 1", "CALL p()",
        "SELECT * FROM read_csv('/etc/passwd')",
    )),
    ("command", {"role": "command"}, "ls; id"), ("command", {"role": "command"}, "ls $(id)"), ("command",
    {"role": "command"}, "ls\nid"),
    ("name", {"pattern": "[a-z]+"}, "abc1"), ("name", {"pattern": "[a-z]+"}, "abc\n"), ("name", {"pattern": "[a-z]+"},
    5), ("name", {"pattern": "a"}, "\ud800"),
    ("n", {"max": 10}, 11), ("n", {"max": 10}, float("nan")), ("n", {"max": 3}, "abcd"), ("n", {"max": 1}, [1, 2]),
    ("filename", {"role": "filename"}, "a/b"), ("filename", {"role": "filename"}, "a%2fb"), ("filename",
    {"role": "filename"}, ".."),
]  # fmt: skip

ALLOWED: list[tuple[str, dict[str, Any], Any]] = [
    *(("path", ROOTS, value) for value in (
        "/srv/data", "/srv/data/a/b.txt", "a/b.txt", "/srv/data/a/../b", "/srv/./data//x", "file:///srv/data/x",
        "100%.txt", "ça.txt", "x..y", ["a", "b/c"], None,
    )),
    ("path", {"roots": ["C:\\data"]}, "c:\\Data\\x41.txt"), ("path", {"roots": ["/srv/a", "/srv/b"]}, "/srv/b/x"),
    *(("url", HOSTS, value) for value in (
        "https://api.example.org/a?b=c", "https://API.example.org:8443/", "https://a.b.cdn.example.org/x",
        "http://10.1.2.3/", "http://localhost:3000/x",
        "https://api.example.org./", "api.example.org/x", "wss://api.example.org/s",
    )),
    *(("to", PEOPLE, value) for value in ("ann@corp.example", "Ann Lee <ann@corp.example>; bob@CORP.example",
    "ann@partner.example", "#general")),
    *(("sql", READ, value) for value in (
        "SELECT a FROM t WHERE b = 'DROP TABLE x; --' -- fine", "select 1;", "WITH x AS (SELECT 1) SELECT * FROM x",
        "(SELECT 1) UNION (SELECT 2)", "SELECT REPLACE(a, 'b', 'c') FROM t",
        "EXPLAIN SELECT 1", "SHOW TABLES", "SELECT t.delete, \"update\" FROM t", "SELECT 'it''s' /* note */ FROM t",
        "PRAGMA table_info(users)", "SELECT EXTRACT(year FROM d) FROM t",
        "SELECT count(*) FILTER (WHERE a IS DISTINCT FROM 'b') FROM t", "SELECT a FROM t ORDER BY 1 LIMIT 5 OFFSET 2",
        "SELECT * FROM orders WHERE comment LIKE '%set%'",
    )),
    ("command", {"role": "command"}, "ls -la src"), ("name", {"pattern": "[a-z]+"}, "abc"), ("n", {"max": 10}, 10),
    ("n", {"max": 10}, True),
    ("note", {"role": "text"}, "../../../etc/passwd; rm -rf / `id`"), ("path", {"role": "text"},
    "../../../etc/passwd"), ("filename", {"role": "filename"}, "a b (1).txt"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rule", "value"), REFUSED, ids=lambda value: repr(value)[:60])
def test_what_is_declared_refuses(name: str, rule: dict[str, Any], value: Any) -> None:
    assert score(name, value, rule=rule) == 1.0, judge(name, value, rule=rule)


@pytest.mark.parametrize(("name", "rule", "value"), ALLOWED, ids=lambda value: repr(value)[:60])
def test_what_is_declared_allows(name: str, rule: dict[str, Any], value: Any) -> None:
    assert score(name, value, rule=rule) <= 0.2, judge(name, value, rule=rule)


@pytest.mark.parametrize(
    "rule",
    [
        {"hosts": []}, {"roots": ["relative"]}, {"roots": ["/a/../b"]}, {"hosts": ["http://x"]}, {"hosts": ["*"]},
        {"pattern": "("}, {"pattern": r"(a)\1"},
        {"roots": ["/a"], "hosts": ["b.test"]}, {"role": "url", "roots": ["/a"]}, {"role": "unknown"}, {"rots": ["/a"]},
    ],
)  # fmt: skip
def test_rules_that_cannot_hold_are_refused_when_loaded(rule: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError)):
        ArgumentRule.model_validate(rule)


def rules(tools: dict[str, Any]) -> ArgumentRules:
    return ArgumentRules(ArgumentSettings.model_validate({"tools": tools}))


def test_misspelled_rule_refuses_every_call_of_its_tool() -> None:
    schema = {"properties": {"path": {"type": "string"}}}
    broken = rules({"fs/read": {"pth": ROOTS}})
    assert [finding.id for finding in broken.check("fs/read", schema, {"path": "a"})] == ["argument.rule"]
    assert not rules({"fs/*": {"pth": ROOTS}}).check("fs/read", schema, {"path": "a"})  # a glob may mean other tools


def test_all_rules_that_match_hold() -> None:
    both = rules({"fs/*": {"path": ROOTS}, "*/read": {"path": {"max": 3}}})
    schema = {"properties": {"path": {}}}
    assert {finding.id for finding in both.check("fs/read", schema, {"path": "/etc/x"})} >= {
        "argument.roots",
        "argument.max",
    }
    assert not both.check("other/list", schema, {"path": "a"})


def test_rules_reach_members_items_and_what_no_schema_declares() -> None:
    one = rules({"fs/read": {"options/dir": ROOTS}})
    schema = {"properties": {"options": {"properties": {"dir": {}}}}}
    assert one.check("fs/read", schema, {"options": {"dir": "/x"}})[0].path == "/options/dir"
    assert one.check("fs/read", {}, {"options": {"dir": "/x"}})[0].score == 1.0
    assert one.check("fs/read", {}, {"options": [{"dir": "/x"}]})[0].path == "/options/0/dir"
    many = {
        "properties": {"files": {"items": {"$ref": "#/$defs/F"}}},
        "$defs": {"F": {"properties": {"where": {"format": "path"}}}},
    }
    assert rules({}).check("fs/read", many, {"files": [{"where": "/etc/shadow"}]})[0].path == "/files/0/where"


def test_definition_is_compiled_once_and_a_new_one_again() -> None:
    engine = rules({})
    path = orjson.dumps(
        {"inputSchema": {"properties": {"x": {"type": "string", "description": "The file path to read"}}}}
    )
    text = orjson.dumps(
        {"inputSchema": {"properties": {"x": {"type": "string", "description": "The message to send"}}}}
    )
    for _ in range(2):
        assert engine.check_call("s/t", path, {"x": "/etc/shadow"})
        assert not engine.check_call("s/t", text, {"x": "../../etc/shadow; rm -rf /"})
    prompt = orjson.dumps({"arguments": [{"name": "path", "description": "x"}]})
    assert engine.check_call("s/p", prompt, {"path": "/etc/shadow"})


@pytest.mark.parametrize(
    ("tool", "name", "schema", "role"),
    [
        ("s/t", "targetURL", {}, Role.URL), ("s/t", "file_content", {}, Role.TEXT), ("s/t", "repo_path", {},
        Role.PATH), ("s/t", "webhook_url", {}, Role.DESTINATION),
        ("pg/query", "query", {"description": "SQL query to run"}, Role.SQL), ("web/search", "query", {}, Role.TEXT),
        ("s/t", "mode", {"enum": ["a"]}, Role.FIXED),
        ("s/send_email", "to", {}, Role.RECIPIENT), ("s/move", "to", {}, Role.OTHER), ("s/t", "thing",
        {"format": "uri"}, Role.URL), ("s/git_diff", "target", {}, Role.REF),
        ("s/t", "input", {"description": "a message"}, Role.TEXT), ("s/t", "x",
        {"description": "The file path to read"}, Role.PATH), ("s/run", "script", {"description": "shell script"},
        Role.SHELL),
        ("s/t", "branchName", {}, Role.IDENTIFIER), ("s/t", "bcc", {}, Role.RECIPIENT), ("s/t", "pattern", {},
        Role.REGEX), ("s/t", "path2", {}, Role.PATH),
    ],
)  # fmt: skip
def test_roles_are_read_from_what_is_declared(tool: str, name: str, schema: dict[str, Any], role: Role) -> None:
    assert infer(tool, name, schema) is role
