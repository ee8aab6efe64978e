"""A server on the official SDK, both eras: over HTTP on a free port (printed), or over stdio."""

import socket
import sys
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

server = MCPServer("sdk", instructions="Be kind.")


class Name(BaseModel):
    name: str


@server.tool()
def echo(text: str) -> str:
    """Echo the text."""
    return f"echo {text}"


@server.tool()
async def count(ctx: Context) -> str:
    """Report progress."""
    for step in (1, 2, 3):
        await ctx.report_progress(step, 3, f"step {step}")
    return "counted"


@server.tool()
async def greet(ctx: Context) -> str:
    """Ask the user's name."""
    answer = await ctx.elicit("Who are you?", Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else answer.action


def who() -> Elicit[Name]:
    """The question `greet_modern` needs answered first."""
    return Elicit("Who are you?", Name)


@server.tool()
async def greet_modern(person: Annotated[Name, Resolve(who)]) -> str:
    """Ask the user's name by input_required."""
    return f"hello {person.name}"


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("broken")


@server.prompt()
def hail(name: str) -> str:
    """A prompt."""
    return f"Hail {name}"


@server.resource("note://one")
def note() -> str:
    """A resource."""
    return "a note"


@server.resource("user://{name}")
def user(name: str) -> str:
    """A template."""
    return f"user {name}"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        app = server.streamable_http_app(json_response=sys.argv[1] == "json")
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
