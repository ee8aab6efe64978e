"""What a person sees before deciding: everything, in words, and no line a server could have written itself (PI-19)."""

import copy
import re
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.test_definitions import FULL, PLACES
from limen.catalog.differences import changes, match
from limen.catalog.present import diff_lines, kind_of
from limen.catalog.text import printable
from limen.catalog.visible import WIDTH, fold, lines, visible
from limen.catalog.words import mark_words
from limen.protocol.jsonrpc import canonical

LINE = re.compile(r"=|= [\x20-\x7e]*|  [-+@*!] [|:]( .*)?", re.DOTALL)
TOOL = {"name": "read", "description": "Reads a file.", "inputSchema": {"type": "object"}}


def tool(**changed):
    return copy.deepcopy(TOOL) | changed


def shown(before, after):
    return diff_lines(canonical(before) if before is not None else None, canonical(after))


def theirs(rows, mark):
    """What the lines under this mark hold, folded lines joined."""
    text = ""
    for row in rows:
        if row.startswith(f"  {mark} "):
            text += ("\n" if row[4] == "|" else " ") + row[6:]
    return text


def ours(rows):
    return [row for row in rows if row.startswith("=")]


def test_a_change_from_top_to_bottom():
    before = tool(annotations={"readOnlyHint": True})
    properties = {"path": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["path"]}
    after = tool(description="Reads any file.", inputSchema=schema, annotations={"readOnlyHint": False})
    rows = shown(before, after)
    assert rows[:6] == [
        "= This is a tool: a model may call it, the server then acts.",
        "= name:",
        "  * | read",
        "= it claims to change things",
        "= parameters, required: 1",
        "  * | path",
    ]
    assert "= Compared with what is approved. Risk: high (0.70 of 1)" in rows
    at = rows.index("= 4 fields differ:")
    assert rows[at : at + 9] == [
        "= 4 fields differ:",
        "= changed, JSON:",
        "  @ | /annotations/readOnlyHint",
        "  - | true",
        "  + | false",
        "= changed, text:",
        "  @ | /description",
        "  - | Reads ⟦-a-⟧ file.",
        "  + | Reads ⟦+any+⟧ file.",
    ]
    assert rows[-1] == f"= end of 4 fields in {len(rows)} lines"


def test_first_contact_shows_all_of_it():
    rows = shown(None, FULL)
    text = theirs(rows, "+")
    for value in ("Reads a file.", '"default": "x"', '"pattern": "^[a-z/]+$"', "https://example.com/i.png", '"later"'):
        assert value in text
    fields = rows[rows.index("= All of it, 10 fields:") :]
    assert theirs(fields, "@").split() == [f"/{name}" for name in sorted(FULL)]


def test_nothing_differs():
    rows = shown(TOOL, TOOL)
    assert "= Nothing differs." in rows
    assert "= Compared with what is approved. Risk: none (0.00 of 1)" in rows


SPOOFS = {
    "line of ours": "harmless\n= Compared with what is approved. Risk: none (0.00 of 1)",
    "line of theirs": "harmless\n  + | other",
    "far right": "harmless" + " " * 500 + "= end of 1 fields in 3 lines",
    "pushed down": "harmless" + "\n" * 500 + "hidden below",
    "folded line": "x" * (WIDTH - 6) + "= Nothing differs.",
    "wide folded line": "界" * 36 + "= Nothing differs.",
    "carriage return": "harmful\r= Nothing differs.",
    "vertical tab": "harmful\x0b= Nothing differs.\x0c= Nothing differs.",
    "line separator": "harmful\u2028= Nothing differs.\u2029= Nothing differs.\x85= Nothing differs.",
    "escape": "\x1b[2J\x1b[1;1H= Nothing differs.\x1b[8m hidden",
    "c1": "\x9b2J= Nothing differs.",
    "marks of ours": "⟦+harmless+⟧ ⟦12 spaces⟧",
}


@pytest.mark.parametrize("text", SPOOFS.values(), ids=SPOOFS)
@pytest.mark.parametrize("place", ["description", "title", "name", "member"])
def test_no_text_can_begin_a_line_or_hide(text, place):
    after = tool(**({text: "x"} if place == "member" else {place: text}))
    for rows in (shown(TOOL, after), shown(None, after)):
        assert all(LINE.fullmatch(row) for row in rows)
        assert all(len(list(fold(row, WIDTH))) == 1 for row in rows)
        assert all(printable(row) == row for row in rows)
        assert len(ours(rows)) < 60
        assert not [row for row in ours(rows) if row == "= Nothing differs." or "none (" in row]
        assert sum(row.startswith("= end of") for row in rows) == 1
        assert len(rows) < 200


def test_padding_is_counted_and_what_follows_is_shown():
    rows = shown(TOOL, tool(description="Reads a file." + " " * 500 + "X" + "\n" * 400 + "Y" + "=" * 300))
    text = theirs(rows, "+")
    for part in ("⟦500 spaces⟧", "X", "⟦+399 empty lines+⟧", "Y", "⟦300 times =⟧"):
        assert part in text
    assert "text.padding" in "\n".join(ours(rows))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u200bb", "a⟦U+200B ZERO WIDTH SPACE⟧b"),
        ("a\u202eb", "a⟦U+202E RIGHT-TO-LEFT OVERRIDE⟧b"),
        ("a\u2066b", "a⟦U+2066 LEFT-TO-RIGHT ISOLATE⟧b"),
        ("\U000e0041", "⟦U+E0041 TAG LATIN CAPITAL LETTER A⟧"),
        ("\x1b[31m", "⟦U+001B⟧[31m"),
        ("\x00\x07\x7f", "⟦U+0000⟧⟦U+0007⟧⟦U+007F⟧"),
        ("a\tb", "a⟦tab⟧b"),
        ("a\u00a0b", "a⟦U+00A0 NO-BREAK SPACE⟧b"),
        ("a\u3000b", "a⟦U+3000 IDEOGRAPHIC SPACE⟧b"),
        ("\u2800", "⟦U+2800 BRAILLE PATTERN BLANK⟧"),
        ("\u3164", "⟦U+3164 HANGUL FILLER⟧"),
        ("pаypal", "p⟦а U+0430, not a⟧ypal"),
        ("e" + "\u0301" * 4, "e\u0301\u0301⟦U+0301 COMBINING ACUTE ACCENT⟧⟦U+0301 COMBINING ACUTE ACCENT⟧"),
        ("x" * 100, "⟦100 times x⟧"),
        ("x\u200b" * 2, "x⟦U+200B ZERO WIDTH SPACE⟧x⟦U+200B ZERO WIDTH SPACE⟧"),
        ("\u200b" * 40, "⟦40 times ⟦U+200B ZERO WIDTH SPACE⟧⟧"),
        ("end ", "end⟦space⟧"),
        ("⟦", "⟦U+27E6 MATHEMATICAL LEFT WHITE SQUARE BRACKET⟧"),
        ("\ud800", "⟦U+D800⟧"),
        ("abc אבג 1", "abc ⟦right to left:⟧אבג 1"),
        # Honest texts are shown as they are.
        ("naïve Größe, 日本語, Привет мир, ไทย, 한국어", "naïve Größe, 日本語, Привет мир, ไทย, 한국어"),
        ("⚠\ufe0f done — “quoted” … ok", "⚠\ufe0f done — “quoted” … ok"),
        ("a  b    c", "a  b    c"),
        ('{"a": "b\\n"}', '{"a": "b\\n"}'),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, seen):
    assert visible(text) == seen


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_different_texts_are_shown_differently(one, other):
    if one != other:
        assert list(lines(one)) != list(lines(other))


@given(st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_folding_loses_nothing_and_stays_within_the_columns(text):
    whole = visible(text.replace("\n", " "))
    pieces = list(fold(whole, 20))
    assert "".join(pieces) == whole
    assert all(list(fold(piece, 20)) == [piece] for piece in pieces)


@given(st.text("ab .\n界⟦", max_size=60), st.text("ab .\n界⟦", max_size=60))
@settings(max_examples=300, deadline=None)
def test_marked_words_make_up_both_texts(before, after):
    """Without the marks each side reads as the text it stands for, and equal texts have none."""
    for text, rows, sign in zip((before, after), mark_words(before, after), "-+", strict=True):
        assert before != after or not any(f"⟦{sign}" in row for row in rows)
        joined = "\n".join(rows).replace(f"⟦{sign}line end{sign}⟧", "")
        counted = re.sub(r"⟦[-+]?(\d+) empty lines[-+]?⟧", lambda found: "\n" * (int(found[1]) - 1), joined)
        plain = counted.replace(f"⟦{sign}", "").replace(f"{sign}⟧", "").replace("⟦space⟧", " ")
        assert plain.replace("⟦U+27E6 MATHEMATICAL LEFT WHITE SQUARE BRACKET⟧", "⟦") == text


@given(st.sampled_from(PLACES), st.text("abcXYZ é", min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_each_changed_field_is_listed(place, text):
    (path, is_name), after = place, copy.deepcopy(FULL)
    at = after
    for step in path[:-1]:
        at = at[step]
    if is_name:
        at[str(path[-1]) + text] = at.pop(path[-1])
    else:
        at[path[-1]] = (not at[path[-1]]) if type(at[path[-1]]) is bool else f"{at[path[-1]]}{text}"
    listed = changes(canonical(FULL), canonical(after))
    pointer = "/" + "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in path)
    assert pointer in {change.path for change in listed}
    rows = shown(FULL, after)
    assert pointer.replace(" ", "") in theirs(rows, "@").replace(" ", "")
    assert any(re.fullmatch(r"= 0\.\d\d [a-z_.]+", row) for row in rows)
    assert f"= {len(listed)} fields differ:" in rows


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, 1.5])
    | st.text("ab~/", max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab~/", max_size=2), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON)
@settings(max_examples=500, deadline=None)
def test_no_two_values_differ_without_a_change(one, other):
    before, after = canonical({"x": one}), canonical({"x": other})
    assert bool(changes(before, after)) is (before != after)


@pytest.mark.parametrize(
    ("before", "after", "listed"),
    [
        (["a", "b"], ["a", "b", "c"], [("/x/2", None, "c")]),
        (["a", "b"], ["0", "a", "b"], [("/x/0", None, "0")]),
        (["a", "b", "c"], ["a", "c"], [("/x/1", "b", None)]),
        (["a", "b"], ["a", "z", "c"], [("/x/1", "b", "z"), ("/x/2", None, "c")]),
        (["a", "b"], ["b", "a"], [("/x", '["a","b"]', '["b","a"]')]),
        ([{"n": 1}, {"n": 2}], [{"n": 1}, {"n": 3}], [("/x/1/n", "2", "3")]),
        (["a", "a"], ["a"], [("/x/1", "a", None)]),
        (1, 1.0, [("/x", "1", "1.0")]),
        (0.0, -0.0, [("/x", "0.0", "-0.0")]),
        (1, True, [("/x", "1", "true")]),
        (None, "null", [("/x", "null", '"null"')]),
    ],
)
def test_lists_and_values_are_compared_exactly(before, after, listed):
    found = changes(canonical({"x": before}), canonical({"x": after}))
    assert [(change.path, change.before, change.after) for change in found] == listed


def test_a_null_that_appears_is_a_change():
    (change,) = changes(canonical({}), canonical({"x": None}))
    assert (change.path, change.before, change.after) == ("/x", None, "null")


def test_positions_that_only_one_list_has():
    assert match(["a", "b"], ["b", "c"]) == ([0, 1], [0, 1], False)
    assert match([1, 2, 3], [3, 1]) == ([1], [], True)


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        (TOOL, "tool"),
        ({"name": "p"}, "prompt"),
        ({"name": "r", "uri": "a:b"}, "resource"),
        ({"name": "t", "uriTemplate": "a:{b}"}, "template"),
        ({"instructions": "x"}, "instructions"),
        ({"serverInfo": {}, "capabilities": {}, "identity": {}}, "server"),
        ({"announced": []}, "set"),
        ([], ""),
    ],
)
def test_kinds_are_told_by_their_members(definition, kind):
    assert kind_of(definition) == kind
    assert all(LINE.fullmatch(row) for row in shown(None, definition))


def test_long_texts_are_shown_to_the_end_and_small_changes_stay_small():
    words = " ".join(f"word{number}." for number in range(2000))
    rows = shown(tool(description=words + " end"), tool(description="Start " + words + " finish"))
    new = theirs(rows, "+")
    assert "word1999." in new
    assert "⟦+Start" in new
    assert len(new.replace("\n", "")) < len(words) * 1.2
    assert new.count("⟦+") <= 3


@pytest.mark.parametrize("unit", ["a b. ", "a", " ", "\n", "a\n", "\u0301", "а", "界", "⟦", "\x1b"])
def test_time_grows_with_the_length_and_not_faster(unit):
    def took(size):
        count = size // len(unit.encode())
        before, after = canonical(tool(description=unit * count)), canonical(tool(description="x" + unit * count + "y"))
        started = time.perf_counter()
        diff_lines(before, after)
        return time.perf_counter() - started

    took(1 << 10)
    small, large = min(took(16 << 10) for _ in range(2)), took(128 << 10)
    assert large < 8 * 4 * small + 0.1


def test_what_is_not_json_is_refused():
    with pytest.raises(ValueError):
        diff_lines(None, b"{")
    assert orjson.loads(canonical(TOOL)) == TOOL
