"""The network of a cell inside the sandbox that is really used (G5)."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from egress.cells import PUBLIC, World, in_loop, needs, needs_namespaces

pytestmark = [needs_namespaces, needs("bwrap")]
CODE = """
import socket, urllib.request
for url in ("http://plain.test/x", "http://evil.test/", "http://10.0.0.1/", "http://169.254.169.254/"):
    try:
        print(urllib.request.urlopen(url, timeout=5).read().decode())
    except OSError as error:
        print(type(error).__name__)
try:
    socket.create_connection(("1.1.1.1", 81), 2)
except OSError as error:
    print(type(error).__name__)
"""


@needs("python3")
@in_loop
async def test_a_confined_server_reaches_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    from limen.adapters import bubblewrap
    from limen.adapters.programs import find
    from limen.sandbox.cell import plan
    from limen.sandbox.settings import Limits

    world = World(tmp_path, {"plain.test": [PUBLIC]})
    gate = world.gate(["plain.test:80"])
    program = await asyncio.to_thread(find, "files", ["/usr/bin/python3", "-c", CODE], path=os.defpath, cwd="/")
    spec = plan("files", program, limits=Limits(), env={}, root=os.getuid() == 0, uid=os.getuid())
    async with world.serve(PUBLIC, 80):
        cell = await bubblewrap.Bubblewrap().start(replace(spec, ports=gate.ports, attend=gate.attend))
        out, err = await asyncio.to_thread(cell.process.communicate, b"")
        cell.end()
    await gate.close()
    assert out.decode().splitlines() == [
        "hello from /x, 0 bytes", "URLError", "RemoteDisconnected", "RemoteDisconnected", "ConnectionRefusedError",
    ], err  # fmt: skip
    assert gate.cells == 0
    assert sorted(set(world.reasons())) == ["connect.address", "dns.not_allowed"]
