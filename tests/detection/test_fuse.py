"""One risk out of many findings: more never lowers it, and the table decides what it leads to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from limen.core.faults import InvariantFault
from limen.detection.finding import Channel, Finding
from limen.detection.fuse import WEIGHTS, Action, Limits, fuse
from limen.detection.settings import FAMILIES, LEVELS, ContentSettings

FOUND = st.builds(
    lambda family, score, at: Finding(f"{family}.x", family, score, f"/{at}"),
    st.sampled_from(FAMILIES),
    st.floats(0, 1),
    st.integers(0, 5),
)


def test_every_family_weighs_something_in_every_channel() -> None:
    assert WEIGHTS.keys() == set(Channel)
    for weights in WEIGHTS.values():
        assert weights.keys() == set(FAMILIES)
        assert all(0 < weight <= 1 for weight in weights.values())


@given(st.lists(FOUND, max_size=12), FOUND, st.sampled_from(Channel))
def test_one_more_finding_never_lowers_the_risk(found: list[Finding], more: Finding, channel: Channel) -> None:
    before, after = fuse(found, channel).score, fuse([*found, more], channel).score
    assert 0 <= before <= after <= 1


@given(st.lists(FOUND, max_size=8), st.randoms(), st.sampled_from(Channel))
def test_order_does_not_matter(found: list[Finding], random, channel: Channel) -> None:
    mixed = list(found)
    random.shuffle(mixed)
    assert fuse(found, channel).score == fuse(mixed, channel).score


def test_contributions_name_families_strongest_first_and_ids_once() -> None:
    found = [Finding("hidden.tags", "hidden", 0.9), Finding("injection.a", "injection", 0.7, "/x")]
    risk = fuse([*found, Finding("injection.a", "injection", 0.5, "/y")], Channel.RESULT)
    assert [family for family, _ in risk.contributions] == ["injection", "hidden"]
    assert risk.contributions[0][1] == 0.7
    assert risk.ids == ("hidden.tags", "injection.a")
    assert fuse([], Channel.RESULT).score == 0


@pytest.mark.parametrize(
    "finding", [Finding("x.y", "x", 0.5), Finding("pii.card", "pii", 1.5), Finding("pii.card", "pii", float("nan"))]
)
def test_what_cannot_be_weighed_is_a_fault_and_not_harmless(finding: Finding) -> None:
    with pytest.raises(InvariantFault):
        fuse([finding], Channel.RESULT)


@pytest.mark.parametrize(
    ("risk", "action"),
    [
        (0.0, Action.PASS),
        (0.2, Action.PASS),
        (0.21, Action.RECORD),
        (0.5, Action.RECORD),
        (0.51, Action.HOLD),
        (0.8, Action.HOLD),
        (0.81, Action.BLOCK),
        (1.0, Action.BLOCK),
        (float("nan"), Action.BLOCK),
    ],
)
def test_the_action_table(risk: float, action: Action) -> None:
    assert Limits().action(risk) is action


def test_stricter_levels_are_stricter_everywhere() -> None:
    low, medium, high = LEVELS["low"], LEVELS["medium"], LEVELS["high"]
    for name in ("record", "hold", "block"):
        assert getattr(low, name) > getattr(medium, name) > getattr(high, name)


def test_a_tool_goes_before_its_server_and_that_before_all() -> None:
    settings = ContentSettings.model_validate(
        {
            "content_safety": "low",
            "servers": {
                "mail": {
                    "content_safety": "high",
                    "tools": {
                        "read": {"content_safety": "medium"},
                        "send": {"max_risk": 0.05},
                        "odd": {"max_risk": 0.9},
                    },
                }
            },
        }
    )
    assert settings.limits("other", "x") == LEVELS["low"]
    assert settings.limits("mail", "x") == LEVELS["high"]
    assert settings.limits("mail", "read") == LEVELS["medium"]
    assert settings.limits("mail", "send") == Limits(0.05, 0.05, 0.6)
    assert settings.limits("mail", "odd") == Limits(0.1, 0.9, 0.9)


def test_an_exception_needs_an_owner_and_ends() -> None:
    entry = {"finding": "injection.*", "server": "docs", "owner": "sam", "expires": "2026-11-30", "reason": "a manual"}
    settings = ContentSettings.model_validate({"allow": [entry]})
    finding, last = Finding("injection.override", "injection", 0.9), 1796083199.0  # 2026-11-30T23:59:59Z
    assert settings.excepted(finding, "docs", "read", last)
    assert not settings.excepted(finding, "docs", "read", last + 1)
    assert not settings.excepted(finding, "mail", "read", last)
    assert not settings.excepted(Finding("secret.aws_key", "secret", 0.9), "docs", "read", last)
    for missing in entry:
        with pytest.raises(ValidationError):
            ContentSettings.model_validate({"allow": [{k: v for k, v in entry.items() if k != missing}]})
    with pytest.raises(ValidationError):
        ContentSettings.model_validate({"allow": [{**entry, "finding": "nothing.like_it"}]})
