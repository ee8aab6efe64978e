"""An MCP server on stdio whose tools stand in a file, so that a test can change them behind everybody's back."""

import json
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("shifting", instructions="Be kind.")


def note(path: str) -> str:
    """Takes a path."""
    return path


for name, description in json.loads(Path(sys.argv[1]).read_text()).items():
    server.add_tool(note, name=name, description=description)

if __name__ == "__main__":
    server.run("stdio")
