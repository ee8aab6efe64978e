"""Reads WWW-Authenticate as RFC 9110 defines it: what a client would understand of a challenge."""

from __future__ import annotations

TCHAR = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def read_challenge(value: str) -> tuple[str, dict[str, str]]:
    """One challenge of RFC 9110 section 11.6.1: scheme 1*SP #auth-param, quoted-string per section 5.6.4."""
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

    scheme, parameters = token(), {}
    assert value[position] == " "
    position += 1
    while True:
        name = token().lower()
        assert name not in parameters, "a parameter occurs once (RFC 6750 section 3)"
        assert value[position] == "="
        position += 1
        parameters[name] = quoted() if value[position] == '"' else token()
        if position == len(value):
            return scheme, parameters
        assert value[position : position + 2] == ", "
        position += 2
