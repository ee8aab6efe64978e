"""Stands between the gateway and a container engine's client. Never imported by Limen.

    python -I -S keeper.py FD ENGINE NAME

The engine keeps containers in processes of its own, which outlive whoever asked for them. This one attaches the
client to our pipes, ends as it ends, and removes the container when the gateway is gone: then FD, a socket, closes.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def run(control: int, engine: str, name: str) -> int:
    """The client's status; 126 when the gateway is gone."""
    start = [engine, "start", "--attach", "--interactive", name]
    # Out of the way of what is sent to our group, except of what nobody can ignore.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    client = os.posix_spawn(engine, start, os.environ, setsigdef=[signal.SIGTERM])
    handle = os.pidfd_open(client)
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.register(handle, select.POLLIN)
    ready = {number for number, _ in waiting.poll()}
    if handle not in ready:
        remove = os.posix_spawn(engine, [engine, "rm", "--force", "--time", "0", name], os.environ)
        os.waitpid(remove, 0)
        return 126
    return os.waitstatus_to_exitcode(os.waitpid(client, 0)[1])


if __name__ == "__main__":
    number = int(sys.argv[1])
    os.set_inheritable(number, False)
    status = run(number, sys.argv[2], sys.argv[3])
    os._exit(status if status >= 0 else 128 - status)
