"""What looks at content belongs to one configuration, and outlives it for the calls that entered under it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen.adapters.sqlite import SqliteTable
from limen.config.model import Config
from limen.core.faults import DependencyFault
from limen.detection.feeds import signed
from limen.detection.finding import Channel
from limen.detection.scanner import INLINE, Report, Subject
from limen.inspection import Inspection


def test_calls_in_flight_are_judged_after_another_configuration_is_in_force(tmp_path: Path) -> None:
    config = Config.model_validate({"storage": {"path": str(tmp_path / "limen.db")}})
    table = SqliteTable(tmp_path / "limen.db", "labels")

    async def judged(inspection: Inspection) -> Report:
        words = "an ordinary sentence about a garden. " * (INLINE // 16)
        report = inspection.scanner.scan(Subject("s", "t", Channel.RESULT, value={"text": words}))
        assert not isinstance(report, Report)  # long: in a thread of its own
        return await report

    inspection = Inspection(config, table, table, table, {})
    inspection.retire()
    assert not asyncio.run(judged(inspection)).too_large
    inspection.close()
    table.close()


class Place:
    """A place feeds are fetched from."""

    def __init__(self) -> None:
        self.says: bytes | None = None

    async def get_json(self, url: str) -> bytes:
        if self.says is None:
            raise DependencyFault("fetch", "no answer")
        return self.says


def test_a_feed_from_elsewhere_is_swapped_in_and_the_last_good_one_outlives_an_outage(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    url, public = "https://feeds.example/acme", base64.b64encode(key.public_key().public_bytes_raw()).decode()
    config = Config.model_validate(
        {"storage": {"path": str(tmp_path / "limen.db")}, "content": {"feeds": [{"url": url, "key": public}]}}
    )
    table, place = SqliteTable(tmp_path / "limen.db", "labels"), Place()

    def feed(version: int, value: str, signer: Ed25519PrivateKey = key) -> bytes:
        rows = [{"id": "p1", "kind": "package", "value": value}]
        return signed(json.dumps({"name": "acme", "version": version, "indicators": rows}).encode(), signer.sign)

    def finds(inspection: Inspection, text: str) -> bool:
        report = inspection.scanner.scan(Subject("s", "t", Channel.RESULT, value={"text": text}))
        assert isinstance(report, Report)
        return any(one.id == "feed.package" for one in report.findings)

    inspection = Inspection(config, table, table, table, {})
    assert "no version is in force" in asyncio.run(inspection.fetch_feeds(place))[url]
    place.says = feed(1, "left-padding-mcp")
    assert asyncio.run(inspection.fetch_feeds(place)) == {url: "version 1 in force"}
    assert finds(inspection, "npx left-padding-mcp")
    assert not finds(inspection, "npx right-padding-mcp")
    place.says = feed(2, "right-padding-mcp", Ed25519PrivateKey.generate())
    assert "version 1 stays in force" in asyncio.run(inspection.fetch_feeds(place))[url]
    place.says = feed(2, "right-padding-mcp")
    asyncio.run(inspection.fetch_feeds(place))
    assert finds(inspection, "npx right-padding-mcp")
    place.says = None
    inspection.close()
    again = Inspection(config, table, table, table, {})
    assert again.kept_feeds() == {}
    assert "version 2 stays in force" in asyncio.run(again.fetch_feeds(place))[url]
    assert finds(again, "npx right-padding-mcp")
    again.close()
    table.close()
