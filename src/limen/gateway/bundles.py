"""What differs on a bundle from a server's own route: the names that clients are shown. What is decided does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from limen.core.call import Approved, Call
from limen.core.verdict import Refusal
from limen.protocol.jsonrpc import render
from limen.protocol.naming import MARK, shown_name, shown_uri

_MEMBER: Final = {"tool": "name", "prompt": "name", "resource": "uri", "template": "uriTemplate"}


def renamed(item: Approved) -> bytes:
    """The approved definition under its name on a bundle. Nothing else in it differs. JSON."""
    show = shown_name if item.kind in ("tool", "prompt") else shown_uri
    return render({**item.read(), _MEMBER[item.kind]: show(item.server, item.name)})


def joined(said: Mapping[str, str]) -> str | None:
    """Instructions of several servers as one text, or None when there are none.

    Every line of a server's text is quoted (`> `), so no server can write a heading in the name of another.
    """
    parts = []
    for server, text in said.items():
        lines = "\n".join(f"> {line}" for line in text.splitlines())
        heading = f"# Server {server}: its tools and prompts begin with {server}{MARK}"
        parts.append(f"{heading}\n\n{lines}")
    return "\n\n".join(parts) or None


def followable(call: Call, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a call on a bundle with every URI a client may follow as the bundle writes it.

    These are the `uri` of resource links, of embedded resources, and of what `resources/read` returns. A URI always
    becomes one of the server that answered, whatever it looks like: no server can hand out another's.
    """
    if call.method == "tools/call" and "content" in result:
        return {**result, "content": [_block(call.server, block) for block in result["content"]]}
    if call.method == "prompts/get" and "messages" in result:
        messages = [{**message, "content": _block(call.server, message["content"])} for message in result["messages"]]
        return {**result, "messages": messages}
    if call.method == "resources/read" and "contents" in result:
        return {**result, "contents": [_located(call.server, contents) for contents in result["contents"]]}
    return result


def _block(server: str, block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "resource_link":
        return _located(server, block)
    if block["type"] == "resource":
        return {**block, "resource": _located(server, block["resource"])}
    return block


def _located(server: str, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "uri": shown_uri(server, value["uri"])}


def echoed(call: Call, refusal: Refusal) -> Refusal:
    """A refusal of a call on a bundle: where it repeats the caller's own URI, it does so as the caller wrote it."""
    if not call.server or refusal.public.get("uri") != call.name:
        return refusal
    return replace(refusal, public={**refusal.public, "uri": shown_uri(call.server, call.name)})
