"""D10: rules that ask what a caller has read only take away, lists do not follow them, memory keeps states apart."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_material import CATALOG, STRING, caller, context, item, policy, tool
from test_properties import ANY_RULES, ARGUMENTS, CALLERS, CALLS, EFFECT, OPEN, RUN, URIS, WHO, permitted, rules
from test_review import compiled, intent, narrow, proposed, settings_of, usage_of

from limen.core.call import NOTHING_READ, Approved, Caller, FlowState
from limen.core.faults import ConfigFault
from limen.core.verdict import Pass, Refuse
from limen.policy import cedar
from limen.policy.authorize import Authorize
from limen.policy.decision import PolicySet
from limen.policy.review import ways

STATES = [FlowState(u, p or s, s) for u, p, s in product((False, True), repeat=3)]
BOTH, PRIVATE, UNTRUSTED = FlowState(True, True), FlowState(private=True), FlowState(untrusted=True)
FLOWS = st.sampled_from(STATES)
ASKING = st.sampled_from(
    [
        *("context.flow.private", "context.flow.untrusted && context.flow.private", "!context.flow.secret"),
        "context.flow.secret || principal.mfa",
        'context.flow.untrusted && context.arguments has path && context.arguments.path like "/pub/*"',
        "context has flow && context.flow.private",
    ]
)
ALLOW = {"allow": "group:dev", "call": ["files/*", "github/*"]}
STOP = {"deny": "anyone", "call": "github/*", "when": "context.flow.untrusted && context.flow.private"}
DEV = caller(groups=["dev"])
REPO = item("get_repo")


def allowed(made: PolicySet, flow: FlowState, who: Caller = DEV, entry: Approved = REPO, **arguments: Any) -> bool:
    return made.decide(who, entry, arguments, flow=flow).allowed


def some(
    effects: st.SearchStrategy[str], condition: st.SearchStrategy[str] = ASKING
) -> st.SearchStrategy[dict[str, Any]]:
    """Rules that ask about flow; a condition on arguments goes only where some target has them."""

    def build(effect: str, who: str, call: str, key: str, text: str) -> dict[str, Any]:
        if "arguments" in text:
            call = "files/*"
        return {effect: who, "call": call, key: text}

    return st.builds(build, effects, WHO, CALLS, st.sampled_from(["when", "unless"]), condition)


@RUN
@given(ANY_RULES, st.lists(some(EFFECT), max_size=2), some(st.just("deny")), CALLERS, ARGUMENTS, FLOWS)
def test_one_more_deny_on_flow_never_allows_more_d10(
    written: list[Any], asking: list[Any], deny: Any, who: Caller, arguments: dict[str, Any], flow: FlowState
) -> None:
    before, after = policy(*written, *asking), policy(*written, *asking, deny)
    for entry in CATALOG:
        for name in URIS.get(entry.name, [""]):
            for action in ("", "complete"):
                if after.decide(who, entry, arguments, action=action, name=name, flow=flow).allowed:
                    assert before.decide(who, entry, arguments, action=action, name=name, flow=flow).allowed


@RUN
@given(ANY_RULES, st.lists(some(EFFECT), min_size=1, max_size=3), CALLERS, ARGUMENTS)
def test_a_list_never_hides_what_could_be_called_after_some_reads_d10(
    written: list[Any], asking: list[Any], who: Caller, arguments: dict[str, Any]
) -> None:
    made = policy(*written, *asking)
    for flow in STATES:  # decided first: what one state left behind must not show in another
        for entry in CATALOG:
            for name in URIS.get(entry.name, [""]):
                decision = made.decide(who, entry, arguments, name=name, flow=flow)
                if decision.reason in ("", "identity.step_up", "policy.denied"):
                    assert made.visible(who, entry)
                if decision.reason == "policy.not_visible":
                    assert not made.visible(who, entry)


@RUN
@given(st.lists(rules(EFFECT, OPEN), max_size=4), CALLERS, FLOWS)
def test_rules_that_do_not_ask_do_not_see_it(written: list[Any], who: Caller, flow: FlowState) -> None:
    made = policy(*written)
    assert not made.reads_flow
    for entry in CATALOG:
        name = URIS.get(entry.name, [""])[0]
        assert permitted(made, who, entry, {}) or not made.decide(who, entry, {}, name=name, flow=flow).allowed


@settings(RUN, max_examples=10)
@given(ANY_RULES, st.lists(some(EFFECT), min_size=1, max_size=3), CALLERS, st.permutations(STATES[:4]))
def test_what_is_remembered_of_one_state_does_not_decide_another_d10(
    written: list[Any], asking: list[Any], who: Caller, order: list[FlowState]
) -> None:
    warm = policy(*written, *asking)
    for flow in order:
        fresh = policy(*written, *asking)
        for entry in (one for one in CATALOG if one.kind != "template"):
            expected = fresh.decide(who, entry, {}, flow=flow)
            assert warm.decide(who, entry, {}, flow=flow).reason == expected.reason
            assert warm.decide(who, entry, {}, flow=flow).rules == expected.rules


def test_github_exfiltration_is_stopped_by_one_line_and_its_twin_passes_d10() -> None:
    made = policy(ALLOW, STOP)
    assert all(allowed(made, flow) for flow in (NOTHING_READ, PRIVATE, UNTRUSTED))
    for flow in (BOTH, FlowState(True, True, True)):
        refused = made.decide(DEV, REPO, flow=flow)
        assert (refused.reason, refused.rules) == ("policy.denied", ("rule-2",))
        assert "has read: untrusted, private" in getattr(refused.verdict, "detail", "")
        assert getattr(refused.verdict, "public", {}) == {}  # the caller is not told what it carries
    assert allowed(made, BOTH, entry=item("read_file"), path="a")  # another server is not meant
    assert allowed(made, NOTHING_READ), "a refusal before must not stay"


def test_strangers_see_nothing_and_lists_stay_as_they_are_d10() -> None:
    made = policy(ALLOW, STOP)
    assert made.decide(caller(), REPO, flow=BOTH).reason == "policy.not_visible"
    assert REPO in Authorize(made).visible(DEV, CATALOG)
    only_after = policy({**ALLOW, "when": "context.flow.private"})
    assert REPO in Authorize(only_after).visible(DEV, CATALOG)
    assert only_after.decide(DEV, REPO).reason == "policy.denied"
    assert allowed(only_after, PRIVATE)


def test_the_guard_takes_flow_from_the_fact_and_cannot_do_without() -> None:
    guard = Authorize(policy(ALLOW, STOP))
    assert isinstance(guard.check(context(DEV, REPO, name="get_repo")), Pass)
    assert isinstance(guard.check(context(DEV, REPO, BOTH, name="get_repo")), Refuse)
    assert FlowState in Authorize.needs


def test_a_person_is_asked_after_strangers_words_only() -> None:
    made = policy(ALLOW, {**ALLOW, "when": "context.flow.untrusted", "require": ["approval"]})
    assert made.decide(DEV, REPO).requires == frozenset()
    assert made.decide(DEV, REPO, flow=UNTRUSTED).requires == {"approval"}


def test_flow_with_arguments_and_with_completions() -> None:
    when = 'context.flow.private && context.arguments.owner != "us"'
    made = policy(ALLOW, {"deny": "anyone", "call": "github/get_repo", "when": when})
    assert allowed(made, PRIVATE, owner="us") and allowed(made, NOTHING_READ, owner="them")
    assert not allowed(made, PRIVATE, owner="them")
    assert not allowed(made, PRIVATE)  # cannot be evaluated: a deny rule holds
    prompts = policy(
        {"allow": "anyone", "call": "prompt:files/*"},
        {"deny": "anyone", "call": "prompt:files/*", "when": "context.flow.secret"},
    )
    summary = item("summary")
    assert prompts.decide(DEV, summary, action="complete", flow=PRIVATE).allowed
    assert not prompts.decide(DEV, summary, action="complete", flow=FlowState(False, True, True)).allowed


@pytest.mark.parametrize("text", ["context.flow.secrets", "context.flow.private == 1", "context.label.private"])
def test_what_flow_does_not_have_is_found_when_the_rule_is_read(text: str) -> None:
    with pytest.raises(ConfigFault, match="policy rule 1, when"):
        policy({**ALLOW, "when": text})


def test_what_counts_as_asking() -> None:
    def reads(text: str) -> tuple[bool, bool]:
        clause = cedar.parse_expression(text)
        return cedar.reads_context(clause, "arguments"), cedar.reads_context(clause, "flow")

    assert reads("context.flow.private") == (False, True)
    assert reads('context["flow"].private') == (False, True)
    assert reads("context.arguments has path") == (True, False)
    assert reads("principal.mfa") == (False, False)
    for text in ("context has flow", "context == {}", "(if principal.mfa then context else context).flow.private"):
        assert reads(text) == (True, True)


def test_decisions_on_flow_alone_are_remembered_per_state() -> None:
    made = policy(ALLOW, STOP)
    part = made.slice(REPO)
    assert part is not None and part.reads_flow and not part.reads_arguments
    assert made.decide(DEV, REPO, flow=BOTH) is made.decide(DEV, REPO, flow=BOTH)
    assert made.decide(DEV, REPO, flow=PRIVATE) is not made.decide(DEV, REPO, flow=BOTH)
    files = item("list_roots")  # no rule about it asks: one entry for all states
    assert made.decide(DEV, files, flow=BOTH) is made.decide(DEV, files)


def test_explain_shows_the_state_it_was_asked_with() -> None:
    report = policy(ALLOW, STOP).explain(DEV, REPO, flow=BOTH)
    assert report["flow"] == {"read": ["untrusted", "private"], "asked": True}
    assert [one["matched"] for one in report["policies"]] == [True, True]
    mistyped = tool("github", "x", {"owner": STRING}, ["owner"])
    made = policy(
        {"allow": "anyone", "call": "github/x", "when": 'context.flow.private && context.arguments.owner == "a"'},
        catalog=(mistyped,),
    )
    assert made.explain(DEV, mistyped, {"owner": 3}, flow=BOTH)["mistyped"] == "/owner"


def test_review_tells_flow_from_arguments_and_a_proposal_keeps_what_restricts_a11() -> None:
    asks = {**ALLOW, "when": "context.flow.untrusted", "require": ["approval"]}
    written = settings_of([ALLOW, asks, STOP])
    made = compiled(written)
    told = [(way.arguments, way.flow, way.whole) for way in ways(made, written, REPO)]
    assert told == [(False, False, False), (False, True, False), (False, True, False)]
    proposal = narrow(ALLOW, asks, STOP, used=[(DEV, REPO), (DEV, item("read_file"))])
    assert len(proposal.settings.rules) == 3  # taking the unused second rule away would loosen the first
    assert proposal.settings.rules[2] == written.rules[2]
    assert any("require approval" in left.why for left in proposal.left)
    by = made.decide(DEV, REPO, flow=UNTRUSTED).rules
    assert by == ("rule-1", "rule-2")
    kept = proposed(written, usage_of(made, intent(made, DEV, REPO, by)), made)
    assert not [change for change in kept.changes if change.rule == 2 and change.removes]
