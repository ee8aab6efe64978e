"""What a cell costs: start to first answer, each call, and memory, against the same server bare.

Run by hand: python bench/cell.py [--starts 20] [--calls 2000]. Rounds alternate and the best of each is compared, so
that what else the machine does falls on both.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]  # the cells of the tests are those of the product

from limen.adapters.processes import tree  # noqa: E402
from limen.gateway.cells import Cells  # noqa: E402
from sandbox.cells_kit import ISOLATOR, configured, upstream_of  # noqa: E402

SERVER = """
import json, sys
info = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "bench", "version": "1"}}
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = info if message["method"] == "initialize" else {}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
ARGV = [sys.executable, "-I", "-S", "-c", SERVER]


def launcher(**security):
    return upstream_of("bench", configured(ARGV, **security), Cells((), ISOLATOR))


async def start(**security):
    """Milliseconds until the handshake is done, and the upstream."""
    upstream = launcher(**security)
    began = time.perf_counter()
    await upstream._running()
    return (time.perf_counter() - began) * 1000, upstream


async def calls(upstream, count):
    """Microseconds of each round trip."""
    channel, took = upstream._channel, []
    for _ in range(count):
        began = time.perf_counter()
        await channel.ask("ping", {})
        took.append((time.perf_counter() - began) * 1e6)
    return took


def resident(pid):
    """Bytes of all processes that belong to it, what they share counted in part (Pss)."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


async def main(starts, count):
    await ISOLATOR.properties()  # tried once for as long as a gateway runs
    kinds = {"bare": {"unsafe_no_sandbox": True}, "cell": {}}
    took, trips, memory = ({kind: [] for kind in kinds} for _ in range(3))
    for _ in range(starts):
        for kind, security in kinds.items():
            milliseconds, upstream = await start(**security)
            took[kind].append(milliseconds)
            trips[kind] += await calls(upstream, count // starts)
            memory[kind].append(resident(upstream.state()["pid"]))
            await upstream.close()
    for name, unit, values in (("start", "ms", took), ("call", "us", trips), ("memory", "MiB", memory)):
        scale = 1 << 20 if unit == "MiB" else 1
        low = {kind: min(rows) / scale for kind, rows in values.items()}
        middle = {kind: statistics.median(rows) / scale for kind, rows in values.items()}
        told = "  ".join(f"{kind} {low[kind]:.1f} (median {middle[kind]:.1f})" for kind in kinds)
        ratios = f"best {low['cell'] / low['bare']:.2f}x  median {middle['cell'] / middle['bare']:.2f}x"
        added = f"+{middle['cell'] - middle['bare']:.1f} {unit}"
        print(f"{name:<7} {told} {unit}   {ratios}  {added}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--calls", type=int, default=2000)
    given = parser.parse_args()
    asyncio.run(main(given.starts, given.calls))
