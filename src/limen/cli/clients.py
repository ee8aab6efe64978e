"""Where MCP clients keep their lists of servers, and how each writes an entry. Data; nothing here opens a file.

Places are those the clients document for Linux, macOS and Windows. `~` is the home directory, `$APPDATA` as on Windows;
places without either are looked for in the working directory (a project's own file).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Client:
    """`keys`: paths of names at which servers stand, `*` for every name there. `marks`: members a wrapped entry
    needs."""

    name: str
    title: str
    keys: tuple[tuple[str, ...], ...]
    linux: tuple[str, ...]
    macos: tuple[str, ...]
    windows: tuple[str, ...]
    form: Literal["json", "toml", "yaml"] = "json"
    marks: Mapping[str, str] | None = None

    def places(self, platform: str, home: Path, appdata: Path, project: Path) -> Iterator[Path]:
        """Every file this client may read on this platform ("linux", "darwin" or "win32")."""
        known = {"darwin": self.macos, "win32": self.windows}.get(platform, self.linux)
        for place in known:
            if place.startswith("~/"):
                yield home / place[2:]
            elif place.startswith("$APPDATA/"):
                yield appdata / place[len("$APPDATA/") :]
            else:
                yield project / place


_SERVERS: Final = (("mcpServers",),)
_MAC: Final = "~/Library/Application Support"
_CLINE: Final = "User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json"
_ROO: Final = "User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json"


def _same(name: str, title: str, *places: str, keys: tuple[tuple[str, ...], ...] = _SERVERS, **more: object) -> Client:
    form: Literal["json", "toml", "yaml"] = "toml" if more.get("form") == "toml" else "json"
    form = "yaml" if more.get("form") == "yaml" else form
    return Client(name, title, keys, places, places, places, form)


CLIENTS: Final = (
    Client(
        "claude-desktop", "Claude Desktop", _SERVERS,
        ("~/.config/Claude/claude_desktop_config.json",),
        (f"{_MAC}/Claude/claude_desktop_config.json",),
        ("$APPDATA/Claude/claude_desktop_config.json",),
    ),
    _same(
        "claude-code", "Claude Code", "~/.claude.json", ".mcp.json",
        keys=(("mcpServers",), ("projects", "*", "mcpServers")),
    ),
    _same("cursor", "Cursor", "~/.cursor/mcp.json", ".cursor/mcp.json"),
    Client(
        "vscode", "VS Code", (("servers",),),
        ("~/.config/Code/User/mcp.json", "~/.config/Code - Insiders/User/mcp.json", ".vscode/mcp.json"),
        (f"{_MAC}/Code/User/mcp.json", f"{_MAC}/Code - Insiders/User/mcp.json", ".vscode/mcp.json"),
        ("$APPDATA/Code/User/mcp.json", "$APPDATA/Code - Insiders/User/mcp.json", ".vscode/mcp.json"),
        marks={"type": "stdio"},
    ),
    _same("windsurf", "Windsurf", "~/.codeium/windsurf/mcp_config.json"),
    Client(
        "cline", "Cline", _SERVERS,
        (f"~/.config/Code/{_CLINE}",), (f"{_MAC}/Code/{_CLINE}",), (f"$APPDATA/Code/{_CLINE}",),
    ),
    Client(
        "roo-code", "Roo Code", _SERVERS,
        (f"~/.config/Code/{_ROO}", ".roo/mcp.json"), (f"{_MAC}/Code/{_ROO}", ".roo/mcp.json"),
        (f"$APPDATA/Code/{_ROO}", ".roo/mcp.json"),
    ),
    _same("gemini-cli", "Gemini CLI", "~/.gemini/settings.json", ".gemini/settings.json"),
    _same("copilot-cli", "Copilot CLI", "~/.copilot/mcp-config.json"),
    Client(
        "zed", "Zed", (("context_servers",),),
        ("~/.config/zed/settings.json", ".zed/settings.json"), ("~/.config/zed/settings.json", ".zed/settings.json"),
        ("$APPDATA/Zed/settings.json", ".zed/settings.json"),
    ),
    _same("codex", "Codex CLI", "~/.codex/config.toml", keys=(("mcp_servers",),), form="toml"),
    _same("goose", "Goose", "~/.config/goose/config.yaml", keys=(("extensions",),), form="yaml"),
)  # fmt: skip
ANY_KEYS: Final = (("mcpServers",), ("servers",), ("context_servers",), ("mcp_servers",))


def by_file(path: Path) -> Client:
    """For a file the operator names: whichever known key it has."""
    form: Literal["json", "toml", "yaml"] = "json"
    if path.suffix in (".toml", ".yaml", ".yml"):
        form = "toml" if path.suffix == ".toml" else "yaml"
    return Client("file", "named file", ANY_KEYS, (), (), (), form)


def found_places(
    home: Path | None = None, project: Path | None = None, platform: str = ""
) -> list[tuple[Client, Path]]:
    """Every place that is looked at here, whether there is a file or not."""
    home = home or Path.home()
    appdata = Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    here = project or Path.cwd()
    return [
        (client, path) for client in CLIENTS for path in client.places(platform or sys.platform, home, appdata, here)
    ]
