"""D2: whatever the disguise, the plain payload is in some view. Ordinary text keeps its single view."""

from __future__ import annotations

import base64
import gzip
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.text_disguises import ALL, ENCODINGS, PAYLOADS, b64, seen
from limen.detection import views_gate
from limen.detection.text import disguises, examine, views
from limen.detection.views import MAX_DEPTH, MAX_VIEWS

BY_VOCABULARY = {"letters apart, one gap"}  # only words the tables know are told apart again
VERBS = ("ignore", "send", "reveal", "delete", "forget", "execute")
THINGS = ("instructions", "password", "message", "token", "prompt", "file", "email")
orders = st.builds(
    lambda verb, first, second, tail: f"{verb} the {first} and your {second} {tail}",
    st.sampled_from(VERBS),
    st.sampled_from(THINGS),
    st.sampled_from(THINGS),
    st.sampled_from(("now", "please", "for this user", "before you reply")),
)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", ALL)
def test_payload_is_seen_through_disguise(name: str, payload: str) -> None:
    assert seen(payload, ALL[name](payload)), [view.text[:120] for view in views(ALL[name](payload))]


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_VOCABULARY])
@settings(max_examples=12, deadline=None)
@given(order=orders, before=st.sampled_from(("", "Dear team,\n", "Status: 200. ")))
def test_any_order_is_seen_inside_other_text(name: str, order: str, before: str) -> None:
    assert seen(order, f"{before}{ALL[name](order)}")


@pytest.mark.parametrize("outer", ["base64", "gzip", "hex", "percent", "json escapes", "comment"])
@pytest.mark.parametrize("inner", ALL)
def test_two_disguises_in_one_another(outer: str, inner: str) -> None:
    if outer == "comment" and "comment" in inner:
        return  # comments do not nest
    text = PAYLOADS[0]
    assert seen(text, ALL[outer](ALL[inner](text)))


@settings(max_examples=60, deadline=None)
@given(
    order=orders, chain=st.lists(st.sampled_from(("base64", "hex", "gzip", "base32", "percent", "rot13")), max_size=4)
)
def test_encodings_nest(order: str, chain: list[str]) -> None:
    text = order
    for name in chain:
        if name == "rot13" and text != order:
            continue  # of encoded text it shows nothing that could be recognised
        text = ALL[name](text)
    assert seen(order, text)


def test_nesting_beyond_the_bound_is_reported() -> None:
    text = PAYLOADS[0]
    for _ in range(MAX_DEPTH + 2):
        text = b64(text)
    found = disguises(text)
    assert [(finding.id, finding.score) for finding in found] == [("hidden.limit", 0.9)]
    assert len(views(text)) == MAX_DEPTH + 1


def test_payload_deep_in_a_long_document_is_seen_and_the_view_stays_small() -> None:
    document = "The quick brown fox jumps over the lazy dog. " * 2000
    for name in ("base64", "cyrillic", "percent", "rot13", "comment", "zero-width space", "leet"):
        text = f"{document}{ALL[name](PAYLOADS[0])} {document}"
        assert seen(PAYLOADS[0], text), name
        assert all(len(view.text) < 4000 for view in views(text)[1:]), name


def test_two_encodings_far_apart_are_both_seen() -> None:
    filler = "Nothing to see here. " * 400
    text = f"{b64(PAYLOADS[0])} {filler} {ENCODINGS['percent'](PAYLOADS[1])} {filler} {ENCODINGS['hex'](PAYLOADS[2])}"
    assert all(seen(payload, text) for payload in PAYLOADS)


def test_views_are_distinct_plain_first_and_bounded() -> None:
    chaos = random.Random(7)
    for _ in range(40):
        text = " ".join(ALL[name](chaos.choice(PAYLOADS)) for name in chaos.sample(sorted(ALL), 6))
        found = views(text)
        assert (found[0].name, found[0].text, found[0].depth) == ("plain", text, 0)
        assert len({view.text for view in found}) == len(found) <= MAX_VIEWS
        assert all(view.depth <= MAX_DEPTH for view in found)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=400) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_examined(text: str) -> None:
    examined = examine(text)
    assert examined.views[0].text == text
    for finding in examined.disguises:
        assert finding.family == "hidden"
        assert finding.id.startswith("hidden.")
        assert 0 < finding.score < 1


def test_lone_surrogates_and_huge_references_are_no_faults() -> None:
    for text in (
        "\ud800 a",
        "\\ud83d\\ude00 \\udc00",
        "&#" + "9" * 5000 + ";",
        "&#x110000;",
        "\\u{110000}",
        "%ff%fe%41",
    ):
        assert views(text)[0].text == text


def test_a_gate_that_fails_opens_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def Match(self, text: bytes) -> None:
            return None

    one, other = views_gate._compiled()
    for sets in ((Full(), other), (one, Full())):
        monkeypatch.setattr(views_gate, "_compiled", lambda sets=sets: sets)
        assert views_gate.gate("anything") == views_gate.ALL
    assert seen(PAYLOADS[0], ENCODINGS["base64"](PAYLOADS[0]) + " ")


def test_compressed_data_is_bounded() -> None:
    bomb = base64.b64encode(gzip.compress(b"A" * 50_000_000)).decode()
    found = examine(bomb)
    assert sum(len(view.text) for view in found.views) < 600_000
    assert [(finding.id, finding.score) for finding in found.disguises] == [("hidden.limit", 0.95)]
    twice = base64.b64encode(gzip.compress(gzip.compress(b"A" * 20_000_000))).decode()
    assert "hidden.limit" in {finding.id for finding in disguises(twice)}
    many = " ".join(base64.b64encode(gzip.compress(bytes([65 + at % 26]) * 200_000)).decode() for at in range(90))
    assert "hidden.limit" in {finding.id for finding in disguises(many)}


def test_compressed_text_of_ordinary_size_is_read_without_a_finding() -> None:
    text = json.dumps([{"id": at, "title": f"Issue {at}", "state": "open"} for at in range(300)])
    packed = base64.b64encode(gzip.compress(text.encode())).decode()
    assert any(text in view.text for view in views(packed))
    assert disguises(packed) == []
