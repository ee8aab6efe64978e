"""Scanning is cheap on clean text and linear on hostile text."""

from __future__ import annotations

import random
import time

import pytest
from sensitive_material import TEMPLATES, build

from limen.detection.sensitive import FORMATS, KnownSecrets, find, settle
from limen.detection.sensitive_hit import Hit
from limen.detection.sensitive_pattern import Gate, Pattern

CLEAN = "The weather in the city was fine, and the meeting about the roadmap went well for everybody. "


def cost(text: str, scan: object = find) -> float:
    """Seconds of processor time, the best of two."""
    best = float("inf")
    for _ in range(2):
        begun = time.process_time()
        scan(text)  # type: ignore[operator]
        best = min(best, time.process_time() - begun)
    return best


HOSTILE = {
    "prefixes": "".join(gate for form in FORMATS for gate in form.gate if gate.isalnum()),
    "aws": "AKIA",
    "jwt": "eyJhbGciOiJ.",
    "jwe": "eyJaaaaaaaaaaa..",
    "pem": "-----BEGIN PRIVATE KEY-----",
    "pem open": "-----BEGIN RSA PRIVATE KEY-----\nAAAA",
    "putty": "PuTTY-User-Key-File-",
    "url": "https://a",
    "url user": "postgres://aaaa:bbbb",
    "connection": "server=a;password",
    "password words": "password token secret api_key=",
    "assignments": "password=",
    "at": "a@",
    "mail": "a@b.",
    "digits": "4111 ",
    "digits dense": "1234567890",
    "ssn": "536-90-4399 ",
    "groups": "1-2 3.4/",
    "phones": "+1 ",
    "ips": "1.2.3.4.",
    "colons": "a:",
    "iban": "DE89 ",
    "letters": "AB12 CD34 ",
    "curl": "curl -u ",
    "unicode": "비밀번호 = ",
    "open quotes": "token=\"'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_costs_in_proportion_to_its_length(name: str) -> None:
    unit = HOSTILE[name]
    small, large = ((unit * (size // len(unit) + 1))[:size] for size in (8_000, 64_000))
    find(small)
    assert cost(large) <= 8 * max(cost(small), 0.002) * 3
    assert cost(large) / 64 < 0.02  # 20 ms a KB would be an attack


def test_clean_text_is_a_small_part_of_text_full_of_secrets() -> None:
    dice = random.Random(1)
    full = " ".join(build(template, dice) for template in TEMPLATES.values())
    clean = (CLEAN * 1000)[: len(full) * 10]
    assert cost(clean) < cost(full * 10) / 4
    assert cost(clean) / (len(clean) / 1024) < 0.000_5


def test_known_values_cost_the_same_however_many_they_are() -> None:
    dice = random.Random(2)
    one, many = KnownSecrets(), KnownSecrets()
    one.add(build("{a32}", dice).encode())
    for _ in range(500):
        many.add(build("{a32}", dice).encode())
    text = CLEAN * 1000
    assert cost(text, many.find) < 12 * cost(text, one.find)


def test_many_hits_are_settled_in_linear_time() -> None:
    hits = [Hit("card", "pii", place, place + 50, 0.9) for place in range(50_000)]
    begun = time.process_time()
    assert len(settle(hits)) == 1
    assert time.process_time() - begun < 2


def test_a_gate_that_fails_opens_everything() -> None:
    gate = Gate(("abc", "xyz"))
    assert sorted(gate.open(b"..xyz..")) == [1]
    assert not list(gate.open(b"none"))
    gate._set = type("Broken", (), {"Match": staticmethod(lambda raw: [])})()
    assert sorted(gate.open(b"none")) == [0, 1]


def test_a_search_from_the_middle_still_sees_what_stands_before() -> None:
    pattern = Pattern(r"\b[0-9]{2}\b")
    assert pattern.after(b"a12 34", 1) == (4, 6)
    assert Pattern("^x").after(b"axx", 1) is None
