"""Takes out of a text what would act when somebody shows it: pictures that are fetched, links that carry data out,
active HTML, addresses that run, sequences a terminal obeys. What was there is named in its place.

Markdown is not parsed: renderers disagree, and an attacker picks the one that disagrees. Every place where any of them
could see a picture becomes a notice or loses the mark that makes it one; the rest of the text stays as it is.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from typing import Final

from limen.detection.finding import Finding
from limen.detection.links import UNCLEAR, Address, Allowed, read_address

__all__ = ["Allowed", "defuse"]

_ACTING: Final = ("![", "<", "](", "]:")  # without one of these a text holds no markup
_TERMINAL: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\n\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PLAIN_BYTES: Final = b"\t\n\r" + bytes(range(0x20, 0x7F))
_TARGET: Final = r"[ \t]*+\n?[ \t]*+(<[^<>\n]*+>|[^\s<>()]*+(?:\([^\s<>()]*+\)[^\s<>()]*+)*+)"
_TITLE: Final = r"""(?:[ \t\n]++(?:"[^"\n]{0,500}"|'[^'\n]{0,500}'|\([^()\n]{0,500}\)))?\s{0,16}"""
_PLAIN: Final = r"[^\[\]`\\<\n]{0,500}"  # a label every renderer ends at the same bracket
_IMAGE: Final = re.compile(rf"!\[({_PLAIN})\](?:\({_TARGET}{_TITLE}\)|(?!\()(?:\[([^\[\]`\\<\n]{{0,500}})\])?)")
_IMAGE_START: Final = re.compile(r"!\[")
_BLANK: Final = re.compile(r"\n[ \t]*(?:\n|\Z)")
_LINK: Final = re.compile(rf"\]\({_TARGET}")
_DEFINITION: Final = re.compile(r"(\[([^\[\]\n]{1,500})\]:[ \t]*+\n?[ \t]*+)(<[^<>\n]*+>|[^\s<>]++)")
_AUTOLINK: Final = re.compile(r"<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*+)>", re.IGNORECASE)
_BARE: Final = re.compile(r"\bhttps?://[^\s<>\"'`)\]}]++", re.IGNORECASE)
_TAG: Final = re.compile(r"</?[a-z!?]", re.IGNORECASE)
# Always active; or active with attributes, and then kept only where nothing in it is.
_SCRIPT: Final = re.compile(
    r"<(?=/?(?:script|iframe|frame|frameset|applet|portal|style|noscript|fencedframe|plaintext|xmp|template)(?![a-z0-9-]))",
    re.IGNORECASE,
)
_LOADS: Final = re.compile(
    r"<(img|image|input|video|audio|source|track|embed|object|link|meta|base|form|use|feimage|picture|body|table|td|th|bgsound)"
    r"(?=[\s/])(?:([^<>]{0,4096})>)?",
    re.IGNORECASE,
)
_EVENT: Final = re.compile(r"""(?<=[\s/"'])(on(?!(?:ly|ce|line|e|going)\b)[a-z]{3,30}\s{0,8})=""", re.IGNORECASE)
_SOURCE: Final = re.compile(
    r"""(?<![\w.-])((?:xlink:)?(?:href|src|srcset|action|formaction|poster|background|data|ping|cite|content|url)\s{0,8}=\s{0,8})"""
    r"""("[^"<>]*+"?|'[^'<>]*+'?|[^\s"'<>]++)""",
    re.IGNORECASE,
)
_CSS: Final = re.compile(
    r"""(url|image-set|image|expression|@import)(\s{0,8}\(\s{0,8}["']?\s{0,8}|(?<=import)\s{1,8}["'])((?:https?:)?[/\\]{2}[^\s"')<>]*+)""",
    re.IGNORECASE,
)
_REFRESH: Final = re.compile(r"refresh|stylesheet|preload|prefetch|preconnect|import", re.IGNORECASE)
_FENCE: Final = re.compile(r"^(`{3,}|~{3,})[^`\n]*$", re.MULTILINE)
_ANY_FENCE: Final = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_OPEN_ENDED: Final = re.compile(r"<(?:!|\?|pre\b|textarea\b|script\b|style\b)", re.IGNORECASE)
_LONE_RETURN: Final = re.compile(r"\r(?!\n)|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_MARKUP: Final = re.compile(r"[\[\]()<>`\n⟦⟧]+")
_SCORES: Final = {
    "exfiltration.beacon": 0.85,
    "exfiltration.remote_image": 0.15,
    "exfiltration.link": 0.7,
    "exfiltration.scheme": 0.8,
    "exfiltration.active_content": 0.3,
    "hidden.terminal": 0.6,
}
_MOST_NOTES: Final = 32
_MOST_IMAGES: Final = 20_000
_MOST_ADDRESSES: Final = 100_000
_TOO_MANY: Final = Address("web", "", "too many others beside it")
_LOOSE: Final = re.compile("[\"']")
_QUOTED: Final = re.compile(r"\"[^\"]*+\"|'[^']*+'")


def defuse(text: str, allowed: Allowed | None = None, *, links: bool = True) -> tuple[str, tuple[Finding, ...]]:
    """The text without what acts when shown, and what that was; the very same object where nothing had to go.

    With `links` also without links that carry data out once somebody follows them; signed download links look like it.

    Linear in the length of the text, and doing it again changes nothing. Findings name hosts, never contents; they have
    no spans, since one removal moves the next. At most 32 are given, the counts in them are of all.
    """
    if not links and not any(mark in text for mark in _ACTING) and not _controlled(text):
        return text, ()  # nothing any pass would look at
    return _Defuser(allowed or Allowed(), links).run(text)


def _controlled(text: str) -> bool:
    """Whether any control character is in it; ASCII is looked through ten times as fast by `translate`."""
    if text.isascii():
        return bool(text.encode().translate(None, _PLAIN_BYTES))
    return _CONTROL.search(text) is not None


class _Defuser:
    """One text. Each pass leaves text no earlier pass has anything to do with."""

    def __init__(self, allowed: Allowed, links: bool) -> None:
        self._allowed, self._links = allowed, links
        self._seen: Counter[tuple[str, str]] = Counter()
        self._known: dict[str, Address] = {}

    def run(self, text: str) -> tuple[str, tuple[Finding, ...]]:
        done = text
        if _CONTROL.search(done):
            done = _TERMINAL.sub(self._terminal, done)
        if "![" in done:
            done = self._images(done)
        if "<" in done:
            done = self._html(done)
        if "](" in done:
            done = _LINK.sub(self._link, done)
        if "]:" in done:
            done = _DEFINITION.sub(self._definition, done)
        if "<" in done and ":" in done:
            done = _AUTOLINK.sub(self._autolink, done)
        if self._links and "://" in done:
            done = _BARE.sub(self._bare, done)
        notes = tuple(
            Finding(id, id.partition(".")[0], _SCORES[id], detail=f"{what}, {count} times" if count > 1 else what)
            for (id, what), count in self._seen.most_common(_MOST_NOTES)
        )
        return (done if done != text else text), notes

    def _read(self, text: str) -> Address:
        """Judged once each. Beyond a number no honest text has, all are unwanted unread: reading them takes time."""
        known = self._known.get(text)
        if known is None:
            known = read_address(text) if len(self._known) < _MOST_ADDRESSES else _TOO_MANY
            self._known.setdefault(text, known)
        return known

    def _note(self, id: str, what: str) -> None:
        if len(self._seen) < 4096 or (id, what) in self._seen:
            self._seen[id, what] += 1

    def _terminal(self, found: re.Match[str]) -> str:
        self._note("hidden.terminal", "control sequences of terminals")
        return ""

    def _fetched(self, address: Address) -> bool:
        """Whether showing it as a picture asks somebody who is not allowed for it."""
        if address.kind == "web":
            return not self._allowed.holds(address.host)
        return address.kind in ("active", "other")

    def _picture(self, address: Address, label: str) -> str:
        """The notice in place of a picture."""
        sure = address.carries or address.slot or address.open or address.kind == "active"
        self._note("exfiltration.beacon" if sure else "exfiltration.remote_image", f"a picture from {address.shown}")
        name = " ".join(_MARKUP.sub(" ", label).split())[:80]
        return f"⟦image removed: {name} ({address.shown})⟧" if name else f"⟦image removed ({address.shown})⟧"

    def _images(self, text: str) -> str:
        """Each `![`: a notice, or no mark, unless every renderer agrees that it loads nothing."""
        if text.count("![") > _MOST_IMAGES:
            self._note("exfiltration.remote_image", "more pictures than a text has")
            return text.replace("![", "! [")
        outside = {
            _label(found[2]) for found in _DEFINITION.finditer(text) if self._fetched(self._read(found[3].strip("<>")))
        }
        blanks = [found.start() for found in _BLANK.finditer(text)]
        closes = [found.start() for found in re.finditer(r"\][(\[]", text)]
        parts: list[str] = []
        at = 0
        for start in _IMAGE_START.finditer(text):
            place = start.start()
            if place < at:
                continue
            found = _IMAGE.match(text, place)
            if found is not None and found[2] is not None:
                address = self._read(found[2].strip("<>"))
                if not self._fetched(address):
                    continue
                parts += [text[at:place], self._picture(address, found[1])]
                at = found.end()
            elif found is not None and not (outside and _label(found[3] or found[1]) in outside):
                continue
            elif found is not None or outside or self._may_close(place, len(text), blanks, closes):
                self._note("exfiltration.remote_image", "a picture whose address stands elsewhere")
                parts += [text[at:place], "! ["]
                at = place + 2
        return "".join((*parts, text[at:])) if parts else text

    def _may_close(self, place: int, end: int, blanks: list[int], closes: list[int]) -> bool:
        """Whether a bracket that could end a picture's label follows in the same paragraph."""
        after = bisect.bisect_right(blanks, place)
        limit = blanks[after] if after < len(blanks) else end
        close = bisect.bisect_right(closes, place)
        return close < len(closes) and closes[close] < limit

    def _html(self, text: str) -> str:
        if not _TAG.search(text):
            return text
        parts: list[str] = []
        at = 0
        for start, end in _code(text):
            parts += [self._markup(text[at:start]), text[start:end]]
            at = end
        return "".join((*parts, self._markup(text[at:])))

    def _markup(self, text: str) -> str:
        if not _TAG.search(text):
            return text
        text = _SCRIPT.sub(self._script, text)
        text = _LOADS.sub(self._loads, text)
        text = _EVENT.sub(self._event, text)
        text = _SOURCE.sub(self._source, text)
        return _CSS.sub(self._css, text)

    def _script(self, found: re.Match[str]) -> str:
        self._note("exfiltration.active_content", "active HTML")
        return "&lt;"

    def _loads(self, found: re.Match[str]) -> str:
        """Tags that load or send: a notice for pictures, written out where anything else is in them that acts."""
        inner = found[2]
        # Too long, or with brackets inside (then a quote is left open): nobody writes that honestly.
        if inner is None or _LOOSE.search(_QUOTED.sub("", inner)):
            self._note("exfiltration.active_content", "active HTML")
            return "&lt;" + found[0][1:]
        worst: Address | None = None
        for source in _SOURCE.finditer(inner):
            for value in _candidates(source[1], source[2]):
                address = self._read(value)
                if self._fetched(address) and (worst is None or address.kind == "active" or address.carries):
                    worst = address
        if worst is None and not (found[1].lower() in ("meta", "link", "base") and _REFRESH.search(inner)):
            return found[0]
        if worst is not None and found[1].lower() in ("img", "image"):
            label = re.search(r"""\balt\s{0,8}=\s{0,8}(?:"([^"]{0,200})"|'([^']{0,200})')""", inner, re.IGNORECASE)
            return self._picture(worst, (label[1] or label[2] or "") if label else "")
        self._note("exfiltration.active_content", f"HTML that loads from {worst.shown}" if worst else "active HTML")
        return "&lt;" + found[0][1:]

    def _event(self, found: re.Match[str]) -> str:
        self._note("exfiltration.active_content", "an event handler in HTML")
        return f"{found[1]}&#61;"

    def _source(self, found: re.Match[str]) -> str:
        value = found[2]
        for candidate in _candidates(found[1], value):
            if self._unwanted(self._read(candidate)):
                quote = value[0] if value[0] in "\"'" else ""
                return f"{found[1]}{quote}#removed{quote}"
        return found[0]

    def _css(self, found: re.Match[str]) -> str:
        address = self._read(found[3])
        if not self._fetched(address):
            return found[0]
        self._note("exfiltration.remote_image", f"a style that loads from {address.shown}")
        return f"{found[1]}{found[2]}#removed"

    def _unwanted(self, address: Address) -> bool:
        """Whether a link must not stay. Noted here."""
        if address.kind == "active":
            self._note("exfiltration.scheme", "a link that runs or opens something")
            return True
        if (
            self._links
            and address.kind == "web"
            and (address.carries or address.slot)
            and not self._allowed.holds(address.host)
        ):
            self._note("exfiltration.link", f"a link to {address.shown} with {address.carries or 'a place for data'}")
            return True
        return False

    def _link(self, found: re.Match[str]) -> str:
        address = self._read(found[1].strip("<>"))
        if not self._unwanted(address):
            return found[0]
        return f"](⟦link removed: {address.shown}⟧ "  # not an address any more, by the space in it

    def _definition(self, found: re.Match[str]) -> str:
        address = self._read(found[3].strip("<>"))
        if not self._unwanted(address):
            return found[0]
        return f"{found[1]}⟦link removed: {address.shown}⟧"

    def _autolink(self, found: re.Match[str]) -> str:
        address = self._read(found[1])
        return f"⟦link removed: {address.shown}⟧" if self._unwanted(address) else found[0]

    def _bare(self, found: re.Match[str]) -> str:
        """Plain addresses load nothing and templates in them are documentation: only what carries data has to go."""
        address = self._read(found[0])
        if address.carries in ("", UNCLEAR) or self._allowed.holds(address.host):
            return found[0]
        self._note("exfiltration.link", f"an address at {address.shown} with {address.carries}")
        return f"⟦link removed: {address.shown}⟧"


def _code(text: str) -> list[tuple[int, int]]:
    """Fenced code that no renderer takes for HTML (CommonMark 4.5, 4.6). At the first doubt nothing more is listed:
    who counts one fence differently reads everything after it the other way round.

    Both fences stand at the beginning of a line, no other fence anywhere between or inside. The lines above the first
    up to a blank one hold no tag, and nothing before it begins an HTML block that only its own end closes. All line
    ends are newlines.
    """
    found: list[tuple[int, int]] = []
    at = 0
    if _LONE_RETURN.search(text):
        return found
    while opening := _FENCE.search(text, at):
        before = text[at : opening.start()]
        paragraph = before[max(before.rfind("\n\n"), before.rfind("\n\r\n"), 0) :]
        if "```" in before or "~~~" in before or "<" in paragraph or _OPEN_ENDED.search(before):
            break
        closing = _ANY_FENCE.search(text, opening.end())
        if closing is None or closing[0].rstrip() != opening[1]:
            break
        found.append((opening.end(), closing.start()))
        at = closing.end()
    return found


def _candidates(name: str, value: str) -> list[str]:
    """The addresses in one attribute: `srcset` has several."""
    value = value.strip("\"'")
    if name.lower().startswith("srcset"):
        return [part.split()[0] for part in value.split(",") if part.strip()]
    return [value]


def _label(text: str) -> str:
    """Reference labels match whatever their case and spacing (CommonMark 6.3)."""
    return " ".join(text.split()).casefold()
