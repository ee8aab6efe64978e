"""Reads WWW-Authenticate as RFC 9110 defines it: what a client would understand of a challenge."""

from __future__ import annotations

TCHAR = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def read_challenge(value: str) -> tuple[str, dict[str, str]]:
    """The only challenge."""
    (challenge,) = read_challenges(value)
    return challenge


def read_challenges(value: str) -> list[tuple[str, dict[str, str]]]:
    """Challenges of RFC 9110 section 11.6.1: each is scheme 1*SP #auth-param, quoted-string per section 5.6.4."""
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

    def parameter(name: str) -> None:
        nonlocal position
        parameters = found[-1][1]
        assert name not in parameters, "a parameter occurs once (RFC 6750 section 3)"
        assert value[position] == "="
        position += 1
        parameters[name] = quoted() if value[position] == '"' else token()

    found: list[tuple[str, dict[str, str]]] = []
    while True:
        word = token()
        if value[position] == " ":
            found.append((word, {}))
            position += 1
            word = token()
        parameter(word.lower())
        if position == len(value):
            return found
        assert value[position : position + 2] == ", "
        position += 2
