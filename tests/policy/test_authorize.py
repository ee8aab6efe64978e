"""The guard and its decisions: each attack stopped, its honest twin let through."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from policy_material import CATALOG, caller, context, item, policy, template

from limen.core.call import Grant
from limen.core.faults import InvariantFault
from limen.core.verdict import Pass, Refuse
from limen.policy import evaluate
from limen.policy.authorize import Authorize
from limen.policy.decision import PolicySet

READ, META, WRITE, DELETE = item("read_file"), item("read_meta"), item("write_file"), item("delete_repo")
DEV = caller(groups=["dev"])


def reason(made: PolicySet, who: Any, what: Any, arguments: dict[str, Any] | None = None, **more: str) -> str:
    return made.decide(who, what, json.dumps(arguments or {}).encode(), **more).reason


@pytest.mark.parametrize(
    ("who", "entitled", "stranger"),
    [
        ("anyone", caller(), None),
        ("user:alice", caller(), caller("mallory")),
        ("group:dev", DEV, caller(roles=["dev"])),
        ("role:admin", caller(roles=["admin"]), caller(groups=["admin"])),
        ("client:cli", caller(), caller(client="other")),
        ("scope:files", caller(scopes=["files"]), None),
        (["user:bob", "group:dev"], DEV, caller("alice")),
    ],
)
def test_who(who: Any, entitled: Any, stranger: Any) -> None:
    made = policy({"allow": who, "call": "files/read_file"})
    assert reason(made, entitled, READ) == ""
    assert reason(made, entitled, META) == "policy.not_visible"
    if stranger is not None:
        assert reason(made, stranger, READ) == "policy.not_visible"


def test_without_rules_nothing_is_allowed() -> None:
    made = policy()
    assert [made.decide(DEV, entry, name=entry.name).reason for entry in CATALOG] == ["policy.not_visible"] * len(
        CATALOG
    )
    assert Authorize(made).visible(DEV, CATALOG) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_deny_wins_in_any_order(order: tuple[int, int]) -> None:
    rules = ({"allow": "anyone", "call": "files/*"}, {"deny": "group:guests", "call": "files/write_*"})
    made = policy(*(rules[index] for index in order))
    assert reason(made, caller(groups=["guests", "dev"]), WRITE) == "policy.not_visible"
    assert reason(made, caller(groups=["guests"]), READ) == ""
    assert reason(made, DEV, WRITE) == ""


def test_an_argument_decides() -> None:
    made = policy(
        {"allow": "anyone", "call": "files/read_*", "when": 'context.arguments.path like "/pub/*"'},
        {"deny": "anyone", "call": "files/read_meta", "when": "context.arguments.depth > 3"},
    )
    assert reason(made, DEV, READ, {"path": "/pub/a"}) == ""
    assert reason(made, DEV, READ, {"path": "/etc/a"}) == "policy.denied"
    assert reason(made, DEV, META, {"path": "/pub/a", "depth": 3}) == ""
    assert reason(made, DEV, META, {"path": "/pub/a", "depth": 4}) == "policy.denied"


def test_what_cannot_be_evaluated_never_helps_the_caller() -> None:
    allow = {"allow": "anyone", "call": "files/*"}
    deny = {"deny": "group:dev", "call": "files/read_meta", "when": "context.arguments.depth > 3"}
    made = policy(allow, deny)
    # Cedar alone would skip the deny rule that errs on the absent argument.
    lost = made.decide(DEV, META, b'{"path":"x"}')
    assert (lost.reason, lost.rules) == ("policy.denied", ("rule-2",))
    assert reason(made, caller("bob"), META, {"path": "x"}) == ""
    conditional = policy({**allow, "when": "context.arguments.depth > 3"})
    assert reason(conditional, DEV, META, {"path": "x"}) == "policy.denied"
    assert reason(conditional, DEV, META, {"path": "x", "depth": 4}) == ""


@pytest.mark.parametrize("path", [1, 1.5, None, [], {"__extn": {"fn": "ip", "arg": "::1"}}, {}])
def test_a_value_of_another_type_does_not_slip_past_a_condition(path: object) -> None:
    made = policy({"allow": "anyone", "call": "files/*", "unless": 'context.arguments.path == "/secret"'})
    assert reason(made, DEV, READ, {"path": path}) == "policy.denied"
    assert reason(made, DEV, READ, {"path": "/open"}) == ""
    stranger = policy({"allow": "user:bob", "call": "files/*", "unless": 'context.arguments.path == "/secret"'})
    assert reason(stranger, DEV, READ, {"path": path}) == "policy.not_visible"


@pytest.mark.requirement("AUTH-13")
def test_all_missing_scopes_are_named_at_once_and_the_fewest() -> None:
    made = policy(
        {"allow": "group:dev", "call": "github/*", "scopes": ["a", "b", "c"]},
        {"allow": "group:dev", "call": "github/*", "scopes": ["a", "d"]},
        {"allow": "group:ops", "call": "github/*", "scopes": ["e"]},
        {"allow": "scope:z", "call": "github/get_repo", "when": "principal.mfa"},
    )
    verdict = made.decide(caller(groups=["dev"]), DELETE).verdict
    assert isinstance(verdict, Refuse)
    assert (verdict.reason.id, dict(verdict.public)) == ("identity.scope", {"scopes": ["a", "d"]})
    some = made.decide(caller(groups=["dev"], scopes=["a", "b"]), DELETE)
    assert some.scopes == ("c",)
    assert isinstance(some.verdict, Refuse) and some.verdict.public["scopes"] == ["a", "b", "c"]
    assert made.decide(caller(groups=["dev"], scopes=["a", "d"]), DELETE).allowed
    assert made.decide(caller(), DELETE).reason == "policy.not_visible"
    assert made.decide(caller(amr=["mfa"]), item("get_repo")).scopes == ("z",)


def test_scopes_are_not_asked_for_where_they_would_not_help() -> None:
    rule = {"allow": "group:dev", "call": "github/*", "scopes": ["a"]}
    denied = policy(rule, {"deny": "anyone", "call": "github/delete_*"})
    assert reason(denied, DEV, DELETE) == "policy.not_visible"
    conditional = policy({**rule, "when": 'context.arguments.owner == "me"'})
    assert reason(conditional, DEV, item("get_repo"), {"owner": "you"}) == "policy.not_visible"
    assert reason(conditional, DEV, item("get_repo"), {"owner": "me"}) == "identity.scope"


def test_every_matching_rule_may_require() -> None:
    made = policy(
        {"allow": "group:dev", "call": "github/*"},
        {"allow": "group:dev", "call": "github/delete_*", "require": ["mfa", "approval"]},
        {"allow": "group:dev", "call": "github/delete_*", "require": ["durable"]},
    )
    assert reason(made, DEV, DELETE) == "identity.step_up"
    strong = caller(groups=["dev"], amr=["pwd", "mfa"])
    assert made.decide(strong, DELETE).requires == {"mfa", "approval", "durable"}
    assert made.decide(strong, item("get_repo")).requires == frozenset()
    assert made.visible(DEV, DELETE)


@pytest.mark.requirement("AU-18")
def test_prompts_and_resources_have_actions_of_their_own() -> None:
    made = policy(
        {"allow": "anyone", "call": "prompt:files/*"},
        {"allow": "anyone", "call": "files/*", "operations": ["resource"]},
        {"deny": "anyone", "call": "resource:files/file:///etc/*"},
    )
    assert reason(made, DEV, READ) == "policy.not_visible"
    assert reason(made, DEV, item("summary"), {"style": "x"}) == ""
    assert reason(made, DEV, item("summary"), action="complete") == ""
    assert reason(made, DEV, item("summary"), action="call") == "policy.not_visible"
    assert reason(made, DEV, item("file:///pub/a")) == ""
    assert reason(made, DEV, item("file:///etc/passwd")) == "policy.not_visible"


@pytest.mark.requirement("AU-18")
def test_a_denied_uri_is_not_read_through_a_template() -> None:
    made = policy(
        {"allow": "anyone", "call": "resource:files/*"},
        {"deny": "anyone", "call": "resource:files/file:///etc/*"},
        {"deny": "user:bob", "call": "resource:files/file:///pub/*"},
    )
    wide, narrow = item("file:///{folder}/{name}"), item("file:///pub/{name}")
    assert reason(made, DEV, wide, name="file:///etc/passwd") == "policy.denied"
    assert reason(made, DEV, wide, name="file:///pub/a") == ""
    assert reason(made, DEV, wide) == "policy.denied"
    assert made.visible(DEV, wide)
    # Names are not told through completion either where some of them are denied.
    assert reason(made, DEV, wide, action="complete") == "policy.denied"
    assert reason(made, DEV, narrow, action="complete") == ""
    bob = caller("bob")
    assert not made.visible(bob, narrow)
    assert reason(made, bob, narrow, name="file:///pub/a") == "policy.not_visible"


def test_a_template_is_allowed_as_far_as_the_rule_goes() -> None:
    made = policy({"allow": "anyone", "call": "resource:files/file:///pub/*"})
    wide = item("file:///{folder}/{name}")
    assert reason(made, DEV, wide, name="file:///pub/a") == ""
    assert reason(made, DEV, wide, name="file:///etc/a") == "policy.denied"
    assert made.visible(DEV, wide)
    assert not policy({"allow": "anyone", "call": "resource:files/file:///etc/*"}).visible(
        DEV, item("file:///pub/{name}")
    )


def test_full_cedar_beside_the_rules() -> None:
    made = policy(
        {"allow": "anyone", "call": "files/*"},
        cedar=[
            '@id("no-write") forbid (principal, action, resource in Server::"files")'
            ' when { resource.effect == "write" };'
            '@require("approval") permit (principal, action == Action::"call", resource == Tool::"github/delete_repo");'
            'permit (principal, action, resource == Resource::"files/file:///pub/x");'
        ],
    )
    assert made.decide(DEV, WRITE).rules == ("cedar-1-no-write",)
    assert reason(made, DEV, READ) == ""
    assert made.decide(DEV, DELETE).requires == {"approval"}
    assert reason(made, DEV, item("get_repo")) == "policy.not_visible"
    narrow = item("file:///pub/{name}")
    assert reason(made, DEV, narrow, name="file:///pub/x") == ""
    assert reason(made, DEV, narrow, name="file:///pub/y") == "policy.denied"
    assert made.visible(DEV, narrow)


def test_a_definition_the_policy_was_not_compiled_with_is_unknown() -> None:
    made = policy({"allow": "anyone", "call": "*/*"})
    assert reason(made, DEV, READ) == ""
    for other in (
        replace(READ, digest="0" * 64),
        replace(READ, effect="destructive"),
        replace(READ, server="other"),
        replace(READ, kind="prompt"),
        replace(READ, kind="instructions"),
        template("files", "x:{y}"),
    ):
        assert reason(made, DEV, other) == "policy.not_visible"
        assert not made.visible(DEV, other)


def test_callers_do_not_share_remembered_decisions() -> None:
    made = policy({"allow": ["user:alice", "group:dev"], "call": "files/*", "when": 'principal.acr != "low"'})
    for _ in range(2):
        assert reason(made, caller(), READ) == ""
        assert reason(made, caller("bob"), READ) == "policy.not_visible"
        assert reason(made, caller("bob", groups=["dev"]), READ) == ""
        assert reason(made, caller(acr="low"), READ) == "policy.not_visible"
    assert made.decide(caller(), READ, b'{"path":"x"}') is made.decide(caller(token_id="2", expires=9.0), READ)


def test_the_guard() -> None:
    guard = Authorize(policy({"allow": "group:dev", "call": ["files/*", "resource:files/*", "prompt:files/*"]}))
    passed = guard.check(context(DEV, READ, name="read_file", arguments=b"{}"))
    assert isinstance(passed, Pass)
    assert isinstance(passed.facts[0], Grant)
    for method, what in (("prompts/get", item("summary")), ("resources/read", item("file:///pub/a"))):
        assert isinstance(guard.check(context(DEV, what, method=method, name=what.name)), Pass)
    wide = item("file:///{folder}/{name}")
    assert isinstance(guard.check(context(DEV, wide, method="resources/read", name="file:///a/b")), Pass)
    assert isinstance(guard.check(context(DEV, wide, method="completion/complete", name="template:x")), Pass)
    for method in ("tools/list", "sampling/createMessage", ""):
        assert isinstance(guard.check(context(DEV, READ, method=method)), Refuse)
    assert isinstance(guard.check(context(DEV, READ, method="prompts/get")), Refuse)


def test_a_question_cedar_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy({"allow": "anyone", "call": "files/*"})
    monkeypatch.setattr("limen.policy.decision.NO_ARGUMENTS", "{")
    with pytest.raises(InvariantFault):
        made.decide(DEV, READ)


def test_an_error_of_unknown_origin_denies() -> None:
    made = policy(
        {"allow": "anyone", "call": "files/*"},
        {"allow": "anyone", "call": "files/*", "when": 'context.arguments.path == "x"'},
    )
    part = made.slice(READ)
    assert part is not None
    about = evaluate.entities(DEV, DEV.scopes, READ, READ.name)
    question = evaluate.request(DEV, READ, READ.name, "call", evaluate.NO_ARGUMENTS)
    assert evaluate.ask(part.engine, about, question, part.effects).allowed
    assert not evaluate.ask(part.engine, about, question, {}).allowed


def test_explain_says_what_is_missing() -> None:
    made = policy(
        {"allow": "group:ops", "call": "files/read_*"},
        {"allow": "group:dev", "call": "files/read_*", "scopes": ["r"], "when": 'context.arguments.path == "/a"'},
        {"deny": "group:dev", "call": "files/read_meta", "when": "context.arguments.depth > 3"},
        {"allow": "anyone", "call": "github/*"},
    )
    told = made.explain(DEV, META, {"path": "/b"})
    states = {entry["id"]: {c["clause"]: c["state"] for c in entry["clauses"]} for entry in told["policies"]}
    assert told["reason"] == "policy.not_visible"
    assert told["not_concerned"] == 1
    assert states["rule-1"]["who"] == "false"
    assert (states["rule-2"]["who"], states["rule-2"]["scopes"], states["rule-2"]["when"]) == ("true", "false", "false")
    assert states["rule-3"]["when"] == "error"
    allowed = made.explain(caller(groups=["dev"], scopes=["r"]), READ, {"path": "/a"})
    assert allowed["allowed"]
    assert [entry["matched"] for entry in allowed["policies"]] == [False, True]
    assert json.dumps(made.explain(DEV, META, {"path": 3}))
