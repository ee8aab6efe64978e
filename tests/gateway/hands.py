"""Containment by another process than the gateway, as a command would do it."""

from __future__ import annotations

import weakref
from typing import Any

from gateway.running import Running
from limen.config.load import load_config
from limen.containing import Containing
from limen.incidents.actions import Action, Applied
from limen.storage import State

WITHIN = 1.0  # seconds: what is promised
SLACK = 4.0  # seconds more on a machine that is busy with other things


class Operator:
    """Contains and releases what a gateway reads."""

    def __init__(self, gateway: Running) -> None:
        config = load_config(gateway.config).config
        self.state = State.open(config)
        weakref.finalize(self, self.state.close)
        self.hands = Containing(config, self.state, lambda event, fields: self.state.tell(event, **fields))

    def contain(self, kind: str, value: str = "*", **more: Any) -> Applied:
        """In force when this returns; a gateway acts on it within a second."""
        return self.hands.apply(Action(kind, value, **more), by="ann", reason="odd calls", incident="i-7")

    def release(self, applied: Applied) -> None:
        """Taken back, whoever applied it."""
        self.hands.release(applied.id, by="ann", reason="false alarm")

    def release_all(self) -> None:
        """For the next test."""
        for applied in self.hands.in_force():
            self.release(applied)
