"""A configuration with a server at which people have accounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limen.config.load import load_config
from limen.config.model import Config


def config_of(directory: Path, base: str, provider: str, url: str, credential: dict[str, Any] | None) -> Config:
    security = {"security": {"credential": {"kind": "user", **credential}}} if credential is not None else {}
    settings = {
        "listen": {"url": base, "bind": "127.0.0.1:8300"},
        "mcpServers": {
            "notes": {"url": url, "headers": {"Authorization": "${file:reads}", "X-Route": "blue"}, **security},
            "other": {"url": "https://other.example/mcp"},
        },
        "oauth": {"provider": {"issuer": provider, "client_id": "limen"}},
    }
    (directory / "reads").write_text("Bearer reads-only")
    (directory / "reads").chmod(0o600)
    (directory / "limen.yaml").write_text(json.dumps(settings))
    return load_config(directory / "limen.yaml").config
