"""A11: who can reach what, what was used, and a proposal that only ever takes away."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_material import CATALOG, approved, caller, item, policy
from test_properties import ANY_RULES, CALLERS, EFFECT, OPEN, RUN, URIS, rules

from limen.core.call import Approved, Caller
from limen.core.faults import ConfigFault, InvariantFault
from limen.core.standing import Standings, recorded
from limen.policy.decision import PolicySet
from limen.policy.narrow import Proposal, narrowed, propose, prove
from limen.policy.review import build, concerned, holders, label, place_of, reachable, used_rules, ways
from limen.policy.rules import PolicySettings
from limen.policy.usage import Usage
from limen.posture import METHODS as POSTURE
from limen.posture import Forward

NAMES = frozenset(place_of(one) for one in CATALOG)
METHODS = {"tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read", "template": "resources/read"}


def settings_of(written: Any, cedar: tuple[str, ...] = ()) -> PolicySettings:
    return PolicySettings.model_validate({"rules": list(written), "cedar": cedar})


def compiled(settings: PolicySettings, catalog: tuple[Approved, ...] = CATALOG) -> PolicySet:
    return policy(
        *(rule.model_dump(exclude_defaults=True) for rule in settings.rules), cedar=settings.cedar, catalog=catalog
    )


def intent(made: PolicySet, who: Caller, entry: Approved, by: tuple[str, ...], ts: float = 100.0, **more: Any) -> bytes:
    standing = {name: sorted(getattr(who, name)) for name in ("scopes", "roles", "groups", "amr")}
    record = {
        "t": "intent",
        "ts": ts,
        "iss": who.issuer,
        "sub": who.subject,
        "client": who.client,
        "method": METHODS[entry.kind],
        "upstream": entry.server,
        "tool": entry.name,
        "name": entry.name,
        "digest": entry.digest,
        "rules": by,
        "policy": made.digest,
        "standing": {**standing, "acr": who.acr},
    }
    return json.dumps({**record, **more}).encode()


def usage_of(made: PolicySet, *records: bytes, since: float = 50.0, **limits: Any) -> Usage:
    usage = Usage(CATALOG, made.digest, since, 1000.0, **limits)
    for record in records:
        usage.absorb(record)
    return usage


def proposed(settings: PolicySettings, usage: Usage, made: PolicySet, **how: Any) -> Proposal:
    used = used_rules(usage, concerned(made, CATALOG))
    return propose(settings, made, used, NAMES, compiled, **how)


def narrow(*written: dict[str, Any], used: list[tuple[Caller, Approved]], **how: Any) -> Proposal:
    """The proposal after these calls, as the policy itself decides and records them."""
    settings = settings_of(written, how.pop("cedar", ()))
    made = compiled(settings)
    records = []
    for who, entry in used:
        decision = made.decide(who, entry, {"path": "/pub/a"}, name=URIS.get(entry.name, [""])[0])
        assert decision.allowed, (who, entry, decision.reason)
        records.append(intent(made, who, entry, decision.rules))
    return proposed(settings, usage_of(made, *records), made, **how)


# what a review says


def test_ways_are_told_in_the_words_of_the_rules() -> None:
    settings = settings_of(
        [
            {
                "allow": "group:dev",
                "call": "files/*",
                "scopes": ["s1"],
                "when": "principal.mfa",
                "require": ["approval"],
            },
            {"deny": "user:bob", "call": "files/read_file"},
            {"deny": "anyone", "call": "files/write_file"},
        ]
    )
    made = compiled(settings)
    allow, deny = ways(made, settings, item("read_file"))
    assert (allow.effect, allow.who, allow.scopes, allow.when) == ("allow", ("group:dev",), ("s1",), "principal.mfa")
    assert (allow.requires, allow.arguments, deny.effect, deny.whole) == (("approval",), False, "deny", False)
    assert [way.whole for way in ways(made, settings, item("write_file"))] == [False, True]
    assert ways(made, settings, item("get_repo")) == ()
    report = build(made, settings, CATALOG, usage_of(made))
    told = {one["definition"]: one for one in report["definitions"]}
    assert told["files/write_file"]["reachable"] is False
    assert told["files/read_file"]["denied_by"] == ["rule-2"]
    assert "files/read_file" in report["never_used"]


@RUN
@given(ANY_RULES, CALLERS)
def test_what_can_is_what_a_list_shows(written: list[Any], who: Caller) -> None:
    made = policy(*written)
    found = {place_of(one): by for one, by in reachable(made, who, CATALOG)}
    assert set(found) == {place_of(one) for one in CATALOG if made.visible(who, one)}
    assert all(by for by in found.values())


def test_who_can_asks_the_policy_about_callers_as_last_recorded() -> None:
    written = [{"allow": "group:dev", "call": "files/*"}]
    settings = settings_of(written)
    made = compiled(settings)
    ann, bob = caller("ann", groups=["dev"]), caller("bob", groups=["dev"])
    gone = caller("bob")  # later he left the group
    usage = usage_of(
        made,
        intent(made, ann, item("read_file"), ("rule-1",)),
        intent(made, bob, item("list_roots"), ("rule-1",)),
        intent(made, gone, item("list_roots"), ("rule-1",), ts=200.0, policy="another"),
    )
    rows = {row["subject"]: row for row in holders(made, usage, item("read_file"))}
    assert (rows["ann"]["reaches"], rows["ann"]["used"], rows["ann"]["rules"]) == (True, 1, ["rule-1"])
    assert "bob" not in rows
    roots = {row["subject"]: row for row in holders(made, usage, item("list_roots"))}
    assert (roots["bob"]["reaches"], roots["bob"]["used"]) == (False, 2)
    assert roots["ann"]["reaches"] is True


def test_a_standing_is_recorded_when_it_changes_and_read_back() -> None:
    standings, ann = Standings(), caller("ann", groups=["dev"], scopes=["s1"], acr="high")
    first: dict[str, Any] = {}
    standings.note(first, ann)
    assert recorded(*ann.key, first["standing"]).standing == ann.standing
    again: dict[str, Any] = {}
    standings.note(again, ann)
    assert again == {}
    changed: dict[str, Any] = {}
    standings.note(changed, caller("ann"))
    assert changed["standing"]["groups"] == []
    endless: dict[str, Any] = {}
    standings.note(endless, caller("ann", groups=[f"group-{number}" for number in range(3000)]))
    assert endless == {"standing": None}


# what is counted


def test_only_the_period_counts_and_what_cannot_be_read_is_said() -> None:
    made = policy({"allow": "anyone", "call": "files/*"})
    one = intent(made, caller(), item("read_file"), ("rule-1",))
    old = intent(made, caller(), item("list_roots"), ("rule-1",), ts=10.0)
    usage = usage_of(made, old, one, one, b'{"t":"outcome","ts":101,"ref":"x"}')
    assert [use.count for use in usage.uses.values()] == [2]
    assert (usage.begins, usage.records, usage.complete) == (10.0, 3, True)
    for broken in (
        b"\xff",
        b"[]",
        b'{"t":"intent","ts":100}',
        intent(made, caller(), item("read_file"), (), sub=7),
        intent(made, caller(), item("read_file"), (), method="new"),
    ):
        hurt = usage_of(made, one, broken)
        assert (hurt.unreadable, hurt.complete) == (1, False)


def test_every_method_that_is_forwarded_is_counted() -> None:
    made = policy({"allow": "anyone", "call": "files/*"})
    for method in (name for name, route in POSTURE.items() if isinstance(route, Forward)):
        usage = usage_of(made, intent(made, caller(), item("read_file"), ("rule-1",), method=method))
        assert (len(usage.uses), usage.unreadable) == (1, 0), method


def test_memory_is_bounded_and_a_full_one_concludes_nothing() -> None:
    """An attacker who makes up names fills no table; too many callers end in no proposal rather than in a wrong one."""
    made = policy({"allow": "anyone", "call": "files/*"})
    refusals = [
        json.dumps(
            {"t": "refusal", "ts": 100, "iss": "i", "sub": "mallory", "client": "c", "method": "tools/call", **more}
        ).encode()
        for more in ({"server": "files", "name": f"made-up-{number}"} for number in range(500))
    ]
    usage = usage_of(made, *refusals, most=10)
    assert (usage.refused, usage.refused_unknown, usage.complete) == ({}, 500, True)
    many = [intent(made, caller(f"u{number}"), item("read_file"), ("rule-1",)) for number in range(20)]
    crowded = usage_of(made, *many, most=10)
    assert (len(crowded.uses), crowded.complete) == (10, False)


# what is proposed


@pytest.mark.requirement("AU-14")
def test_an_unused_rule_goes_and_a_used_one_stays() -> None:
    made = narrow(
        {"allow": "user:ann", "call": "files/read_file"},
        {"allow": "user:bob", "call": "github/*"},
        {"deny": "anyone", "call": "github/delete_repo"},
        used=[(caller("ann"), item("read_file"))],
    )
    assert [(change.rule, change.removes) for change in made.changes] == [(2, True)]
    assert [rule.targets for rule in made.settings.rules] == [("files/read_file",), ("github/delete_repo",)]


def test_a_wildcard_becomes_the_names_that_were_used() -> None:
    made = narrow(
        {"allow": "anyone", "call": ["files/*", "github/get_repo"], "operations": ["tool", "prompt"]},
        {"allow": "group:dev", "call": "files/read_*"},
        used=[
            (caller("ann", groups=["dev"]), item("read_file")),
            (caller("ann", groups=["dev"]), item("read_meta")),
            (caller("bob"), item("summary")),
        ],
    )
    assert made.settings.rules[0].targets == (
        "prompt:files/summary",
        "tool:files/read_file",
        "tool:files/read_meta",
    )
    assert made.settings.rules[1].targets == ("files/read_*",)  # all it means was used


def test_anyone_becomes_those_who_came_only_when_asked() -> None:
    used = [(caller("ann"), item("read_file")), (caller("bob"), item("read_file"))]
    rule = {"allow": ["role:admin", "anyone"], "call": "files/read_file"}
    assert narrow(rule, used=used).changes == ()
    assert narrow(rule, used=used, by_caller=True).settings.rules[0].who == ("role:admin", "user:ann", "user:bob")
    odd = narrow(rule, used=[(caller("${env:HOME}"), item("read_file"))], by_caller=True)
    assert odd.changes == ()
    assert "no name that can be written" in odd.left[0].why


def test_a_rule_that_makes_others_require_approval_is_not_taken_away() -> None:
    """Without rule 2 what rule 1 allows would need no approval any more: removing an allow rule can loosen."""
    strict = {"allow": "group:ops", "call": "files/write_*", "require": ["approval"]}
    left = narrow({"allow": "anyone", "call": "files/*"}, strict, used=[(caller("ann"), item("read_file"))])
    assert [change.rule for change in left.changes] == [1]
    assert "require approval" in left.left[0].why
    apart = narrow({"allow": "anyone", "call": "github/*"}, strict, used=[(caller("ann"), item("get_repo"))])
    assert [change.rule for change in apart.changes] == [1, 2]
    cedar = 'permit (principal, action, resource in Server::"github");'
    kept = narrow(strict, used=[], cedar=(cedar,))
    assert kept.changes == ()
    assert [one.where for one in kept.left] == ["policy rule 1", "policy cedar text 1, policy 1"]


def test_names_that_are_no_names_are_never_written_into_a_rule() -> None:
    """A server names a resource so that the proposal would be wider, or would read an environment variable."""
    for uri in ("file:///*", "x:${env:SECRET}", "x:\nallow: anyone", "x:a b"):
        hostile = approved("resource", "files", uri, {"uri": uri, "name": "r"})
        other = approved("resource", "files", "file:///other", {"uri": "file:///other", "name": "r"})
        settings = settings_of([{"allow": "anyone", "call": "resource:files/*"}])
        made = compiled(settings, (hostile, other))
        usage = Usage((hostile, other), made.digest, 0, 1000)
        usage.absorb(intent(made, caller(), hostile, ("rule-1",)))
        used = used_rules(usage, concerned(made, (hostile, other)))
        found = propose(settings, made, used, {place_of(hostile), place_of(other)}, compiled)
        assert found.changes == ()
        assert "cannot be written" in found.left[0].why


def test_templates_stay_as_wide_as_they_are() -> None:
    made = narrow(
        {"allow": "anyone", "call": "resource:files/*"}, used=[(caller(), item("file:///pub/{name}", "template"))]
    )
    assert made.changes == ()
    assert "nobody can list" in made.left[0].why


def test_calls_decided_by_another_policy_keep_every_rule_that_may_have_been_meant() -> None:
    settings = settings_of(
        [{"allow": "user:ann", "call": "files/read_file"}, {"allow": "anyone", "call": ["files/*", "github/*"]}]
    )
    made = compiled(settings)
    usage = usage_of(made, intent(made, caller("zoe"), item("read_file"), ("rule-9",), policy="yesterday's"))
    found = proposed(settings, usage, made)
    assert [rule.targets for rule in found.settings.rules] == [("files/read_file",), ("files/read_file",)]


def test_a_narrower_rule_that_would_not_compile_is_left() -> None:
    condition = {"when": 'context.arguments.owner == "me"'}
    settings = settings_of([{"allow": "anyone", "call": ["github/*", "files/list_roots"], **condition}])
    made = compiled(settings)
    usage = usage_of(made, intent(made, caller(), item("list_roots"), ("rule-1",)))
    found = proposed(settings, usage, made)
    assert found.changes == ()
    assert "refused" in found.left[-1].why
    with pytest.raises(ConfigFault):
        compiled(settings_of([{"allow": "anyone", "call": "files/list_roots", **condition}]))


def test_a_proposal_that_is_wider_is_not_shown() -> None:
    """Should narrowing ever be wrong, the check on both compiled policies stops it."""
    present = settings_of([{"allow": "user:ann", "call": "files/read_file"}, {"deny": "anyone", "call": "github/*"}])
    made = compiled(present)
    for rows in (
        [{"allow": "user:ann", "call": "files/*"}, {"deny": "anyone", "call": "github/*"}],
        [{"allow": "anyone", "call": "files/read_file"}, {"deny": "anyone", "call": "github/*"}],
        [{"allow": "user:ann", "call": "files/read_file"}, {"deny": "anyone", "call": "github/get_repo"}],
        [{"allow": "user:bob", "call": "files/read_file"}, {"deny": "anyone", "call": "github/*"}],
    ):
        wider = settings_of(rows)
        callers = [caller("ann"), caller("bob")]
        with pytest.raises(InvariantFault):
            prove(made, Proposal(wider, (), ()), compiled(wider), CATALOG, callers, [(callers[0], item("read_file"))])
    assert prove(made, Proposal(present, (), ()), compiled(present), CATALOG, [caller("ann")], []) == len(CATALOG)


def crowded(who: list[str], require: list[list[str]]) -> st.SearchStrategy[dict[str, Any]]:
    """Rules that often meet: most of what can go wrong is between two of them."""
    call = st.sampled_from(["files/*", "files/read_*", "files/list_roots", "*/*", "resource:files/*"])
    return st.builds(
        lambda who, call, require: {"allow": who, "call": call, **({"require": require} if require else {})},
        st.sampled_from(who),
        st.lists(call, min_size=1, max_size=2),
        st.sampled_from(require),
    )


LOOSE, STRICT = crowded(["anyone", "user:alice"], [[]]), crowded(["group:dev", "role:admin"], [["approval"], ["mfa"]])
WRITTEN = st.tuples(LOOSE, STRICT).map(list) | st.lists(rules(EFFECT, OPEN), min_size=1, max_size=4)
USED = st.tuples(CALLERS, st.sampled_from([item("list_roots"), item("read_file"), *CATALOG]))


@pytest.mark.requirement("AU-14")
@RUN
@given(WRITTEN, st.lists(USED, min_size=1, max_size=4), st.booleans())
def test_a_proposal_allows_nothing_new_and_loses_no_call(
    written: list[Any], tried: list[tuple[Caller, Approved]], by_caller: bool
) -> None:
    """A11: for every caller, definition and URI: allowed by the proposal means allowed now, on the same terms; and
    what was done stays possible."""
    present, arguments = settings_of(written), {"path": "/pub/a"}
    made = compiled(present)
    records, done = [], []
    for who, entry in tried:
        name = URIS.get(entry.name, [""])[0]
        decision = made.decide(who, entry, arguments, name=name)
        if decision.allowed:
            records.append(intent(made, who, entry, decision.rules))
            done.append((who, entry, name))
    found = proposed(present, usage_of(made, *records), made, by_caller=by_caller)
    after = compiled(found.settings)
    stranger = caller("mallory", groups=["dev"], roles=["admin"], scopes=["s1", "s2"], amr=["mfa", "pwd"])
    for who in (*(who for who, _ in tried), stranger):
        for entry in CATALOG:
            for name in URIS.get(entry.name, [""]):
                then = after.decide(who, entry, arguments, name=name)
                now = made.decide(who, entry, arguments, name=name)
                assert not then.allowed or (now.allowed and now.requires <= then.requires), (entry, written, found)
    for who, entry, name in done:
        assert after.decide(who, entry, arguments, name=name).allowed, (entry, written, found)
    prove(made, found, after, CATALOG, [who for who, _ in tried], [(who, entry) for who, entry, _ in done])


def test_labels_and_no_changes() -> None:
    assert label(("files", "prompt", "p")) == "prompt:files/p"
    settings = settings_of([{"allow": "anyone", "call": "files/*"}])
    assert narrowed(settings, []) == settings
