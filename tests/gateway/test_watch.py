"""Changes of what a server announces are noticed, however it goes about them; honest servers are not accused."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.rugpull import Rug, serving
from limen.core.announce import Announcement
from limen.core.faults import DependencyFault, UpstreamFault
from limen.gateway import watch as watching
from limen.gateway.fingerprint import fingerprint
from limen.gateway.upstream_faces import OTHERS, OWN, Face
from limen.gateway.upstreams import HttpUpstream, StdioUpstream, Unheard, Upstream, Upstreams
from limen.gateway.watch import Watch

PROGRAM = Path(__file__).parent / "rugpull.py"
ERAS = pytest.mark.parametrize("era", ["modern", "handshake"])


class Book:
    """Keeps what was read and found."""

    def __init__(self) -> None:
        self.readings: list[Announcement] = []
        self.findings: list[str] = []
        self.trouble: list[str] = []

    async def observe(self, announcement: Announcement) -> None:
        self.readings.append(announcement)

    def unreachable(self, server: str, detail: str) -> None:
        self.trouble.append(detail)

    def reachable(self, server: str) -> None:
        self.trouble.append("reachable")

    def found(self, server: str, finding: str) -> None:
        self.findings.append(finding)

    @property
    def texts(self) -> list[str]:
        """What each reading said of its first tool."""
        return [reading.tools[0]["description"] for reading in self.readings]

    def changed(self) -> bool:
        return len({fingerprint(reading) for reading in self.readings}) > 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of seconds for seconds."""
    for name, value in {"EARLY": (0.1, 0.3), "SPACING": 0.05, "RECHECK": 0.1, "FACE_EVERY": 2}.items():
        monkeypatch.setattr(watching, name, value)


async def until(true: Callable[[], Any], seconds: float = 10) -> float:
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)
    return time.monotonic() - started


def watched(
    upstream: Upstream, work: Callable[[Watch, Book], Awaitable[Any]], interval: float = 0.5, more: tuple[Any, ...] = ()
) -> Book:
    """Watch one server while `work` is done, and clean up."""

    async def run() -> Book:
        servers, book = Upstreams([upstream, *more]), Book()
        watch = Watch(servers, book, interval, chance=Random(1))
        for one in servers.by_name.values():
            one.on_change = watch.heard
        duty = asyncio.create_task(watch.run())
        try:
            await until(lambda: book.readings or book.trouble)
            await work(watch, book)
        finally:
            duty.cancel()
            await asyncio.gather(duty, return_exceptions=True)
            await servers.close()
        return book

    return asyncio.run(run())


async def some_readings(watch: Watch, book: Book) -> None:
    """Long enough for several readings with each face."""
    await until(lambda: len(book.readings) >= 9)


async def a_finding(watch: Watch, book: Book) -> None:
    await until(lambda: any(reading.findings for reading in book.readings))


@contextmanager
def local(mode: str, directory: Path, era: str = "modern") -> Iterator[StdioUpstream]:
    yield StdioUpstream("up", [sys.executable, str(PROGRAM), mode, str(directory), era])


@ERAS
def test_a_change_after_some_readings_is_noticed(era: str) -> None:
    async def work(watch: Watch, book: Book) -> None:
        await until(book.changed)

    with serving(Rug("after:2", modern=era == "modern")) as url:
        book = watched(HttpUpstream("up", url), work)
    assert book.texts[0] == "Echoes."
    assert "ssh" in book.texts[-1]


@ERAS
def test_a_silent_change_is_noticed_within_one_interval(era: str) -> None:
    async def work(watch: Watch, book: Book) -> None:
        rug.pull()
        assert await until(book.changed) < 0.5 * 1.2 + 0.5

    with serving(rug := Rug("silent", modern=era == "modern")) as url:
        assert watched(HttpUpstream("up", url), work).findings == []


@ERAS
def test_an_announced_change_is_heard_without_a_call_and_long_before_the_interval(era: str) -> None:
    async def work(watch: Watch, book: Book) -> None:
        await until(lambda: rug.streams and len(book.readings) >= 2)
        rug.pull()
        assert await until(book.changed) < 3

    with serving(rug := Rug("announced", modern=era == "modern")) as url:
        assert watched(HttpUpstream("up", url), work, interval=600).findings == []


@ERAS
def test_an_announced_change_of_a_process_is_heard(era: str, tmp_path: Path) -> None:
    async def work(watch: Watch, book: Book) -> None:
        await asyncio.sleep(1)
        (tmp_path / "pull").touch()
        assert await until(book.changed) < 3

    with local("announced", tmp_path, era) as upstream:
        assert watched(upstream, work, interval=600).findings == []


@ERAS
@pytest.mark.parametrize("mode", ["client", "agent"])
def test_another_list_for_another_client_is_found(mode: str, era: str) -> None:
    with serving(rug := Rug(mode, modern=era == "modern")) as url:
        book = watched(HttpUpstream("up", url), a_finding)
    (finding,) = book.findings
    good, evil = (fingerprint(_announced(text))[0][2] for text in ("Echoes.", _evil()))
    assert "shows another list to a client named " in finding
    assert any(face.name in finding for face in OTHERS)
    assert f"tool danger is {evil[:16]} instead of {good[:16]}" in finding
    assert {*rug.clients} >= {"limen"}
    assert set(book.texts) == {"Echoes."}  # what others are shown never reaches the catalog
    assert book.readings[-1].findings == (finding,)


def _announced(text: str) -> Announcement:
    return Announcement("up", "", tools=({"name": "danger", "description": text, "inputSchema": {"type": "object"}},))


def _evil() -> str:
    return str(Rug("counter").tools("", "")["tools"][0]["description"]).removesuffix(" 1")


def test_a_process_that_shows_another_list_is_found_and_the_second_one_ends(tmp_path: Path) -> None:
    with local("client", tmp_path) as upstream:
        book = watched(upstream, a_finding)
    assert "shows another list" in book.findings[0]
    started, ended = (len(list(tmp_path.glob(f"{what}-*"))) for what in ("started", "ended"))
    assert started == 1 + 3  # the server, and three processes that looked like another client
    assert ended == started


def test_a_process_is_not_started_twice_before_the_first_interval(tmp_path: Path) -> None:
    async def work(watch: Watch, book: Book) -> None:
        await asyncio.sleep(1)

    with local("steady", tmp_path) as upstream:
        watched(upstream, work, interval=600)
    assert len(list(tmp_path.glob("started-*"))) == 1


@pytest.mark.parametrize("mode", ["steady", "shuffled", "noise"])
@ERAS
def test_honest_servers_are_not_accused(mode: str, era: str) -> None:
    with serving(rug := Rug(mode, modern=era == "modern")) as url:
        book = watched(HttpUpstream("up", url), some_readings, interval=0.2)
    assert book.findings == book.trouble == []
    assert len(set(rug.clients)) > 1


@pytest.mark.parametrize("mode", ["steady", "shuffled", "noise"])
def test_honest_processes_are_not_accused(mode: str, tmp_path: Path) -> None:
    with local(mode, tmp_path) as upstream:
        book = watched(upstream, some_readings, interval=0.2)
    assert book.findings == book.trouble == []
    assert len(list(tmp_path.glob("started-*"))) > 1


def test_a_change_between_the_two_faces_is_no_accusation() -> None:
    async def work(watch: Watch, book: Book) -> None:
        await until(lambda: book.changed() and len(book.readings) > 4)

    rug = Rug("silent")
    tools = rug.tools

    def pulled(client: str, agent: str) -> dict[str, Any]:
        if client != "limen":
            rug.pull()  # the change happens to come just before the other face looks, and stays
        return tools(client, agent)

    rug.tools = pulled  # type: ignore[method-assign]
    with serving(rug) as url:
        assert watched(HttpUpstream("up", url), work).findings == []


def test_a_list_that_changes_and_changes_back_is_found() -> None:
    with serving(Rug("flap")) as url:
        book = watched(HttpUpstream("up", url), a_finding)
    assert "changed its list and changed it back without saying so: tool danger is " in book.findings[0]


def test_a_list_that_is_never_the_same_is_found() -> None:
    with serving(Rug("counter")) as url:
        book = watched(HttpUpstream("up", url), a_finding)
    assert "announces something else at every reading" in book.findings[0]


def test_a_finding_is_told_once() -> None:
    with serving(Rug("client")) as url:
        book = watched(HttpUpstream("up", url), some_readings, interval=0.2)
    assert 1 <= len(book.findings) == len(set(book.findings)) <= len(OTHERS)


def test_a_storm_of_announcements_is_one_reading_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SPACING", 1.0)

    async def work(watch: Watch, book: Book) -> None:
        await until(lambda: rug.streams)
        before = rug.readings
        for _ in range(300):
            rug.notify()
            await asyncio.sleep(0.01)
        assert rug.readings - before <= 5

    with serving(rug := Rug("steady")) as url:
        watched(HttpUpstream("up", url), work, interval=600)


def test_announcing_all_the_time_does_not_put_off_the_other_face() -> None:
    async def work(watch: Watch, book: Book) -> None:
        await until(lambda: rug.streams)
        while not book.findings:
            rug.notify()
            await asyncio.sleep(0.05)

    with serving(rug := Rug("client")) as url:
        watched(HttpUpstream("up", url), work, interval=0.5)


def test_a_server_that_is_down_is_tried_again_and_said_to_be_back() -> None:
    with serving(Rug("steady")) as url:
        port = int(url.split(":")[2].split("/")[0])

    async def work(watch: Watch, book: Book) -> None:
        assert len(book.trouble) == 1
        await asyncio.sleep(0.6)
        assert len(book.trouble) == 1  # told once
        with serving(Rug("steady"), port):
            await until(lambda: book.readings, 15)
        assert book.trouble[1] == "reachable"

    watched(HttpUpstream("up", url), work, interval=0.3)


class Stub:
    """A server that only says when it was read."""

    oddities: Any = None
    headers: frozenset[tuple[str, str]] = frozenset()
    revision = "2026-07-28"

    def __init__(self, name: str, log: list[tuple[float, str]], gate: list[int]) -> None:
        self.name, self.log, self.gate, self.on_change = name, log, gate, None

    async def describe(self, face: Face = OWN) -> Announcement:
        self.gate[0] += 1
        self.gate[1] = max(self.gate[:2])
        await asyncio.sleep(0.01)
        self.gate[0] -= 1
        self.log.append((asyncio.get_running_loop().time(), self.name))
        return Announcement(self.name, "2026-07-28")

    async def listen(self, opened: Callable[[], None]) -> None:
        raise Unheard(self.name, "no")

    async def close(self) -> None:
        """Nothing to close."""


def test_many_servers_are_not_read_in_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EARLY", (1000.0, 1000.0))
    log: list[tuple[float, str]] = []
    gate = [0, 0]

    async def work(watch: Watch, book: Book) -> None:
        await watch.settled()
        begun = asyncio.get_running_loop().time()
        log.clear()
        await until(lambda: len({name for _, name in log}) == 200, 20)
        times = sorted(at - begun for at, _ in log)
        assert times[100] - times[0] > 0.2  # spread over two fifths of the interval

    stubs = [Stub(f"s{number}", log, gate) for number in range(200)]
    watched(stubs[0], work, interval=2.0, more=tuple(stubs[1:]))  # type: ignore[arg-type]
    assert gate[1] <= watching.READERS


def test_records_that_cannot_be_written_end_the_duty() -> None:
    async def run() -> None:
        class Broken(Book):
            async def observe(self, announcement: Announcement) -> None:
                raise DependencyFault("storage", "full")

        servers = Upstreams([Stub("a", [], [0, 0])])  # type: ignore[list-item]
        with pytest.raises(DependencyFault):
            await Watch(servers, Broken(), 1.0).run()

    asyncio.run(run())


def test_servers_that_are_exchanged_are_read_and_those_that_left_are_not() -> None:
    async def run() -> None:
        log: list[tuple[float, str]] = []
        first, second, third = (Stub(name, log, [0, 0]) for name in ("a", "b", "a"))
        servers, book = Upstreams([first, second]), Book()  # type: ignore[list-item]
        watch = Watch(servers, book, 600.0)
        duty = asyncio.create_task(watch.run())
        await until(lambda: len(log) == 2)
        servers.replace([third])  # type: ignore[list-item]
        watch.follow(300.0)
        await until(lambda: len(log) == 3)
        assert [name for _, name in log].count("a") == 2
        watch.heard("b")  # gone: nothing happens
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        assert len(log) == 3
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(run())


def test_a_server_that_refuses_other_clients_is_reported_not_accused() -> None:
    class Shy(Stub):
        async def describe(self, face: Face = OWN) -> Announcement:
            if face is not OWN:
                raise UpstreamFault(self.name, "runs once")
            return await super().describe(face)

    async def work(watch: Watch, book: Book) -> None:
        await until(lambda: len(book.readings) > 5)

    book = watched(Shy("a", [], [0, 0]), work, interval=0.2)  # type: ignore[arg-type]
    assert book.findings == []
    assert book.trouble
    assert all("runs once" in text for text in book.trouble)
