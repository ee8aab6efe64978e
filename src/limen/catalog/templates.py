"""URIs and URI templates (RFC 3986, RFC 6570 level 1): which are well-formed, and which template a URI fits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from limen.catalog.text import hidden_character

MAX_URI: Final = 2048
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,63}):(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_ACTIVE: Final = frozenset({"javascript", "vbscript", "data", "blob"})
_EXPRESSION: Final = re.compile(r"\{([^{}]*)\}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z0-9_]{1,64})*")
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})+")


def uri_fault(uri: object) -> str:
    """Why this is not an absolute URI we pass on, or "". Active schemes (javascript:, data:) are faults."""
    if type(uri) is not str or not 0 < len(uri) <= MAX_URI:
        return f"not a text of 1 to {MAX_URI} characters"
    match = _URI.fullmatch(uri)
    if match is None:
        return "not an absolute URI of RFC 3986"
    return "a scheme that clients may execute" if match[1].lower() in _ACTIVE else ""


def template_fault(template: object) -> str:
    """Why this is not a level 1 template of an absolute URI with text between any two variables, or ""."""
    if type(template) is not str or not 0 < len(template) <= MAX_URI:
        return f"not a text of 1 to {MAX_URI} characters"
    names = _EXPRESSION.findall(template)
    if any(not _VARIABLE.fullmatch(name) for name in names):
        return "an expression other than {variable}"
    if not names or len(names) > 16 or len(set(names)) < len(names):
        return "no variable, more than 16, or one used twice"
    if "}{" in template:
        return "two variables with nothing in between"
    if ":" not in template.split("{", 1)[0]:
        return "a variable in place of the scheme"
    return uri_fault(_EXPRESSION.sub("x", template))


def variables(template: str) -> frozenset[str]:
    """The names a template has places for."""
    return frozenset(_EXPRESSION.findall(template))


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template. Matching is one pass from left to right: no input makes it slow."""

    literals: tuple[str, ...]

    @classmethod
    def compile(cls, template: str) -> Template:
        """Raises ValueError for what `template_fault` would name."""
        if fault := template_fault(template):
            raise ValueError(fault)
        return cls(tuple(_EXPRESSION.sub("\0", template).split("\0")))

    def matches(self, uri: str) -> bool:
        """True when each variable stands for one harmless path segment or part of one.

        A value is unreserved characters and percent-encoded ones; decoded it holds no slash, backslash, percent
        sign or invisible character and is not "." or "..": nothing a later decoder could turn into another path.
        """
        first, *rest = self.literals
        if not uri.startswith(first):
            return False
        at = len(first)
        for index, literal in enumerate(rest):
            last = index == len(rest) - 1
            end = (len(uri) - len(literal) if uri.endswith(literal) else -1) if last else uri.find(literal, at + 1)
            if end <= at or not _harmless(uri[at:end]):
                return False
            at = end + len(literal)
        return True


def _harmless(value: str) -> bool:
    if not _VALUE.fullmatch(value):
        return False
    try:
        decoded = unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        return False
    if decoded in (".", "..") or any(mark in decoded for mark in "/\\%\n\t"):
        return False
    return not hidden_character(decoded)
