"""An approval that ends takes its definition out of service at that moment, without a reading or a call to notice."""

import asyncio
from pathlib import Path

from limen.assemble import House
from limen.config.load import load_config
from limen.config.model import CatalogConfig, Config
from limen.core.announce import Announcement
from limen.gateway.upstreams import Upstreams

TOOL = {"name": "echo", "description": "Echoes.", "inputSchema": {"type": "object"}}
SECONDS = 1.0


def config(directory: Path, expires: float | None) -> Config:
    """A configuration whose approvals end sooner than a file may say."""
    file = directory / "limen.yaml"
    file.write_text("version: 1\nmcpServers: {up: {url: 'http://127.0.0.1:9/mcp'}}\n")
    rules = CatalogConfig.model_construct(expires=expires)
    return load_config(file, {}).config.model_copy(update={"catalog": rules})


async def served(house: House) -> list[str]:
    return [item.name for item in house.engine.corridor.catalog.approved("up", "tool")]


def watched(directory: Path, expires: float | None) -> tuple[list[str], list[str]]:
    """What is served right after the approval, and when it would have ended."""

    async def run() -> tuple[list[str], list[str]]:
        said: list[str] = []
        house = House(config(directory, expires), lambda config, heard: Upstreams([], heard), said.append)
        duty = asyncio.create_task(house.watch_state())
        await house.observe(Announcement("up", "2026-07-28", tools=(TOOL,)))
        house.registry.approve("up", "tool", "echo", "alice", "test")
        await asyncio.sleep(SECONDS / 2)
        before = await served(house)
        await asyncio.sleep(SECONDS)
        after = await served(house)
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        await house.close()
        return before, after

    return asyncio.run(run())


def test_an_approval_ends_when_it_ends(tmp_path: Path) -> None:
    assert watched(tmp_path, SECONDS) == (["echo"], [])


def test_an_approval_without_an_end_does_not(tmp_path: Path) -> None:
    assert watched(tmp_path, None) == (["echo"], ["echo"])
