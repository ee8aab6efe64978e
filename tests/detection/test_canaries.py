"""I9: who is told of what was planted, and what is told."""

from collections.abc import Mapping
from typing import Any

import pytest

from contracts.memory import MemoryTable
from limen.core.events import Event, Signal
from limen.detection.canaries import Canaries, DecoyWatch, plant, plantable, planted, uproot

VALUE = "pK7vQ2mZx9TbLw4NcYp8HsJd3FgAe6Uo1iKq5RtX"


class Scene:
    def __init__(self) -> None:
        self.table = MemoryTable()
        self.recorded: list[Mapping[str, Any]] = []
        self.signals: list[Signal] = []
        self.canaries = Canaries(self.table, {"wiki": VALUE})
        self.watch = DecoyWatch(self.canaries, self._record, self.signals.append)

    def _record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.recorded.append({"t": event, **fields})

    def see(self, type: str, **fields: Any) -> None:
        self.watch.see(Event("log", 1, 5.0, type, fields.pop("category", "call"), **fields))


def test_a_destination_that_holds_one_i9() -> None:
    scene = Scene()
    scene.see(
        "egress.allowed", server="web", record={"name": f"{VALUE.lower()[:40]}.drop.example", "address": "198.51.100.7"}
    )
    scene.see("egress.allowed", server="web", record={"name": "api.example"})
    assert [(one["event"], one["where"], one["server"]) for one in scene.recorded] == [
        ("decoy.canary", "egress", "web")
    ]
    assert VALUE.lower() not in str(scene.recorded).lower()


def test_who_is_named_depends_on_who_is_known_i9() -> None:
    scene = Scene()
    seen = {"where": "arguments"}
    scene.see("security.decoy.canary", issuer="i", subject="mallet", client="c", record=seen)
    scene.see("security.decoy.canary", client="c", record=seen)
    scene.see("security.decoy.canary", server="web", record={"where": "result"})
    scene.see("security.decoy.canary", record={"where": "credential"})
    assert [(one.subject.kind, one.score) for one in scene.signals] == [
        ("caller", 0.95),
        ("client", 0.45),
        ("server", 0.45),
    ]
    assert all(one.source == "decoy" for one in scene.signals)


def test_who_was_sent_one_is_neither_stopped_nor_held_up_by_it_i9() -> None:
    """Whoever found a canary can mail it to everybody, and have a server look up a name with it in it."""
    scene, who = Scene(), {"issuer": "i", "client": "c"}
    scene.see("security.decoy.canary", subject="ann", record={"where": "result"}, **who)
    scene.see("security.decoy.canary", subject="ann", record={"where": "arguments"}, **who)
    scene.see("security.decoy.canary", subject="thief", record={"where": "arguments"}, **who)
    scene.see("security.decoy.called", subject="ann", server="hr", name="export", **who)
    scene.see("security.decoy.canary", server="web", record={"where": "egress"})
    assert [one.score for one in scene.signals] == [0.45, 0.79, 0.95, 0.95, 0.45]


def test_what_inspection_found_is_put_on_record_once_i9() -> None:
    scene = Scene()
    scene.see("call.refused", issuer="i", subject="mallet", server="hr", name="echo", findings=("secret.canary",))
    scene.see("call.outcome", issuer="i", subject="ann", server="hr", name="echo", findings=("secret.canary",))
    scene.see("call.outcome", issuer="i", subject="bob", server="hr", name="echo", findings=("secret.aws",))
    assert [(one["sub"], one["where"]) for one in scene.recorded] == [("mallet", "arguments"), ("ann", "result")]


def test_those_issued_are_looked_for_and_those_taken_back_are_not_i9() -> None:
    scene = Scene()
    value = plant(scene.table, "drive", "ann", 1.0)
    assert not scene.canaries.find(value)
    scene.watch.settle(2.0)
    assert scene.canaries.find(f"x {value} y")
    assert scene.canaries.find(value[::-1])
    with pytest.raises(ValueError, match="there is a canary"):
        plant(scene.table, "drive", "ann", 1.0)
    assert [one["name"] for one in planted(scene.table)] == ["drive"]
    assert value not in str(list(planted(scene.table)))
    assert uproot(scene.table, "drive") and not uproot(scene.table, "drive")
    scene.watch.settle(3.0)
    assert not scene.canaries.find(value)
    assert scene.canaries.find(VALUE)
    assert not scene.canaries.refresh()


def test_values_that_stand_in_ordinary_texts_are_none() -> None:
    assert plantable(VALUE)
    assert not plantable("aaaaaaaa") and not plantable("short")
