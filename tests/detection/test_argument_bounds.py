"""Encodings hide nothing, and no argument takes more than linear time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.arguments_kit import score
from limen.detection.arguments import ArgumentRules
from limen.detection.decoded import plain
from limen.detection.roles import Role


def percent(text: str) -> str:
    return "".join(f"%{octet:02x}" for octet in text.encode())


def unicode_percent(text: str) -> str:
    return "".join(f"%u{ord(character):04x}" for character in text)


def backslash(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def references(text: str) -> str:
    return "".join(f"&#{ord(character)};" for character in text)


def fullwidth(text: str) -> str:
    return "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)


def overlong(text: str) -> str:
    return "".join(f"%{0xC0 | ord(c) >> 6:02x}%{0x80 | ord(c) & 0x3F:02x}" for c in text)


def invisible(text: str) -> str:
    return "\u200b".join(text)


ENCODINGS: list[Callable[[str], str]] = [
    percent,
    unicode_percent,
    backslash,
    references,
    fullwidth,
    overlong,
    invisible,
]
PLAIN = [
    ("path", "../../../x"), ("path", "data/../../y"), ("path", "/etc/shadow"), ("path", "/proc/self/environ"), ("id",
    "../../admin"),
    ("name", "x; rm -rf /"), ("name", "$(curl e.test)"), ("id", "1' OR '1'='1"), ("name", "{{7*7}}"), ("username",
    "*)(uid=*))(|(uid=*"),
    ("id", "1 UNION SELECT a FROM b"), ("branch", "--upload-pack=x"), ("name", "<script>x</script>"), ("subject",
    "a\r\nBcc: x@e.test"),
]  # fmt: skip


DISGUISED = [
    (name, value, encode)
    for name, value in PLAIN
    for encode in ENCODINGS
    if not (encode is fullwidth and name == "subject")  # a line break has no full-width form
]


@pytest.mark.parametrize(("name", "value", "encode"), DISGUISED)
def test_encoding_does_not_lower_the_score(name: str, value: str, encode: Callable[[str], str]) -> None:
    bare = score(name, value)
    assert bare > 0.5
    assert score(name, encode(value)) >= bare
    assert score(name, percent(encode(value))) >= bare


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLAIN), st.lists(st.sampled_from(ENCODINGS[:4]), max_size=3), st.data())
def test_partly_encoded_does_not_lower_the_score(
    plain: tuple[str, str], encodings: list[Callable[[str], str]], data: st.DataObject
) -> None:
    name, value = plain
    picked = data.draw(st.sets(st.integers(0, len(value) - 1)))
    hidden = "".join(percent(c) if at in picked else c for at, c in enumerate(value))
    for encode in encodings:
        hidden = encode(hidden)[:8000]
        if len(hidden) > 4000:
            break
    assert score(name, hidden) >= score(name, value) or len(hidden) > 4000


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["127.0.0.1", "169.254.169.254", "10.1.2.3", "192.168.0.1"]), st.integers(0, 7), st.integers(1, 4)
)
def test_every_notation_of_an_inner_address_is_seen(address: str, form: int, parts: int) -> None:
    octets = [int(part) for part in address.split(".")]
    last = int.from_bytes(bytes(octets[parts - 1 :]), "big")
    numbers = [*octets[: parts - 1], last]
    write = (str, hex, lambda n: f"0{n:o}", lambda n: f"0X{n:08X}", lambda n: f"000{n:o}")[form % 5]
    host = ".".join(write(number) for number in numbers)
    if form == 5:
        host = f"[::ffff:{address}]"
    if form == 6:
        host = f"[::ffff:{octets[0] << 8 | octets[1]:x}:{octets[2] << 8 | octets[3]:x}]"
    assert score("url", f"http://{host}/x") > 0.8, host


@settings(max_examples=300, deadline=None)
@given(st.text(), st.sampled_from(list(Role)))
def test_any_text_in_any_role_gives_probabilities(text: str, role: Role) -> None:
    assert 0.0 <= score("x", text, rule={"role": role.value}) <= 1.0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abc/.\\%2eE~:;", max_size=40))
def test_nothing_outside_its_root_is_let_through(text: str) -> None:
    """The rule agrees with what a careful reader of paths says about the plain reading."""
    import posixpath

    if score("path", text, rule={"roots": ["/srv/data"]}) < 1.0:
        end = posixpath.normpath(posixpath.join("/srv/data", text))
        assert end == "/srv/data" or end.startswith("/srv/data/")


HOSTILE = [
    "a", ";", "\n", "$(", "`", "../", "%2e", "%25", "\\u002e", "&#46;", "'", "' OR ", "/*", "--", "\u200b", "．", "{{",
    "${", "<", "=", "|", "(", "@", "A=",
    " ", "\r\n", "x.", "a:", "1.", "[", "__", "!!", "&amp;", "$$", "# ", "rm -", "curl ", "/etc/", "//", "-",
    "base64 -d", "UNION ", "(a+", "a@b.", "0x7f.",
]  # fmt: skip


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.FIXED], ids=lambda role: role.value)
def test_time_is_linear(role: Role) -> None:
    rules = ArgumentRules()
    name = {"other": "zzz", "identifier": "id", "text": "body", "destination": "endpoint", "shell": "command"}.get(
        role.value, role.value
    )

    def cost(text: str) -> float:
        start = time.process_time()
        rules.check("s/t", {"properties": {name: {}}}, {name: text})
        return time.process_time() - start

    for unit in HOSTILE:
        small, large = (unit * (size // len(unit)) + "!" for size in (12_500, 100_000))
        took = cost(large)
        if took > 0.1:  # shorter times are noise
            took = min(took, cost(large), cost(large))
        # Eight times the size; a quadratic scan would take 64 times as long.
        assert took < 0.1 or took < 40 * max(cost(small), cost(small)), (unit, took)


def test_a_long_run_of_marks_is_folded_in_linear_time() -> None:
    def cost(count: int) -> float:
        text = "a" + "\u0301" * count + "\u0316" * count  # every mark of the second half sorts before the first half
        times = []
        for _ in range(3):
            start = time.process_time()
            plain(text)
            times.append(time.process_time() - start)
        return min(times)

    assert cost(16_000) < 24 * max(cost(2_000), 0.001)  # quadratic: 64 times
    assert plain("caf\u0065\u0301") == "caf\u00e9"


def test_many_values_are_bounded_together() -> None:
    rules = ArgumentRules()
    start = time.process_time()
    found = rules.check("s/t", {}, {"name": ["|" * 8000] * 500})
    assert {finding.id for finding in found if finding.score > 0.8} >= {"argument.long"}
    assert time.process_time() - start < 10.0
