"""Text that strangers wrote: what a reviewer could not see, what a terminal would obey, and how to show it safely.

Definitions with such text are held (nobody can approve what nobody can see). Results are cleaned instead.
"""

from __future__ import annotations

import re
from typing import Final

from limen.catalog.lookalike import plain

_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_OVERRIDE: Final = "\u202a-\u202e\u2066-\u2069"
_ZERO_WIDTH: Final = "\u00ad\u034f\u180e\u200b\u200c\u2060-\u2065\u206a-\u206f\ufeff"
_FILLERS: Final = "\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_NONCHARACTERS: Final = "\ufdd0-\ufdef\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff\U0010fffe\U0010ffff"
_PICTURE: Final = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"

# A joiner is honest inside an emoji and nowhere else; one emoji selector is honest, a run of selectors carries data.
_INVISIBLE: Final = re.compile(
    f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_BIDI}{_ZERO_WIDTH}{_FILLERS}{_NONCHARACTERS}\ufe00-\ufe0d]"
    f"|[\ufe0e\ufe0f]{{2}}|(?<![{_PICTURE}])\u200d|\u200d(?![{_PICTURE}])"
)
# Each alternative starts at an introducer and cannot run past the next one: linear in the length of the text.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\n\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
_UNWANTED: Final = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_OVERRIDE}\U000e0000-\U000e007f]")
_SELECTOR_RUN: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_ASCII_UNWANTED: Final = bytes(code for code in (*range(32), 127) if code not in b"\n\t\r")
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECRET: Final = re.compile(
    r"pass[-_ ]?(?:word|wd|phrase|code)|passwort|contrase|mot[-_ ]?de[-_ ]?passe|\bpwd\b|secret(?!ar)|credential|bearer"
    r"|(?:api|private|access)[-_ ]?key|(?:auth|access|refresh)[-_ ]?token"
    r"|^token$|(?<!page)(?<!next)(?<!ation)[-_ ]token$"
    r"|\bcvv2?\b|\bcvc\b|card[-_ ]?num|credit[-_ ]?card|\bssn\b|social[-_ ]?security|\bpin[-_ ]?code\b|^pin$|\botp\b"
    r"|kennwort|geheimzahl|wachtwoord|\bsenha|\bhasło|\bşifre|парол|mật khẩu|पासवर्ड|كلمة (?:المرور|السر)|رمز عبور"
    r"|비밀\s?번호|패스워드|암호(?!화)|인증\s?(?:번호|코드)|(?:비밀|개인|액세스|접근)\s?키|パスワード|暗証番号|秘密鍵|認証コード"
    r"|密[码碼]|密[钥鑰]|口令|[验驗][证證][码碼]|访问令牌",
    re.IGNORECASE,
)


def hidden_character(text: str) -> str:
    """The first character a reviewer could not see, as U+XXXX, or "". Newline and tab are fine."""
    if text.isascii() and text.isprintable():
        return ""
    found = _INVISIBLE.search(text)
    return f"U+{ord(found[0][0]):04X}" if found else ""


def clean(text: str) -> str:
    """The text without escape sequences, control characters, direction overrides and hidden data.

    Returns the very same object where nothing had to go, so callers can compare by identity.
    """
    if text.isascii():
        raw = text.encode()
        if len(raw.translate(None, _ASCII_UNWANTED)) == len(raw):
            return text
    elif not (_UNWANTED.search(text) or _SELECTOR_RUN.search(text) or _SURROGATES.search(text)):
        return text
    # Runs are looked for last: what was removed before may have kept two selectors apart.
    return _SELECTOR_RUN.sub("", _SURROGATES.sub("\ufffd", _UNWANTED.sub("", _SEQUENCES.sub("", text))))


def printable(text: str) -> str:
    """The text as a terminal may show it: everything invisible or obeyed by terminals becomes a visible escape."""
    return "".join(
        character if character.isprintable() and not _INVISIBLE.match(character) else f"\\u{{{ord(character):x}}}"
        for character in text
    )


def names_a_secret(name: str) -> bool:
    """Whether a member of this name would carry a credential or payment data (2026-07-28 elicitation, ELI-01).

    Also in other languages than English, and in letters that pose as others or have unseen ones between them.
    """
    name = name[:512]
    readings = (name,) if name.isascii() else (name, plain(name))
    return any(_SECRET.search(one) or _SECRET.search(_HUMP.sub("_", one)) for one in readings)
