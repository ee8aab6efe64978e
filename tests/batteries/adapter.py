"""Puts Limen in front of the servers a battery names, on one endpoint, with every tool it accepts approved."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

from mcpclient import Endpoint

from limen.catalog.registry import NothingPending
from limen.config.load import load_config
from limen.opening import open_registry


def approve_tools(config_path):
    """What an operator does with `limen tools approve --all`: tools only; instructions need a decision of their own."""
    registry = open_registry(load_config(config_path).config)
    for entry in registry.entries():
        if entry.kind == "tool" and entry.state == "pending":
            try:
                registry.approve(entry.server, entry.kind, entry.name, "battery", "accepted for the test")
            except NothingPending:
                continue


def settings(specs, port):
    servers = {}
    for spec in specs:
        if spec["transport"] == "stdio":
            servers[spec["name"]] = {
                "command": spec["command"],
                "args": spec["args"],
                "security": {"unsafe_no_sandbox": True, "timeout": 8},
            }
        else:
            servers[spec["name"]] = {"url": spec["url"], "security": {"timeout": 8}}
    return {
        "version": 1,
        "listen": {"url": f"http://127.0.0.1:{port}"},
        "identity": {"unsafe_anonymous": True},
        "mcpServers": servers,
        "policy": {"rules": [{"allow": "anyone", "call": "good/*"}, {"allow": "anyone", "call": "evil/*"}]},
    }


def make(_option):
    @contextmanager
    def gateway(specs, workdir, _hint):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = workdir / "limen.yaml"
        config.write_text(json.dumps(settings(specs, port)))
        config.chmod(0o600)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with open(workdir / "gateway.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "limen", "-c", str(config), "serve"],
                stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        try:
            wait_for(port, process)
            approve_tools(config)
            time.sleep(1)
            yield {"gw": Endpoint("http", url=f"http://127.0.0.1:{port}/mcp", name="gw")}
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    return gateway


def wait_for(port, process, seconds=45):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the gateway did not start")
