"""Reads WWW-Authenticate as RFC 9110 defines it: what a client would understand of a challenge."""

from __future__ import annotations

TCHAR = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def read_challenge(value: str) -> tuple[str, dict[str, str]]:
    """The first challenge, which is the one for bearer tokens."""
    return read_challenges(value)[0]


def read_challenges(value: str) -> list[tuple[str, dict[str, str]]]:
    """Challenges of RFC 9110 section 11.6.1: scheme 1*SP #auth-param, quoted-string per section 5.6.4."""
    position = 0

    def token() -> str:
        nonlocal position
        begin = position
        while position < len(value) and value[position] in TCHAR:
            position += 1
        assert position > begin, f"a token is missing at {begin}"
        return value[begin:position]

    def quoted() -> str:
        nonlocal position
        position += 1
        text = ""
        while value[position] != '"':
            if value[position] == "\\":
                position += 1
            assert value[position] == "\t" or " " <= value[position] <= "~"
            text += value[position]
            position += 1
        position += 1
        return text

    found: list[tuple[str, dict[str, str]]] = []
    while True:
        name = token()
        if value[position] == " ":
            found.append((name, {}))
            position += 1
            name = token()
        parameters = found[-1][1]
        assert name.lower() not in parameters, "a parameter occurs once (RFC 6750 section 3)"
        assert value[position] == "="
        position += 1
        parameters[name.lower()] = quoted() if value[position] == '"' else token()
        if position == len(value):
            return found
        assert value[position : position + 2] == ", "
        position += 2
