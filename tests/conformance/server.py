"""A server that offers what the official conformance suite asks servers for, in both protocol eras.

Run as `python server.py PORT`; the endpoint is http://127.0.0.1:PORT/mcp. The protocol itself is the official SDK's.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from tools import ASK_CONTEXT, BUS, IMAGE, TOOLS, Context, Result, accepted, embedded, need, red_pixel, text

NAME = "conformance-fixture"


def argument(name: str) -> types.PromptArgument:
    return types.PromptArgument(name=name, description=f"The value of {name}", required=True)


PROMPTS = (
    types.Prompt(name="test_simple_prompt", description="One fixed message"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="Both arguments in one message",
        arguments=[argument("arg1"), argument("arg2")],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="A resource and a question about it",
        arguments=[argument("resourceUri")],
    ),
    types.Prompt(name="test_prompt_with_image", description="An image and a question about it"),
    types.Prompt(name="test_input_required_result_prompt", description="Needs some context first"),
)
RESOURCES: dict[str, tuple[str, types.TextResourceContents | types.BlobResourceContents]] = {
    content.uri: (name, content)
    for name, content in (
        (
            "static-text",
            types.TextResourceContents(
                uri="test://static-text",
                mime_type="text/plain",
                text="This is the content of the static text resource.",
            ),
        ),
        (
            "static-binary",
            types.BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=red_pixel()),
        ),
        (
            "watched-resource",
            types.TextResourceContents(uri="test://watched-resource", mime_type="text/plain", text="Watched."),
        ),
    )
}


async def list_tools(context: Context, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[definition for definition, _ in TOOLS.values()])


async def call_tool(context: Context, params: types.CallToolRequestParams) -> Result:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await TOOLS[params.name][1](context, params)


async def list_prompts(context: Context, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=list(PROMPTS))


async def get_prompt(
    context: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given = params.arguments or {}
    blocks: list[types.ContentBlock]
    match params.name:
        case "test_simple_prompt":
            blocks = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            blocks = [text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")]
        case "test_prompt_with_embedded_resource":
            resource = embedded(given.get("resourceUri", ""), "Embedded resource content for testing.")
            blocks = [resource, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            blocks = [IMAGE, text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            answer = accepted(params, "user_context", "context")
            if answer is None:
                return need(user_context=ASK_CONTEXT)
            blocks = [text(f"Use this context: {answer}")]
        case _:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=block) for block in blocks])


async def list_resources(context: Context, params: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(
        resources=[
            types.Resource(uri=uri, name=name, description=f"The {name} fixture", mime_type=content.mime_type)
            for uri, (name, content) in RESOURCES.items()
        ]
    )


async def list_templates(context: Context, params: Any) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(
        uri_template="test://template/{id}/data", name="data", description="Data by id", mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = params.uri
    if uri in RESOURCES:
        return types.ReadResourceResult(contents=[RESOURCES[uri][1]])
    head, tail = "test://template/", "/data"
    if uri.startswith(head) and uri.endswith(tail) and (key := uri[len(head) : -len(tail)]) and "/" not in key:
        body = json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})
        content = types.TextResourceContents(uri=uri, mime_type="application/json", text=body)
        return types.ReadResourceResult(contents=[content])
    raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})


async def complete(context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    known = [value for value in ("test-one", "test-two", "paris", "park") if value.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=known, total=len(known), has_more=False))


async def accept(context: Context, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


def build() -> Server[Any]:
    """The server with every handler in place."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the handshake-era features are what is to be tested
    server: Server[Any] = Server(
        NAME,
        version="1.0.0",
        get_tool_input_schema=lambda name: TOOLS[name][0].input_schema if name in TOOLS else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=accept,
        on_unsubscribe_resource=accept,
        on_set_logging_level=accept,
        on_completion=complete,
        on_subscriptions_listen=ListenHandler(BUS),
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


def main() -> None:
    port = int(sys.argv[1])
    uvicorn.run(build().streamable_http_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
