"""What must hold for any rules: a deny rule never allows, and a list shows what may be called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_material import CATALOG, caller, policy

from limen.core.call import Approved, Caller
from limen.policy.authorize import Authorize
from limen.policy.decision import PolicySet
from limen.policy.targets import Target

WHO = st.sampled_from(["anyone", "user:alice", "user:bob", "group:dev", "role:admin", "client:cli", "scope:s1"])
CALLS = st.sampled_from(
    [
        *("files/*", "files/read_*", "*/*", "github/delete_repo", "prompt:files/*", "resource:files/*"),
        *("resource:*/file:///pub/*", "resource:files/file:///etc/*", "resource:files/*a"),
    ]
)
OPEN = st.sampled_from(["principal.mfa", 'resource.effect == "write"', 'principal.acr == "high"'])
CONDITIONS = st.sampled_from(
    [
        'context.arguments has path && context.arguments.path like "/pub/*"',
        'principal.groups.contains("dev") || (context.arguments has force && context.arguments.force)',
        "context.arguments has path && context.arguments.path == principal.subject",
    ]
)


def rules(effects: st.SearchStrategy[str], conditions: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    def build(
        effect: str, who: list[str], call: list[str], scopes: list[str], key: str, text: str | None, require: list[str]
    ) -> Any:
        rule: dict[str, Any] = {effect: who, "call": call}
        if effect == "allow":
            rule["require"] = require
        if effect == "allow" and scopes:
            rule["scopes"] = scopes
        # Conditions on arguments only where some target has them, or the rule could never match.
        if text is not None and any(not target.startswith(("prompt:", "resource:", "github")) for target in call):
            rule[key] = text
        return rule

    return st.builds(
        build,
        effects,
        st.lists(WHO, min_size=1, max_size=2),
        st.lists(CALLS, min_size=1, max_size=2),
        st.lists(st.sampled_from(["s1", "s2"]), max_size=2),
        st.sampled_from(["when", "unless"]),
        st.none() | conditions,
        st.lists(st.sampled_from(["mfa", "user", "fresh(10m)"]), max_size=1),
    )


EFFECT = st.sampled_from(["allow", "allow", "deny"])
ANY_RULES = st.lists(rules(EFFECT, OPEN | CONDITIONS), max_size=5)
CALLERS = st.builds(
    lambda subject, groups, roles, scopes, amr, acr, machine: caller(
        subject, groups=groups, roles=roles, scopes=scopes, amr=amr, acr=acr, machine=machine
    ),
    st.sampled_from(["alice", "bob"]),
    st.sets(st.sampled_from(["dev"])),
    st.sets(st.sampled_from(["admin"])),
    st.sets(st.sampled_from(["s1", "s2"])),
    st.sampled_from([[], ["mfa"]]),
    st.sampled_from(["", "high"]),
    st.booleans(),
)
ARGUMENTS = st.fixed_dictionaries(
    {}, optional={"path": st.sampled_from(["/pub/a", "/etc/a", "alice", 3]), "force": st.booleans()}
)
URIS = {
    "file:///pub/{name}": ["file:///pub/a", "file:///pub/b"],
    "file:///{folder}/{name}": ["file:///pub/a", "file:///etc/a", "file:///etc/b"],
}
RUN = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def permitted(made: PolicySet, who: Caller, entry: Approved, arguments: dict[str, Any]) -> bool:
    names = URIS.get(entry.name, [""])
    return any(made.decide(who, entry, arguments, name=name).reason in ("", "identity.step_up") for name in names)


@pytest.mark.requirement("AU-05")
@RUN
@given(ANY_RULES, CALLERS, ARGUMENTS)
def test_a_list_never_hides_what_may_be_called(written: list[Any], who: Caller, arguments: dict[str, Any]) -> None:
    made = policy(*written)
    shown = Authorize(made).visible(who, CATALOG)
    assert all(entry in shown for entry in CATALOG if permitted(made, who, entry, arguments))
    for entry in CATALOG:
        if entry not in shown:
            assert made.decide(who, entry, arguments, name=URIS.get(entry.name, [""])[0]).reason in (
                "policy.not_visible",
                "identity.scope",
            )


@pytest.mark.requirement("AU-05")
@RUN
@given(st.lists(rules(EFFECT, OPEN), max_size=5), CALLERS)
def test_without_conditions_on_arguments_a_list_shows_exactly_that(written: list[Any], who: Caller) -> None:
    made = policy(*written)
    fixed = [entry for entry in CATALOG if entry.kind != "template"]
    assert Authorize(made).visible(who, fixed) == [entry for entry in fixed if permitted(made, who, entry, {})]


@RUN
@given(ANY_RULES, CALLERS)
def test_asking_about_many_at_once_answers_as_asking_one_by_one(written: list[Any], who: Caller) -> None:
    together, alone = policy(*written), policy(*written)
    together.foresee(who, CATALOG)
    assert [together.visible(who, entry) for entry in CATALOG] == [alone.visible(who, entry) for entry in CATALOG]


@RUN
@given(ANY_RULES, rules(st.just("deny"), OPEN | CONDITIONS), CALLERS, ARGUMENTS)
def test_one_more_deny_rule_never_allows_more(
    written: list[Any], deny: dict[str, Any], who: Caller, arguments: dict[str, Any]
) -> None:
    before, after = policy(*written), policy(*written, deny)
    for entry in CATALOG:
        for name in URIS.get(entry.name, [""]):
            for action in ("", "complete"):
                then = after.decide(who, entry, arguments, action=action, name=name)
                if then.allowed:
                    assert before.decide(who, entry, arguments, action=action, name=name).allowed
        assert before.visible(who, entry) or not after.visible(who, entry)


@RUN
@given(ANY_RULES, CALLERS, ARGUMENTS, st.randoms(use_true_random=False))
def test_the_order_of_rules_does_not_matter(written: list[Any], who: Caller, arguments: Any, random: Any) -> None:
    shuffled = list(written)
    random.shuffle(shuffled)
    one, other = policy(*written), policy(*shuffled)
    for entry in CATALOG:
        assert permitted(one, who, entry, arguments) == permitted(other, who, entry, arguments)


@RUN
@given(st.text("ab*/", min_size=1, max_size=8), st.text("ab/{}x", max_size=8), st.text("abx", max_size=4))
def test_a_glob_meets_every_expansion_it_matches(glob: str, uri: str, value: str) -> None:
    target = Target("resource", "s", glob)
    whole = uri.replace("{", "").replace("}", "")
    made = Approved("s", "template", f"{whole}{{v}}{whole}", "", b"{}")
    expanded = Approved("s", "resource", f"{whole}{value}{whole}", "", b"{}")
    if target.matches(expanded):
        assert target.matches(made)
    else:
        assert not target.covers(made)
