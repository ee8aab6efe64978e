"""What a call costs between the bytes of its request and the bytes of its answer, without sockets. Run by hand:
python bench/wire.py [--before DIRECTORY] [--rounds 300] [--turns 7]  (git archive COMMIT src | tar -x -C DIRECTORY)

Processor time of the loop's thread: the server's parser, admission, every guard, the records, the client of the server
behind and its parser. Transports are stood in for: a write is answered at once. Both states take turns, each in a
process of its own; of each the best turn counts. `--profile` shows where the time of this state goes.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = "the quarterly report for the team is due on friday " * 6
DECLARED = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"


class Client:
    """The transport of one client: `answered` is done when the answer is written."""

    def __init__(self, loop):
        self.loop, self.answered = loop, None

    def get_extra_info(self, name):
        return ("127.0.0.1", 5) if name == "peername" else None

    def write(self, data):
        assert data.startswith(b"HTTP/1.1 200"), data[:600]
        self.answered.set_result(None)

    def pause_reading(self):
        """Nothing comes unasked."""

    resume_reading = close = abort = pause_reading


class Behind(Client):
    """The transport to a server that echoes."""

    def write(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        if not body:
            return
        message = json.loads(body)
        if "discover" in message["method"]:
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0,
                      "serverInfo": {"name": "up", "version": "1"}, "cacheScope": "private"}  # fmt: skip
        else:
            result = {"content": [{"type": "text", "text": TEXT}]}
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {**result, "resultType": "complete"}})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        self.loop.call_soon(self.connection.data_received, (head + answer).encode())


def tokens(resource):
    """Public keys, and a token of each of some callers."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "bench", "alg": "RS256", "use": "sig"})
    now = int(time.time())
    claims = {"iss": "https://idp.example", "aud": resource, "iat": now, "exp": now + 3600, "client_id": "bench"}
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "bench"}
    return key.as_dict(private=False), [jwt.encode(header, {**claims, "sub": f"a{i}"}, key) for i in range(16)]


def request(number, token):
    """As wrk and most clients send it."""
    meta = {DECLARED[0]: "2026-07-28", DECLARED[1]: {}}
    params = {"name": "echo", "arguments": {"text": TEXT}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    return (
        "POST /mcp/up HTTP/1.1\r\nHost: 127.0.0.1:8300\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nAuthorization: Bearer {token}\r\n"
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def serve(directory, rounds, profile):
    """Microseconds of the loop's thread a call."""
    from limen.assemble import House
    from limen.config.load import load_config
    from limen.core.announce import Announcement
    from limen.gateway.app import Gateway
    from limen.gateway.cells import Cells
    from limen.gateway.containment import obey
    from limen.gateway.http import HttpSurface
    from limen.gateway.run import site
    from limen.gateway.server import Connection, HttpServer
    from limen.gateway.upstream_pool import Pool
    from limen.gateway.upstream_wire import Connection as Wire
    from limen.gateway.upstreams import HttpUpstream, Upstreams

    keys, given = tokens("http://127.0.0.1:8300/mcp/up")
    file = directory / "limen.yaml"
    config = {
        "version": 1, "listen": {"url": "http://127.0.0.1:8300"}, "limits": {"rate": 1_000_000, "burst": 1_000_000},
        "identity": {"issuers": [{"issuer": "https://idp.example", "jwks": json.dumps({"keys": [keys]})}]},
        "mcpServers": {"up": {"url": "http://127.0.0.1:9/mcp"}},
        "policy": {"rules": [{"allow": "anyone", "call": "up/echo"}]},
    }  # fmt: skip
    file.write_text(json.dumps(config))
    loaded = load_config(file, {})

    async def connect(pool):
        wire = Wire(pool)
        transport = Behind(asyncio.get_running_loop())
        transport.connection = wire
        wire.connection_made(transport)
        pool._all.add(wire)
        return wire

    Pool._connect = connect
    upstream = HttpUpstream("up", "http://127.0.0.1:9/mcp")
    house = House(loaded.config, lambda config, heard: Upstreams([upstream]), lambda text: None)
    await house.issuers.warm()
    tools = ({"name": "echo", "description": "Echoes.", "inputSchema": {"type": "object"}},)
    await house.observe(Announcement("up", "2026-07-28", tools=tools))
    house.registry.approve("up", "tool", "echo", "alice", "bench")
    house.swap()
    gateway = Gateway(house.engine, house.continuity, lambda server: False, {})
    obey(house, gateway, Cells())
    server = HttpServer(HttpSurface(gateway, site(loaded.config, 8300, {}), lambda: True))
    looking = asyncio.create_task(house.watch_state())
    loop = asyncio.get_running_loop()
    clients = []
    for _ in given:
        client, connection = Client(loop), Connection(server)
        connection.connection_made(client)
        clients.append((client, connection))
    requests = [[request(number * 100 + turn, token) for number, token in enumerate(given)] for turn in range(16)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    found, profiler = [], cProfile.Profile()
    for turn in range(9):
        if profile and turn == 8:
            profiler.enable()
        begun = time.thread_time()
        for number in range(rounds):
            for (client, connection), data in zip(clients, requests[number % 16], strict=True):
                client.answered = loop.create_future()
                connection.data_received(data)
            for client, _ in clients:
                await client.answered
        found.append((time.thread_time() - begun) / (rounds * len(clients)) * 1e6)
        profiler.disable()
    looking.cancel()
    await house.close()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(70)
    return min(found[2:])


def turn(source, rounds):
    """One process."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--serve", "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve or options.profile:
        import uvloop

        with tempfile.TemporaryDirectory() as place:
            cost = uvloop.run(serve(Path(place), options.rounds, options.profile))
        print(cost)
        return
    sources = [Path(__file__).resolve().parent.parent / "src"]
    if options.before:
        sources.insert(0, options.before / "src")
    found = [[turn(one, options.rounds) for one in sources] for _ in range(options.turns)]
    best = [min(column) for column in zip(*found, strict=True)]
    if options.before:
        print(f"a call {best[0]:.1f} -> {best[1]:.1f} us, {best[1] - best[0]:+.1f} us, x {best[1] / best[0]:.3f}")
    else:
        print(f"a call {best[0]:.1f} us")


if __name__ == "__main__":
    main()
