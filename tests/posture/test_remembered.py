"""What is remembered of texts that strangers choose is bounded in characters, and its answers are the same."""

from __future__ import annotations

from limen.core.remembered import LONGEST, remembered


def test_short_texts_are_worked_out_once_and_long_ones_are_not_kept() -> None:
    asked: list[str] = []

    @remembered(2)
    def length(text: str) -> int:
        """How long."""
        asked.append(text)
        return len(text)

    short, long = "a" * LONGEST, "a" * (LONGEST + 1)
    assert [length(short), length(short), length(long), length(long)] == [LONGEST, LONGEST, LONGEST + 1, LONGEST + 1]
    assert asked == [short, long, long]
    for text in ("b", "c", short):
        length(text)
    assert asked == [short, long, long, "b", "c", short]
    assert (length.__name__, length.__doc__) == ("length", "How long.")


def test_how_long_is_short_can_be_said() -> None:
    asked: list[str] = []

    @remembered(8, longest=2)
    def noted(text: str) -> bool:
        asked.append(text)
        return True

    for text in ("ab", "ab", "abc", "abc"):
        noted(text)
    assert asked == ["ab", "abc", "abc"]
