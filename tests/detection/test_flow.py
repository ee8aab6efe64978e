"""The two flow guards over a real store of labels: what was read decides where the next call may lead."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.core.call import Approval, Approved, Call, Caller, Cleared, Context, Era, Grant, Inspected, Presented
from limen.core.chain import Chain, run_result
from limen.core.verdict import Pass, Permit, Refusal, Verdict
from limen.detection.dataflow import Labels
from limen.detection.flow import CheckFlow, RecordFlow, Watch
from limen.detection.settings import ContentSettings

DECLARED = {"servers": {"crm": {"trusted": True, "labels": {"reads": ["private"]}}, "mail": {"trusted": True}}}


class Says:
    needs: tuple[type, ...] = ()

    def __init__(self, fact: object) -> None:
        self.fact, self.gives = fact, (type(fact),)

    def check(self, context: Context) -> Verdict:
        return Pass((self.fact,))


class Flows:
    """One caller, several servers."""

    def __init__(
        self, directory: Path, settings: dict[str, Any], *, asks: bool = True, flow_asked: bool = False
    ) -> None:
        self.table = SqliteTable(directory / "labels.db", "labels")
        labels = Labels(self.table, self.table.change_token)
        self.watch, self.seen = Watch(ContentSettings.model_validate(settings), labels), dict[str, Inspected]()
        self.asks, self.record = asks, RecordFlow(self.watch, asked=flow_asked)

    def call(self, server: str, effect: str, subject: str = "alice") -> Cleared | Refusal:
        """Decide, and where it goes ahead, return a result."""
        return asyncio.run(self._call(server, effect, subject))

    async def _call(self, server: str, effect: str, subject: str) -> Cleared | Refusal:
        approved = Approved(server, "tool", "t", "d", b'{"name":"t","inputSchema":{"type":"object"}}', effect)
        facts = (Caller("i", subject), approved, Grant(("1",), "p"), Inspected(), Approval())
        chain = Chain(
            [*map(Says, facts), CheckFlow(self.watch, self.seen, asks=self.asks)], [*map(type, facts), Cleared]
        )
        call = Call("tools/call", server, server, Era.MODERN, "x", 1, "t")
        walked = await chain.run(Context(call, Presented(), time.monotonic() + 5, "ref"))
        if isinstance(walked, tuple):
            return walked[0]
        permit: Permit = chain.permit(walked)
        judged = run_result([self.record], permit, {"content": []})
        assert judged == ({"content": []}, ())
        return walked.get(Cleared)


def test_private_data_does_not_leave_with_a_stranger_listening(tmp_path: Path) -> None:
    flows = Flows(tmp_path, DECLARED)
    assert flows.call("issues", "read") == Cleared()  # a stranger wrote what is read there
    assert flows.call("crm", "read") == Cleared()
    assert flows.call("crm", "read") == Cleared()
    assert flows.call("mail", "write") == Cleared(("flow.trifecta",), ask=True)
    assert flows.call("mail", "write", "bob") == Cleared()


def test_where_nobody_can_be_asked_it_is_refused(tmp_path: Path) -> None:
    flows = Flows(tmp_path, DECLARED, asks=False)
    flows.call("issues", "read")
    flows.call("crm", "read")
    refusal = flows.call("mail", "write")
    assert isinstance(refusal, Refusal)
    assert refusal.reason.id == "flow.blocked"
    assert flows.seen["ref"].findings == ("flow.trifecta",)


def test_observing_reports_and_lets_pass(tmp_path: Path) -> None:
    flows = Flows(tmp_path, {**DECLARED, "flow": {"unsafe_observe": True}}, asks=False)
    flows.call("issues", "read")
    flows.call("crm", "read")
    assert flows.call("mail", "write") == Cleared(("flow.trifecta",))


def test_private_data_alone_may_go_where_it_always_went(tmp_path: Path) -> None:
    flows = Flows(tmp_path, DECLARED, asks=False)
    flows.call("crm", "read")
    assert flows.call("mail", "write") == Cleared()


@pytest.mark.parametrize("settings", [{}, {"servers": {"crm": {"trusted": True}}}])
def test_idle_while_there_is_nothing_to_protect(tmp_path: Path, settings: dict[str, Any]) -> None:
    flows = Flows(tmp_path, settings)
    flows.call("issues", "read")
    assert flows.call("mail", "write") == Cleared()
    assert list(flows.table.scan("")) == []


def test_labels_that_cannot_be_read_or_written_refuse(tmp_path: Path) -> None:
    flows = Flows(tmp_path, DECLARED)
    flows.call("issues", "read")
    flows.table.close()
    refusal = flows.call("mail", "write")
    assert isinstance(refusal, Refusal)
    assert refusal.reason.id in ("fault.dependency", "fault.guard")


def test_reads_are_recorded_where_the_policy_asks_and_nothing_is_declared_d10(tmp_path: Path) -> None:
    flows = Flows(tmp_path, {}, flow_asked=True)
    assert flows.watch.idle
    flows.call("issues", "read")
    assert flows.watch.labels.read(("i", "alice")).context() == {"untrusted": True, "private": False, "secret": False}
    assert flows.call("mail", "write") == Cleared()  # the flow rules have nothing to say to that
