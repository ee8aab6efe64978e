"""G2 G7 G8: bombs of every kind, and a neighbour that keeps answering."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from limen.adapters.bubblewrap import Bubblewrap
from limen.adapters.cgroups import Groups
from limen.core.faults import UpstreamFault
from limen.gateway.cells import Cells
from sandbox import cells_kit
from sandbox.cells_kit import HOSTILE, inside, marked, needs_bubblewrap, run_inside, until

pytestmark = needs_bubblewrap


FORKS = "import os; pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0); found = 2"


async def beside(bomb: str, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Set off a bomb while a neighbour answers throughout; what the bomb said, and what its cell recorded."""
    async with inside("hostile", **more) as hostile, inside("neighbour") as neighbour:
        assert await neighbour.run("found = 1") == 1
        said = asyncio.ensure_future(hostile.run(bomb))
        said.add_done_callback(lambda task: task.cancelled() or task.exception())
        answers = 0
        while not said.done():
            async with asyncio.timeout(5):
                assert await neighbour.run(FORKS) == 2
            answers += 1
            await asyncio.sleep(0.01)
        assert answers
        results = (await asyncio.gather(said, return_exceptions=True))[0]
        return results, hostile.events


def test_g2_trap_3_a_fork_bomb_counts_for_its_own_cell_alone() -> None:
    code = """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        children += 1
except OSError as error:
    found = [children, error.errno]
"""
    (children, number), _ = asyncio.run(beside(code, limits={"processes": 20}))
    assert 10 < children <= 20
    assert number == errno.EAGAIN


def test_g2_trap_3_two_cells_of_one_user_have_a_limit_each() -> None:
    code = """
import os, time
found = 0
for _ in range(14):
    if os.fork() == 0:
        time.sleep(30)
    found += 1
"""

    async def work() -> list[Any]:
        async with inside("same", limits={"processes": 20}) as one, inside("same", limits={"processes": 20}) as other:
            return [await one.run(code), await other.run(code)]

    assert asyncio.run(work()) == [14, 14]


def test_g2_a_thread_bomb_ends_at_the_limit() -> None:
    code = """
import threading, time
threads = 0
try:
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        threads += 1
except RuntimeError:
    pass
found = threads
"""
    assert 5 < run_inside(code, limits={"processes": 20}) <= 20


def test_g2_memory_of_one_process() -> None:
    found, _ = asyncio.run(beside("found = len(bytearray(2_000_000_000))"))
    assert found["error"] == "MemoryError"
    assert run_inside("found = len(bytearray(20_000_000))") == 20_000_000


MANY = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(os.urandom(1 << 20)) * 40
        time.sleep(60)
        os._exit(0)
found, until = "nobody ended", time.monotonic() + 20
while time.monotonic() < until:
    if os.waitpid(-1, os.WNOHANG)[0]:
        found = "one of them ended"
        break
    time.sleep(0.05)
"""


def test_g2_memory_of_all_processes_together() -> None:
    """By the control group where there is one, else by looking: the cell ends, its neighbour does not notice."""
    said, events = asyncio.run(beside(MANY))
    ended = [event for event in events if event["event"] == "exit"]
    if isinstance(said, UpstreamFault):
        assert "memory" in f"{ended[0]['reason']} {ended[0]['bound']}"
    else:  # the kernel ended those who took it, and left the server
        assert said == "one of them ended"
        assert ended[0]["bound"] == "memory", events


def test_g2_memory_is_watched_where_no_group_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bubblewrap(groups=Groups(root=Path("/nonexistent"), own=Path("/nonexistent")))
    monkeypatch.setattr(cells_kit, "ISOLATOR", bare)
    said, events = asyncio.run(beside(MANY))
    assert isinstance(said, UpstreamFault)
    assert "used more memory than its limit" in str(said)
    assert [event["event"] for event in events] == ["start", "exit"]


def test_g2_processors_are_refused_where_nothing_can_limit_them() -> None:
    bare = Bubblewrap(groups=Groups(root=Path("/nonexistent"), own=Path("/nonexistent")))

    async def work() -> None:
        cells = Cells((), bare)
        config = cells_kit.configured([sys.executable, str(HOSTILE)], limits={"cpus": 0.5})
        await cells_kit.upstream_of("x", config, cells).describe()

    with pytest.raises(UpstreamFault, match=r"limits\.cpus cannot be enforced here"):
        asyncio.run(work())


@pytest.mark.skipif(not Groups().has("cpu"), reason="no cpu control group is ours on this machine")
def test_g2_processors_are_shared_out_where_a_group_can() -> None:
    code = """
import time
cpu, wall = time.process_time(), time.perf_counter()
while time.perf_counter() - wall < 1.0:
    pass
found = (time.process_time() - cpu) / (time.perf_counter() - wall)
"""
    assert run_inside(code, limits={"cpus": 0.2}) < 0.5


def test_g2_files_and_their_size() -> None:
    code = """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found = []
for call in (lambda: [os.dup(0) for _ in range(2000)], lambda: os.truncate("/tmp/large", 1 << 30)):
    open("/tmp/large", "w").close()
    try:
        call()
    except OSError as error:
        found.append(error.errno)
    os.closerange(3, 2100)
"""
    assert run_inside(code, limits={"files": 64}) == [errno.EMFILE, errno.EFBIG]


def test_g2_processor_time_of_a_process() -> None:
    with pytest.raises(UpstreamFault):
        run_inside("while True: pass", limits={"cpu_seconds": 1})


def test_g7_output_is_read_no_faster_than_its_limit() -> None:
    """A flood of valid notifications: 3 MB at 1 MB a second, while the neighbour answers."""
    code = """
import sys
line = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"' + "x" * 900 + '"}}\\n'
for _ in range(3000):
    sys.stdout.write(line)
found = "done"
"""

    async def work() -> tuple[Any, float]:
        began = asyncio.get_running_loop().time()
        said, _ = await beside(code, limits={"output_bytes_per_second": 1_000_000})
        return said, asyncio.get_running_loop().time() - began

    said, seconds = asyncio.run(work())
    assert said == "done"
    assert seconds > 1.5


def test_g7_a_line_without_end_ends_the_cell_and_nobody_else() -> None:
    said, events = asyncio.run(beside("import sys\nwhile True: sys.stdout.write('x' * 65536)"))
    assert isinstance(said, UpstreamFault)
    assert "line longer" in events[-1]["reason"]


def test_g2_wall_and_idle_end_it_and_the_next_call_starts_it_clean() -> None:
    async def work(**limits: Any) -> list[dict[str, Any]]:
        async with inside(limits=limits) as cell:
            await cell.run("kept['state'] = 'dirty'; open('/tmp/state', 'w').write('dirty')")
            first = cell.pid
            await until(lambda: not cell.upstream.state()["running"])
            assert await cell.run("import os; found = [kept, os.path.exists('/tmp/state')]") == [{}, False]
            assert cell.pid != first
            return cell.events

    for limits in ({"wall": 1}, {"idle": 1}):
        events = asyncio.run(work(**limits))
        assert [event["event"] for event in events][:3] == ["start", "exit", "start"]
        assert events[2]["restarts"] == 1


def test_g8_starts_ends_and_use_are_recorded() -> None:
    async def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with inside() as cell:
            await cell.run("kept['held'] = bytearray(b'x' * 30_000_000)")
            state = cell.upstream.state()
            await asyncio.sleep(2.5)  # one look at what it uses
            with pytest.raises(UpstreamFault):
                await cell.run("import os; os._exit(7)")
            await until(lambda: len(cell.events) == 2)
            return state, cell.events

    state, (start, end) = asyncio.run(work())
    assert state["running"] is True
    assert state["usage"]["memory"] > 20_000_000
    assert start["event"] == "start"
    assert (end["event"], end["status"]) == ("exit", 7)
    assert end["peak"]["memory"] > 20_000_000
    assert end["peak"]["processes"] >= 2


def test_trap_5_node_runs_within_its_memory_and_is_hidden_from_others(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node: install nodejs")
    script = tmp_path / "server.js"
    script.write_text(
        "require('readline').createInterface({input: process.stdin}).on('line', line => { const m = JSON.parse(line);"
        "if (!('id' in m)) return; const r = m.method == 'initialize' ? {protocolVersion: '2025-11-25', capabilities:"
        "{tools: {}}, serverInfo: {name: 'n', version: '1'}} : {content: [{type: 'text', text: JSON.stringify({found:"
        "[process.version, typeof process.env.GW_SECRET]})}]};"
        "console.log(JSON.stringify({jsonrpc: '2.0', id: m.id, result: r})) })\n"
    )
    limits = {"memory": "128Mi", "processes": 32}
    version, secret = run_inside("", argv=[node, str(script)], limits=limits)
    assert version.startswith("v")
    assert secret == "undefined"
    # Trap 8: a Python server that finds node may install packages with it while it runs.
    assert run_inside("import shutil; found = [shutil.which('npm'), shutil.which('node')]") == [None, None]


@pytest.mark.skipif(not Groups().has("memory"), reason="no memory control group is ours on this machine")
def test_trap_10_groups_of_a_gateway_that_crashed_are_removed_at_the_start() -> None:
    place = Groups().places["memory"]
    left = place / "limen-4194399-1"  # no process has this number: it is above pid_max
    left.mkdir()
    Groups()
    assert not left.exists()
    run_inside("found = 1")
    assert not [one for one in place.iterdir() if one.name.startswith(f"limen-{os.getpid()}-")]


def test_a_grandchild_that_holds_the_pipes_does_not_keep_the_cell() -> None:
    mark = f"holds-{os.getpid()}"
    code = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", {mark!r}], start_new_session=True)
os._exit(3)
"""

    async def work() -> None:
        async with inside() as cell:
            with pytest.raises(UpstreamFault):
                await cell.run(code)
            await until(lambda: not marked(mark))
            assert await cell.run("found = 1") == 1

    asyncio.run(work())
