"""From settings to Cedar: what is refused when the policy is compiled, and what the text says."""

from __future__ import annotations

from typing import Any

import pytest
from policy_material import CATALOG, policy, tool
from pydantic import ValidationError

from limen.core.faults import ConfigFault
from limen.policy.compile import compile_policy
from limen.policy.rules import PolicySettings, RuleSettings
from limen.policy.targets import Target, overlaps, parse_target

FINE: dict[str, Any] = {"allow": "anyone", "call": "files/*"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"allow": "group:", "call": "files/*"}, "rule 2, allow"),
        ({"deny": "team:x", "call": "files/*"}, "rule 2, deny"),
        ({"allow": "anyone", "call": "files"}, "rule 2, call"),
        ({"allow": "anyone", "call": "fi*es/x"}, "rule 2, call"),
        ({"allow": "anyone", "call": "files/read_[ab]"}, "rule 2, call"),
        ({"allow": "anyone", "call": "files/raed_*"}, "matches nothing"),
        ({"allow": "anyone", "call": "prompt:github/*"}, "matches nothing"),
        ({"allow": "anyone", "call": "*/nothing_like_it"}, "matches nothing"),
        ({"allow": "anyone", "call": "files/*", "when": "1 +"}, "rule 2, when"),
        ({"allow": "anyone", "call": "files/*", "when": "context.arguments.pth == 1"}, "rule 2, when"),
        ({"deny": "anyone", "call": "files/*", "unless": "context.arguments has pth"}, None),
        ({"deny": "anyone", "call": "files/*", "when": "context.arguments has pth"}, "can never match"),
        ({"allow": "anyone", "call": "files/*", "when": "context.arguments.path > 3"}, "rule 2, when"),
        ({"allow": "anyone", "call": "files/*", "when": "principal.nickname == 3"}, "rule 2, when"),
        ({"allow": "anyone", "call": "files/*", "unless": "true"}, "can never match"),
        ({"allow": "anyone", "call": "files/*", "when": "resource is Prompt"}, "can never match"),
        ({"allow": "anyone", "call": "files/*", "when": "principal == ?principal"}, "rule 2, when"),
    ],
)
def test_a_wrong_rule_is_named(rule: dict[str, Any], says: str | None) -> None:
    if says is None:
        policy(FINE, rule)
        return
    with pytest.raises(ConfigFault) as fault:
        policy(FINE, rule)
    assert "rule 2" in str(fault.value)
    assert says in str(fault.value)


@pytest.mark.parametrize(
    "text",
    [
        "true }; permit (principal, action, resource) when { true",
        "true } when { true",
        "true } unless { false",
        "true };",
        "true // }; \n }; permit (principal, action, resource) when { true",
        "",
        "// nothing",
        'true } ; @id("rule-9") permit (principal, action, resource) when { true',
    ],
)
@pytest.mark.parametrize("key", ["when", "unless"])
def test_an_expression_cannot_bring_a_policy_along(text: str, key: str) -> None:
    if not text:
        with pytest.raises(ValidationError):
            RuleSettings.model_validate({**FINE, key: text})
        return
    with pytest.raises(ConfigFault, match=f"rule 1, {key}"):
        policy({**FINE, key: text})


def test_a_comment_and_braces_in_a_string_are_only_that() -> None:
    made = policy({**FINE, "when": 'principal.subject != "}; permit (principal, action, resource);" // why'})
    assert made.cedar_text.count("@id(") == 1


def test_names_cannot_leave_their_literal() -> None:
    made = policy({"allow": ['group:x") || true || ("', 'user:a\\"\u202e\n*'], "call": "files/*"})
    assert 'contains("x\\") || true || (\\"")' in made.cedar_text


@pytest.mark.parametrize(
    "settings",
    [
        {"call": "files/*"},
        {"allow": "anyone", "deny": "anyone", "call": "files/*"},
        {"allow": [], "call": "files/*"},
        {"allow": "anyone", "call": []},
        {"allow": "anyone", "call": "files/*", "operations": []},
        {"deny": "anyone", "call": "files/*", "require": ["mfa"]},
        {"deny": "anyone", "call": "files/*", "scopes": ["x"]},
        {"allow": "anyone", "call": "files/*", "require": ["luck"]},
        {"allow": "anyone", "call": "files/*", "unles": "true"},
    ],
)
def test_a_rule_without_one_clear_meaning_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RuleSettings.model_validate(settings)


def test_a_server_of_which_nothing_is_approved_gives_a_warning_and_a_misspelt_one_a_fault() -> None:
    settings = PolicySettings.model_validate({"rules": [FINE, {"allow": "anyone", "call": "later/*"}]})
    for servers in (None, ("files", "github", "later")):
        assert any("rule 2" in text for text in compile_policy(settings, CATALOG, servers=servers).warnings)
    with pytest.raises(ConfigFault, match="no server 'later'"):
        compile_policy(settings, CATALOG, servers=("files", "github"))
    assert len(compile_policy(settings, ()).warnings) == 2


def test_an_argument_only_some_tools_have_is_a_warning() -> None:
    made = policy({"deny": "anyone", "call": "files/*", "when": 'context.arguments.path like "/etc*"'})
    assert any("always denies files/list_roots" in text for text in made.warnings)
    guarded = 'context.arguments has path && context.arguments.path like "/etc*"'
    assert not policy({"deny": "anyone", "call": "files/*", "when": guarded}).warnings


def test_the_digest_is_of_what_is_in_force() -> None:
    same = policy(FINE, cedar=["permit (principal, action, resource);"])
    assert same.digest == policy(FINE, cedar=["permit (principal, action, resource);"]).digest
    assert same.digest == policy(FINE, cedar=["permit(principal,action,resource); // a"], catalog=CATALOG[::-1]).digest
    assert same.digest != policy(FINE).digest
    assert policy(FINE).digest != policy({**FINE, "require": ["mfa"]}).digest
    more = (*CATALOG, tool("files", "new", {"size": {"type": "integer"}}))
    assert policy(FINE).digest == policy(FINE, catalog=more).digest  # nobody asks about its arguments
    asking = {"deny": "anyone", "call": "files/*", "when": 'context.arguments has path && context.arguments.path == ""'}
    assert policy(FINE, asking).digest != policy(FINE, asking, catalog=more).digest


@pytest.mark.parametrize(
    "text",
    [
        "permit (principal, action, resource",
        "permit (principal == ?principal, action, resource);",
        '@require("luck") permit (principal, action, resource);',
        '@require("mfa") forbid (principal, action, resource);',
        'permit (principal, action == Action::"write", resource);',
        'permit (principal, action, resource) when { resource.nam == "x" };',
        'permit (principal, action, resource) when { context.arguments.nowhere == "x" };',
        "forbid (principal, action, resource) when { false };",
        'permit (principal == User::"x", action, resource);',
        '@id("a") permit (principal, action, resource); @id("a") forbid (principal, action, resource);',
    ],
)
def test_wrong_cedar_is_refused(text: str) -> None:
    with pytest.raises(ConfigFault, match="policy cedar text 1"):
        policy(cedar=[text])


def test_targets() -> None:
    assert parse_target("prompt:a/b*", ("tool",)) == (Target("prompt", "a", "b*"),)
    assert parse_target("resource:a/file:///x?y=[1]", ("tool",))[0].glob == "file:///x?y=[1]"
    assert overlaps("file:///etc/*", "file:///{folder}/{name}")
    assert overlaps("file:///*", "file:///pub/{name}")
    assert not overlaps("file:///etc/*", "file:///pub/{name}")
    assert overlaps("*wd", "file:///{name}")
    assert not overlaps("file:///a", "file:///ab")
    assert overlaps("a", "a")
