"""Flight recorder: every attempt to sign in as the steps it took, each with its outcome. Never a secret."""

from __future__ import annotations

from typing import Literal, Protocol

from limen.oauth.web import Visit

Leg = Literal[
    "challenge", "resource_metadata", "server_metadata", "registration", "client", "authorize", "consent", "provider",
    "callback", "code", "token", "refresh", "device", "connect", "first_call",
]  # fmt: skip


class Recorder(Protocol):
    """Where the steps go. Recording never fails an attempt and never waits."""

    def note(
        self,
        leg: Leg,
        outcome: str,  # "ok", or the code of an OAuth error, or the id of a reason
        *,
        visit: Visit | None = None,
        client: str = "",
        resource: str = "",
        transaction: str = "",  # id of the authorization transaction, where there is one
        grant: str = "",  # id of the family of tokens, where there is one
        user: str = "",  # subject
        field: str = "",  # the parameter, claim or member that was wrong
        detail: str = "",  # for the operator: what was expected and what came
    ) -> None: ...
