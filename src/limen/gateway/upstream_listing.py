"""Reads everything a server announces, within bounds, over whatever connection it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from limen.core.announce import Announcement
from limen.core.faults import UpstreamError, UpstreamFault
from limen.gateway import eras

PAGES: Final = 50
ITEMS: Final = 2000
BYTES: Final = 16 << 20
SECONDS: Final = 30.0
PROBE_SECONDS: Final = 5.0
_CURSOR: Final = 4096
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_LISTS: Final = (
    ("tools", "tools/list", "tools"),
    ("prompts", "prompts/list", "prompts"),
    ("resources", "resources/list", "resources"),
    ("resources", "resources/templates/list", "resourceTemplates"),
)

Ask = Callable[[str, dict[str, Any]], Awaitable[tuple[dict[str, Any], int]]]
"""Sends one request of our own; answers the result and how many bytes it took."""


@dataclass(slots=True)
class _Budget:
    items: int = ITEMS
    bytes: int = BYTES


def speaks_modern(result: Mapping[str, Any]) -> bool:
    """Whether a server/discover result offers the revision we speak (2026-07-28 server/discover)."""
    versions = result.get("supportedVersions")
    return isinstance(versions, list) and eras.MODERN in versions and isinstance(result.get("capabilities"), dict)


async def read_all(
    server: str,
    revision: str,
    hello: Mapping[str, Any],
    ask: Ask,
    *,
    backwards: bool = False,
    identity: Mapping[str, str] = _NOTHING,
) -> Announcement:
    """One complete reading; `hello` is the discover or initialize result, `identity` what we are connected to.

    `backwards` asks for the lists in another order: a server that counts requests cannot tell who is reading by it.

    Raises UpstreamFault when the server does not end its lists, repeats a cursor, or exceeds a bound: a reading is
    complete or it is none.
    """
    capabilities = _object(hello.get("capabilities"))
    budget = _Budget()
    found: dict[str, tuple[Any, ...]] = {}
    for capability, method, member in reversed(_LISTS) if backwards else _LISTS:
        found[member] = ()
        if isinstance(capabilities.get(capability), dict):
            try:
                found[member] = tuple(await _pages(server, method, member, ask, budget))
            except UpstreamError as error:
                if error.code != eras.METHOD_NOT_FOUND or method == "tools/list":
                    raise UpstreamFault(server, f"answered {method} with error {error.code}") from error
    info = hello.get("serverInfo") or _object(hello.get("_meta")).get("io.modelcontextprotocol/serverInfo")
    instructions = hello.get("instructions")
    return Announcement(
        server=server,
        revision=revision,
        info=_object(info),
        capabilities=capabilities,
        instructions=instructions if isinstance(instructions, str) else None,
        tools=found["tools"],
        prompts=found["prompts"],
        resources=found["resources"],
        templates=found["resourceTemplates"],
        identity=dict(identity),
    )


async def _pages(server: str, method: str, member: str, ask: Ask, budget: _Budget) -> list[Any]:
    items: list[Any] = []
    seen: set[str] = set()
    params: dict[str, Any] = {}
    for _ in range(PAGES):
        result, size = await ask(method, params)
        page, cursor = result.get(member), result.get("nextCursor")
        if not isinstance(page, list):
            raise UpstreamFault(server, f"answered {method} without a list of {member}")
        budget.items -= len(page)
        budget.bytes -= size
        if budget.items < 0 or budget.bytes < 0:
            raise UpstreamFault(server, f"announces more than {ITEMS} items or {BYTES} bytes")
        items += page
        if cursor is None:
            return items
        if not isinstance(cursor, str) or len(cursor) > _CURSOR or cursor in seen:
            raise UpstreamFault(server, f"repeats or garbles its cursor in {method}")
        seen.add(cursor)
        params = {"cursor": cursor}
    raise UpstreamFault(server, f"does not end {method} within {PAGES} pages")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
