"""Bundles: several servers on one address, `bundles: {team: [files, git]}` at `/mcp/team`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_bundles(bundles: Mapping[str, Sequence[str]], servers: Iterable[str]) -> None:
    """Names that are safe in a path and are nobody else's; members that exist, once each. Raises ValueError.

    `servers`: every name under mcpServers, disabled ones included: to enable one must not move an address.
    """
    known = set(servers)
    taken = {name.casefold(): f"the server {name!r}" for name in known}
    for name, members in bundles.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} is not a bundle name: 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
            )
        if (other := taken.get(name.casefold())) is not None:
            raise ValueError(f"the bundle {name!r} would be served at the address of {other}")
        taken[name.casefold()] = f"the bundle {name!r}"
        if not members:
            raise ValueError(f"the bundle {name!r} has no servers")
        if strangers := [member for member in members if member not in known]:
            raise ValueError(f"{strangers[0][:80]!r} in the bundle {name!r} is no server of mcpServers")
        if len(set(members)) < len(members):
            raise ValueError(f"the bundle {name!r} names a server twice")


def routes(bundles: Mapping[str, Sequence[str]], in_use: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The servers in use behind every route that stands for several; "" is the route of all of them."""
    servers = tuple(in_use)
    named = {name: tuple(member for member in members if member in servers) for name, members in bundles.items()}
    return {"": servers, **named}
