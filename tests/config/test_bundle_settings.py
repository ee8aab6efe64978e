"""Bundles in the file: what can be served together, and what would stand at somebody else's address."""

import json
from pathlib import Path
from typing import Any

import pytest

from limen.config.bundles import routes
from limen.config.load import load_config
from limen.config.model import Config
from limen.core.faults import ConfigFault

URL = {"url": "https://mcp.example.com/"}
SERVERS: dict[str, Any] = {"files": URL, "git": URL, "old": {**URL, "disabled": True}}


def load(tmp_path: Path, bundles: Any, servers: Any = SERVERS) -> Config:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": servers, "bundles": bundles}))
    path.chmod(0o600)
    return load_config(path).config


def test_a_bundle_offers_its_servers_in_use(tmp_path: Path) -> None:
    config = load(tmp_path, {"team": ["git", "files"], "all-of-them": ["files", "git", "old"], "later": ["old"]})
    assert routes(config.bundles, config.servers) == {
        "": ("files", "git"), "team": ("git", "files"), "all-of-them": ("files", "git"), "later": (),
    }  # fmt: skip
    plain = load(tmp_path, {})
    assert routes(plain.bundles, plain.servers) == {"": ("files", "git")}


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        ({"files": ["git"]}, "address of the server 'files'"),
        ({"FILES": ["git"]}, "address of the server 'files'"),
        ({"old": ["git"]}, "address of the server 'old'"),  # disabled today, enabled tomorrow
        ({"team": ["git"], "Team": ["files"]}, "address of the bundle 'team'"),
        ({"team": []}, "has no servers"),
        ({"team": ["git", "hr"]}, "'hr' in the bundle 'team' is no server"),
        ({"team": ["git", "Files"]}, "'Files' in the bundle 'team' is no server"),
        ({"one": ["git"], "team": ["one"]}, "is no server"),  # bundles do not nest
        ({"team": ["git", "git"]}, "twice"),
        ({"": ["git"]}, "not a bundle name"),
        ({"a/b": ["git"]}, "not a bundle name"),
        ({"..": ["git"]}, "not a bundle name"),
        ({"%66iles": ["git"]}, "not a bundle name"),
        ({"team": "git"}, "tuple"),
        (["team"], "dictionary"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, bundles: Any, words: str) -> None:
    with pytest.raises(ConfigFault, match=words) as caught:
        load(tmp_path, bundles)
    assert "bundles" in str(caught.value)


@pytest.mark.parametrize("name", ["x_", "x__a", "_x"])
def test_servers_whose_names_could_be_misread_on_a_bundle_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigFault, match="is not a server name"):
        load(tmp_path, {}, {"x": URL, name: URL})
    assert load(tmp_path, {}, {"x": URL, "x_a": URL})
