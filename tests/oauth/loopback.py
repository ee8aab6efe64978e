"""ports.Exchange over real HTTP, for providers on this machine."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from limen.core.faults import DependencyFault
from limen.core.ports import Fetched


class LoopbackExchange:
    """No proxies, no redirects; a connection for each exchange."""

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        return await self._ask("GET", url, b"", {"accept": accept})

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        return await self._ask("POST", url, body, headers)

    async def _ask(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        try:
            async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:
                answer = await client.request(method, url, content=body, headers=dict(headers))
        except httpx2.HTTPError as error:
            raise DependencyFault("fetch", str(error)) from None
        return Fetched(answer.status_code, dict(answer.headers), answer.content)
