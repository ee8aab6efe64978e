"""Each kind of detector behind the one shape the scanner knows. What they look for is theirs; this only translates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from limen.detection.arguments import ArgumentRules
from limen.detection.beacons import defuse
from limen.detection.finding import Channel, Finding
from limen.detection.injection import Context, Injection
from limen.detection.scanner import Subject
from limen.detection.sensitive import Hit, redact
from limen.detection.text import Piece, views
from limen.detection.withhold import Redact

# Readings that are guesses: undone on suspicion, they make letters out of any text.
GUESSED: Final = frozenset({"rot13", "atbash", "reversed", "words-reversed", "leet", "leet-l", "morse"})
FORMED: Final = 0.9  # a secret put together from several members counts by its form; its surroundings are made up
MOST: Final = 1000  # findings of one detector in one content; the rest says nothing new


class WordDetector:
    """Orders to a model: every text by itself, and all together, so that what is split over members is seen."""

    name = "injection"

    def __init__(self, injection: Injection) -> None:
        self._scan = injection.scan

    def find(self, pieces: Sequence[Piece], whole: str, subject: Subject) -> Iterator[Finding]:
        """Findings of the whole have no path."""
        context = Context(subject.others, subject.name, subject.trusted)
        for piece in pieces:
            yield from _placed(self._scan(piece.text, subject.channel, context=context), piece.path)
        if whole:
            yield from self._scan(whole, subject.channel, context=context)


class TextDetector:
    """The same for what does not depend on the channel: disguises, indicator feeds."""

    def __init__(self, name: str, scan: Callable[[str], Sequence[Finding]], *, whole: bool = False) -> None:
        self.name, self._scan, self._whole = name, scan, whole

    def find(self, pieces: Sequence[Piece], whole: str, subject: Subject) -> Iterator[Finding]:
        """Piece by piece, and the whole where asked for."""
        for piece in pieces:
            yield from _placed(self._scan(piece.text), piece.path)
        if whole and self._whole:
            yield from self._scan(whole)


class SensitiveDetector:
    """Secrets and personal data, with the name of the member as a hint; secrets that only another reading of a text
    shows, too: encoded, spelt out, or with signs between their letters that nobody sees.

    `known` looks for values that are known by heart, also spread over several members.
    """

    name = "sensitive"

    def __init__(self, find: Callable[[str, str], Sequence[Hit]], known: Callable[[str], Sequence[Hit]]) -> None:
        self._find, self._known = find, known

    def find(self, pieces: Sequence[Piece], whole: str, subject: Subject) -> Iterator[Finding]:
        """Where, and of what kind; never what. A finding without a path or in a decoded view cannot be redacted."""
        seen = False
        for piece in pieces:
            path = "" if piece.name else piece.path  # a member's name cannot be redacted: see `withhold.redacted`
            known = self._known(piece.text)
            hits = [*self._find(piece.text, "" if piece.name else hint(piece.path)), *known]
            seen = seen or bool(hits)
            yield from _hits(hits, path, "plain")
            for view in views(piece.text):
                if view.depth and GUESSED.isdisjoint(view.name.split(">")):
                    yield from _hits(self._disguised(view.text, piece.text), path, view.name)
                    if not known:  # it knows encodings by itself, and these can be redacted
                        yield from _hits(self._known(view.text), path, view.name)
        if whole and not seen:
            plain = "\n".join(piece.text for piece in pieces)
            split = [hit for hit in self._disguised(whole, plain) if hit.confidence >= FORMED]
            yield from _hits([*self._known(whole), *split], "", "plain")

    def _disguised(self, reading: str, plain: str) -> list[Hit]:
        """Secrets of this reading that do not stand in the plain text, where they are found and can be redacted."""
        return [
            hit
            for hit in self._find(reading, "")
            if hit.family == "secret" and reading[hit.start : hit.end] not in plain
        ]


def redactor(find: Callable[[str, str], Sequence[Hit]], known: Callable[[str], Sequence[Hit]]) -> Redact:
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

    def find(self, pieces: Sequence[Piece], whole: str, subject: Subject) -> Iterator[Finding]:
        """Findings below /arguments."""
        if subject.channel is Channel.ARGUMENT and type(arguments := subject.value.get("arguments")) is dict:
            for finding in self._check(f"{subject.server}/{subject.name}", subject.definition, arguments):
                yield replace(finding, path=f"/arguments{finding.path}")
        if subject.channel is Channel.ARGUMENT:
            for piece in pieces:
                if "![" in piece.text or "<" in piece.text:
                    found = defuse(piece.text, links=False)[1]
                    yield from _placed([one for one in found if one.id == "exfiltration.beacon"], piece.path)


def hint(path: str) -> str:
    """The nearest member name in a JSON pointer."""
    steps = [step for step in path.split("/") if step and not step.isdigit()]
    return steps[-1].replace("~1", "/").replace("~0", "~") if steps else ""


def _placed(findings: Sequence[Finding], path: str) -> Iterator[Finding]:
    for finding in findings:
        yield replace(finding, path=path)
