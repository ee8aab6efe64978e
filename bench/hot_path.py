"""What a call costs here, and what it cost in another state of the source. Run by hand:
python bench/hot_path.py --before DIRECTORY [--rounds 400] [--turns 9]  (git archive COMMIT src | tar -x -C DIRECTORY)

Processor time of a call from `decide` to the rendered answer in one process, with a real log and a server that answers
at once; both states take turns, each in a process of its own, and of each the best turn counts. `calling`: the thread
that calls; `all`: with the threads that hash, write and watch.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType

SIZES = (100, 2_000, 20_000)


async def serve(directory, size, rounds):
    """Microseconds a call, of the calling thread and of all."""
    import orjson

    from limen.assemble import House
    from limen.config.load import load_config
    from limen.core.announce import Announcement
    from limen.core.call import Call, Era, Peer, Presented
    from limen.gateway.app import Gateway
    from limen.gateway.cells import Cells
    from limen.gateway.upstreams import Upstreams

    answer = orjson.dumps({"content": [{"type": "text", "text": "a b c d " * (size // 8)}], "resultType": "complete"})

    class Behind(Upstreams):
        async def forward(self, permit, conversation, extra_headers=()):
            return orjson.loads(answer)

    class Outlet:
        era, capabilities = Era.MODERN, MappingProxyType({})

    file = directory / "limen.yaml"
    file.write_text(
        "version: 1\npolicy: {rules: [{allow: anyone, call: up/echo}]}\n"
        "limits: {rate: 1000000, burst: 1000000}\nmcpServers: {up: {url: 'http://127.0.0.1:9/mcp'}}\n"
    )
    house = House(load_config(file, {}).config, lambda config, heard: Behind([], lambda name: None), lambda text: None)
    tools = ({"name": "echo", "description": "Echoes.", "inputSchema": {"type": "object"}},)
    await house.observe(Announcement("up", "2026-07-28", tools=tools))
    house.registry.approve("up", "tool", "echo", "alice", "bench")
    house.swap()
    gateway = Gateway(house.engine, house.continuity, lambda server: False, {})
    try:
        from limen.gateway.containment import obey
    except ImportError:
        pass
    else:
        obey(house, gateway, Cells())
    looking = asyncio.create_task(house.watch_state())
    who = Presented(local_user="ann", private=True)
    call = Call(
        "tools/call", "up", "up", Era.MODERN, "2026-07-28", 1, "echo", b'{"text":"' + b"x" * 300 + b'"}',
        client="desk 1.0", peer=Peer("stdio"),
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # as the gateway does once it serves
    found = []
    for _ in range(7):
        thread, process = time.thread_time(), time.process_time()
        for _ in range(rounds):
            reply = await gateway.handle(call, who, Outlet())
            assert getattr(reply, "status", 0) == 200, reply
        found.append((time.thread_time() - thread, time.process_time() - process))
        await asyncio.sleep(0)
    looking.cancel()
    await house.close()
    return [min(column[2:]) / rounds * 1e6 for column in zip(*found, strict=True)]


def turn(source, size, rounds):
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--serve", str(size), "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(asyncio.run(serve(Path(place), options.serve, options.rounds))))
        return
    here = Path(__file__).resolve().parent.parent / "src"
    for size in SIZES:
        both = (options.before / "src", here)
        pairs = [[turn(one, size, options.rounds) for one in both] for _ in range(options.turns)]
        for column, name in enumerate(("calling", "all")):
            old, new = (min(pair[side][column] for pair in pairs) for side in (0, 1))
            print(f"result {size:>6} B, {name:<8} {old:7.1f} -> {new:7.1f} us, {new - old:+6.1f} us, x {new / old:.3f}")


if __name__ == "__main__":
    main()
