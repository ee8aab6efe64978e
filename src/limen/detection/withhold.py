"""What takes the place of content that may not go on: a notice for the whole, a mark for a secret in it.

Also what of a result is text at all: images and sound are not, blobs that decode to text are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final, Protocol

from limen.core.call import Call
from limen.detection.finding import Finding

_MEDIA: Final = ("image", "audio")


class Redact(Protocol):
    """The text without what was found in it. `hint`: name of the member the text stands in."""

    def __call__(self, text: str, hint: str, families: frozenset[str]) -> str: ...


class Quarantine(Protocol):
    """Keeps what was withheld until an operator releases it or its time is over. Raises DependencyFault."""

    def keep(self, call: Call, reference: str, content: dict[str, Any], findings: tuple[str, ...]) -> str:
        """Returns the id to release it by."""
        ...


def readable(result: dict[str, Any]) -> dict[str, Any]:
    """The result as detectors should see it: blobs decoded where they are text, media data left out.

    Only where the protocol puts blobs and media: elsewhere (`structuredContent`) members of these names are text.
    Media data is left out because no detector here reads pictures or sound, and so are blobs that are no text.
    """
    shown = dict(result)
    for member, look in (("content", _block), ("contents", _contents), ("messages", _message)):
        if type(listed := shown.get(member)) is list:
            shown[member] = [look(one) if type(one) is dict else one for one in listed]
    return shown


def _block(block: dict[str, Any]) -> dict[str, Any]:
    if block.get("type") in _MEDIA:
        return {name: member for name, member in block.items() if name != "data"}
    if block.get("type") == "resource" and type(block.get("resource")) is dict:
        return {**block, "resource": _contents(block["resource"])}
    return block


def _contents(contents: dict[str, Any]) -> dict[str, Any]:
    if type(contents.get("blob")) is not str:
        return contents
    text = _text(contents["blob"])
    kept = {name: member for name, member in contents.items() if name != "blob"}
    return kept if text is None else {**kept, "blob": text}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": _block(content)} if type(content) is dict else message


def notice(call: Call, resumed: bool, text: str) -> dict[str, Any] | None:
    """A well-formed answer to this call that holds `text` only, or None where its method has no room for one."""
    if call.method == "tools/call":
        built: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    elif call.method == "resources/read":
        built = {"contents": [{"uri": call.name, "mimeType": "text/plain", "text": text}]}
    elif call.method == "prompts/get":
        built = {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
    else:
        return None
    return {**built, "resultType": "complete"} if resumed else built


def redacted(value: Any, findings: Iterable[Finding], redact: Redact) -> Any | None:
    """A copy of the value without what these findings point at, or None when one of them cannot be taken out.

    That is so where it is spread over several members, stands in a member's name or in a blob, or was seen in a
    decoded form only and is still there afterwards.
    """
    families: dict[str, set[str]] = {}
    for finding in findings:
        if finding.view != "plain" or not finding.path:
            return None
        families.setdefault(finding.path, set()).add(finding.family)
    copy = _copied(value)
    for path, kinds in families.items():
        steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
        holder = _holder(copy, steps)
        last: Any = int(steps[-1]) if type(holder) is list else steps[-1]
        if holder is None or last == "blob" or type(holder[last]) is not str:
            return None
        hint = next((step for step in reversed(steps) if not step.isdigit()), "")
        cleaned = redact(holder[last], hint, frozenset(kinds))
        if cleaned == holder[last]:
            return None
        holder[last] = cleaned
    return copy


def _holder(value: Any, steps: list[str]) -> Any:
    """The object or list whose member the pointer names, or None."""
    for step in steps[:-1]:
        value = _member(value, step)
    return value if steps and _member(value, steps[-1]) is not None else None


def _member(value: Any, step: str) -> Any:
    if type(value) is dict:
        return value.get(step)
    if type(value) is list and step.isdigit() and len(step) < 9 and int(step) < len(value):
        return value[int(step)]
    return None


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copied(member) for name, member in value.items()}
    return [_copied(member) for member in value] if type(value) is list else value


def _text(blob: str) -> str | None:
    try:
        return base64.b64decode(blob, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
