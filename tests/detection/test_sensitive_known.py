"""The vault's own values and canaries are found in every usual form; nothing else is, and nothing of them is kept."""

from __future__ import annotations

import base64
import pickle
import random
from collections.abc import Callable
from urllib.parse import quote

import pytest
from sensitive_material import build, pem

from limen.detection.sensitive import KnownSecrets, mint_canary, redact

VALUE = build("vk_{a30}/+{a6}", random.Random(1)).encode()


def known(*values: bytes) -> KnownSecrets:
    held = KnownSecrets()
    for value in values or (VALUE,):
        held.add(value)
    return held


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "reversed": lambda v: v[::-1],
    "upper case": str.upper,
    "hex": lambda v: v.encode().hex(),
    "hex, upper": lambda v: v.encode().hex().upper(),
    "hex with colons": lambda v: v.encode().hex(":"),
    "escapes": lambda v: "".join(f"\\x{b:02x}" for b in v.encode()),
    "unicode escapes": lambda v: "".join(f"\\u{ord(c):04X}" for c in v),
    "percent": lambda v: quote(v, safe=""),
    "every sign percent": lambda v: "".join(f"%{b:02X}" for b in v.encode()),
    "entities": lambda v: "".join(f"&#{ord(c)};" for c in v),
    "codes": lambda v: ", ".join(str(ord(c)) for c in v),
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64 after one": lambda v: base64.b64encode(b"k" + v.encode() + b"tail").decode(),
    "base64 after two": lambda v: base64.urlsafe_b64encode(b"k=" + v.encode()).decode(),
    "base64 in lines": lambda v: base64.encodebytes(b"x" * 50 + v.encode() * 2).decode(),
    "base64 reversed": lambda v: base64.b64encode(v.encode()).decode()[::-1],
    "base64 of reversed": lambda v: base64.b64encode(v[::-1].encode()).decode(),
    "base64 twice": lambda v: base64.b64encode(base64.b64encode(v.encode())).decode(),
    "base32 labels": lambda v: ".".join(
        base64.b32encode(v.encode()).decode().lower()[i : i + 20] for i in range(0, 80, 20)
    ),
    "rot13": lambda v: __import__("codecs").encode(v, "rot13"),
    "sign by sign": lambda v: " ".join(v),
    "chunks in names": lambda v: "/".join(v[i : i + 4] for i in range(0, len(v), 4)) + ".txt",
    "fields": lambda v: f'"{v[:9]}", "{v[9:20]}", "{v[20:]}"',
    "first half": lambda v: f"part one is {v[: len(v) // 2]} and that is it",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_known_value_is_found_in_its_forms(form: str) -> None:
    sent = FORMS[form](VALUE.decode())
    text = f"결과: see {sent} end"
    hits = known().find(text)
    assert hits
    assert {(hit.kind, hit.family) for hit in hits} == {("known_secret", "secret")}
    assert hits[0].confidence >= 0.8
    assert redact(text, hits).startswith("결과: see ") or "half" in form
    assert not known(build("{a40}", random.Random(2)).encode()).find(text)


def test_places_are_exact() -> None:
    text = f"größer {VALUE.decode()} ende"
    (hit,) = known().find(text)
    assert text[hit.start : hit.end] == VALUE.decode()


def test_ordinary_and_random_text_is_not_found() -> None:
    dice = random.Random(3)
    held = known(*(build("{a32}", dice).encode() for _ in range(300)))
    for _ in range(50):
        assert not held.find(build("{b4000}", dice))
    assert not held.find("The quick brown fox jumps over the lazy dog. " * 200)


def test_a_key_file_is_found_by_its_middle_and_its_header_is_not_enough() -> None:
    key = pem(random.Random(4))
    held = known(key.encode())
    assert held.find(f"x {key} y")
    assert held.find(key.replace("\n", "\\n"))
    assert held.find(base64.b64encode(b"abc" + key.encode()).decode())
    assert not held.find(pem(random.Random(5)))


def test_a_canary_says_that_it_is_one() -> None:
    held, canary = KnownSecrets(), mint_canary()
    held.add(canary, "canary")
    assert [hit.kind for hit in held.find(f"leak {canary.decode()}")] == ["canary"]
    assert mint_canary() != canary


@pytest.mark.parametrize("value", [b"", b"short", b"aaaaaaaaaaaa", b"--------------", b"x" * 70_000])
def test_values_that_text_holds_by_chance_are_refused(value: bytes) -> None:
    held = KnownSecrets()
    with pytest.raises(ValueError):
        held.add(value)
    assert not held.find("aaaaaaaaaaaa short ------------------")


def test_values_are_not_kept() -> None:
    held = known()
    held.add(VALUE)
    assert len(held) == 1
    state = pickle.dumps((held._forms, held._values, held._filter.tobytes(), repr(held)))
    assert VALUE not in state
    assert VALUE[:8] not in state
    assert VALUE.lower()[:8] not in state


def test_sets_do_not_share_their_key() -> None:
    assert known()._values != known()._values
