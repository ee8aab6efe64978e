"""Announcements, approvals and contexts for the tests of this room."""

import copy
import time

import orjson

from contracts.memory import MemoryTable
from limen.catalog.registry import Registry
from limen.core.announce import Announcement
from limen.core.call import Approved, Call, Caller, Context, Era, Grant, Peer, Presented
from limen.core.chain import Chain
from limen.core.verdict import Pass

ECHO = {
    "name": "echo",
    "title": "Echo",
    "description": "Says it again.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
ALICE = Caller("https://issuer.example", "alice")


def tool(**changes):
    made = copy.deepcopy(ECHO) | changes
    return {name: value for name, value in made.items() if value is not None}


def announce(*tools, server="s", **rest):
    return Announcement(server=server, revision="2026-07-28", tools=tuple(tools), **rest)


def registry(table=None):
    return Registry(table if table is not None else MemoryTable())


def approved_registry(*tools, **rest):
    made = registry()
    made.observe(announce(*tools, **rest))
    approve_all(made)
    return made


def offered(made, server=None):
    """Entries of what can be offered: without the records of a server and of its set."""
    return [entry for entry in made.entries(server) if entry.kind not in ("server", "set")]


def told(rows):
    """History rows about what can be offered."""
    return [row for row in rows if row.kind not in ("server", "set")]


def approve_all(made):
    for entry in made.entries():
        if entry.pending:
            made.approve(entry.server, entry.kind, entry.name, "root", "looks fine")


def call(name="echo", arguments=None, method="tools/call", **rest):
    given = {"era": Era.MODERN, "revision": "2026-07-28", "server": "s", "route": "s", "peer": Peer("http")} | rest
    body = b"" if arguments is None else orjson.dumps(arguments)
    return Call(method=method, name=name, arguments=body, **given)


def context(made_call, *facts):
    made = Context(made_call, Presented(), time.monotonic() + 5, "ref", {Caller: ALICE})
    return made.having(facts) if facts else made


def reason(verdict):
    return "pass" if type(verdict) is Pass else verdict.reason.id


class _Given:
    """Stands for the guards above: hands out facts."""

    needs = ()

    def __init__(self, *facts):
        self.facts, self.gives = facts, tuple(type(fact) for fact in facts)

    def check(self, context):
        return Pass(self.facts)


def permit(made_call, approved):
    chain = Chain([_Given(approved)], proves=(Approved,))
    return chain.permit(Context(made_call, Presented(), 0.0, "ref", {Approved: approved}))


GRANT = Grant(("rule 1",), "digest")
