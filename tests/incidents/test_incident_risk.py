"""I7: fusion is monotone, bounded, fades, and repeats of one kind are no proof."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.core.events import Signal, Subject
from limen.incidents.risk import CERTAIN, REFERENCE, Limits, ends, fused, left, rescaled, risk_of, together
from limen.incidents.suspicion import WEIGHTS

WHO = Subject("caller", "https://id.example\0alice")
SOURCES = st.sampled_from(("content", "session", "decoy", "behaviour", "catalog"))
SIGNALS = st.lists(
    st.builds(Signal, st.just(WHO), SOURCES, st.floats(0.0, 1.0), st.just("x"), st.floats(0, 1e4), st.just("l:1"),
              st.floats(1, 1e5)),
    max_size=12,
)  # fmt: skip
SERVER = Subject("server", "mail")
SHARE = st.floats(0.001, 1.0)
LIMITS = st.lists(SHARE, min_size=3, max_size=3).map(lambda three: Limits(*sorted(three)))


@given(SIGNALS, SIGNALS.filter(bool))
def test_one_more_signal_never_lowers_a_risk(some: list[Signal], more: list[Signal]) -> None:
    for who in (WHO, SERVER):
        first, second = ([replace(one, subject=who) for one in few] for few in (some, more))
        before, after = risk_of(first, 1e4), risk_of([*first, *second], 1e4)
        assert 0.0 <= before <= after + 1e-9 <= 1.0 + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 19), st.floats(0, 1))
def test_a_stronger_signal_never_lowers_a_source(scores: list[float], place: int, stronger: float) -> None:
    raised = list(scores)
    place %= len(scores)
    raised[place] = max(raised[place], stronger)
    assert together(raised) >= together(scores) - 1e-9


@given(st.floats(0.001, 0.95), st.integers(1, 500))
def test_many_weak_repeats_do_not_equal_certainty(score: float, repeats: int) -> None:
    assert score - 1e-12 <= together([score] * repeats) <= min(CERTAIN, 2 * score) + 1e-9


def test_a_hundred_faint_hints_of_one_kind_stop_nobody_and_two_kinds_of_evidence_do() -> None:
    assert together([0.1] * 100) < REFERENCE.hold
    assert fused([together([0.3] * 5), 0.3]) >= REFERENCE.hold


@given(SIGNALS, st.floats(0, 1e5))
def test_risk_fades_and_is_gone_in_the_end(signals: list[Signal], later: float) -> None:
    assert risk_of(signals, 1e4 + later) <= risk_of(signals, 1e4) + 1e-9
    assert risk_of(signals, max([0.0, *map(ends, signals)]) + 1) == 0.0


def test_half_is_left_after_the_half_life() -> None:
    assert left(Signal(WHO, "decoy", 0.8, "x", 100.0, seconds=60.0), 160.0) == pytest.approx(0.4)
    assert left(Signal(WHO, "decoy", 0.8, "x", 100.0), 50.0) == 0.8  # from a clock that is ahead


@given(LIMITS, st.floats(0, 1), st.floats(0, 1))
def test_rescaling_is_monotone_and_agrees_with_the_limits_of_content(own: Limits, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rescaled(low, own) <= rescaled(high, own) + 1e-9
    for mine, shared in ((own.record, 0.2), (own.hold, 0.5), (own.block, 0.8)):
        if one <= max(mine, shared):
            assert rescaled(one, own) < shared  # what the tool's own limit lets pass is not caught here by itself
    assert rescaled(one, REFERENCE) == pytest.approx(one, abs=1e-6)


@given(LIMITS, LIMITS)
def test_no_global_setting_makes_a_stricter_tool_looser(everybody: Limits, tool: Limits) -> None:
    both = everybody.stricter(tool)
    assert all(getattr(both, name) <= getattr(tool, name) for name in ("record", "hold", "block"))


def test_weights_are_between_nothing_and_certainty_and_content_alone_never_blocks() -> None:
    for name, weight in WEIGHTS.items():
        assert all(0 < score < 1 for score in weight.on.values()), name
        if weight.source == "content":
            assert all(2 * score < REFERENCE.block for score in weight.on.values()), name
