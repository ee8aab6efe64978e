"""Names of people who decide something together."""

from __future__ import annotations

import unicodedata

AUTOMATIC = "playbook:"  # how the name of what decides by itself begins: it is nobody


def person(name: str) -> str:
    """What makes two names the same person: spellings that differ in case, width or spaces are one."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def two_people(one: str, other: str) -> bool:
    """Whether these are two different people. What decides by itself is none."""
    names = {person(one), person(other)}
    return len(names) == 2 and all(name and not name.startswith(AUTOMATIC) for name in names)
