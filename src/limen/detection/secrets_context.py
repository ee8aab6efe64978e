"""Secrets without a format of their own: a value that looks random or chosen, beside a word that calls it secret.

Randomness alone says nothing: digests, identifiers and compressed data are random too. So it counts only with the word.
Values that stand for a secret in documentation, code and templates do not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from limen.core.remembered import remembered
from limen.detection.sensitive_pattern import Pattern, Span

_PASSWORD_WORD: Final = (
    r"passw(?:or)?d|passphrase|passcode|pwd|kennwort|passwort|mot[ _]de[ _]passe|contraseña|senha|hasło|wachtwoord"
    r"|비밀번호|パスワード|密码|密碼|пароль"
)
_KEY_WORD: Final = (
    r"api[ _.-]?key|apikey|access[ _.-]?key|secret[ _.-]?key|private[ _.-]?key|signing[ _.-]?key|encryption[ _.-]?key"
    r"|master[ _.-]?key|account[ _.-]?key|auth[ _.-]?key|[a-z0-9]*secret|[a-z0-9]*token|credentials?"
    r"|\bauth\b|_auth\b|bearer"
)
GATES: Final = (
    *("(?i)passw", "(?i)passphrase", "(?i)passcode", "(?i)pwd", "(?i)kennwort", "(?i)mot[ _]de[ _]passe", "(?i)senha"),
    *("(?i)contraseña", "(?i)hasło", "(?i)wachtwoord", "비밀번호", "パスワード", "密码", "密碼", "пароль"),
    *(
        "(?i)[_. -]key",
        "(?i)apikey",
        "(?i)accesskey",
        "(?i)secret",
        "(?i)token",
        "(?i)credential",
        "(?i)auth",
        "(?i)bearer ",
        "curl",
        "sshpass",
        "mysql",
    ),
)

# word, at most a short rest of the name, a sign of assignment, perhaps an opening quote, the value
_ASSIGNED: Final = r"[\w.-]{{0,24}}(?:\\?[\"'`]|\])?\s{{0,3}}(?::=|=>|=|:|\bis\b)\s{{0,3}}(?:\\?[\"'`])?({value})"
_PASSWORD: Final = Pattern(rf"(?i:{_PASSWORD_WORD})" + _ASSIGNED.format(value=r"[^\s\"'`<>,\\]{6,128}"))
_KEY: Final = Pattern(rf"(?i:{_KEY_WORD})" + _ASSIGNED.format(value=r"[A-Za-z0-9_.~+/=%:@!#$^&*|-]{16,1000}"))
_HEADER: Final = Pattern(r"(?i:\b(?:bearer|basic|token|apikey|digest)\s{1,3})([A-Za-z0-9_.~+/=-]{16,1000})")
_COMMAND: Final = Pattern(
    r"(?:(?i:--(?:password|passwd|token|secret|api-key)[= ])"
    r"|\bcurl\b[^\n]{0,200}?\s(?:-u|--user)[= ]?[\"']?[^\s:\"']{1,80}:"
    r"|\bsshpass\s+-p\s*|\bmysql\b[^\n]{0,100}?\s-p)[\"']?([^\s\"'<>]{6,128})"
)

_HINT_PASSWORD: Final = re.compile(
    r"pass(?:w|phrase|code)|pwd|kennwort|contrase|senha|비밀번호|密码|パスワード", re.IGNORECASE
)
_HINT_KEY: Final = re.compile(
    r"secret|api_?key|access_?key|private_?key|credential|auth(?!or)|bearer|(?:^|_)(?:token|key|jwt|pat)$|(?:access|refresh|id|session|bot)_?token",
    re.IGNORECASE,
)

_STAND_IN: Final = Pattern(
    r"(?i)"
    r"example|sample|your|dummy|placeholder|change[-_]?me|replace[-_]?me|redacted|insert|fake|mock|not[-_]?a[-_]?real|xxxx|\*\*\*"
    r"|\.\.\.|0123456|123456789|abcdefgh|todo|fixme|test[-_]key|my[-_](?:secret|token|key|test|api|pass)|secret[-_]?here|token[-_]?here|key[-_]?here|<[a-z]|\[redacted|foobar"
)
_SAME: Final = re.compile(rb"(.)\1{7}", re.DOTALL)
_CODE: Final = re.compile(
    rb"^[$%&@{(\[<]|\$\{|\{\{|[({\[]$|\w\(|\(\)|^(?:self|this|os|process|env|config|settings|args|options|params|request|req|ctx|data|var|local)\."
    rb"|^(?:none|null|true|false|undefined|string|str|bytes|bool|int|number|object|required|optional|default|any|list|dict|secretstr|empty|hidden|input)\b"
    rb"|^https?://|^/|^\.\.?/|^arn:|^ref[+:]|^vault:|^op://|^file:|^env:|^secretref|^sha(?:1|256|384|512)[-:]",
    re.IGNORECASE,
)
_NAME_OF_PASSWORD: Final = re.compile(
    rb"[$%{<\[(].*|(?i:(?:db|my|the|user|root|admin|postgres|mysql|redis)?[-_]?(?:pass(?:word|wd)?|pw|pwd|secret|token|key))"
    rb"|[A-Z_]+|[0-9]{1,5}|(.)\1*",
    re.DOTALL,
)
_DIGIT: Final = re.compile(rb"[0-9]")
_ALNUM: Final = bytes(code for code in range(256) if chr(code).isalnum())
_PATH: Final = re.compile(rb"(?:[\w.-]+/)+[\w-]+\.[a-z]{2,5}")
_DOTTED: Final = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:\(.*)?")
_UUID: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WORDS: Final = re.compile(
    rb"[a-z]{2,}(?:[-_. /:][a-z]{2,})*[0-9]{0,2}|[A-Z][a-z]+(?:[A-Z][a-z]+)*|[A-Z]{2,}(?:_[A-Z]+)*"
)


def stands_in(value: bytes) -> bool:
    """Whether a value only shows where a secret goes (`<your-token>`, `xxxx`, `...EXAMPLE`)."""
    return _STAND_IN.occurs(value[:1024]) or _SAME.search(value[:1024]) is not None


def names_password(value: bytes) -> bool:
    """Whether a password's place is held by a word or a variable (`user:password@`, `$PASS`, `[secret]`, a port)."""
    return _NAME_OF_PASSWORD.fullmatch(value) is not None


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a character, of at most the first KiB."""
    value = value[:1024]
    if not value:
        return 0.0
    size = len(value)
    return -sum(count / size * math.log2(count / size) for byte in set(value) if (count := value.count(byte)))


def looks_random(value: bytes) -> bool:
    """Of 16 characters or more, without the signs of a word, an identifier, a path or a piece of code."""
    if len(value) < 16 or stands_in(value) or _CODE.search(value) or _WORDS.fullmatch(value) or _UUID.fullmatch(value):
        return False
    if _PATH.fullmatch(value):
        return False
    if _DOTTED.fullmatch(value) and sum(48 <= byte <= 57 for byte in value) < 4:
        return False
    digits = sum(48 <= byte <= 57 for byte in value)
    if digits == 0 or digits == len(value):
        return False
    if digits < 3 and _wordy(value):
        return False
    limit = 2.8 if all(byte in b"0123456789abcdefABCDEF" for byte in value) else 3.3
    return entropy(value) >= limit


def _wordy(value: bytes) -> bool:
    """Whether most of it is made of lower-case words, as in file-names-with-a-2."""
    words = re.findall(rb"[A-Z]?[a-z]{3,}", value)
    return sum(len(word) for word in words) * 10 >= len(value) * 7 and len(words) <= len(value) // 4


def looks_chosen(value: bytes) -> bool:
    """Like a password a person chose: 6 characters or more, of several classes, and not code or a stand-in."""
    value = value.rstrip(b".,;:)]}")
    if len(value) < 6 or stands_in(value) or _CODE.search(value) or _WORDS.fullmatch(value):
        return False
    upper, lower = value.lower() != value, value.upper() != value
    digit, other = bool(_DIGIT.search(value)), bool(value.translate(None, _ALNUM))
    dotted = re.fullmatch(rb"[\w-]+(?:[.:/][\w-]+)+", value) is not None  # a.b.c, host:port, path/to
    return lower + upper + digit + other >= (3 if len(value) >= 8 else 4) and not (dotted and not digit)


def scan(raw: bytes) -> Iterator[Span]:
    """Values that a password, key or token word introduces. Run only when one of GATES occurs."""
    for start, end in _PASSWORD.spans(raw):
        value = raw[start:end].rstrip(b".,;:)]}")
        if looks_chosen(value):
            yield Span("password", start, start + len(value), 0.85)
        elif looks_random(value):
            yield Span("password", start, start + len(value), 0.8)
    for start, end in _KEY.spans(raw):
        before = raw[max(0, start - 48) : start].lower()
        if looks_random(raw[start:end]) and b"publickey" not in before and b"arn:" not in before:
            yield Span("generic_secret", start, end, 0.8)
    for start, end in _HEADER.spans(raw):
        if looks_random(raw[start:end]):
            yield Span("authorization", start, end, 0.85)
    for start, end in _COMMAND.spans(raw):
        if b"," not in raw[start:end] and (looks_chosen(raw[start:end]) or looks_random(raw[start:end])):
            yield Span("command_password", start, end, 0.85)


@remembered(4096)
def named(hint: str) -> tuple[bool, bool]:
    """Whether a member of this name holds a password, and whether a key."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", hint[-128:]).replace("-", "_").replace(" ", "_")
    return _HINT_PASSWORD.search(name) is not None, _HINT_KEY.search(name) is not None


def by_name(raw: bytes, hint: str) -> Iterator[Span]:
    """The whole text as a secret, because the parameter that holds it is named like one."""
    password, key = named(hint)
    value = raw.strip()
    if not (password or key) or not value or len(value) > 4096 or b" " in value:
        return
    start = raw.index(value)
    if password and (looks_chosen(value) or looks_random(value)):
        yield Span("password", start, start + len(value), 0.9)
    elif key and looks_random(value):
        yield Span("generic_secret", start, start + len(value), 0.85)
