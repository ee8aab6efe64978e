"""Definitions, callers and contexts the policy tests share, and a table in memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from limen.core.call import NOTHING_READ, Approved, Call, Caller, Context, Era, Grant, Presented
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.policy.rules import PolicySettings

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def approved(kind: str, server: str, name: str, body: dict[str, Any], effect: str = "unknown") -> Approved:
    definition = json.dumps(body, sort_keys=True).encode()
    return Approved(server, kind, name, hashlib.sha256(definition).hexdigest(), definition, effect)


def tool(
    server: str,
    name: str,
    properties: dict[str, Any] | None = None,
    required: Sequence[str] = (),
    effect: str = "read",
    **rest: Any,
) -> Approved:
    schema = {"type": "object", "properties": properties or {}, "required": list(required), **rest}
    return approved("tool", server, name, {"name": name, "inputSchema": schema}, effect)


def prompt(server: str, name: str, *arguments: str) -> Approved:
    listed = [{"name": argument, "required": True} for argument in arguments]
    return approved("prompt", server, name, {"name": name, "arguments": listed})


def resource(server: str, uri: str) -> Approved:
    return approved("resource", server, uri, {"uri": uri, "name": "r"})


def template(server: str, uri: str) -> Approved:
    return approved("template", server, uri, {"uriTemplate": uri, "name": "t"})


CATALOG = (
    tool("files", "read_file", {"path": STRING}, ["path"]),
    tool("files", "read_meta", {"path": STRING, "depth": INTEGER}, ["path"]),
    tool("files", "list_roots"),
    tool("files", "write_file", {"path": STRING, "force": {"type": "boolean"}}, ["path"], effect="write"),
    tool("github", "get_repo", {"owner": STRING}, ["owner"]),
    tool(
        "github", "delete_repo", {"owner": STRING, "labels": {"type": "array", "items": STRING}}, effect="destructive"
    ),
    prompt("files", "summary", "style"),
    resource("files", "file:///pub/a"),
    resource("files", "file:///etc/passwd"),
    template("files", "file:///pub/{name}"),
    template("files", "file:///{folder}/{name}"),
)


def item(name: str, kind: str | None = None) -> Approved:
    return next(entry for entry in CATALOG if entry.name == name and kind in (None, entry.kind))


def policy(*rules: dict[str, Any], cedar: Sequence[str] = (), catalog: Sequence[Approved] = CATALOG) -> PolicySet:
    return compile_policy(PolicySettings.model_validate({"rules": rules, "cedar": cedar}), catalog)


def caller(subject: str = "alice", **facts: Any) -> Caller:
    sets = {key: frozenset(value) for key, value in facts.items() if key in {"scopes", "roles", "groups", "amr"}}
    return Caller(**{"issuer": "https://issuer.example", "subject": subject, "client": "cli", **facts, **sets})


def context(*facts: object, method: str = "tools/call", name: str = "", arguments: bytes = b"", **more: Any) -> Context:
    call = Call(
        method, "files", "files", era=Era.HANDSHAKE, revision="2025-11-25", id=1, name=name, arguments=arguments, **more
    )
    return Context(
        call, Presented(), time.monotonic() + 30, "ref", {type(fact): fact for fact in (NOTHING_READ, *facts)}
    )


def grant(*requires: str) -> Grant:
    return Grant(("rule-1",), "digest", frozenset(requires))


class MemoryTable:
    """ports.Table in a dict, on a clock of its own."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, float | None]] = {}
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def get(self, key: str) -> bytes | None:
        value, expires = self.rows.get(key, (None, None))
        return value if expires is None or expires > self.time else None

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        self.rows[key] = (value, expires)

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        if self.get(key) != old:
            return False
        if new is None:
            self.rows.pop(key, None)
        else:
            self.put(key, new, expires)
        return True

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        for key in sorted(self.rows):
            value = self.get(key)
            if key.startswith(prefix) and value is not None:
                yield key, value
