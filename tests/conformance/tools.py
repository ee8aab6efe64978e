"""The tools of the conformance fixture server: one per thing the official suite asks servers for.

Each is a definition and a handler in one table, so that a failure behind the gateway is the gateway's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

Context = ServerRequestContext[Any, Any]
Result = types.CallToolResult | types.InputRequiredResult
Handler = Callable[[Context, types.CallToolRequestParams], Awaitable[Result]]

TOOLS: dict[str, tuple[types.Tool, Handler]] = {}
BUS = InMemorySubscriptionBus()


def red_pixel() -> str:
    """A 1x1 PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00")) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def short_silence() -> str:
    """Eight samples of silence as WAV."""
    samples = bytes([128] * 8)
    form = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data"
    body = form + struct.pack("<I", len(samples)) + samples
    return base64.b64encode(b"RIFF" + struct.pack("<I", len(body)) + body).decode()


IMAGE = types.ImageContent(type="image", data=red_pixel(), mime_type="image/png")
AUDIO = types.AudioContent(type="audio", data=short_silence(), mime_type="audio/wav")


def text(value: str) -> types.TextContent:
    return types.TextContent(type="text", text=value)


def embedded(uri: str, body: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    return types.EmbeddedResource(
        type="resource", resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=body)
    )


def done(*blocks: types.ContentBlock | str, is_error: bool = False) -> types.CallToolResult:
    content = [text(block) if isinstance(block, str) else block for block in blocks]
    return types.CallToolResult(content=content, is_error=is_error)


def tool(name: str, description: str, schema: dict[str, Any] | None = None) -> Callable[[Handler], Handler]:
    """Register a handler under a tool definition."""

    def register(handler: Handler) -> Handler:
        definition = types.Tool(name=name, description=description, input_schema=schema or {"type": "object"})
        TOOLS[name] = (definition, handler)
        return handler

    return register


def strings(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


# --- results of every content type -----------------------------------------------------------------------------------

FIXED: dict[str, tuple[str, types.CallToolResult]] = {
    "test_simple_text": ("Returns one text", done("This is a simple text response for testing.")),
    "test_image_content": ("Returns one image", done(IMAGE)),
    "test_audio_content": ("Returns one sound", done(AUDIO)),
    "test_embedded_resource": (
        "Returns one embedded resource",
        done(embedded("test://embedded-resource", "This is an embedded resource content.")),
    ),
    "test_multiple_content_types": (
        "Returns a text, an image and a resource",
        done(
            "Multiple content types test:",
            IMAGE,
            embedded("test://mixed-content-resource", json.dumps({"test": "data", "value": 123}), "application/json"),
        ),
    ),
    "test_error_handling": (
        "Always fails",
        done("This tool intentionally returns an error for testing", is_error=True),
    ),
}


def register_fixed(name: str, description: str, result: types.CallToolResult) -> None:
    @tool(name, description)
    async def answer(context: Context, params: types.CallToolRequestParams) -> Result:
        return result


for fixed_name, (fixed_description, fixed_result) in FIXED.items():
    register_fixed(fixed_name, fixed_description, fixed_result)


@tool(
    "json_schema_2020_12_tool",
    "Declares the wider vocabulary of JSON Schema 2020-12",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
@tool(
    "test_header_parameter",
    "Has one parameter that is mirrored in a header",
    {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}, "required": ["region"]},
)
async def echo_arguments(context: Context, params: types.CallToolRequestParams) -> Result:
    return done(json.dumps(params.arguments or {}, sort_keys=True))


# --- notifications during a call -------------------------------------------------------------------------------------


async def say(context: Context, message: str) -> None:
    """A log message on this call's own stream. The SDK drops it where the client did not ask for any."""
    await context.session.send_log_message("info", message, related_request_id=context.request_id)


@tool("test_tool_with_logging", "Logs three messages while it works")
@tool("test_logging_tool", "Logs, but only for clients that asked for log messages")
async def log_three(context: Context, params: types.CallToolRequestParams) -> Result:
    await say(context, "Tool execution started")
    await asyncio.sleep(0.05)
    await say(context, "Tool processing data")
    await asyncio.sleep(0.05)
    await say(context, "Tool execution completed")
    return done("Logged three messages")


@tool("test_tool_with_progress", "Reports progress three times while it works")
async def report_progress(context: Context, params: types.CallToolRequestParams) -> Result:
    for value in (0, 50, 100):
        await context.session.report_progress(value, 100)
        await asyncio.sleep(0.05)
    return done("Reported progress")


@tool("test_trigger_tool_change", "Announces that the list of tools changed")
async def announce_tools(context: Context, params: types.CallToolRequestParams) -> Result:
    await BUS.publish(ToolsListChanged())
    return done("Announced")


@tool("test_trigger_prompt_change", "Announces that the list of prompts changed")
async def announce_prompts(context: Context, params: types.CallToolRequestParams) -> Result:
    await BUS.publish(PromptsListChanged())
    return done("Announced")


# --- questions to the client, handshake era: requests on the call's own stream ---------------------------------------


def form(message: str, properties: dict[str, Any], required: tuple[str, ...] = ()) -> types.ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, tokens: int = 100) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=text(prompt))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=tokens))


async def ask(context: Context, request: Any, answer: type[Any]) -> Any:
    metadata = ServerMessageMetadata(related_request_id=context.request_id)
    return await context.session.send_request(request, answer, metadata=metadata)


async def ask_person(
    context: Context, params: types.CallToolRequestParams, request: types.ElicitRequest, label: str
) -> Result:
    """As each era wants it: a gateway may speak one to its client and the other to us."""
    answer = (params.input_responses or {}).get("form")
    if not isinstance(answer, types.ElicitResult):
        if not context.session.can_send_request:
            return types.InputRequiredResult(input_requests={"form": request})
        answer = await ask(context, request, types.ElicitResult)
    return done(f"{label}: action={answer.action}, content={json.dumps(answer.content)}")


@tool("test_sampling", "Asks the client's model", strings("prompt"))
async def ask_model(context: Context, params: types.CallToolRequestParams) -> Result:
    prompt = (params.arguments or {}).get("prompt", "")
    answer: types.CreateMessageResult = await ask(context, sample(prompt), types.CreateMessageResult)
    return done(f"LLM response: {getattr(answer.content, 'text', '')}")


@tool("test_elicitation", "Asks the person behind the client", strings("message"))
async def ask_contact(context: Context, params: types.CallToolRequestParams) -> Result:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    request = form((params.arguments or {}).get("message", ""), fields, ("username", "email"))
    return await ask_person(context, params, request, "User response")


@tool("test_elicitation_sep1034_defaults", "Asks with a default for every primitive type")
async def ask_with_defaults(context: Context, params: types.CallToolRequestParams) -> Result:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await ask_person(context, params, form("Please check these values", fields), "Elicitation completed")


@tool("test_elicitation_sep1330_enums", "Asks with each way to write a choice")
async def ask_with_choices(context: Context, params: types.CallToolRequestParams) -> Result:
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    legacy = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    fields = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", **legacy},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await ask_person(context, params, form("Please choose", fields), "Elicitation completed")


# --- questions to the client, modern era: an input-required result, then the call again ------------------------------

ASK_NAME = form("What is your name?", {"name": {"type": "string"}}, ("name",))
ASK_OK = form("Please confirm", {"ok": {"type": "boolean"}}, ("ok",))
ASK_COLOR = form("Step 2: What is your favorite color?", {"color": {"type": "string"}}, ("color",))
ASK_CONTEXT = form("What context should the prompt use?", {"context": {"type": "string"}}, ("context",))
LIST_ROOTS = types.ListRootsRequest(params=types.RequestParams())


def need(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def accepted(params: types.InputResponseRequestParams, key: str, member: str) -> Any:
    """The answered form member, or None where the client did not answer that question as asked."""
    answer = (params.input_responses or {}).get(key)
    if isinstance(answer, types.ElicitResult) and answer.action == "accept" and answer.content:
        return answer.content.get(member)
    return None


@tool("test_input_required_result_elicitation", "Needs a name")
@tool("test_streaming_elicitation", "Needs a name")
async def need_name(context: Context, params: types.CallToolRequestParams) -> Result:
    name = accepted(params, "user_name", "name")
    return need(user_name=ASK_NAME) if name is None else done(f"Hello, {name}!")


@tool("test_input_required_result_sampling", "Needs the client's model")
async def need_model(context: Context, params: types.CallToolRequestParams) -> Result:
    answer = (params.input_responses or {}).get("capital_question")
    if not isinstance(answer, types.CreateMessageResult | types.CreateMessageResultWithTools):
        return need(capital_question=sample("What is the capital of France?"))
    return done(f"The model says: {getattr(answer.content, 'text', '')}")


@tool("test_input_required_result_list_roots", "Needs the client's roots")
async def need_roots(context: Context, params: types.CallToolRequestParams) -> Result:
    answer = (params.input_responses or {}).get("client_roots")
    if not isinstance(answer, types.ListRootsResult):
        return need(client_roots=LIST_ROOTS)
    return done("Roots: " + ", ".join(str(root.uri) for root in answer.roots))


@tool("test_input_required_result_request_state", "Keeps its state with the client")
@tool("test_input_required_result_tampered_state", "Keeps its state with the client and notices changes to it")
async def need_confirmation(context: Context, params: types.CallToolRequestParams) -> Result:
    if params.request_state != "asked" or accepted(params, "confirm", "ok") is None:
        return need("asked", confirm=ASK_OK)
    return done("state-ok")


@tool("test_input_required_result_multiple_inputs", "Needs three answers at once")
async def need_three(context: Context, params: types.CallToolRequestParams) -> Result:
    wanted = {"user_name": ASK_NAME, "greeting": sample("Generate a greeting", 50), "client_roots": LIST_ROOTS}
    if params.request_state != "asked" or not wanted.keys() <= (params.input_responses or {}).keys():
        return need("asked", **wanted)
    return done("Got all three answers")


@tool("test_input_required_result_multi_round", "Needs two answers, one after the other")
async def need_two_rounds(context: Context, params: types.CallToolRequestParams) -> Result:
    name, color = accepted(params, "step1", "name"), accepted(params, "step2", "color")
    state = params.request_state or ""
    if state == "first" and name is not None:
        return need(f"second:{name}", step2=ASK_COLOR)
    if state.startswith("second:") and color is not None:
        return done(f"{state.removeprefix('second:')} likes {color}")
    return need("first", step1=form("Step 1: What is your name?", {"name": {"type": "string"}}, ("name",)))


@tool("test_input_required_result_capabilities", "Asks only what this client can answer")
async def need_what_client_can(context: Context, params: types.CallToolRequestParams) -> Result:
    can = context.session.client_capabilities
    if params.input_responses:
        return done("Got an answer")
    if can is not None and can.sampling is not None:
        return need(model=sample("Say something"))
    if can is not None and can.elicitation is not None:
        return need(user_name=ASK_NAME)
    return done("This client cannot be asked anything")


@tool("test_missing_capability", "Refuses clients that offer no sampling")
async def require_sampling(context: Context, params: types.CallToolRequestParams) -> Result:
    can = context.session.client_capabilities
    if can is None or can.sampling is None:
        data: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs sampling", data)
    return done("Sampling is declared")
