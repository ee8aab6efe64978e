"""Everybody who follows the log of a running gateway: those who watch, those elsewhere, those who are told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from limen.alerting import open_delivery
from limen.assemble import House
from limen.audit.note import parse_verifier_key
from limen.exporting import open_exporter, open_metrics
from limen.vigil import open_watches
from limen.watching import Watcher


def following_log(house: House) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Show what happens to those who watch, and send it to those who follow from elsewhere. Raises ConfigFault."""
    audit, state, key = house.config.audit, house.state, parse_verifier_key(house.logbook.signer.verifier_key)

    def hold(why: str) -> None:
        house.engine.held = why

    exporter = open_exporter(house.config, state, house.record, house.say, hold, key)
    counted, serving = open_metrics(house.config, exporter, house.ledger)
    watches = [*open_watches(house.config, state, house.record, key.name), *counted]
    watcher = Watcher(audit.path, key, watches, state.cursors, house.say, house.record)
    delivery = open_delivery(house.config, state, house.record, house.say)
    return [watcher.run, exporter.run, *serving, delivery.run, partial(house.logbook.run, house.record)]
