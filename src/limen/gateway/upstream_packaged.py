"""A child process whose program is verified each time before it is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from limen.core.announce import Announcement
from limen.core.cell import Cell
from limen.core.faults import InvariantFault
from limen.gateway.upstream_channel import Channel
from limen.gateway.upstream_faces import Face
from limen.gateway.upstream_identity import Programs
from limen.gateway.upstream_stdio import StdioUpstream
from limen.sandbox.launch import Plan

__all__ = ["Start", "VerifiedUpstream"]

Start = Callable[[Plan], Awaitable[Cell]]


class _Artifacts(Programs):
    """Adds the artifact's digest to what a server is known by, so that another one withholds the server."""

    artifact = image = ""

    def of_command(self, argv: Sequence[str], shown: Sequence[str], env: Mapping[str, str], cwd: str) -> dict[str, str]:
        if self.image:  # what is in it is told by its digest; nothing of it lies on this disk by the same path
            return {"argv": orjson.dumps(list(shown)).decode(), "image": self.image, "artifact": self.artifact}
        found = super().of_command(argv, shown, env, cwd)
        return {**found, "artifact": self.artifact} if self.artifact else found


class VerifiedUpstream(StdioUpstream):
    """`plan` gives what to run, after looking at it; it waits for the disk and raises UpstreamFault, then nothing is
    started. `start` runs exactly that. Other arguments as for StdioUpstream."""

    def __init__(self, name: str, argv: Sequence[str], *, plan: Callable[[], Plan], start: Start, **more: Any) -> None:
        super().__init__(name, argv, launch=self._start_planned, **more)
        self._declared = dict(more.get("env") or {})
        self._plan, self._starter = plan, start
        self._planned: Plan | None = None
        self._programs: _Artifacts = _Artifacts()

    @property
    def artifact(self) -> str:
        """Digest of what was verified for the last start; "" where nothing names one."""
        return self._planned.digest if self._planned is not None else ""

    async def _start_planned(self) -> Cell:
        if self._planned is None:
            raise InvariantFault("a program is started that nobody looked at")
        return await self._starter(self._planned)

    async def _spawn(self) -> Channel:
        await self._verify()
        return await super()._spawn()

    async def _describe_apart(self, face: Face) -> Announcement:
        await self._verify()
        return await super()._describe_apart(face)

    async def _verify(self) -> None:
        plan = self._planned = await asyncio.to_thread(self._plan)
        self._argv, self._env = plan.argv, {**self._declared, **plan.env}
        self._programs.artifact, self._programs.image = plan.digest, plan.image
