"""Words in a definition that are no description: orders to a model, secrecy, destinations, and hidden or padded text.

A small table for the person who decides, not a detector of prompt injection: it tells what to read twice. Every text
and every member name of a definition is looked at, as a reader would take it (look-alike letters and spacing undone).
All patterns are linear: no nested repetition, every gap is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from limen.catalog.differences import step
from limen.catalog.findings import Finding, quote
from limen.catalog.lookalike import lookalike_letters, plain
from limen.catalog.text import hidden_character

CONTEXT: Final = 200  # characters on either side that belong to what was found; another context is another finding
MAX_HITS: Final = 32  # of one rule in one text
_GAP: Final = r"[^.!?]{0,60}?"
_TOOLS: Final = r"(?:tools?|functions?|commands?|servers?|integrations?)\b"
_MODEL: Final = r"(?:ai|a\.i\.|assistant|llm|language model|ai model|agent|ai agent)s?"
_PERSON: Final = r"\b(?:user|users|human|operator|person|people|customer|anyone|anybody|them)\b"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: a stable id, a weight of 0 to 1, what it means, and the pattern for folded text."""

    id: str
    weight: float
    meaning: str
    pattern: re.Pattern[str]


def _rule(id_: str, weight: float, meaning: str, *patterns: str) -> Rule:
    return Rule(id_, weight, meaning, re.compile("|".join(patterns)))


RULES: Final = (
    _rule(
        "text.override",
        0.7,
        "sets aside other instructions",
        rf"\b(?:ignore|disregard|forget|override|bypass|supersedes?)\b{_GAP}\b(?:previous|prior|above|earlier|"
        rf"preceding|system|your|other|all|any)\b{_GAP}\b(?:instructions?|prompts?|guidelines?|guardrails?|policies)\b",
    ),
    _rule(
        "text.secrecy",
        0.7,
        "wants something kept from the person",
        r"\b(?:do not|don'?t|never|must not|should not|without|no need to|avoid)\b(?: \w+){0,2}? (?:tell|inform|"
        rf"mention|reveal|notify|disclos|show|ask|alert)\w*\b{_GAP}{_PERSON}",
        r"\b(?:silently|secretly|covertly|discreetly|quietly)\b[^.!?]{0,40}?\b(?:send|read|call|include|add|pass|"
        r"forward|copy|upload|invoke|use|attach)\b",
        rf"\b(?:hide|conceal)\b{_GAP}\bfrom (?:the )?{_PERSON}",
        r"\bkeep (?:this|it) (?:a )?(?:secret|hidden|confidential|internal)\b",
        r"\b(?:whatever|no matter what|regardless of what) the (?:user|human|person) (?:says|asks|wants)\b",
    ),
    _rule(
        "text.exfiltration",
        0.4,
        "has something confidential passed on",
        rf"\b(?:send|forward|upload|post|transmit|e-?mail|bcc|copy|include|attach|pass|append|put|paste|submit)\b{_GAP}"
        r"\b(?:contents? of|conversation|chat history|message history|system prompt|credentials?|passwords?|"
        r"api[ -_]?keys?|secrets?|access[ -_]?tokens?|private keys?|environment variables?)\b",
    ),
    _rule(
        "text.harvest",
        0.35,
        "asks for what only the model knows",
        r"\b(?:conversation|chat|dialogue) (?:history|log|transcript|so far)\b|\bsystem prompts?\b"
        r"|\b(?:full|entire|whole|complete) (?:conversation|prompt|chat|context)\b|\bchain[- ]of[- ]thought\b"
        r"|\b(?:list of|all) (?:all )?(?:of )?(?:your |the )?(?:available|other|connected|installed) tools\b"
        r"|\byour (?:instructions|reasoning|thoughts|context|memory|prompt)\b",
    ),
    _rule(
        "text.model",
        0.4,
        "speaks to the model",
        rf"\b(?:as an?|you are (?:an? |the |now (?:an? |the )?)?(?:helpful )?) ?{_MODEL}\b"
        rf"|\b(?:note|message|instructions?|attention|dear)(?: to| for)?[,:]? (?:the |all )?{_MODEL}\b"
        rf"|\b{_MODEL} (?:must|should|shall|has to|have to|needs? to|is required to|are required to|will always)\b"
        r"|\byou are now\b",
    ),
    _rule(
        "text.markup",
        0.6,
        "poses as a message of another role",
        r"</?(?:important|system|instructions?|admin|secret|hidden|assistant|critical|tool_result)\b[^<>]{0,40}>"
        r"|\[/?(?:inst|system)\]|<\|[a-z_]{2,24}\|>|### ?(?:system|instructions?|assistant)\b|<!--",
    ),
    _rule(
        "text.before_use",
        0.4,
        "wants something done around the use of tools",
        r"\b(?:before|after|prior to|whenever|every time|each time|when)\b (?:you )?(?:us|call|invok|execut|runn?)\w*"
        rf" (?:this|any|all|each|every|other|another|the)\b[^.!?]{{0,30}}?\b{_TOOLS}",
    ),
    _rule(
        "text.scope",
        0.35,
        "is about more than this tool",
        r"\b(?:in|during|throughout|for the rest of) (?:this|the(?: whole| entire)?) (?:session|conversation)\b"
        r"|\bfrom now on\b|\b(?:overrides?|replaces?|changes?) the behaviou?r of\b"
        r"|\b(?:every|any|each|all) (?:requests?|calls?|commands?|messages?|responses?|answers?|e-?mails?)"
        r" (?:made|given|sent|that you|you|through|to (?:a|an|any|the other))\b",
    ),
    _rule(
        "text.step",
        0.35,
        "demands a step of its own",
        r"\b(?:mandatory|required|obligatory|necessary) (?:pre-?|first |initial |extra |additional )?"
        r"(?:step|call|check)\b"
        r"|\b(?:pass|put|place|include|write|goes|return)\b[^.!?]{0,40}?\b(?:in|into|as|to) (?:the )?[`'\"]"
        r"(?:side_?note|note|extra|trace|context|ctx|metadata|debug|comment|memo|data|payload|info|log|reason|feedback)"
        r"\w{0,12}[`'\"]",
    ),
    _rule(
        "text.command",
        0.5,
        "holds a command for a shell",
        r"\b(?:curl|wget) (?:-\w+ |--?[\w-]+ )*['\"`]?https?:|\| ?(?:ba|z)?sh\b|\brm -rf?\b"
        r"|\b(?:ba)?sh -c\b|\bpowershell -",
    ),
    _rule(
        "text.order",
        0.2,
        "gives an order",
        r"\b(?:you|it) (?:must|shall|have to|has to|are required to)\b|\b(?:must|should) (?:first|always|also)\b"
        r"|\balways (?:call|use|invoke|run|include|pass|send|add|read|start|begin|set)\b"
        r"|\bnever (?:call|use|invoke|run|send)\b|\bfirst,? (?:read|call|fetch|open|send|run|execute|use|invoke)\b"
        r"|\b(?:do not|don'?t) (?:call|use|invoke|run)\b",
    ),
    _rule(
        "text.urgency",
        0.15,
        "presses",
        r"\b(?:important|critical|urgent|mandatory|attention|asap) ?[!:]|\b(?:immediately|urgently|without delay)\b",
    ),
    _rule(
        "text.preference",
        0.4,
        "wants to be used in place of others",
        rf"\b(?:use|prefer|choose|pick|select)\b[^.!?]{{0,40}}?\b(?:instead of|over|rather than)\b[^.!?]{{0,20}}?"
        rf"\b(?:other|any|all|another|alternative|similar|built-?in|native|competing)\b[^.!?]{{0,20}}?{_TOOLS}",
        r"\bprefer this\b|\bover (?:every|any|all) (?:other|alternative)",
        r"\b(?:results?|output) of (?:any |all )?other tools\b",
        r"\balways (?:use|prefer|choose|pick|select) this\b|\b(?:do not|don'?t|never) use (?:any )?(?:other|another)\b",
        rf"\bother (?:\w+ )?{_TOOLS[:-2]} (?:is|are) (?:deprecated|broken|unsafe|insecure|outdated|inferior)",
    ),
    _rule(
        "text.superlative",
        0.2,
        "praises itself",
        r"\b(?:the best|superior|most (?:reliable|accurate|trusted|secure|powerful|advanced|complete)|fastest|safest|"
        rf"number one|#1|first choice|preferred|the only (?:correct|safe|valid))\b[^.!?]{{0,20}}?"
        rf"\b(?:choice|option|{_TOOLS})",
    ),
    _rule(
        "text.secret_file",
        0.6,
        "names a file that holds secrets",
        r"\.ssh\b|\bid_(?:rsa|ed25519|ecdsa|dsa)\b|\.aws\b|(?<![\w.])\.env\b|/etc/(?:passwd|shadow)\b|\.netrc\b"
        r"|\.npmrc\b|\.pypirc\b|\.config/gcloud\b|\.kube\b|\.docker/config|\.git-credentials\b|\bmcp\.json\b"
        r"|\bclaude_desktop_config|\.cursor/|\.bash_history\b|\bwallet\.dat\b|\bcookies\.sqlite\b|\blogin data\b"
        r"|\.gnupg\b",
    ),
    _rule("text.encoded", 0.3, "holds a long encoded text", r"(?<![\w+/=-])[\w+/=-]{120}"),
)
_SPACE: Final = re.compile(r"\s+")
_ENDS: Final = ".!?"
_PADDING: Final = re.compile(r"[^\S\n]{40}|\n(?:[^\S\n]*\n){8}")
_HOST: Final = re.compile(
    r"\b([a-z][a-z0-9+.-]{1,15})://(?:[^\s/@'\"<>]{1,200}@)?([^\s/?#'\"<>()\]`,;]{1,255})", re.IGNORECASE
)
_ADDRESS: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@([\w-]{1,63}(?:\.[\w-]{1,63}){1,8})")
_FILE: Final = re.compile(r"(?<![\w/.:~@-])(?:~|[a-z]:|\.{1,2})?[/\\](?:[\w.@-]+[/\\])*[\w.@-]{2,}", re.IGNORECASE)
_DIALECT: Final = re.compile(r"https?://json-schema\.org/[\w./-]{1,64}#?")
# RFC 2606 and RFC 6761: names for examples lead nowhere.
_NOWHERE: Final = re.compile(
    r"(?:.*\.)?(?:example(?:\.com|\.org|\.net)?|test|invalid|localhost)\.?(?::\d+)?|127\.0\.0\.1(?::\d+)?"
)

Traits = dict[tuple[str, str], Finding]


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, member names included, with its pointer."""
    if type(value) is str:
        yield path, value
    elif type(value) is dict:
        for name, member in value.items():
            here = step(path, name)
            yield here, name
            yield from texts(member, here)
    elif type(value) is list:
        for at, member in enumerate(value):
            yield from texts(member, step(path, at))


def fold(text: str) -> str:
    """The text as the rules see it: look-alikes and spacing undone, lower case."""
    return _SPACE.sub(" ", plain(text)).casefold()


def wording(definition: Any, skip: frozenset[str] = frozenset()) -> Traits:
    """What the rules find, under a key that is the same wherever in the definition it stands: (id, what it says)."""
    found: Traits = {}
    for path, text in texts(definition):
        if _DIALECT.fullmatch(text) or path in skip:
            continue
        for key, finding in (*_raw(path, text), *_ruled(path, text), *_destinations(path, text)):
            found.setdefault(key, finding)
    return found


def around(text: str, start: int, end: int) -> str:
    """The sentence a match stands in, at most CONTEXT characters to either side."""
    first, last = max(0, start - CONTEXT), min(len(text), end + CONTEXT)
    begin = max(text.rfind(mark, first, start) for mark in _ENDS) + 1 or first
    ends = [at for mark in _ENDS if (at := text.find(mark, end, last)) >= 0]
    return text[max(begin, first) : min(ends, default=last)].strip()


def _ruled(path: str, text: str) -> Iterator[tuple[tuple[str, str], Finding]]:
    folded = fold(text)
    for rule in RULES:
        if rule.id == "text.encoded" and folded.startswith("data:image/"):
            continue
        seen: set[str] = set()
        for match in rule.pattern.finditer(folded):
            context = around(folded, *match.span())
            if context in seen:
                continue
            seen.add(context)
            if len(seen) > MAX_HITS:  # one finding for the rest; its key is the whole text, so no change hides in it
                yield (rule.id, text), Finding(rule.id, rule.weight, path, f"{rule.meaning}, in many places")
                break
            yield (rule.id, context), Finding(rule.id, rule.weight, path, f"{rule.meaning}: {quote(context)}")


def _raw(path: str, text: str) -> Iterator[tuple[tuple[str, str], Finding]]:
    """What folding would undo: hidden characters, letters that pose as others, padding."""
    if character := hidden_character(text):
        yield ("text.hidden", text), Finding("text.hidden", 0.7, path, f"holds the invisible character {character}")
    if _PADDING.search(text):
        yield ("text.padding", text), Finding("text.padding", 0.4, path, "is padded: what follows may go unseen")
    if posing := _posing(text):
        shown = f"letters that pose as ASCII ones: {quote(''.join(posing))}"
        yield ("text.homoglyph", text), Finding("text.homoglyph", 0.5, path, shown)


def _posing(text: str) -> list[str]:
    """Posing letters of a text that is otherwise ASCII, or of words that mix alphabets. Turkish is not suspected."""
    places = [at for at, shown in lookalike_letters(text) if shown != "i"]
    if not places:
        return []
    taken = set(places)
    honest = any(not one.isascii() and one.isalpha() and at not in taken for at, one in enumerate(text))
    beside = [at for at in places if _ascii_beside(text, at)] if honest else places
    return list(dict.fromkeys(text[at] for at in beside))


def _ascii_beside(text: str, at: int) -> bool:
    return any(one.isascii() and one.isalpha() for one in text[max(0, at - 1) : at + 2])


def _destinations(path: str, text: str) -> Iterator[tuple[tuple[str, str], Finding]]:
    """Where something could go or come from: each host, e-mail address and file path once per definition."""
    if "/" not in text and "@" not in text and "\\" not in text:
        return
    for match in _HOST.finditer(text):
        host = match[2].rpartition("@")[2].casefold()
        if not _NOWHERE.fullmatch(host):
            yield ("text.host", host), Finding("text.host", 0.2, path, f"names the host {quote(host)}")
    for match in _ADDRESS.finditer(text):
        if not _NOWHERE.fullmatch(match[1].casefold()):
            whole = match[0].casefold()
            yield ("text.address", whole), Finding("text.address", 0.4, path, f"names the address {quote(whole)}")
    for match in _FILE.finditer(text):
        yield ("text.path", match[0]), Finding("text.path", 0.1, path, f"names the path {quote(match[0])}")
