"""Characters read as what they look like; and text carried by characters nobody sees."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final, Literal

from limen.detection.views_excerpt import excerpt, touched
from limen.detection.views_glyphs import (
    BESIDE,
    COMBINING,
    FOLDS,
    LOOKALIKE,
    LOOKALIKES,
    PLAINLY,
    READ_AS,
    SELECTORS,
    SPACES,
    TAGS,
    UNMISTAKABLE,
    UNSEEN,
    estranged,
    spent,
    styled,
)

_SPACE: Final = re.compile(f"(?<=[A-Za-z])[{SPACES}](?=[A-Za-z])|[\u2028\u2029\u0085]")
_WORD: Final = re.compile(r"[^\W\d_]+")
_IN_RUNS: Final = frozenset(map(chr, (*range(0x1F150, 0x1F18A), *range(0x1F1E6, 0x1F200))))  # signs when alone
_COMPOSED: Final = re.compile(f"[{COMBINING}\u1100-\u11ff\u3099\u309a]")
_ENCLOSED_RUN: Final = re.compile("[\U0001f150-\U0001f169\U0001f170-\U0001f189]{2,}|[\U0001f1e6-\U0001f1ff]{5,}")
_MARKED: Final = re.compile(
    f"[A-Za-z][{COMBINING}]{{2,}}|(?:[A-Za-z][{COMBINING}]){{3,}}|(?:[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u010f\u0112-\u019f\u01cd-\u0233]\\w?){{3,}}"
    f"|(?:[\u1e00-\u1e9f]\\w?){{3,}}"
)
_TAG: Final = re.compile(f"[{TAGS}]")
_UNTAGGED: Final = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_SELECTOR: Final = re.compile(f"[{SELECTORS}]+")
_SELECTED: Final = {(0xFE00 if byte < 16 else 0xE0100 - 16) + byte: byte for byte in range(256)}
_BITS: Final = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u180e]+")
_CHUNK: Final = 128  # characters composed at a time: the standard library needs quadratic time for runs of marks
_OVERRIDE: Final = re.compile("[\u202d\u202e\u2066\u2067]([^\u202c\u2069\n]*)")


def folded(text: str, chars: str) -> str:
    """Plain letters for look-alikes, styled and full-width ones; invisible characters gone. "" if nothing is disguised.

    `chars`: the distinct characters of `text` above ASCII. Ordinary text of any language is not touched.
    """
    spans: list[tuple[int, int]] = []
    if UNSEEN.search(chars):
        spans += touched(estranged(text), UNSEEN)
    if chars.translate(FOLDS) != chars:
        plain = [char for char in chars if styled(char) and char not in _IN_RUNS]
        if plain:
            spans += touched(text, re.compile(f"[{''.join(map(re.escape, plain))}]"))
        spans += [match.span() for match in _ENCLOSED_RUN.finditer(text)]
        spans += [match.span() for match in _SPACE.finditer(text)]
    if LOOKALIKE.search(chars):
        # In a text with real Cyrillic or Greek, only words that mix scripts.
        if UNMISTAKABLE.search(chars):
            spans += [match.span() for match in BESIDE.finditer(text)]
        else:
            spans += touched(text, LOOKALIKE)
    if _COMPOSED.search(chars):
        composed = compose(text)
        if composed != text:
            return _WORD.sub(_word, composed.translate(FOLDS))
    if not spans:
        return ""
    part = excerpt(text, sorted(spans)).translate(FOLDS)
    return _WORD.sub(_word, part) if LOOKALIKE.search(part) else part


def _word(match: re.Match[str]) -> str:
    """A word of Latin and look-alike letters, or of look-alikes only, in Latin letters. Other words stay."""
    word = match[0]
    if word.isascii():
        return word
    signs = set(word)
    if any(sign.isascii() for sign in signs) or all(sign in LOOKALIKES for sign in signs):
        return word.translate(READ_AS)
    return word


def compose(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Normalisation that composes, in pieces: `unicodedata.normalize` sorts a run of marks in quadratic time."""
    parts: list[str] = []
    at = 0
    while at < len(text):
        end = min(at + _CHUNK, len(text))
        stop = min(end + _CHUNK, len(text))
        while end < stop and (unicodedata.combining(text[end]) or "\u1160" <= text[end] <= "\u11ff"):
            end += 1
        parts.append(unicodedata.normalize(form, text[at:end]))
        at = end
    return "".join(parts)


def bare(text: str) -> str:
    """Letters without their marks where nearly every letter has one, or several. "" where none is like that."""
    part = excerpt(text, (match.span() for match in _MARKED.finditer(text)))
    return part.translate(PLAINLY) if part else ""


def tagged(text: str) -> str:
    """Tag characters (U+E0020 to U+E007E) as the ASCII they stand for, flags aside. "" without any."""
    return excerpt(text, touched(estranged(text), _TAG)).translate(_UNTAGGED)


def selected(text: str) -> str:
    """Bytes carried by variation selectors (1 to 16: 0 to 15, 17 to 256: 16 to 255), if they are text; else "".

    All of the text together: one may stand after every visible letter."""
    return _plausible("".join(_SELECTOR.findall(spent(text))).translate(_SELECTED).encode("latin-1"))


def zero_width_bits(text: str) -> str:
    """Text written in bits of two kinds of invisible characters, the eight-bit and either way round; else ""."""
    found = "".join(_BITS.findall(spent(text)))
    if len(found) < 32:
        return ""
    common = [char for char, _ in Counter(found).most_common(2)]
    if len(common) < 2:
        return ""
    others = dict.fromkeys(map(ord, set(found)))
    bits = found.translate({**others, ord(common[0]): "0", ord(common[1]): "1"})
    size = len(bits) // 8
    for stream in (bits, bits.translate({48: "1", 49: "0"})):
        text_found = _plausible(int(stream[: size * 8] or "0", 2).to_bytes(size))
        if text_found:
            return text_found
    return ""


def _plausible(raw: bytes) -> str:
    """The bytes as text; those of printable ASCII if they are not UTF-8; "" if they are not text."""
    raw = raw.strip(b"\0")
    if len(raw) < 4:
        return ""
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        found = raw.decode("latin-1")
        found = "".join(char for char in found if " " <= char <= "~" or char in "\n\t")
    seen = sum(char.isprintable() or char in "\n\t" for char in found)
    return found if seen * 3 >= len(found) * 2 and len(found) * 3 >= len(raw) else ""


def unturned(text: str) -> str:
    """Stretches whose direction is overridden, in the order a reader sees them. "" without any."""
    if not _OVERRIDE.search(text):
        return ""
    return _OVERRIDE.sub(lambda match: match[1][::-1], text).translate(FOLDS)


# What carries text unseen: a reading is tried where one of its signs occurs.
CARRIERS: Final = (
    ("tags", _TAG, tagged),
    ("selectors", _SELECTOR, selected),
    ("bits", _BITS, zero_width_bits),
    ("bidi", re.compile("[\u202d\u202e\u2066\u2067]"), unturned),
)
