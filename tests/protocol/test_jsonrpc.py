"""Strict JSON: whatever could be read in two ways is refused; everything else survives unchanged."""

import json

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.protocol.jsonrpc import JsonLimits, NotJson, _Walk, canonical, parse, render

AMBIGUOUS = {
    "duplicate name": b'{"name":"a","name":"b"}',
    "duplicate by escape": b'{"name":"a","na\\u006de":"b"}',
    "case variant": b'{"name":"a","Name":"b"}',
    "long s folds to s": '{"params":1,"param\u017f":2}'.encode(),
    "trailing NUL": b'{"name":"a","name\\u0000":"b"}',
    "nested": b'{"a":[{"x":{"k":1,"K":2}}]}',
    "NaN": b'{"a":NaN}',
    "Infinity": b"[Infinity]",
    "overflow": b"[1e999]",
    "negative overflow": b"[-1e999]",
    "too many digits": b"[" + b"9" * 65 + b"]",
    "20000 digits": b"[" + b"9" * 20000 + b"]",
    "lone surrogate": b'["\\ud800"]',
    "invalid utf-8": b'["\xff"]',
    "overlong utf-8": b'["\xc0\xaf"]',
    "BOM": b"\xef\xbb\xbf{}",
    "utf-16": '{"a":1}'.encode("utf-16"),
    "two values": b"{} {}",
    "trailing comma": b"[1,]",
    "comment": b"{/*x*/}",
    "single quotes": b"{'a':1}",
    "control character": b'["a\x01b"]',
    "empty": b"",
    "deep arrays": b"[" * 65 + b"]" * 65,
    "very deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "many members": ("{" + ",".join(f'"k{i}":0' for i in range(10_001)) + "}").encode(),
    "long string": b'["' + b"a" * ((1 << 20) + 1) + b'"]',
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(NotJson):
        parse(data)


def test_the_limits_themselves_are_allowed() -> None:
    assert parse(b"[" * 64 + b"]" * 64)
    assert parse(b"[" + b"9" * 64 + b"]") == [int("9" * 64)]
    assert len(parse(b'["' + b"a" * (1 << 20) + b'"]')[0]) == 1 << 20
    with pytest.raises(NotJson):
        parse(b"[1,2]", JsonLimits(size=4))


def test_numbers_survive() -> None:
    data = b"[9007199254740993,1.0,-0.0,123456789012345678901234567890,0.1,1e-7]"
    assert render(parse(data)) == b"[9007199254740993,1.0,-0.0,123456789012345678901234567890,0.1,1e-07]" or (
        json.loads(render(parse(data))) == json.loads(data)
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**63), 10**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh", min_size=1, max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


NAMES = st.sampled_from(["a", "A", "\u017f", "s", "a\0", "\u0130", "i\u0307", "n" * 30, "{", "[,:"])
HOSTILE = st.recursive(
    st.none()
    | st.integers(-(10**70), 10**70)
    | st.sampled_from([1e300, -1e-300, 1e9, 123456789.5e5])
    | st.text("a{}[],:\0e9", max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=30,
)
LIMITS = st.builds(
    JsonLimits,
    depth=st.integers(1, 8),
    members=st.integers(1, 40),
    string=st.integers(1, 400),
    digits=st.integers(1, 70),
)


@given(HOSTILE, LIMITS, st.booleans())
def test_the_short_cut_refuses_exactly_what_measuring_refuses(value: object, limits: JsonLimits, fold: bool) -> None:
    data = render(value)

    def measured() -> str:
        try:
            _Walk(limits, fold).visit(jiter.from_json(data, catch_duplicate_keys=True), 1)
        except NotJson:
            return "refused"
        return "taken"

    try:
        parse(data, limits, fold_names=fold)
    except NotJson:
        assert measured() == "refused"
    else:
        assert measured() == "taken"


@pytest.mark.parametrize("number", [b"1e999", b"1E99", b"0.1e+400", b"1.e9", b"1" * 400, b"9" * 18 + b"e9", b"1e9"])
def test_numbers_at_the_edge_of_the_short_cut(number: bytes) -> None:
    try:
        value = parse(b"[" + number + b"]")[0]
    except NotJson:
        return
    assert value - value == 0


@given(VALUES)
def test_rendering_and_parsing_agree(value: object) -> None:
    assert parse(render(value)) == value
    assert canonical(parse(render(value))) == canonical(value)
