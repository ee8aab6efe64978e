"""A stdio MCP server that says planted secrets by every way a server has to say something, and honest words beside
them. The secrets come in the environment, so that this file does not hold them. Handshake era."""

import json
import os
import sys

PLANTED = os.environ["PLANTED"].split()
SAID = "debug: " + " ".join(PLANTED)
MANY = " ".join(f"connect with {secret} now" for secret in PLANTED)
CAPABILITIES = {"tools": {}, "prompts": {}, "resources": {}, "completions": {}, "logging": {}}
OBJECT = {"type": "object"}
QUESTIONS = {  # who asks, in the two texts of a form
    "ask": (f"Continue with {MANY}?", "yes or no"),
    "ask_field": ("Continue?", SAID),
    "ask_honest": ("Continue?", "yes or no"),
}


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def notify(method, **params):
    send({"method": method, "params": params})


def asked(message, description):
    """One question; what was answered."""
    field = {"type": "string", "enum": ["yes", "no"], "description": description}
    schema = {"type": "object", "properties": {"go": field}}
    send({"id": "q", "method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
    answer = json.loads(sys.stdin.readline())
    return answer.get("result", {}).get("action", "refused")


def text(said, **more):
    return {"content": [{"type": "text", "text": said}], **more}


def call(params):
    name, token = params["name"], params.get("_meta", {}).get("progressToken")
    if name == "talk":
        notify("notifications/message", level="info", data=SAID)
        notify("notifications/message", level="error", logger="x", data={"env": PLANTED})
        notify("notifications/message", level="info", data="an honest line")
        if token is not None:
            notify("notifications/progress", progressToken=token, progress=1, message=SAID)
        sys.stderr.write(SAID + "\n")
        sys.stderr.flush()
        return text(f"first\n{MANY}\nlast")
    if name in QUESTIONS:
        return text(asked(*QUESTIONS[name]))
    if name == "fail":
        return text(f"failed: {MANY}", isError=True)
    if name == "typed":
        return {"content": [], "structuredContent": {"env": PLANTED, "state": "fine"}}
    if name == "die":
        sys.stderr.write(f"Traceback: {SAID}\n")
        sys.stderr.flush()
        os._exit(3)
    raise KeyError(SAID)


def answer(method, params):
    if method == "initialize":
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": CAPABILITIES,
            "serverInfo": {"name": "l", "version": "1"},
        }
    if method == "tools/list":
        tools = [{"name": n, "description": f"Tool {n}.", "inputSchema": OBJECT} for n in ("talk", *QUESTIONS, "fail")]
        tools += [{"name": n, "description": f"Tool {n}.", "inputSchema": OBJECT} for n in ("die", "raise")]
        return {"tools": [*tools, {"name": "typed", "inputSchema": OBJECT, "outputSchema": OBJECT}]}
    if method == "prompts/list":
        return {"prompts": [{"name": "ready", "arguments": [{"name": "a"}]}]}
    if method == "resources/list":
        return {"resources": [{"uri": "note://one", "name": "one"}]}
    if method == "resources/templates/list":
        return {"resourceTemplates": []}
    if method == "tools/call":
        return call(params)
    if method == "prompts/get":
        return {
            "description": SAID,
            "messages": [{"role": "user", "content": {"type": "text", "text": f"Hello. {MANY}"}}],
        }
    if method == "resources/read":
        return {"contents": [{"uri": "note://one", "text": f"A note. {MANY}"}]}
    if method == "completion/complete":
        return {"completion": {"values": ["apple", *PLANTED]}}
    return {}


sys.stderr.write("starting: " + SAID + "\n")
sys.stderr.flush()
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    try:
        send({"id": message["id"], "result": answer(message["method"], message.get("params", {}))})
    except KeyError as error:
        send({"id": message["id"], "error": {"code": -32000, "message": str(error), "data": {"env": PLANTED}}})
