"""Puts Limen between a client and its servers, in the client's own file, and takes it out again.

One file of ours beside the configuration, `limen-wrapped.json`, holds every original entry: under `mcpServers`, where
the configuration includes it from, and as the very text that stood in the client's file. It is on disk before a
client's file is touched, and each client's file is exchanged whole, so that whoever is interrupted finds everything
needed to go on or back.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from limen.adapters.replace import remove_file, replace_file
from limen.cli.clients import Client
from limen.config.document import read_file
from limen.config.references import CREDENTIAL_NAME
from limen.config.spans import Node, edited, read_json, read_toml, toml_table, without
from limen.core.faults import ConfigFault
from limen.sandbox.launch import Image, NotLaunchable, environment, read

STATE: Final = "limen-wrapped.json"
SECRETS: Final = "limen-wrapped"
LARGEST: Final = 32 << 20  # bytes of a client's file: some keep their history in it
_TAKEN: Final = frozenset({"command", "args", "env", "cwd", "type", "url", "serverUrl", "httpUrl", "headers"})
_KEPT: Final = frozenset(
    {
        "disabled", "enabled", "alwaysAllow", "autoApprove", "timeout", "trust", "description", "tools", "source",
        "gallery", "version", "settings", "includeTools", "excludeTools", "disabledTools", "enabled_tools",
        "disabled_tools", "startup_timeout_sec", "startup_timeout_ms", "tool_timeout_sec", "networkTimeout", "dev",
    }
)  # fmt: skip
_PLAIN: Final = re.compile(r"[^A-Za-z0-9.-]+")
_SECRET_VALUE: Final = re.compile(r"^\s*(bearer|basic|token)\s+\S|^(sk-|gh[pousr]_|github_pat_|xox|glpat-|eyJ)", re.I)


@dataclass(slots=True)
class Entry:
    """One server of a client. `state`: "open" (not wrapped), "wrapped", or "skipped" with why in `reason`."""

    keys: tuple[str, ...]
    name: str
    value: Any
    text: str
    span: tuple[int, int]
    state: str = "open"
    reason: str = ""
    server: str = ""


@dataclass(slots=True)
class Found:
    """One place that was looked at. `state`: "read", "absent", or "refused" with why in `reason`."""

    client: Client
    path: Path
    state: str = "absent"
    reason: str = ""
    data: bytes = b""
    entries: list[Entry] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text; a byte order mark stays in it."""
        return self.data.decode("utf-8")


def look(client: Client, path: Path) -> Found:
    """Read one place. Never raises for what the place holds: that is `refused`, with the line."""
    found = Found(client, path)
    if not os.path.lexists(path):
        return found
    found.state = "refused"
    if client.form == "yaml":
        found.reason = "this client writes YAML, which is not edited yet: wrap it by hand"
        return found
    try:
        found.data = read_file(path, "the client's file", limit=LARGEST, follow=True)
        found.entries = _entries(client, found.text, str(path))
        found.state = "read"
    except ConfigFault as fault:
        found.reason = str(fault)
    except UnicodeDecodeError as fault:
        found.reason = f"{path}:{found.data.count(10, 0, fault.start) + 1}: not UTF-8 text"
    return found


def _entries(client: Client, text: str, file: str) -> list[Entry]:
    if not text.strip("\ufeff \t\r\n"):
        return []
    made: list[Entry] = []
    if client.form == "toml":
        value = read_toml(text, file)
        for keys in client.keys:
            for name, entry in (value.get(keys[0]) or {}).items() if isinstance(value.get(keys[0]), dict) else ():
                span = toml_table(text, keys[0], name)
                one = Entry(keys, name, entry, text[slice(*span)] if span else "", span or (0, 0))
                made.append(_judged(one, "" if span else "is not written as a table of its own"))
        return made
    root = read_json(text, file)
    if not isinstance(root.value, dict):
        raise ConfigFault("is not an object", f"{file}:1:1")
    for keys in client.keys:
        for place, node in _nodes(root, keys, ()):
            for name, inner in node.members.items():
                one = Entry(place, name, inner.value, text[inner.start : inner.end], (inner.start, inner.end))
                made.append(_judged(one, ""))
    return made


def _nodes(node: Node, keys: tuple[str, ...], place: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Node]]:
    if not keys:
        yield place, node
        return
    for name in list(node.members) if keys[0] == "*" else [keys[0]]:
        if name in node.members:
            yield from _nodes(node.members[name], keys[1:], (*place, name))


def _judged(entry: Entry, reason: str) -> Entry:
    entry.reason = reason or _unfit(entry.value)
    entry.state = "skipped" if entry.reason else "open"
    if not entry.reason and ours(entry.value):
        entry.state, entry.server = "wrapped", str(entry.value["args"][-1])
    return entry


def ours(value: Any) -> bool:
    """Whether an entry starts Limen already."""
    args = value.get("args") if isinstance(value, dict) else None
    return (
        isinstance(args, list) and len(args) == 6 and args[:3] == ["-m", "limen", "-c"] and args[4] == "stdio"
    )  # fmt: skip


def _unfit(value: Any) -> str:
    """Why an entry is left as it is, or ""."""
    if not isinstance(value, dict):
        return "is not an object"
    if unknown := sorted(set(value) - _TAKEN - _KEPT):
        return f"has {unknown[0]}, which would be lost"
    if value.get("disabled") is True or value.get("enabled") is False:
        return "is disabled"
    urls = [key for key in ("url", "serverUrl", "httpUrl") if key in value]
    if ("command" in value) + len(urls) != 1 or not isinstance(value.get(urls[0] if urls else "command"), str):
        return "has not exactly one of command and url"
    if _texts(value) is None:
        return "has args, env or headers of another form"
    if any("${" in text for text in _texts(value) or ()):
        return "uses variables that only the client knows"
    if value.get("type") == "sse":
        return "uses a transport that is not spoken"
    try:
        if not urls:
            form = read(value["command"], value.get("args", []))
            environment(form, value.get("env", {}), pinned=False)
            if isinstance(form, Image):
                return "starts a container: write it into limen.yaml, with security.isolate: podman"
    except NotLaunchable as fault:
        return str(fault)
    return ""


def _texts(value: dict[str, Any]) -> list[str] | None:
    args, env, headers = value.get("args", []), value.get("env", {}), value.get("headers", {})
    if not isinstance(args, list) or not isinstance(env, dict) or not isinstance(headers, dict):
        return None
    texts = [*args, *env.values(), *headers.values(), value.get("cwd", ""), value.get("command", "")]
    texts += [value.get(key, "") for key in ("url", "serverUrl", "httpUrl")]
    return texts if all(isinstance(text, str) for text in texts) else None


def shown(value: Any) -> str:
    """What an entry starts, for people: names of variables and headers, and nothing that could be a secret."""
    if not isinstance(value, dict):
        return ""
    address = value.get("url") or value.get("serverUrl") or value.get("httpUrl")
    if isinstance(address, str):
        text = address.split("?")[0].split("#")[0]
        text = re.sub(r"//[^/@]*@", "//", text)
    else:
        text = " ".join([str(value.get("command", "")), *_plain_args(value.get("args"))])
    names = [*(value.get("env") or {}), *(value.get("headers") or {})] if _texts(value) is not None else []
    return f"{text} ({', '.join(names)})" if names else text


def _plain_args(args: Any) -> Iterable[str]:
    hide = False
    for one in args if isinstance(args, list) else []:
        text = str(one)
        name, joined, value = text.partition("=")
        if hide or _SECRET_VALUE.search(value or text) or re.search(r"://[^/@]*@", text):
            yield "***" if hide or not joined else f"{name}=***"
        else:
            yield f"{name}=***" if joined and CREDENTIAL_NAME.search(name) else text
        hide = not hide and text.startswith("-") and not joined and CREDENTIAL_NAME.search(text.lstrip("-")) is not None


class Wrapping:
    """The wrapped entries of one configuration. `config`: its path, which need not exist yet."""

    def __init__(self, config: Path) -> None:
        """Raises ConfigFault when our own file cannot be read."""
        self.config = config.absolute()
        self.path = self.config.with_name(STATE)
        self._kept = self.config.with_name(SECRETS)
        self._made: list[Path] = []
        self._data = read_file(self.path, STATE) if self.path.exists() else None
        try:
            state = json.loads(self._data) if self._data is not None else {}
            self.servers: dict[str, Any] = state.get("mcpServers", {})
            self.files: list[dict[str, Any]] = state.get("wrapped", [])
            self.before: dict[str, Any] | None = state.get("config")
        except (ValueError, AttributeError):
            raise ConfigFault("is not the file this program wrote", str(self.path)) from None

    def record(self, path: Path) -> dict[str, Any]:
        """What is known of a client's file; empty when nothing of it is wrapped."""
        return next((one for one in self.files if one["path"] == str(path)), {})

    # wrapping

    def wrap(self, found: Found, names: frozenset[str] = frozenset()) -> bytes:
        """The client's file with its open entries wrapped, all or those named. Remembers the originals; `save` puts
        them on disk, and must come before the file is written. Raises ConfigFault."""
        entries = [one for one in found.entries if one.state == "open" and (not names or one.name in names)]
        known = self.record(found.path)
        rows, edits = list(known.get("entries", [])), []
        for entry in entries:
            entry.server = self._take(entry, found.client)
            new = self._written(found, entry)
            edits.append((*entry.span, new))
            rows = [row for row in rows if (row["keys"], row["name"]) != (list(entry.keys), entry.name)]
            rows.append(
                {
                    "keys": list(entry.keys),
                    "name": entry.name,
                    "server": entry.server,
                    "original": entry.text,
                    "wrapped": new,
                }
            )
        after = edited(found.text, edits)
        _same_elsewhere(found, after, [(*one.keys, one.name) for one in entries])
        if not entries:
            return found.data
        plain = self._restored(found.client, found.text, known.get("entries", []), str(found.path))[0].encode()
        row = {
            "path": str(found.path), "client": found.client.name, "before": self._backup(plain),
            "after": sha256(after.encode()).hexdigest(), "entries": rows,
        }  # fmt: skip
        self.files = [*(one for one in self.files if one["path"] != row["path"]), row]
        return after.encode()

    def _take(self, entry: Entry, client: Client) -> str:
        """The entry becomes a server of ours: under its own name, or one more where that is another server's."""
        value = entry.value
        made: dict[str, Any] = {
            key: value[key] for key in ("command", "args", "env", "cwd", "headers") if value.get(key)
        }
        if "command" not in value:
            made["url"] = next(value[key] for key in ("url", "serverUrl", "httpUrl") if key in value)
        base = re.sub(r"_{2,}|_$", "-", _PLAIN.sub("-", entry.name)).strip("-.")[:50] or "server"
        base = base if base[0].isalnum() else f"s{base}"
        for name in (base, f"{base}-{client.name}", *(f"{base}-{client.name}-{n}" for n in range(2, 100))):
            candidate = self._hidden(name, made)
            if self.servers.setdefault(name, candidate) == candidate and not self._clashes(name):
                return name
        raise ConfigFault("too many servers of one name", entry.name)

    def _clashes(self, name: str) -> bool:
        return any(other != name and other.casefold() == name.casefold() for other in self.servers)

    def _hidden(self, name: str, made: dict[str, Any]) -> dict[str, Any]:
        """Credentials move into files that only we can read; a configuration refers to them."""
        copy = dict(made)
        for part in ("env", "headers"):
            values = dict(copy.get(part, {}))
            for key, text in values.items():
                if text.strip() == text and text and (CREDENTIAL_NAME.search(key) or _SECRET_VALUE.search(text)):
                    values[key] = f"${{file:{SECRETS}/{self._backup(text.encode())}}}"
            if values:
                copy[part] = values
        return copy

    def _backup(self, data: bytes) -> str:
        """Keep these bytes, named by their digest."""
        name = sha256(data).hexdigest()
        self._kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._kept / name).exists():
            replace_file(self._kept / name, data, None)
            self._made.append(self._kept / name)
        return name

    def discard(self) -> None:
        """Take back what `wrap` kept, when nothing comes of it."""
        for path in self._made:
            remove_file(path)
        if self._kept.is_dir() and not any(self._kept.iterdir()):
            self._kept.rmdir()

    def _written(self, found: Found, entry: Entry) -> str:
        """The new text of an entry, indented like the old one."""
        made: dict[str, Any] = {
            **({"type": entry.value["type"]} if entry.value.get("type") == "stdio" else found.client.marks or {}),
            "command": sys.executable,
            "args": ["-m", "limen", "-c", str(self.config), "stdio", entry.server],
            **{key: value for key, value in entry.value.items() if key in _KEPT},
        }
        end = "\r\n" if "\r\n" in found.text else "\n"
        if found.client.form == "toml":
            rows = [entry.text.splitlines()[0], *(f"{key} = {_toml(value)}" for key, value in made.items())]
            return end.join(rows)
        line = found.text[found.text.rfind("\n", 0, entry.span[0]) + 1 : entry.span[0]]
        indent = re.match(r"[ \t]*", line)
        step = "\t" if indent and "\t" in indent[0] else "  "
        return json.dumps(made, indent=step, ensure_ascii=False).replace("\n", end + (indent[0] if indent else ""))

    # unwrapping

    def unwrap(self, found: Found) -> tuple[bytes, list[str]]:
        """The client's file as it was: byte for byte if nobody changed it since, else with the original entries put
        back where ours stand. Also what was left alone, and why. Raises ConfigFault."""
        known = self.record(found.path)
        backup = self._kept / str(known["before"])
        if sha256(found.data).hexdigest() == known["after"] and backup.exists():
            data = read_file(backup, "the backup", limit=LARGEST)
            if sha256(data).hexdigest() != known["before"]:
                raise ConfigFault("the backup is not what was kept", str(backup))
            return data, []
        text, left = self._restored(found.client, found.text, known["entries"], str(found.path))
        return text.encode(), left

    def _restored(self, client: Client, text: str, rows: list[dict[str, Any]], file: str) -> tuple[str, list[str]]:
        edits, left = [], []
        standing = {(one.keys, one.name): one for one in _entries(client, text, file)} if rows else {}
        for row in rows:
            entry = standing.get((tuple(row["keys"]), row["name"]))
            if entry is None or not ours(entry.value):
                left.append(f"{row['name']}: was {'removed' if entry is None else 'changed'} since")
            else:
                edits.append((*entry.span, row["original"]))
        return edited(text, edits), left

    def forget(self, path: Path) -> None:
        """Nothing of this file is wrapped any more; servers nobody else uses are dropped."""
        self.files = [one for one in self.files if one["path"] != str(path)]
        used = {row["server"] for one in self.files for row in one["entries"]}
        self.servers = {name: value for name, value in self.servers.items() if name in used}

    # our own files

    def save(self) -> None:
        """Our state on disk; without anything wrapped no file of ours is left. Raises DependencyFault."""
        if not self.files:
            remove_file(self.path)
            for name in list(self._kept.iterdir()) if self._kept.is_dir() else []:
                remove_file(name)
            if self._kept.is_dir():
                self._kept.rmdir()
            self._data = None
            return
        state = {"mcpServers": self.servers, "wrapped": self.files, "config": self.before}
        data = (json.dumps(state, indent=2) + "\n").encode()
        replace_file(self.path, data, self._data)
        self._data = data


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _toml(value: Any) -> str:
    """Values of wrapped entries in TOML: its basic strings, numbers, booleans and arrays are written as in JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _same_elsewhere(found: Found, after: str, paths: list[tuple[str, ...]]) -> None:
    """An edit that changed the meaning of anything else is not made."""
    if not paths:
        return
    read = read_toml if found.client.form == "toml" else lambda text, file: read_json(text, file).value
    before, now = read(found.text, str(found.path)), read(after, str(found.path))
    if without(before, paths) != without(now, paths) or not all(ours(_at(now, path)) for path in paths):
        raise ConfigFault("cannot be edited without changing something else", str(found.path))
