"""Personal data in text: numbers with check digits, accounts, phones, e-mail and network addresses, named fields.

A number is personal because of its check digits and of the words around it, not because of its length: order numbers,
times, digests and UUIDs have the same shapes. `LEAST` is the confidence below which nothing is reported.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from limen.core.remembered import remembered
from limen.detection import personal_checks as check
from limen.detection.personal_ids import (
    NOT_PERSONAL,
    NUMBER,
    ORDINARY,
    WORDS,
    Identifier,
    Readings,
    expression,
    places,
)
from limen.detection.sensitive_pattern import Pattern, Span

LEAST: Final = 0.5
_BEFORE: Final = 56  # bytes of context
_AFTER: Final = 20

GATE_NUMBER: Final = r"[0-9](?:[ ./+()-]{0,3}[0-9]){6}"
GATE_LETTERED: Final = r"[A-Za-z]{2}[0-9]{2}[A-Za-z0-9 ]{4}"
GATE_NINO: Final = r"[A-Za-z]{2}[ -][0-9]{2}[ -][0-9]{2}"
GATE_EMAIL: Final = r"@[A-Za-z0-9-]"
GATE_IPV4: Final = r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
GATE_IPV6: Final = r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:"
GATE_FIELD: Final = r"(?i)birth|dob|passport|geburt|naissance|nacimiento|driver|licen[cs]e|생년월일|여권|生年月日|出生"

_SHAPE: Final = re.compile(expression())
_PLACES, _PLACES_ALONE = places(alone=False), places(alone=True)
_TO_SHAPE: Final = bytes.maketrans(
    b"012345678ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", b"9" * 9 + b"A" * 52
)
_IBAN: Final = Pattern(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_EMAIL: Final = Pattern(r"[A-Za-z0-9._%+'-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}")
_PHONE: Final = Pattern(
    r"\+[0-9]{1,4}(?:[ .-]?\(?[0-9]{1,5}\)?){2,6}|\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}"
    r"|\b(?:1[ .-])?[2-9][0-9]{2}[.-][2-9][0-9]{2}[.-][0-9]{4}\b"
    r"|\b0[0-9]{1,5}(?:[ ./-]?[0-9]{2,8}){1,5}\b|\b[2-9][0-9]{9}\b"
)
_IPV4: Final = Pattern(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b")
_IPV6: Final = Pattern(r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,8}")
_DATE: Final = (
    r"[0-9]{1,4}[./ -][0-9]{1,2}[./ -][0-9]{1,4}|[0-9]{1,2}\.? [A-Za-z]{3,9},? [0-9]{4}"
    r"|[A-Za-z]{3,9} [0-9]{1,2},? [0-9]{4}"
)
_BIRTH: Final = Pattern(
    r"(?i:date[ _]of[ _]birth|birth[ _-]?da(?:te|y)|\bdob\b|\bborn(?: on)?\b|geburtsdatum|date de naissance"
    rf"|fecha de nacimiento|생년월일|生年月日|出生日期)[\"']?\s{{0,3}}[:=]?\s{{0,3}}[\"']?({_DATE})"
)
_PASSPORT: Final = Pattern(
    r"(?i:passport(?:[ _-]?(?:no|number|nr|num|id))?|여권번호|driver'?s?[ _-]licen[cs]e(?:[ _-]?(?:no|number))?)"
    r"\.?[\"']?\s{0,3}[:=#]?\s{0,3}[\"']?([A-Z0-9]{6,12})\b"
)

_NOT_PERSONAL: Final = Pattern(NOT_PERSONAL)
_PHONE_WORD: Final = Pattern(
    r"(?i)"
    r"phone|\btel\b|telef|mobile|\bmob\b|\bcell|\bfax\b|\bcall\b|whatsapp|\bsms\b|contact|handy|portable|전화|휴대|연락처|電話|手机|手機"
)
_VERSION: Final = Pattern(
    r"(?i)"
    r"version|release|==|\bver\b|~=|>="
)
_IDENTIFIER: Final = Pattern(
    r"(?i)"
    r"\bids?\b"
)
_FILE_ENDINGS: Final = frozenset(
    (
        *("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "tsx", "jsx", "mjs", "json", "md", "py", "rb"),
        *("rs", "java", "html", "htm", "xml", "yaml", "yml", "toml", "txt", "pdf", "zip", "local", "localhost"),
        *("test", "invalid", "example", "internal", "lan", "arpa", "onion"),
    )
)
_SHARED_BOXES: Final = re.compile(
    r"(?:no-?reply|do-?not-?reply|info|support|contact|admin|postmaster|webmaster|hostmaster|abuse|security|sales|help|hello|team|git"
    r"|office|press|jobs|billing|notifications?|mailer-daemon|root|user|username|name|email|you|someone|foo|bar|test|example)(?:\+.*)?",
    re.IGNORECASE,
)
_COUNTRY: Final = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42[013]|50\d|59\d|67\d|68\d|69[0-2]|85[0-36]|88\d|96\d|97\d|99\d"
)
_US_AREA: Final = re.compile(r"\+?1?[ .-]?\(?[2-9][0-8]\d\)?[ .-]?[2-9](?!11)\d{2}[ .-]?\d{4}")
_KR_PHONE: Final = re.compile(r"0(?:1[016-9]|2|[3-6]\d|70)[ .-]\d{3,4}[ .-]\d{4}")


def _around(raw: bytes, start: int, end: int, hint: str) -> bytes:
    """The words near a place, and the parameter's name with its parts as words."""
    near = (raw[max(0, start - _BEFORE) : start] + b" \x00 " + raw[end : end + _AFTER]).replace(b"_", b" ")
    return _spaced(hint) + b" " + near if hint else near


def _spaced(hint: str) -> bytes:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", hint[-128:]).replace("_", " ").replace("-", " ")
    return name.encode("utf-8", "replace")


def _apart(raw: bytes, start: int, end: int) -> bool:
    """Whether a number stands by itself and is no part of a decimal, an identifier, a path or an encoded blob."""
    before, after = raw[max(0, start - 2) : start], raw[end : end + 2]
    if before and (before[-1:].isalnum() or before[-1] in b"_-./%#+&\\$@~"):
        return before[-1] in b"-." and before[:1].isspace()
    return after[:1] not in (b"_", b"%", b"@", b"\\") and not (after[:1] in b"-./:+" and after[1:2].isalnum())


def numbers(raw: bytes, hint: str) -> Iterator[Span]:
    """Numbers of persons, cards and insurances, by shape, check digits and context."""
    reached = 0
    said = bool(WORDS.open(_spaced(hint) + b" " + raw.replace(b"_", b" ")))
    places = _PLACES if said else _PLACES_ALONE
    for found in _SHAPE.finditer(raw.translate(_TO_SHAPE)):
        start = found.start()
        if start >= reached and (readings := places[found[1]]):
            best = _judge(raw, start, readings, hint if said else None)
            if best is not None:
                yield best
                reached = best.end


def _judge(raw: bytes, start: int, places: Iterable[tuple[int, Readings]], hint: str | None) -> Span | None:
    """The best reading of a place, also of it without its last groups. `hint` is None where no word that would say
    anything about a number occurs in all of the text."""
    words: Collection[int] | None = () if hint is None else None
    for length, readings in places:
        end = start + length
        if not _apart(raw, start, end):
            continue
        if words is None:
            words = frozenset(WORDS.open(_around(raw, start, end, hint or "")))
        number = raw[start:end].translate(None, b" -./+").decode("latin-1").upper()
        kind, most = "", 0.0
        for item, formatted in readings:
            confidence = _confidence(item, formatted, number, words)
            if confidence > most:
                kind, most = item.kind, confidence
        if most >= LEAST:
            return Span(kind, start, end, round(most, 3))
    return None


def _confidence(item: Identifier, formatted: bool, number: str, words: Collection[int]) -> float:
    """How sure it is; words are looked for first, because most numbers fail there and checking digits costs more."""
    alone = item.formatted_alone if formatted else item.bare_alone
    if NUMBER[item.kind] in words:
        confidence = 0.98 if formatted else 0.95
    elif alone == 0:
        return 0.0
    else:
        confidence = alone
    if not item.valid(number):
        if item.weaker is None or not item.weaker(number):
            return 0.0
        confidence *= 0.7
    if confidence == alone and ORDINARY in words:
        return alone * 0.6 if formatted else 0.0
    return confidence


def accounts(raw: bytes, hint: str) -> Iterator[Span]:
    """International bank account numbers, in groups of four or without spaces."""
    for start, end in _IBAN.spans(raw):
        text = raw[start:end].decode("latin-1")
        length = check.IBAN_LENGTHS.get(text[:2], 0)
        compact, places = [], []
        for place, sign in enumerate(text):
            if sign != " ":
                compact.append(sign)
                places.append(place)
        if 0 < length <= len(compact) and check.iban("".join(compact[:length])):
            yield Span("iban", start, start + places[length - 1] + 1, 0.98)


def emails(raw: bytes, hint: str) -> Iterator[Span]:
    """Addresses of persons; shared mailboxes, reserved domains, file names and logins at hosts are none."""
    for start, end in _EMAIL.spans(raw):
        local, _, domain = raw[start:end].decode("latin-1").strip("'.").rpartition("@")
        labels = domain.lower().split(".")
        if re.search(rb"//[^\s/]*:$", raw[max(0, start - 80) : start]):
            continue  # the password and host of a URL
        if labels[-1] in _FILE_ENDINGS or "example" in labels or (raw[end : end + 1] == b":" and local == "git"):
            continue
        if not _SHARED_BOXES.fullmatch(local):
            yield Span("email", start, end, 0.97)


def phones(raw: bytes, hint: str) -> Iterator[Span]:
    """Numbers with a country code, of the usual US and Korean forms, or beside a word like "phone"."""
    for start, end in _PHONE.spans(raw):
        text = raw[start:end].decode("latin-1").rstrip(" .-/(")
        end = start + len(text)
        digits = re.sub(r"\D", "", text)
        if not 8 <= len(digits) <= 15 or len(set(digits)) < 3 or not _apart(raw, start, end):
            continue
        if "23456789" in digits:
            continue
        context = _around(raw, start, end, hint)
        if text.isdigit():  # could be anything: only what stands directly before says what it is
            context = (hint[-128:].encode("utf-8", "replace") + b" " + raw[max(0, start - 24) : start]).replace(
                b"_", b" "
            )
            if _IDENTIFIER.occurs(context):
                continue
        named = _PHONE_WORD.occurs(context)
        known = (
            text[0] == "+" and _COUNTRY.match(digits) is not None and (digits[0] != "1" or len(digits) == 11)
        ) or _KR_PHONE.fullmatch(text) is not None
        shaped = _US_AREA.fullmatch(text) is not None and not text.isdigit()
        if named:
            yield Span("phone", start, end, 0.95 if known or shaped else 0.8)
        elif (known or shaped) and not _NOT_PERSONAL.occurs(context):
            separated = text[0] in "+(" or not text.isdigit()
            if separated:
                yield Span("phone", start, end, 0.85 if text[0] in "+(" else 0.7)


def addresses(raw: bytes, hint: str) -> Iterator[Span]:
    """Public IPv4 addresses that are no version numbers."""
    for start, end in _IPV4.spans(raw):
        if raw[max(0, start - 1) : start] in (b".", b"v", b"V", b"-") or re.search(
            rb"\w/$", raw[max(0, start - 2) : start]
        ):
            continue
        if re.match(rb"\.[0-9]", raw[end : end + 2]):
            continue
        if _public(raw[start:end]) and not _VERSION.occurs(_around(raw, start, end, hint)):
            yield Span("ip", start, end, 0.8)


def addresses6(raw: bytes, hint: str) -> Iterator[Span]:
    """Public IPv6 addresses."""
    for start, end in _IPV6.spans(raw):
        before = raw[max(0, start - 1) : start]
        if not (before.isalnum() or before == b":") and not raw[end : end + 1].isalnum() and _public(raw[start:end]):
            yield Span("ip", start, end, 0.85)


_KNOWN_HOSTS: Final = frozenset((b"1.2.3.4", b"8.8.8.8", b"8.8.4.4", b"1.0.0.1", b"4.3.2.1"))


def _public(text: bytes) -> bool:
    try:
        address = ipaddress.ip_address(text.decode("latin-1"))
    except ValueError:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and text not in _KNOWN_HOSTS
        and (b":" in text or len(set(text.split(b"."))) > 1)
    )


def fields(raw: bytes, hint: str) -> Iterator[Span]:
    """Dates of birth, passports and driving licences after the words that name them."""
    for start, end in _BIRTH.spans(raw):
        yield Span("birth_date", start, end, 0.9)
    for start, end in _PASSPORT.spans(raw):
        if sum(48 <= byte <= 57 for byte in raw[start:end]) >= 5:
            yield Span("passport", start, end, 0.8)


_NAMED: Final = (
    (
        "birth_date",
        re.compile(r"birth ?da(?:te|y)|date of birth|\bdob\b|생년월일", re.IGNORECASE),
        re.compile(rf"(?:{_DATE})|\d{{8}}"),
    ),
    ("passport", re.compile(r"passport|여권", re.IGNORECASE), re.compile(r"(?=.*\d)[A-Z0-9]{6,12}")),
    (
        "person_name",
        re.compile(r"(?:first|last|full|family|given|maiden|patient|customer|sur) ?name\b|성명|이름", re.IGNORECASE),
        re.compile(r"[^\W\d_][^\d_@{}<>=]{1,80}"),
    ),
    (
        "postal_address",
        re.compile(r"(?:home|street|postal|mailing|billing|shipping) ?address|\bstreet\b|주소", re.IGNORECASE),
        re.compile(r"(?=.*\d)(?=.*[^\W\d_]).{6,200}", re.DOTALL),
    ),
)


@remembered(4096)
def named(hint: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The kinds of personal data a member of this name may hold, and what each looks like."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", hint[-128:]).replace("_", " ").replace("-", " ")
    return tuple((kind, shape) for kind, called, shape in _NAMED if called.search(name))


def by_name(text: str, raw: bytes, hint: str) -> Iterator[Span]:
    """The whole text, because the parameter that holds it is named for a person's data."""
    value = text.strip()
    if not value or len(value) > 200:
        return
    for kind, shape in named(hint):
        if shape.fullmatch(value):
            yield Span(kind, 0, len(raw), 0.75)
            return
