"""A stdio server that leaves something behind: `echo` says what it found at its start, and leaves a file in /tmp."""

import json
import sys
import time
from pathlib import Path
from typing import Any

LEFT = Path("/tmp/left")
STARTED = time.time_ns()
found = LEFT.exists()


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "server/discover":
        hello = {"capabilities": {"tools": {}}, "serverInfo": {"name": "leaving", "version": "1"}}
        return {"supportedVersions": ["2026-07-28"], **hello}
    if method == "tools/list":
        names = ("echo", "slow")
        return {"tools": [{"name": one, "description": "Says.", "inputSchema": {"type": "object"}} for one in names]}
    if method == "tools/call":
        if params["name"] == "slow":
            time.sleep(8)
        LEFT.touch()
        return {"content": [{"type": "text", "text": f"run {STARTED} found {found}"}]}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = answer(message["method"], message.get("params") or {})
        body: dict[str, Any] = {"error": {"code": -32601, "message": "Method not found"}}
        if result is not None:
            body = {"result": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **result}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **body}), flush=True)
