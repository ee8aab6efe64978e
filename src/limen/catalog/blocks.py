"""Content on its way to a client, built again from the members the protocol knows. Nothing is passed on as it came."""

from __future__ import annotations

import binascii
import re
from typing import Any, Final

from limen.catalog.templates import uri_fault
from limen.catalog.text import clean

_MIME: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+\-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+\-]{0,126}"
    r"(?: ?; ?[A-Za-z0-9\-]{1,64}=[A-Za-z0-9!#$&^_.+\-]{1,128}){0,4}"
)
_IMAGE: Final = re.compile(
    r"image/(?:png|jpe?g|gif|webp|avif|bmp|tiff|heic|heif|x-icon|vnd\.microsoft\.icon)", re.IGNORECASE
)
_AUDIO: Final = re.compile(r"audio/[A-Za-z0-9.+\-]{1,64}", re.IGNORECASE)
_ROLES: Final = ("user", "assistant")
_LINK_TEXTS: Final = ("name", "title", "description")


class Unacceptable(ValueError):
    """The whole answer is refused. The message is for the audit and holds no text of the server."""


class Rebuild:
    """Builds the blocks of one answer and notes what was left out, for the audit."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: dict[str, int] = {}

    def note(self, what: str) -> None:
        """Count something that was left out or changed."""
        self._notes[what] = self._notes.get(what, 0) + 1

    @property
    def notes(self) -> str:
        """What was left out, or "" when the answer is as it came."""
        return ", ".join(f"{what} ({count})" if count > 1 else what for what, count in self._notes.items())

    def only(self, value: dict[str, Any], *members: str) -> None:
        """Note members that are not passed on."""
        for member in value:
            if member not in members:
                self.note("_meta" if member == "_meta" else "a member that is not passed on")

    def text(self, value: str) -> str:
        """The text without what a terminal would obey or a reader could not see."""
        cleaned = clean(value)
        if cleaned is not value:
            self.note("control characters")
        return cleaned

    def json(self, value: Any) -> Any:
        """A JSON value with every text in it cleaned, member names included."""
        if type(value) is str:
            return self.text(value)
        if type(value) is dict:
            return {self.text(name): self.json(member) for name, member in value.items()}
        if type(value) is list:
            return [self.json(member) for member in value]
        return value

    def block(self, value: Any) -> dict[str, Any] | None:
        """One content block, or None when it is not one we know to be well-formed."""
        kind = value.get("type") if type(value) is dict else None
        built: dict[str, Any] | None = None
        if kind == "text" and type(value.get("text")) is str:
            self.only(value, "type", "text", "annotations")
            built = {"type": "text", "text": self.text(value["text"])}
        elif kind in ("image", "audio"):
            built = self._media(value, kind)
        elif kind == "resource":
            self.only(value, "type", "resource", "annotations")
            inner = self.contents(value.get("resource"))
            built = {"type": "resource", "resource": inner} if inner is not None else None
        elif kind == "resource_link":
            built = self._link(value)
        if built is None:
            self.note("a content block that is not well-formed")
        elif "annotations" in value:
            self._annotate(built, value["annotations"])
        return built

    def contents(self, value: Any) -> dict[str, Any] | None:
        """The contents of one resource, text or blob, or None."""
        if type(value) is not dict or uri_fault(value.get("uri")):
            return None
        self.only(value, "uri", "mimeType", "text", "blob")
        built = {"uri": value["uri"]}
        self._mime(built, value)
        if type(value.get("text")) is str and "blob" not in value:
            built["text"] = self.text(value["text"])
        elif _is_base64(value.get("blob")) and "text" not in value:
            built["blob"] = value["blob"]
        else:
            return None
        return built

    def _media(self, value: dict[str, Any], kind: str) -> dict[str, Any] | None:
        self.only(value, "type", "data", "mimeType", "annotations")
        mime = value.get("mimeType")
        if type(mime) is not str or not (_IMAGE if kind == "image" else _AUDIO).fullmatch(mime):
            return None  # also image/svg+xml: a document that runs scripts
        return {"type": kind, "data": value["data"], "mimeType": mime} if _is_base64(value.get("data")) else None

    def _link(self, value: dict[str, Any]) -> dict[str, Any] | None:
        self.only(value, "type", "uri", "mimeType", "size", "annotations", *_LINK_TEXTS)
        if uri_fault(value.get("uri")) or type(value.get("name")) is not str:
            return None
        built: dict[str, Any] = {"type": "resource_link", "uri": value["uri"]}
        for member in _LINK_TEXTS:
            if type(text := value.get(member)) is str:
                built[member] = self.text(text)
            elif member in value:
                self.note("a member of the wrong type")
        self._mime(built, value)
        if type(size := value.get("size")) is int and size >= 0:
            built["size"] = size
        elif "size" in value:
            self.note("a member of the wrong type")
        return built

    def _mime(self, built: dict[str, Any], value: dict[str, Any]) -> None:
        mime = value.get("mimeType")
        if type(mime) is str and _MIME.fullmatch(mime):
            built["mimeType"] = mime
        elif "mimeType" in value:
            self.note("a media type that is not one")

    def _annotate(self, built: dict[str, Any], value: Any) -> None:
        if type(value) is not dict:
            self.note("a member of the wrong type")
            return
        self.only(value, "audience", "priority", "lastModified")
        kept: dict[str, Any] = {}
        audience, priority, modified = value.get("audience"), value.get("priority"), value.get("lastModified")
        if type(audience) is list and all(role in _ROLES for role in audience):
            kept["audience"] = list(dict.fromkeys(audience))
        if isinstance(priority, int | float) and type(priority) is not bool and 0 <= priority <= 1:
            kept["priority"] = priority
        if type(modified) is str and len(modified) <= 64 and modified.isascii() and modified.isprintable():
            kept["lastModified"] = modified
        if kept != {name: value[name] for name in kept} or len(kept) < len(value):
            self.note("annotations")
        if kept:
            built["annotations"] = kept


def _is_base64(value: Any) -> bool:
    if type(value) is not str or not value.isascii():
        return False
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error:
        return False
    return len(value) % 4 == 0
