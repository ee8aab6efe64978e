"""Each kind of detector behind the one shape the scanner knows. What they look for is theirs; this only translates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from limen.core.remembered import remembered
from limen.detection.arguments import ArgumentRules
from limen.detection.beacons import defuse
from limen.detection.finding import Channel, Finding
from limen.detection.injection import READ_FIRST, Context, Injection
from limen.detection.model import WINDOW, Windows
from limen.detection.patterns import Signals, signals
from limen.detection.scanner import Subject
from limen.detection.sensitive import find, opens, redact, telling
from limen.detection.sensitive_hit import Hit
from limen.detection.text import Content, View
from limen.detection.withhold import Redact

# Readings that are guesses: undone on suspicion, they make letters out of any text.
GUESSED: Final = frozenset({"rot13", "atbash", "reversed", "words-reversed", "leet", "leet-l", "morse"})
FORMED: Final = 0.9  # a secret put together from several members counts by its form; its surroundings are made up
FEW: Final = 8  # strings that are classified one by one; more of them together, which for each costs far less
AT_ONCE: Final = 2048  # characters of a whole in which no part counts for little among the others
MOST: Final = 1000  # findings of one detector in one content; the rest says nothing new


class WordDetector:
    """Orders to a model: every text by itself, and all together, so that what is split over members is seen."""

    name = "injection"

    def __init__(self, injection: Injection) -> None:
        self._injection = injection

    def find(self, content: Content, subject: Subject) -> Iterator[Finding]:
        """Findings of the whole have no path. Where everything together asks for no closer look, no part of it would:
        a signal in a part is a signal in the whole, where the part stands on lines of its own."""
        channel, everything = subject.channel, content.everything
        asks, shown = self._injection.asks, signals(everything) if content.plain else None
        if shown is not None and not asks(View("plain", everything, 0), channel, shown):
            return
        context = Context(subject.others, subject.name, subject.trusted)

        def known(text: str) -> Signals | None:
            """The signals, where all that can be read in the text is the text."""
            return None if shown is None else shown if text is everything else signals(text)

        def asked(text: str, signs: Signals | None) -> bool:
            return signs is None or asks(View("plain", text, 0), channel, signs)

        def scan(
            text: str, signs: Signals | None, judged: Mapping[str, Windows] = MappingProxyType({})
        ) -> list[Finding]:
            readings = content.examine(text).views
            return self._injection.scan(text, channel, context=context, readings=readings, shown=signs, judged=judged)

        spread = scan(content.whole, shown) if content.whole else []
        # What is longer than a window was read in windows of the whole, with its neighbours where those of its own end.
        again = spread or channel in READ_FIRST or not content.plain or len(content.whole) > AT_ONCE
        alone = [one for one in content.pieces if again or len(one.text) < WINDOW or not content.whole]
        asking = [(one, signs) for one in alone if asked(one.text, signs := known(one.text))]
        judged: Mapping[str, Windows] = {}
        if len(asking) > FEW:
            texts = (view.text for one, _ in asking for view in content.examine(one.text).views)
            judged = self._injection.model.short(texts)
        met = False
        for piece, signs in asking:
            here = scan(piece.text, signs, judged)
            met = met or bool(here)
            yield from _placed(here, piece.path)
        yield from spread
        if (met or channel in READ_FIRST) and (framed := content.framed):
            yield from scan(framed, known(framed))


class DisguiseDetector:
    """What is hidden in each text by itself."""

    name = "disguises"

    def find(self, content: Content, subject: Subject) -> Iterator[Finding]:
        """Findings of the family `hidden`."""
        if not content.plain:
            for piece in content.pieces:
                yield from _placed(content.examine(piece.text).disguises, piece.path)


class TextDetector:
    """What does not depend on the channel: feeds of indicators."""

    def __init__(self, name: str, scan: Callable[[str], Sequence[Finding]]) -> None:
        self.name, self._scan = name, scan

    def find(self, content: Content, subject: Subject) -> Iterator[Finding]:
        """Piece by piece, and the whole."""
        for piece in content.pieces:
            yield from _placed(self._scan(piece.text), piece.path)
        if content.whole:
            yield from self._scan(content.whole)


class SensitiveDetector:
    """Secrets and personal data, with the name of the member as a hint; secrets that only another reading of a text
    shows, too: encoded, spelt out, or with signs between their letters that nobody sees.

    `known` looks for values that are known by heart, also spread over several members.
    """

    name = "sensitive"

    def __init__(self, known: Callable[[str], Sequence[Hit]]) -> None:
        self._known = known

    def find(self, content: Content, subject: Subject) -> Iterator[Finding]:
        """Where, and of what kind; never what. A finding without a path or in a decoded view cannot be redacted."""
        everything, seen = content.everything, False
        # What is found in a part is found in the whole: by its form, and by heart, where only letters and digits count.
        formed, held = not content.whole or opens(everything), bool(self._known(everything))
        if content.plain and not formed and not held:
            yield from self._named(content)
            return
        for piece in content.pieces:
            if piece.name and content.plain and not held and not _open_name(piece.text):
                continue
            path = "" if piece.name else piece.path  # a member's name cannot be redacted: see `withhold.redacted`
            known = self._known(piece.text) if held else ()
            hits = [*find(piece.text, "" if piece.name else hint(piece.path)), *known]
            seen = seen or bool(hits)
            yield from _hits(hits, path, "plain")
            for view in () if content.plain else content.examine(piece.text).views:
                if view.depth and GUESSED.isdisjoint(view.name.split(">")):
                    yield from _hits(self._disguised(view.text, piece.text), path, view.name)
                    if not known:  # it knows encodings by itself, and these can be redacted
                        yield from _hits(self._known(view.text), path, view.name)
        if content.whole and not seen:
            plain = "\n".join(piece.text for piece in content.pieces)
            split = [hit for hit in self._disguised(content.whole, plain) if hit.confidence >= FORMED]
            yield from _hits([*(self._known(content.whole) if held else ()), *split], "", "plain")

    def _named(self, content: Content) -> Iterator[Finding]:
        """What only the name of its member tells."""
        for path, text, name in content.pieces:
            if not name and (called := hint(path)) and telling(called):
                yield from _hits(find(text, called), path, "plain")

    def _disguised(self, reading: str, plain: str) -> list[Hit]:
        """Secrets of this reading that do not stand in the plain text, where they are found and can be redacted."""
        return [
            hit for hit in find(reading, "") if hit.family == "secret" and reading[hit.start : hit.end] not in plain
        ]


def redactor(known: Callable[[str], Sequence[Hit]]) -> Redact:
    """The other half of `SensitiveDetector`: what it finds, taken out."""

    def taken_out(text: str, hint: str, families: frozenset[str]) -> str:
        return redact(text, [hit for hit in [*find(text, hint), *known(text)] if hit.family in families])

    return taken_out


def _hits(hits: Sequence[Hit], path: str, view: str) -> Iterator[Finding]:
    for hit in hits[:MOST]:
        yield Finding(f"{hit.family}.{hit.kind}", hit.family, hit.confidence, path, (hit.start, hit.end), view)


class ArgumentDetector:
    """What parameters mean: paths, addresses, commands; and pictures in texts for others that carry data out, whoever
    shows them. Only arguments have parameters."""

    name = "arguments"

    def __init__(self, rules: ArgumentRules) -> None:
        self._check = rules.check_call

    def find(self, content: Content, subject: Subject) -> Iterator[Finding]:
        """Findings below /arguments."""
        if subject.channel is Channel.ARGUMENT and type(arguments := subject.value.get("arguments")) is dict:
            for finding in self._check(f"{subject.server}/{subject.name}", subject.definition, arguments):
                yield replace(finding, path=f"/arguments{finding.path}")
        if subject.channel is Channel.ARGUMENT and ("![" in content.everything or "<" in content.everything):
            for piece in content.pieces:
                if "![" in piece.text or "<" in piece.text:
                    found = defuse(piece.text, links=False)[1]
                    yield from _placed([one for one in found if one.id == "exfiltration.beacon"], piece.path)


def hint(path: str) -> str:
    """The nearest member name in a JSON pointer."""
    last = path.rpartition("/")[2]
    if last and not last.isdigit():
        return last.replace("~1", "/").replace("~0", "~") if "~" in last else last
    steps = [step for step in path.split("/") if step and not step.isdigit()]
    return steps[-1].replace("~1", "/").replace("~0", "~") if steps else ""


@remembered(4096)
def _open_name(name: str) -> bool:
    """`opens` of a member's name: nearly all of them come again."""
    return opens(name)


def _placed(findings: Sequence[Finding], path: str) -> Iterator[Finding]:
    for finding in findings:
        yield replace(finding, path=path)
