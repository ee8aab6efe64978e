"""Strings of a JSON value, and the same put together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.text_disguises import PAYLOADS, b64, seen
from limen.detection.text import MAX_TEXT, MAX_TOTAL, Piece, TooMuch, examine, joined, pieces


def test_every_string_is_found_with_its_pointer() -> None:
    value = {"a": ["x", {"b/c~d": "y"}], "n": 1, "t": True, "z": None, "": "e"}
    assert pieces(value) == [
        Piece("/a", "a", name=True),
        Piece("/a/0", "x"),
        Piece("/a/1/b~1c~0d", "b/c~d", name=True),
        Piece("/a/1/b~1c~0d", "y"),
        Piece("/n", "n", name=True),
        Piece("/t", "t", name=True),
        Piece("/z", "z", name=True),
        Piece("/", "e"),
    ]
    assert [piece.text for piece in pieces(value, names=False)] == ["x", "y", "e"]
    assert pieces("alone") == [Piece("", "alone")]
    assert pieces(7) == pieces([]) == pieces("") == []


def test_too_much_text_or_nesting_is_refused() -> None:
    assert len(pieces(["x" * (MAX_TOTAL - 1), "y"])) == 2
    with pytest.raises(TooMuch):
        pieces(["x" * MAX_TOTAL, "y"])
    with pytest.raises(TooMuch):
        pieces({"k" * (MAX_TOTAL + 1): 1})
    deep: object = "x"
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TooMuch):
        pieces(deep)
    with pytest.raises(TooMuch):
        examine("x" * (MAX_TEXT + 1))


json_values = st.recursive(
    st.text(max_size=12) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(value=json_values)
def test_joined_holds_every_string(value: object) -> None:
    found = pieces(value)
    whole = joined(found)
    assert all(piece.text in whole for piece in found)
    assert len(whole) <= 3 * sum(len(piece.text) + 1 for piece in found)


def split(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_payload_split_over_fields_is_seen(payload: str, size: int) -> None:
    parts = split(payload, size)
    for value in (
        parts,
        {"content": [{"type": "text", "text": part} for part in parts]},
        {"rows": [{"id": str(at), "note": part, "state": "open"} for at, part in enumerate(parts)]},
        {chr(97 + at % 26) + str(at): part for at, part in enumerate(parts)},
    ):
        assert seen(payload, joined(pieces(value)))


def test_words_in_fields_of_their_own_are_seen() -> None:
    value = {"content": [{"type": "text", "text": word} for word in PAYLOADS[0].split()]}
    assert seen(PAYLOADS[0], joined(pieces(value)))


@pytest.mark.parametrize("size", [16, 24, 40])
def test_base64_split_over_fields_is_seen(size: int) -> None:
    parts = split(b64(PAYLOADS[0]), size)
    assert seen(PAYLOADS[0], joined(pieces(parts)))
    assert seen(PAYLOADS[0], joined(pieces({"items": [{"kind": "blob", "data": part} for part in parts]})))


def test_joined_of_one_string_is_that_string() -> None:
    assert joined(pieces(["just this"])) == "just this"
    assert joined([]) == ""
