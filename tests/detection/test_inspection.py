"""What looks at content belongs to one configuration, and outlives it for the calls that entered under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from limen.adapters.sqlite import SqliteTable
from limen.config.model import Config
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
