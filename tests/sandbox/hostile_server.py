"""An MCP server that does what the caller's arguments say: `run` executes Python, `found` is what it answers.

Standard library only, so that any interpreter runs it, also one an ordinary user can read.
"""

import json
import sys
import traceback

KEPT = {}


def answer(method, params):
    if method == "initialize":
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "hostile", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [{"name": "run", "description": "Runs.", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        names = {"kept": KEPT, "found": None}
        try:
            exec(params["arguments"]["code"], names)
        except BaseException as error:
            text = traceback.format_exc(limit=-1)
            found = {"error": type(error).__name__, "errno": getattr(error, "errno", None), "text": text}
        else:
            found = {"found": names["found"]}
        return {"content": [{"type": "text", "text": json.dumps(found, default=str)}]}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result = answer(message["method"], message.get("params", {}))
    said = {"jsonrpc": "2.0", "id": message["id"]}
    if result is None:
        said["error"] = {"code": -32601, "message": "Method not found"}
    else:
        said["result"] = result
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
