"""The client's side of one forwarded call, as far as an upstream may speak to it while the call runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from limen.core.call import Era


class Conversation(Protocol):
    """Implemented by the gateway per call, used by upstreams. All of it is judged before a client sees it."""

    @property
    def era(self) -> Era: ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the client declared, reduced to what Limen lets servers use (for example no sampling)."""
        ...

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification of this call: notifications/progress or notifications/message. Anything else is dropped."""
        ...

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Ask the client for input: key -> {"method", "params"}; returns key -> result object.

        Raises UpstreamFault when the client cannot or will not answer; the upstream is then told so.
        """
        ...
