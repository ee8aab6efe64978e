"""docs/events.md, made of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from limen.audit.catalogue import CATALOGUE
from limen.audit.events import CATEGORIES
from limen.audit.members import COMMON, MEMBERS, WHO
from limen.core.reasons import REASONS

_HEAD = """# Events

Every record of the log is an event: one JSON object, on one line. This is all that can stand there; a test compares
it with what the source writes. Written by `limen audit events --markdown > docs/events.md`.

Types are those of `limen.audit.events.read_event`. A record of a call has `t` intent, outcome, local or refusal; where
a type has a second part, a member of the record names it (`act`, `event`, `change`, `state`, `outcome`, `what`). What
is not known is left out or empty. No record holds a secret, a token, or a value of an argument, but for `parameters`.

A call that is sent is two records, and each is enough to know who called what, by which rules, and under which
definition: the intent, before anything is sent, and the outcome, with what came of it.

## Arguments

`audit.parameters`, or `security.parameters` of a server, says what is kept of arguments:

- `digest`, the default: nothing but `args` and `in`.
- `redacted`: the arguments as a text of at most 2048 characters, without what the detectors of secrets and personal
  data find. What they do not find stands there.
- `encrypted`: the first 16 KiB, under a key of the caller's own in the [vault](vault.md), good for this one record.
  `limen audit parameters REF --reason WHY` opens them, and that is an event. `limen vault shred SUBJECT` destroys
  the key: nobody opens them again, and the log verifies as before. The key is the one all that is sealed for this
  person is under, their connected accounts too.

Arguments that cannot be kept as asked, because the vault does not answer, are not sent: the call is refused.
`audit.resources: plain` writes the URIs that results hold as they are; by default their digest stands there.

## What it costs

Measured with `bench/records.py`, in one run on two busy cores, processor time of the thread that calls: the two records
of a call take 20 us instead of 16, whatever the size of the result: it is rendered once, and those bytes are counted.

A whole call (`bench/hot_path.py`, one process, 2 kB, states of the source in turns, the best of each) took 226 us
before all that watches and responds, 265 when that was new, and takes 197 now; in a second run 254, 249 and 203. Both
were on a machine with six times more to do than it has cores, so only the order of these numbers says something.
Instructions of the calling thread, which do not depend on that (callgrind): 787 thousand, 870, and 755 now. The aim, at
most 20 us more than before, is met: it is less than before.
"""


def page() -> str:
    """The whole of it."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from _meanings("Of every record", COMMON)
    yield from _meanings("Of every record they are known for", WHO)
    for category in CATEGORIES:
        rows = [row for row in CATALOGUE.values() if row.category == category]
        if not rows:
            continue
        yield f"## {category.capitalize()}\n"
        yield "| Type | Severity | What happened | Carries besides |\n|---|---|---|---|"
        for row in rows:
            yield f"| `{row.id}` | {row.severity} | {row.text} | {', '.join(row.members)} |"
        yield ""
    yield from _meanings("Members", dict(sorted(MEMBERS.items())))
    yield "## Reasons\n\nWhy a call was refused, or what became of it: `reason`.\n"
    yield "| Reason | Status | Severity | What the client is told |\n|---|---|---|---|"
    for reason in REASONS.values():
        yield f"| `{reason.id}` | {reason.status} | {reason.severity.value} | {reason.public} |"


def _meanings(title: str, members: Mapping[str, str]) -> Iterator[str]:
    yield f"## {title}\n\n| Member | Meaning |\n|---|---|"
    yield from (f"| `{name}` | {text} |" for name, text in members.items())
    yield ""
