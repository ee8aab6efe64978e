"""Names and letters a reader takes for each other, and honest ones that only resemble each other."""

import time
import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import limen.catalog
from limen.catalog.lookalike import lookalike_letters, normal, plain, skeleton, squat_key
from limen.catalog.neighbours import Neighbours
from limen.catalog.risk import LEVELS, assess
from limen.protocol.jsonrpc import canonical

TABLE = Path(limen.catalog.__file__).with_name("confusables.txt")
# Changes only when derive_confusables.py was run again: then the decision about the table is looked at again, too.
DIGEST = "df0c6fc2c7ce64a2bea9e50b8abaa921694d772fa43b325957a2d81f769917a3"


def first_contact(server, name, *known, kind="tool"):
    definition = {"name": name, "inputSchema": {"type": "object"}}
    return assess(server, kind, name, None, canonical(definition), Neighbours(known))


def ids(assessment):
    return {finding.id for finding in assessment.findings}


def test_the_table_is_the_one_that_was_derived():
    assert sha256(TABLE.read_bytes()).hexdigest() == DIGEST
    assert "Unicode 17.0" in TABLE.read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("раypal", "paypal"),  # Cyrillic р and а
        ("modern", "rnodern"),
        ("read_fi1e", "read_file"),
        ("read_fiIe", "read_file"),
        ("l0gin", "lOgin"),
        ("ｃｏｐｙ", "copy"),  # full width
        ("𝐬𝐞𝐧𝐝", "send"),  # mathematical
        ("se\u200bnd", "send"),
        ("se\u00adnd", "send"),
        ("café", "cafe\u0301"),
        ("ϲopy", "copy"),
    ],
)
def test_what_looks_the_same_has_one_skeleton(one, other):
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("read_file", "write_file"),
        ("get_user", "get_users"),
        ("list_items", "list_item"),
        ("café", "cafe"),
        ("ping", "pong"),
        ("Ä", "A"),
    ],
)
def test_what_looks_different_has_two(one, other):
    assert skeleton(one) != skeleton(other)
    assert squat_key(one) != squat_key(other)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_a_skeleton_is_its_own_skeleton(text):
    """UTS #39: prototypes are not mapped further."""
    assert skeleton(skeleton(text)) == skeleton(text)


@pytest.mark.parametrize(
    "name", ["Read-File", "read__file", "readFile", "read.file", "reead_file", "read_f1le", "rеad_file", "READ_FILE"]
)
def test_squatted_names_share_a_key(name):
    assert squat_key(name) == squat_key("read_file")


@pytest.mark.parametrize(
    ("one", "other"), [("step_1", "step_11"), ("get_user", "get_users"), ("v1", "v2"), ("open", "close")]
)
def test_honest_relatives_have_keys_of_their_own(one, other):
    assert squat_key(one) != squat_key(other)


def test_plain_text_keeps_ascii_and_honest_alphabets():
    assert plain("Ignоrе ｔｈｅ rules\u200b, modern 10") == "Ignore the rules, modern 10"
    assert plain("日本語 für Москва") == normal("NFKC", plain("日本語 für Москва"))
    assert "日本語" in plain("日本語")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("pаypal", ["a"]),
        ("сору", ["c", "o", "p", "y"]),
        ("это файл", []),
        ("naïve café, Größe", []),
        ("plain", []),
        ("日本語の口", []),
    ],
)
def test_letters_that_pose(text, letters):
    assert [shown for _, shown in lookalike_letters(text)] == letters


# Names of one server beside names of another, and what is said about the one that comes later.


@pytest.mark.parametrize(
    ("server", "name", "known", "expected", "at_least"),
    [
        ("evil", "read_fi1e", ("files", "tool", "read_file"), "name.lookalike", "high"),
        ("evil", "rnail_send", ("post", "tool", "mail_send"), "name.lookalike", "high"),
        ("evil", "send_emaiI", ("post", "tool", "send_email"), "name.lookalike", "high"),
        ("evil", "send__email", ("post", "tool", "send_email"), "name.variant", "medium"),
        ("evil", "Send-Email", ("post", "tool", "send_email"), "name.variant", "medium"),
        ("evil", "sendd_email", ("post", "tool", "send_email"), "name.lookalike", "high"),
        ("evil", "s3nd_email", ("post", "tool", "send_email"), "name.lookalike", "high"),
        ("evil", "send_email", ("post", "tool", "send_email"), "name.shadow", "medium"),
        ("evil", "post__send_email", ("post", "tool", "send_email"), "name.prefix", "medium"),
        ("evil", "mcp__post__send_email", ("post", "tool", "send_email"), "name.prefix", "medium"),
        ("a", "b__c", ("a__b", "tool", "c"), "name.prefix", "medium"),
        ("post", "send-email", ("post", "tool", "send_email"), "name.variant", "medium"),
        ("evil", "send_email", ("post", "prompt", "send_email"), "", ""),
        ("other", "write_file", ("files", "tool", "read_file"), "", ""),
        ("other", "get_users", ("people", "tool", "get_user"), "", ""),
        ("people", "get_user_2", ("people", "tool", "get_user_1"), "", ""),
        ("people", "get_user", ("people", "tool", "get_user"), "", ""),
    ],
)
def test_names_beside_others(server, name, known, expected, at_least):
    assessment = first_contact(server, name, known, (server, "tool", name))
    found = {one for one in ids(assessment) if one.startswith("name.")}
    assert found == ({expected} if expected else set())
    least = LEVELS.index(at_least or "none")
    assert least <= LEVELS.index(assessment.level)
    assert expected or LEVELS.index(assessment.level) < LEVELS.index("medium")


@pytest.mark.parametrize(
    ("other", "suspected"), [("github", False), ("git-hub", True), ("glthub", True), ("gitlab", False)]
)
def test_servers_named_like_others(other, suspected):
    record = canonical({"serverInfo": {"name": "x"}, "capabilities": {}, "identity": {}})
    found = ids(assess(other, "server", "", None, record, Neighbours([("github", "tool", "search")])))
    assert ("server.lookalike" in found) is suspected


def test_addresses_of_resources_are_compared_by_sight_only():
    known = Neighbours([("docs", "resource", "docs://page/l")])
    record = canonical({"uri": "docs://page/1", "name": "x"})
    assert "name.lookalike" in ids(assess("s", "resource", "docs://page/1", None, record, known))
    record = canonical({"uri": "docs://pa/ge/l", "name": "x"})
    assert "name.lookalike" not in ids(assess("s", "resource", "docs://pa/ge/l", None, record, known))


def test_an_index_of_nothing_finds_nothing():
    assert ids(first_contact("s", "read_file")) == {"contact.first"}


HOSTILE = {
    "marks": "\u0301\u0316",  # canonical ordering of a long run takes quadratic time in the standard library
    "cyrillic": "а",
    "mixed": "aа",
    "ligature": "ﷺ",
    "ascii": "rn",
    "separators": "_-",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_the_length_and_not_faster(unit):
    def took(size):
        text = unit * (size // len(unit.encode()))
        best = 1e9
        for _ in range(2):
            started = time.perf_counter()
            skeleton(text)
            squat_key(text)
            plain(text)
            list(lookalike_letters(text))
            best = min(best, time.perf_counter() - started)
        return best

    skeleton("а")  # loads the table
    small, large = took(16 << 10), took(128 << 10)
    assert large < 8 * 4 * small + 0.05  # eight times the text: linear takes 8 times as long, quadratic 64 times


def test_long_runs_of_marks_stay_normalised_where_it_matters():
    for text in ("e\u0301", "\u1ea5" * 10, "a" + "\u0301\u0316" * 10):
        assert normal("NFD", text) == unicodedata.normalize("NFD", text)
