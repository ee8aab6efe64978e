"""An MCP server that is a child process of ours, shared by all callers (MCP 2026-07-28 and 2025-11-25 stdio).

Messages are one strict JSON value per line. What cannot be read is counted and ignored, up to a limit; what nobody
waits for is counted and dropped. A call is never written twice: when the process dies, calls in flight fail.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from limen.core.announce import Announcement
from limen.core.call import Era
from limen.core.cell import Bounds
from limen.core.conversation import Conversation
from limen.core.faults import ConfigFault, UpstreamError, UpstreamFault
from limen.core.verdict import Permit
from limen.gateway import eras
from limen.gateway.deadlines import Deadlines
from limen.gateway.upstream_channel import Channel
from limen.gateway.upstream_describe import KINDS, Unheard
from limen.gateway.upstream_faces import OWN, Face
from limen.gateway.upstream_identity import Programs
from limen.gateway.upstream_listing import PROBE_SECONDS, SECONDS, read_all, speaks_modern
from limen.gateway.upstream_run import Launch, Record, Run, bare
from limen.gateway.upstream_talk import Clock, Debounce, Talk

ROUNDS: Final = 8
IN_FLIGHT: Final = 256
HEALTHY_SECONDS: Final = 60.0
_BACKOFF: Final = (0.1, 30.0)
_PATIENCE: Final = 1.0
_SECRET: Final = 6  # characters from which a value is taken out of what the program complains about
_SHARED: Final = frozenset({"form"})  # what a shared handshake-era process is told; narrowed per call when it asks


class StdioUpstream:
    """One configured command. `env` is all it gets besides PATH and LANG; `cwd` defaults to the root directory.

    `launch` starts it, within `bounds`; without one it is started bare. `record` is told of every start and end.
    `shown` is the command line as it may be recorded: without its secrets. `face`: as whom it is spoken to.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float = 30.0,
        longest: float = 600.0,
        probe: float = PROBE_SECONDS,
        era: Era | None = None,
        shown: Sequence[str] = (),
        face: Face = OWN,
        launch: Launch | None = None,
        bounds: Bounds | None = None,
        record: Record = lambda event: None,
    ) -> None:
        if not argv or any("\0" in part for part in argv):
            raise ConfigFault("needs a command", f"servers.{name}.command")
        self.name = name
        self.oddities: Counter[str] = Counter()
        self._deadlines = Deadlines()
        self.on_change: Callable[[str], None] | None = None
        self.headers: frozenset[tuple[str, str]] = frozenset()
        self._argv, self._env, self._cwd = tuple(argv), dict(env or {}), cwd or "/"
        self._shown, self._face, self._programs = tuple(shown or argv), face, Programs()
        self._launch = launch or bare(name, self._argv, self._env, self._cwd)
        self._bounds, self._record = bounds, record
        self._run: Run | None = None
        hidden = [given for given, known in zip(self._argv, self._shown, strict=False) if given != known]
        self._secrets = tuple(one.encode() for one in (*self._env.values(), *hidden) if len(one) >= _SECRET)
        self._starts = 0
        self._timeout, self._longest, self._probe_seconds = timeout, longest, probe
        self._changed = Debounce(self._report)
        self._channel: Channel | None = None
        self._starting: asyncio.Task[Channel] | None = None
        self._reading = asyncio.Lock()
        self._revision = ""
        self._era, self._probe_first = era, era is not Era.HANDSHAKE
        self._failures = 0
        self._not_before = 0.0
        self._expected = False
        self._closed = False

    @property
    def revision(self) -> str:
        """The revision in use; "" until the server was first spoken to."""
        return self._revision

    @property
    def stderr(self) -> bytes:
        """The last 8 KiB the running process wrote to standard error."""
        return self._channel.child.stderr if self._channel is not None else b""

    def state(self) -> dict[str, Any]:
        """Of its program, now: whether it runs, how often it was started, what it uses."""
        running = self._run is not None and not self._run.channel.child.reason
        found = {"server": self.name, "running": running, "starts": self._starts, "failures": self._failures}
        return {**found, **(self._run.state() if self._run is not None and running else {})}

    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]:
        """Send what was permitted and read the result object. There are no headers here: `extra_headers` and the
        credential's are not sent. Raises UpstreamError, UpstreamFault, InvariantFault."""
        call = eras.outgoing(permit)
        clock = Clock(self._timeout, self._longest, self._deadlines)
        talk = Talk(self.name, conversation, clock, self.oddities, call.client_token)
        try:
            with clock:
                channel = await self._running()
                if not channel.modern:
                    talk.words &= _SHARED
                for turn in range(ROUNDS):
                    result = await self._turn(channel, call, talk)
                    if eras.complete(self.name, call, result, modern=channel.modern) or talk.keeps_state:
                        return result
                    answers = await talk.answers(result)
                    call = call._replace(request_state=result.get("requestState"), input_responses=answers)
                    if not answers:
                        await asyncio.sleep(min(0.05 * 2**turn, 0.25))
        except TimeoutError:
            raise UpstreamFault(self.name, "did not answer in time", timeout=True) from None
        raise UpstreamFault(self.name, f"still asked for input after {ROUNDS} rounds")

    async def describe(self, face: Face = OWN) -> Announcement:
        """Read everything the server announces: over the one process there is, or for another face over a second one
        that is started for it and stopped again. Raises UpstreamFault."""
        if face is not self._face:
            async with self._reading:
                return await self._describe_apart(face)
        try:
            async with self._reading, asyncio.timeout(SECONDS):
                self._expected = True
                channel = await self._running()
                envelope = self._envelope if channel.modern else {}

                async def ask(method: str, params: dict[str, Any]) -> tuple[dict[str, Any], int]:
                    return await channel.ask(method, {**params, **envelope})

                command = self._argv, self._shown, self._env, self._cwd
                identity = await asyncio.to_thread(self._programs.of_command, *command)
                backwards = self._face.backwards
                return await read_all(
                    self.name, self._revision, channel.hello, ask, backwards=backwards, identity=identity
                )
        except TimeoutError:
            raise UpstreamFault(self.name, "did not describe itself in time", timeout=True) from None
        except UpstreamError as error:
            raise UpstreamFault(self.name, f"answered our own request with error {error.code}") from error
        finally:
            self._expected = False

    async def _describe_apart(self, face: Face) -> Announcement:
        other = StdioUpstream(
            self.name,
            self._argv,
            env=self._env,
            cwd=self._cwd,
            probe=self._probe_seconds,
            era=self._era if self._probe_first else Era.HANDSHAKE,
            shown=self._shown,
            face=face,
            launch=self._launch,
            bounds=self._bounds,
            record=self._record,
        )
        try:
            return await other.describe(face)
        finally:
            await other.close()

    async def listen(self, opened: Callable[[], None]) -> None:
        """Ask a running 2026-07-28 server to tell of changes, until it ends that; `opened` is called once it agreed.

        Raises Unheard where nothing needs asking (before, every process tells) or it is not offered, UpstreamFault.
        """
        channel = self._channel
        if channel is None or not channel.usable:
            raise UpstreamFault(self.name, "is not running")
        if not channel.modern:
            raise Unheard(self.name, "tells of changes unasked")
        wanted = {"notifications": dict.fromkeys((f"{kind}ListChanged" for kind in KINDS), True)}
        try:
            await channel.listen({**wanted, **self._envelope}, opened)
        except UpstreamError as error:
            raise Unheard(self.name, f"offers no subscriptions: error {error.code}") from None

    @property
    def _envelope(self) -> dict[str, Any]:
        return {"_meta": eras.modern_meta(self._face.words, self._face.client)}

    async def end_session(self, session_id: str) -> None:
        """The process is shared: it has no session of one caller."""

    async def close(self) -> None:
        """Stop the process and do not start another."""
        self._closed = True
        self._changed.stop()
        starting = self._starting
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        if self._channel is not None:
            await self._channel.child.stop()

    async def _turn(self, channel: Channel, call: eras.Outgoing, talk: Talk) -> dict[str, Any]:
        if len(channel) >= IN_FLIGHT:
            raise UpstreamFault(self.name, "has too many calls in flight")
        number = channel.next()
        line = eras.request(number, call, talk.words, modern=channel.modern)
        result, _ = await channel.request(number, line, talk)
        return cast("dict[str, Any]", result)

    async def _running(self) -> Channel:
        """The process, started if need be: once for all calls that wait. Raises UpstreamFault."""
        if self._channel is not None and self._channel.usable:
            return self._channel
        if self._closed:
            raise UpstreamFault(self.name, "is being shut down")
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
            self._starting.add_done_callback(self._started)
        starting = self._starting
        await asyncio.wait([starting])
        if starting.cancelled():
            raise UpstreamFault(self.name, "is being shut down")
        return starting.result()

    def _started(self, task: asyncio.Task[Channel]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # each waiter gets it as well; this marks it as seen where none is left

    async def _start(self) -> Channel:
        wait = self._not_before - asyncio.get_running_loop().time()
        if wait > _PATIENCE:
            raise UpstreamFault(self.name, f"keeps failing: not started again for {wait:.0f} s")
        await asyncio.sleep(max(wait, 0.0))
        try:
            async with asyncio.timeout(SECONDS):
                return await self._greet()
        except TimeoutError:
            raise UpstreamFault(self.name, "did not greet in time", timeout=True) from None
        except UpstreamError as error:
            raise UpstreamFault(self.name, f"answered the handshake with error {error.code}") from error
        finally:
            if self._channel is not None and not self._channel.ready:
                self._channel.child.kill("did not greet")

    async def _greet(self) -> Channel:
        """Start it and find its era: server/discover first, then initialize (2026-07-28 versioning)."""
        channel = await self._spawn()
        if self._probe_first:
            await self._discover(channel)
            if channel.child.reason:
                self._probe_first = False  # an old server that does not survive the question: never ask it again
                channel = await self._spawn()
        if not channel.modern and self._era is Era.MODERN:
            raise UpstreamFault(self.name, f"does not speak {eras.MODERN}")
        if not channel.modern:
            try:
                await self._initialize(channel)
            except UpstreamError as error:
                if error.code != eras.UNSUPPORTED_REVISION:
                    raise
                await self._discover(channel)  # it was only slow to answer the first time
                if not channel.modern:
                    raise
        channel.ready = True
        if not self._expected:
            self._changed.poke()  # started by a call: what it announces may not be what the last run announced
        return channel

    async def _spawn(self) -> Channel:
        channel = Channel(self.name, self.oddities, self._changed.poke, self._ended)
        try:
            cell = await self._launch()
        except UpstreamFault as fault:
            self._record({"event": "refused", "reason": str(fault)[:500]})
            self._ended(channel)
            raise
        self._run = run = Run(cell, channel, self._bounds, self._record)
        channel.child.secrets = self._secrets
        channel.child.rate = run.bounds.output_bytes_per_second
        await channel.child.start(cell)
        run.begin(self._starts)
        self._starts += 1
        self._channel = channel
        return channel

    async def _discover(self, channel: Channel) -> None:
        try:
            async with asyncio.timeout(self._probe_seconds):
                hello, _ = await channel.ask("server/discover", self._envelope, cancellable=False)
        except (UpstreamError, UpstreamFault, TimeoutError):
            return  # no evidence of 2026-07-28; an exit is noticed by the caller
        if speaks_modern(hello):
            channel.modern, channel.hello, self._revision = True, hello, eras.MODERN

    async def _initialize(self, channel: Channel) -> None:
        number = channel.next()
        talk = Talk(self.name, None, Clock(0.0, 0.0), self.oddities)
        words = _SHARED if self._face is OWN else self._face.words
        line = eras.initialize(number, words, self._face.client)
        hello, _ = await channel.request(number, line, talk, cancellable=False)
        self._revision = eras.agreed(self.name, hello, eras.HANDSHAKE_STDIO)
        channel.hello = hello
        channel.notify("notifications/initialized")

    def _ended(self, channel: Channel) -> None:
        """A run is over: wait longer before each next one, unless this one was healthy for a minute."""
        if self._run is not None and self._run.channel is channel and self._run.wanted:
            return
        now = asyncio.get_running_loop().time()
        self._failures = 1 if now - channel.since >= HEALTHY_SECONDS else self._failures + 1
        self._not_before = now + min(_BACKOFF[0] * 2 ** min(self._failures - 1, 16), _BACKOFF[1])

    def _report(self) -> None:
        if self.on_change is not None:
            self.on_change(self.name)
