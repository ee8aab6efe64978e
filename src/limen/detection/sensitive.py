"""Secrets and personal data in text: find, redact. Patterns and checksums only; nothing is sent anywhere or learnt.

One pass of a literal gate over the text decides which of some hundred and fifty expressions are run at all; each of
them is linear (RE2). Texts are given as they are; disguised forms are the matter of `views`, except for values that
are known (`KnownSecrets`), which are found in their usual encodings here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from limen.core.remembered import remembered
from limen.detection import personal, secrets_context
from limen.detection.secrets_context import entropy, names_password, stands_in
from limen.detection.secrets_formats import CLOUDS, CODE, KEYS, Format
from limen.detection.secrets_known import KnownSecrets, memorable, mint_canary
from limen.detection.secrets_services import MESSAGING, MODELS, OPERATIONS, PAYMENT
from limen.detection.sensitive_hit import Family, Hit, hits, settle
from limen.detection.sensitive_pattern import Gate, Pattern, Span

__all__ = ["FORMATS", "Hit", "KnownSecrets", "find", "memorable", "mint_canary", "opens", "redact", "settle", "telling"]

FORMATS: Final[tuple[Format, ...]] = (*CLOUDS, *CODE, *KEYS, *MODELS, *MESSAGING, *PAYMENT, *OPERATIONS)

_PERSONAL: Final[tuple[tuple[Callable[[bytes, str], Iterator[Span]], tuple[str, ...]], ...]] = (
    (personal.numbers, (personal.GATE_NUMBER, personal.GATE_LETTERED, personal.GATE_NINO)),
    (personal.phones, (personal.GATE_NUMBER,)),
    (personal.accounts, (personal.GATE_LETTERED,)),
    (personal.emails, (personal.GATE_EMAIL,)),
    (personal.addresses, (personal.GATE_IPV4,)),
    (personal.addresses6, (personal.GATE_IPV6,)),
    (personal.fields, (personal.GATE_FIELD,)),
)


class _Scanner:
    """The gate and behind it the expressions, compiled once."""

    def __init__(self) -> None:
        self._patterns: dict[int, Pattern] = {}
        gates: dict[str, list[int]] = {}
        for number, form in enumerate(FORMATS):
            for gate in form.gate:
                gates.setdefault(gate, []).append(number)
        for gate in secrets_context.GATES:
            gates.setdefault(gate, []).append(_CONTEXT)
        for number, (_, openers) in enumerate(_PERSONAL):
            for gate in openers:
                gates.setdefault(gate, []).append(_FIRST_PERSONAL + number)
        self._opens = tuple(tuple(numbers) for numbers in gates.values())
        self._gate = Gate(tuple(gates))
        self._gate.verify()
        for number, form in enumerate(FORMATS):
            self._patterns[number] = Pattern(form.expression)

    def opens(self, raw: bytes) -> bool:
        """Whether any expression would be run."""
        return bool(self._gate.open(raw))

    def spans(self, raw: bytes, hint: str) -> Iterator[tuple[Family, Span]]:
        opened: set[int] = set()
        for index in self._gate.open(raw):
            opened.update(self._opens[index])
        for number in sorted(opened):
            if number < _CONTEXT:
                for span in self._format(FORMATS[number], self._patterns[number], raw):
                    yield "secret", span
            elif number == _CONTEXT:
                for span in secrets_context.scan(raw):
                    yield "secret", span
            else:
                for span in _PERSONAL[number - _FIRST_PERSONAL][0](raw, hint):
                    yield "pii", span

    @staticmethod
    def _format(form: Format, pattern: Pattern, raw: bytes) -> Iterator[Span]:
        for start, end in pattern.spans(raw):
            if form.whole and raw[end : end + 1].isalnum():
                continue
            value = raw[start:end]
            if form.random == 0 and names_password(value):
                continue
            if form.random and len(set(value[:1024])) < form.random:
                continue
            if form.kind not in _NEVER_STAND_IN and stands_in(value):
                continue
            if form.random >= 12 and entropy(value) < 2.9:
                continue
            yield Span(form.kind, start, end, form.confidence)


_CONTEXT: Final = len(FORMATS)
_FIRST_PERSONAL: Final = _CONTEXT + 1
_NEVER_STAND_IN: Final = frozenset({"private_key", "putty_key"})
_SCANNER: Final = _Scanner()


def opens(text: str) -> bool:
    """Whether anything in `text` would be looked at closely. Where not, `find` finds nothing in any line of it, unless
    the name of what holds it is `telling`."""
    return _SCANNER.opens(text.encode("utf-8", "surrogatepass"))


@remembered(4096)
def telling(hint: str) -> bool:
    """Whether a member of this name may hold something sensitive that its form does not show."""
    return any(secrets_context.named(hint)) or bool(personal.named(hint))


def find(text: str, hint: str = "") -> list[Hit]:
    """Secrets and personal data in `text`, left to right, without overlaps. `hint`: the name of what holds the text.

    Offsets count characters. Only what is at least as likely as not is returned. Never raises for any text.
    """
    if not text:
        return []
    raw = text.encode("utf-8", "surrogatepass")
    spans = list(_SCANNER.spans(raw, hint))
    if hint and telling(hint):
        spans += [("secret", span) for span in secrets_context.by_name(raw, hint)]
        spans += [("pii", span) for span in personal.by_name(text, raw, hint)]
    return hits(spans, raw, text) if spans else []


def redact(text: str, hits: Sequence[Hit]) -> str:
    """The text with each hit replaced by `[redacted:kind]`. Hits may overlap or be unsorted; none is left open."""
    parts, position = [], 0
    for hit in settle(hits):
        start, end = max(0, hit.start), min(len(text), hit.end)
        if end <= start:
            continue
        parts += [text[position:start], f"[redacted:{hit.kind}]"]
        position = end
    return "".join(parts) + text[position:]
