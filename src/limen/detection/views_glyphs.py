"""Which characters look like which, which are not seen at all, and in what company they are harmless.

Own tables, checked against the Unicode character database by the tests; the look-alikes are those of UTS #39 that stand
for an ASCII letter.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
SELECTORS: Final = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
TAGS: Final = "\U000e0020-\U000e007e"
SPACES: Final = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
COMBINING: Final = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
RIGHT_TO_LEFT: Final = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"

UNSEEN: Final = re.compile(f"[{INVISIBLE}]")
MARKED: Final = re.compile(f"[{COMBINING}\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0233\u1e00-\u1e9f]")
_EMOJI: Final = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
# Where invisible characters belong: emoji presentation, joined emoji, keycaps, the three flags made of tags, one
# ideographic variant, a byte-order mark in front.
AT_HOME: Final = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)"
    f"\U000e007f|[0-9#*]\ufe0f\u20e3|(?<=[{_EMOJI}])[\ufe0e\ufe0f](?![{SELECTORS}])|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
    f"|(?<=[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af])[\ufe00-\ufe02\U000e0100-\U000e01ef](?![{SELECTORS}])|\\A\ufeff"
)
_AT_HOME_SIGN: Final = re.compile("[\u200d\ufe00-\ufe0f\ufeff\U000e007f\U000e0100-\U000e01ef]")  # one in each


def spent(text: str) -> str:
    """The text without the invisible characters that belong where they are."""
    return AT_HOME.sub("", text) if _AT_HOME_SIGN.search(text) else text


def estranged(text: str) -> str:
    """The text, as long as it was, with others in the place of invisible characters that belong where they are."""
    return AT_HOME.sub(lambda match: "." * len(match[0]), text) if _AT_HOME_SIGN.search(text) else text


# Scripts that need joiners, and right-to-left text that needs marks: no disguise, though folded all the same.
_JOINING: Final = "\u0600-\u08ff\u0900-\u0dff\u0e00-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
_TURNING: Final = "\u200e\u200f\u061c"
_IN_WRITING: Final = re.compile(  # the sign itself stands in front, so that `re` finds the next one at once
    f"[\u200b-\u200d{_TURNING}\u115f\u1160\u180b-\u180f\u17b4\u17b5](?:"
    f"(?<=[{_JOINING}][\u200b-\u200d])(?=[{_JOINING}\\s]|\\Z)|(?<=[{RIGHT_TO_LEFT}\\W][{_TURNING}])"
    f"|(?<=[\u1100-\u11ff][\u115f\u1160])|(?<=[{_TURNING}])(?=[{RIGHT_TO_LEFT}\\W]|\\Z)"
    f"|(?<=[\u1820-\u18aa][\u180b-\u180f])|(?<=[\u17b4\u17b5]))"
)

_WRITING: Final = re.compile(f"[{_JOINING}{_TURNING}\u1100-\u11ff\u1820-\u18aa\u17b4\u17b5]")  # one in each


def unwritten(text: str) -> str:
    """The text without the joiners and marks that its own script needs."""
    return _IN_WRITING.sub("", text) if _WRITING.search(text) else text


_CYRILLIC: Final = dict(
    zip("АВЕЗКМНОРСТУХаеорсухѕіјԁԛԝһѐёїӏІЈЅԌԍҮүԚԜ", "ABE3KMHOPCTYXaeopcyxsijdqwheeilIJSGgYyQW", strict=True)
)
_GREEK: Final = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγικνορτυχϲϳ", "ABEZHIKMNOPTYXayikvoptuxcj", strict=True))
_OTHERS: Final = dict(
    zip(
        "օոսցհյզԼՍՏՕ𐐬ߋഠꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴᎪᎡᎢᎬᎳᎷᎻᏀᏃᏆᏚᏞᏟᏢᏦᏴ",
        "onughjqLUSOoooBPDTGKJCZFMNLSRVHWXYAEIOUARTEWMHGZISLCPKB",
        strict=True,
    )
)
LOOKALIKES: Final[dict[str, str]] = {**_CYRILLIC, **_GREEK, **_OTHERS}
# Letters that resemble only where everything around them is Latin: they decide nothing, but are read with the rest.
_ALSO: Final = dict(zip("пгвкмнтьшдηωεβσδıȷ", "nrBkmHTbwdnweBodij", strict=True))
LOOKALIKE_CLASS: Final = "".join(sorted(LOOKALIKES))
BESIDE: Final = re.compile(f"[A-Za-z][{LOOKALIKE_CLASS}]|[{LOOKALIKE_CLASS}][A-Za-z]")
LOOKALIKE: Final = re.compile(f"[{LOOKALIKE_CLASS}]")
READ_AS: Final = str.maketrans({**_ALSO, **LOOKALIKES})
UNMISTAKABLE: Final = re.compile("[бджзийлфцчшщъыэюяБГДЖЗИЙЛПФЦЧШЩЪЫЭЮЯδζθλξπσφψωΓΔΘΛΞΠΣΦΨΩ]")


def _enclosed() -> dict[str, str]:
    """Small capitals, letters in boxes and letters of flags, which compatibility normalisation leaves as they are."""
    found = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɑɡɩ", "ABCDEFGHIJKLMNOPRSTUVWYZagi", strict=True))
    for start in (0x1F150, 0x1F170, 0x1F1E6):
        found |= {chr(start + index): chr(ord("A") + index) for index in range(26)}
    return found


ENCLOSED: Final = _enclosed()


class Folds(dict[int, str]):
    """For `str.translate`: what one character is read as. Filled as characters are met; at most all of Unicode."""

    def __missing__(self, code: int) -> str:
        self[code] = read = _fold(chr(code))
        return read


_SPACE: Final = re.compile(f"[{SPACES}]")


def _fold(char: str) -> str:
    if char.isascii():
        return char
    if UNSEEN.match(char):
        return ""
    if _SPACE.match(char):
        return " "
    if char in "\u2028\u2029\u0085":
        return "\n"
    if char in ENCLOSED:
        return ENCLOSED[char]
    return unicodedata.normalize("NFKC", char)


FOLDS: Final = Folds()


class Plainly(dict[int, str]):
    """For `str.translate`: letters without their marks, marks without anything."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFKD", chr(code))
        bare = "".join(part for part in parts if not unicodedata.combining(part))
        self[code] = bare = bare if not bare or bare.isascii() else chr(code)
        return bare


PLAINLY: Final = Plainly()


def styled(char: str) -> bool:
    """A letter or digit whose plain form is another one: full-width, mathematical, enclosed, superscript."""
    if char.isascii():
        return False
    read = FOLDS[ord(char)]
    return read != char and read.isascii() and read.isalnum()
