"""What strangers wrote, as a person may safely be shown it: nothing hidden, nothing disguised, nothing cut unseen."""

from __future__ import annotations

import unicodedata
from html import escape
from typing import Final
from urllib.parse import urlsplit

from limen.core.addresses import is_loopback

_FILLERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that show nothing
_MARKS: Final = 2  # combining marks on one letter; more of them paint over what is around
_ALPHABETS: Final = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "GEORGIAN"})


def shown(text: str, most: int = 0) -> str:
    """HTML of a text: characters that are invisible or change how others look become their code points.

    Longer than `most` (0: never) it is cut, and says so. A change of writing direction ends with it.
    """
    cut = len(text) - most if most and len(text) > most else 0
    parts, marks = [], 0
    for character in text[: len(text) - cut]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        parts.append(_code(character) if _odd(character) or marks > _MARKS else escape(character))
    rest = f'<span class="odd">… {cut} characters more</span>' if cut else ""
    return f"<bdi>{''.join(parts)}</bdi>{rest}"


def address(uri: str) -> str:
    """HTML of a URI, whole: a URI is ASCII, so whatever else is in it shows as its code point."""
    whole = "".join(escape(one) if "!" <= one <= "~" else _code(one) for one in uri)
    return f'<bdi dir="ltr">{whole}</bdi>'


def host_of(uri: str) -> str:
    """Host and port of a URI in ASCII, international names as they are resolved (`xn--…`). "" where it has none."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        return ""
    name = f"[{name}]" if ":" in name else name
    return name if port is None else f"{name}:{port}"


def stays_here(uri: str) -> bool:
    """Whether what is sent there stays on the machine of the browser (RFC 8252 section 7.3)."""
    try:
        return is_loopback(urlsplit(uri).hostname or "")
    except ValueError:
        return False


def disguised(text: str) -> bool:
    """Whether a name holds characters that do not show, or letters of several alphabets that look alike."""
    found = {unicodedata.name(one, "?").partition(" ")[0] for one in text if one.isalpha()}
    return any(map(_odd, text)) or len(found & _ALPHABETS) > 1


def duration(seconds: int) -> str:
    """Rounded down to a unit people use."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return counted(seconds // size, unit)
    return counted(seconds, "second")


def counted(number: int, thing: str) -> str:
    """1 tool, 2 tools."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _odd(character: str) -> bool:
    # isprintable is false of control, format (direction, zero width), surrogate, private and unassigned characters,
    # and of every space but U+0020. Variation selectors are marks.
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return not character.isprintable() or character in _FILLERS or selector


def _code(character: str) -> str:
    return f'<span class="odd">U+{ord(character):04X}</span>'
