"""Servers from client files. A client writes such a file by itself, so nothing in it may loosen a control: `security`
is refused there, and the operator's own file adds it under the same name."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, Final

from limen.config.document import Document, Path, parse, read_file
from limen.config.references import References, locate
from limen.config.servers import NO_EFFECT
from limen.core.faults import ConfigFault

_KEYS: Final = ("mcpServers", "servers")  # most clients; VS Code
_OURS: Final = frozenset({"security", "disabled", "timeout"})


def merge_included(document: Document, base: FilePath, references: References) -> tuple[FilePath, ...]:
    """Read every file under `include` and add its servers. Returns the paths. Raises ConfigFault."""
    listed = document.value.get("include") or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ConfigFault("include is a list of paths", document.where(("include",)))
    read: list[FilePath] = []
    for index, name in enumerate(listed):
        path = locate(name, base)
        try:
            data = read_file(path, "the included file", follow=True)
        except ConfigFault as fault:
            raise ConfigFault(f"{fault.message}: {name}", document.where(("include", index))) from None
        found = _servers(parse(data, str(path)))
        drop_without_effect(found, references.warnings)
        _lay_over(document, found)
        references.resolve(found, path.parent)
        _take(document, found)
        read.append(path)
    return tuple(read)


def drop_without_effect(document: Document, warnings: list[str]) -> None:
    """Take out what clients write and nothing here obeys, with a warning each."""
    servers = document.value.get("mcpServers")
    for name, entry in servers.items() if isinstance(servers, dict) else ():
        for key in NO_EFFECT if isinstance(entry, dict) else ():
            if key in entry:
                del entry[key]
                warnings.append(f"{document.where(('mcpServers', name, key), key=True)}: has no effect here")


def _servers(client: Document) -> Document:
    """Only the servers of a client's file, under our name for them."""
    present = [key for key in _KEYS if isinstance(client.value, dict) and key in client.value]
    if len(present) != 1:
        raise ConfigFault("needs exactly one of mcpServers and servers", client.where(()))
    key = present[0]
    if not isinstance(client.value[key], dict):
        raise ConfigFault("must map names to servers", client.where((key,)))
    found = Document({"mcpServers": client.value[key]})
    for theirs, ours in ((client.places, found.places), (client.keys, found.keys)):
        ours.update({("mcpServers", *path[1:]): place for path, place in theirs.items() if path[:1] == (key,)})
    for name, entry in client.value[key].items():
        if isinstance(entry, dict) and "security" in entry:
            raise ConfigFault(
                f"security belongs in Limen's own file: mcpServers: {{{name}: {{security: ...}}}} there adds it",
                found.where(("mcpServers", name, "security"), key=True),
            )
    return found


def _lay_over(document: Document, found: Document) -> None:
    """Entries of our own file that only add `security`, `disabled` or `timeout` to an included server."""
    own = document.value.get("mcpServers")
    own = own if isinstance(own, dict) else {}
    for name, entry in found.value["mcpServers"].items():
        addition = own.get(name)
        if name not in own:
            continue
        if not isinstance(addition, dict) or not isinstance(entry, dict) or not set(addition) <= _OURS:
            other = document.where(("mcpServers", name), key=True)
            raise ConfigFault(f"this server is configured twice, also at {other}", _where(found, name))
        entry.update(addition)
        _move(document, found, ("mcpServers", name), set(addition))
        del own[name]


def _move(source: Document, goal: Document, path: Path, members: set[Any]) -> None:
    depth = len(path)
    for theirs, ours in ((source.places, goal.places), (source.keys, goal.keys)):
        chosen = {one: place for one, place in theirs.items() if one[:depth] == path and one[depth : depth + 1]}
        ours.update({one: place for one, place in chosen.items() if one[depth] in members})


def _take(document: Document, found: Document) -> None:
    own = document.value.setdefault("mcpServers", {})
    if own is None:
        own = document.value["mcpServers"] = {}
    if not isinstance(own, dict):
        raise ConfigFault("must map names to servers", document.where(("mcpServers",)))
    own.update(found.value["mcpServers"])
    for ours, theirs in ((document.places, found.places), (document.keys, found.keys)):
        ours.update({path: place for path, place in theirs.items() if len(path) > 1 or path not in ours})


def _where(found: Document, name: str) -> str:
    return found.where(("mcpServers", name), key=True)
