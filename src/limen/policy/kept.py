"""Policies and catalogs as they decided, kept under their digests: what a decision is replayed with, years later.

Both can be checked by whoever reads them: the text hashes to the digest that every record of a decision names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.call import Approved
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Table
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.policy.rules import PolicySettings

POLICY, CATALOG = "policy/", "catalog/"
_TYPED: Final = 5  # members of a row before those of what is approved
_NOT_CALLED: Final = frozenset({"server", "set"})
Definition = Callable[[str, str, str, str], bytes]  # server, kind, name, digest -> canonical bytes; raises LookupError


class NotKept(Exception):
    """What would be needed is not there, or not what its digest says. The message says which."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Writes each once. Raises DependencyFault."""

    table: Table

    def policy(self, policy: PolicySet, settings: PolicySettings) -> None:
        """The text that is hashed, and the settings it was compiled from."""
        self._once(f"{POLICY}{policy.digest}", {"text": policy.text, "settings": settings.model_dump(mode="json")})

    def catalog(self, version: str, pinned: Callable[[], bytes]) -> None:
        """What was approved, as it is hashed."""
        if self.table.get(f"{CATALOG}{version}") is None:
            self.table.put(f"{CATALOG}{version}", pinned())

    def _once(self, key: str, value: Mapping[str, Any]) -> None:
        if self.table.get(key) is None:
            self.table.put(key, orjson.dumps(value))


def policy_text(table: Table, digest: str) -> str:
    """What hashes to this digest. Raises NotKept, DependencyFault."""
    return str(_policy(table, digest)["text"])


def catalog_text(table: Table, version: str) -> bytes:
    """What hashes to this version. Raises NotKept, DependencyFault."""
    raw = table.get(f"{CATALOG}{version}")
    if raw is None:
        raise NotKept(f"the catalog {version[:12]} was not kept")
    if sha256(raw).hexdigest() != version:
        raise NotKept(f"the catalog kept as {version[:12]} is another one")
    return raw


def rebuild(table: Table, digest: str, version: str, definition: Definition) -> tuple[PolicySet, list[Approved]]:
    """The policy exactly as it was, and what it was compiled with. Raises NotKept, DependencyFault."""
    kept = _policy(table, digest)
    try:
        rows = orjson.loads(catalog_text(table, version))
        approved = [_approved(row, definition) for row in rows if len(row) > _TYPED and row[1] not in _NOT_CALLED]
        announced = [Approved(row[0], row[1], row[2], "", b"{}") for row in rows]
        settings = PolicySettings.model_validate(kept["settings"])
        policy = compile_policy(settings, approved, announced=announced)
    except LookupError as error:
        raise NotKept(f"a definition is not kept any more: {error}") from None
    except (ConfigFault, ValueError, TypeError) as error:
        raise NotKept(f"the policy {digest[:12]} cannot be compiled again: {error}") from None
    if policy.digest != digest:
        raise NotKept(
            f"compiled again the policy {digest[:12]} is {policy.digest[:12]}: another version of this program"
        )
    return policy, approved


def _policy(table: Table, digest: str) -> dict[str, Any]:
    raw = table.get(f"{POLICY}{digest}")
    if raw is None:
        raise NotKept(f"the policy {digest[:12]} was not kept")
    try:
        kept: dict[str, Any] = orjson.loads(raw)
        if sha256(str(kept["text"]).encode()).hexdigest() != digest:
            raise NotKept(f"the policy kept as {digest[:12]} is another one")
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyFault("history", f"the policy {digest[:12]} cannot be read: {error}", retryable=False) from None
    return kept


def _approved(row: list[Any], definition: Definition) -> Approved:
    server, kind, name, state, _, digest, effect, durable = row
    content = definition(server, kind, name, digest)
    return Approved(server, kind, name, digest, content, effect, durable, state == "drifted")
