"""What an operator declares about arguments: `content.arguments` in the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import re2  # type: ignore[import-untyped,unused-ignore]
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limen.detection.hosts import Hosts
from limen.detection.paths import Roots
from limen.detection.roles import Role

Text = Annotated[str, Field(min_length=1, max_length=1024)]
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$&'*+/=?^_{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,10}[A-Za-z0-9-]{2,63}\Z")
_ITEM: Final = re.compile(
    r"\s{0,8}(?:\"?[^\"<>@,;:\r\n\\]{0,200}\"?\s{0,4}<([^<>\s]{1,320})>|([^<>\s,;]{1,320}))\s{0,8}\Z"
)


class ArgumentRule(BaseModel):
    """What one argument may be. Everything given has to hold; a value that cannot be judged is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    role: Role | None = Field(default=None, description="what the value is used for; `text` takes all guesses away")
    roots: tuple[Text, ...] | None = Field(default=None, description="directories a path must stay in")
    hosts: tuple[Text, ...] | None = Field(
        default=None, description="hosts a URL may name: name, *.name, address, network"
    )
    recipients: tuple[Text, ...] | None = Field(default=None, description="who may be written to: address or @domain")
    read_only: bool = Field(default=False, description="SQL: exactly one statement that reads")
    pattern: str | None = Field(
        default=None, max_length=4096, description="RE2 expression the whole of every string matches"
    )
    max: float | None = Field(default=None, description="largest number, longest string, most items")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            compile_pattern(value)
        return value

    @field_validator("roots", "hosts", "recipients")
    @classmethod
    def _not_vacuous(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise ValueError("an empty list allows nothing; leave the key out, or the tool unapproved")
        return value

    @field_validator("roots")
    @classmethod
    def _absolute(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for root in value or ():
            if not re.match(r"/|[A-Za-z]:[/\\]|~|\\\\", root) or ".." in re.split(r"[/\\]", root):
                raise ValueError("a root is an absolute directory without ..")
        return value

    @field_validator("hosts")
    @classmethod
    def _readable(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value:
            Hosts(value)
        return value

    @model_validator(mode="after")
    def _one_meaning(self) -> ArgumentRule:
        kinds = {
            "roots": (self.roots is not None, {Role.PATH, Role.FILENAME}),
            "hosts": (self.hosts is not None, {Role.URL, Role.URI, Role.HOST, Role.DESTINATION}),
            "recipients": (self.recipients is not None, {Role.RECIPIENT}),
            "read_only": (self.read_only, {Role.SQL}),
        }
        given = [name for name, (present, _) in kinds.items() if present]
        if len(given) > 1 or (given and self.role is not None and self.role not in kinds[given[0]][1]):
            raise ValueError("roots are for paths, hosts for URLs, recipients for recipients, read_only for SQL")
        return self


class ArgumentSettings(BaseModel):
    """`server/tool` (`*`: any run of characters) -> argument (`a/b` for a member) -> rule; all that match hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    tools: dict[Annotated[str, Field(pattern=r"^[^/\s]+/\S+$", max_length=400)], dict[Text, ArgumentRule]] = {}


def compile_pattern(pattern: str) -> Any:
    """A linear-time expression. Raises ValueError."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        raise ValueError("not an RE2 expression") from None


class Recipients:
    """Addresses and domains that may be written to; anything else by its exact name (a channel, a list)."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._exact = {entry.lower() for entry in allowed if not entry.startswith("@")}
        self._domains = {entry[1:].lower() for entry in allowed if entry.startswith("@")}

    def holds(self, text: str) -> bool:
        """Is every recipient named in `text` an allowed one? What cannot be read is not."""
        if text.lower() in self._exact:
            return True
        if len(text) > 100_000 or not text.isascii() or any(ord(character) < 32 for character in text):
            return False
        return all(self._one(item) for item in re.split(r"[,;]", text))

    def _one(self, item: str) -> bool:
        match = _ITEM.match(item)
        address = (match[1] or match[2] or "").lower() if match else ""
        if address in self._exact:
            return True
        return bool(_ADDRESS.match(address)) and address.rpartition("@")[2] in self._domains


class Constraint:
    """One rule, compiled."""

    __slots__ = ("_max", "_pattern", "hosts", "read_only", "recipients", "role", "roots", "shaped")

    def __init__(self, rule: ArgumentRule) -> None:
        self.role = rule.role
        self.roots = Roots(rule.roots) if rule.roots is not None else None
        self.hosts = Hosts(rule.hosts) if rule.hosts is not None else None
        self.recipients = Recipients(rule.recipients) if rule.recipients is not None else None
        self.read_only = rule.read_only
        self._pattern = compile_pattern(rule.pattern) if rule.pattern is not None else None
        self._max = rule.max
        if self.role is None:
            self.role = (
                Role.PATH if self.roots else Role.RECIPIENT if self.recipients else Role.SQL if self.read_only else None
            )
        # These say something about strings only: another type is not what the rule speaks of.
        self.shaped = any((self.roots, self.hosts, self.recipients, self.read_only, self._pattern))

    def broken(self, value: Any) -> Iterator[tuple[str, float, str]]:
        """Pattern, size and type. `value` is a scalar or list; roots, hosts and the like are judged with the role."""
        kind = type(value)
        if self.shaped and kind not in (str, list) and value is not None:
            yield "argument.type", 1.0, "not a string, which is what the rule speaks of"
        if self._max is not None and kind is not bool and value is not None:
            size = value if kind in (int, float) else len(value)
            if not size <= self._max:
                yield "argument.max", 1.0, "larger than declared"
        if self._pattern is not None and kind is str and not _matches(self._pattern, value):
            yield "argument.pattern", 1.0, "not of the declared form"


def _matches(pattern: Any, value: str) -> bool:
    try:
        return pattern.fullmatch(value) is not None
    except UnicodeEncodeError:  # a lone surrogate matches nothing
        return False
