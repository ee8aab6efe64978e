"""The guards: what findings lead to. Detectors are stand-ins that find marked words; what is tested is the corridor."""

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from limen.core.call import Approval, Approved, Call, Caller, Context, Era, Grant, Inspected, Presented
from limen.core.chain import Chain, run_result
from limen.core.faults import DependencyFault, InvariantFault, UpstreamFault
from limen.core.verdict import Pass, Permit, Refusal, Verdict
from limen.detection.finding import Channel, Finding
from limen.detection.fuse import Action
from limen.detection.inspect import InspectArguments, InspectMessages, InspectResult, Judge, inspect_definition
from limen.detection.scanner import INLINE, Report, Scanner, Subject
from limen.detection.settings import ContentSettings
from limen.detection.text import Content

WORDS = {"EVIL": ("injection.override", "injection", 0.97), "ODD": ("injection.odd", "injection", 0.6)}
WORDS |= {"HMM": ("injection.hint", "injection", 0.3), "SECRET-1": ("secret.key", "secret", 0.9)}
WORDS |= {"BOMB": ("hidden.limit", "hidden", 0.95), "PACKED": ("hidden.limit", "hidden", 0.3)}
WORDS |= {"CARD-1": ("pii.card", "pii", 0.9), "PATH": ("argument.traversal", "argument", 0.7)}


class Standin:
    name = "stand-in"

    def __init__(self) -> None:
        self.calls, self.threads, self.wait, self.crash = 0, set[str](), 0.0, ""

    def find(self, content: Content, subject: Subject) -> list[Finding]:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        time.sleep(self.wait)
        if self.crash:
            raise ValueError(self.crash)
        found = [
            Finding(*row, piece.path, (piece.text.index(word), piece.text.index(word) + len(word)))
            for piece in content.pieces
            for word, row in WORDS.items()
            if word in piece.text
        ]
        split = content.whole.replace("\n", "").replace(" ", "")
        return [*found, *([Finding(*WORDS["EVIL"])] if "EVIL" in split and not found else [])]


def redact(text: str, hint: str, families: frozenset[str]) -> str:
    for word, (_, family, _score) in WORDS.items():
        if family in families:
            text = text.replace(word, f"[redacted:{family}]")
    return text


class Shelf:
    version = "1"

    def approved(self, server: str | None = None, kind: str | None = None) -> tuple[Approved, ...]:
        return ()


class Kept:
    def __init__(self) -> None:
        self.content: list[Any] = []

    def keep(self, call: Call, reference: str, content: dict[str, Any], findings: tuple[str, ...]) -> str:
        self.content.append(content)
        return f"q{len(self.content)}"


class Room:
    """Everything around the guards."""

    def __init__(self, settings: Mapping[str, Any] | None = None, *, asks: bool = True, seconds: float = 5.0) -> None:
        self.detector, self.kept, self.seen = Standin(), Kept(), dict[str, Inspected]()
        self.settings = ContentSettings.model_validate(settings or {})
        self.scanner = Scanner([self.detector], seconds=seconds)
        self.judge = Judge(self.scanner, self.settings, Shelf())
        self.asks = asks

    def arguments(self, seconds: float = 5.0, **arguments: Any) -> Verdict:
        return asyncio.run(self.ask(seconds, **arguments))

    async def ask(self, seconds: float = 5.0, **arguments: Any) -> Any:
        call = Call("tools/call", "up", "up", Era.MODERN, "x", 1, "echo", json.dumps(arguments).encode())
        guard = InspectArguments(self.judge, self.seen, asks=self.asks)
        context = Context(call, Presented(), time.monotonic() + seconds, "ref")
        walked = await Chain([*map(Says, FACTS), guard], [Inspected]).run(context)
        return walked[0] if isinstance(walked, tuple) else walked.get(Inspected)

    def result(self, result: dict[str, Any], method: str = "tools/call", seconds: float = 5.0) -> Any:
        return asyncio.run(self.answer(result, method, seconds))

    async def answer(self, result: dict[str, Any], method: str = "tools/call", seconds: float = 5.0) -> Any:
        guard = InspectResult(self.judge, self.seen, redact, self.kept)
        judged = run_result([guard], await permit(method), result, seconds)
        return judged if isinstance(judged, tuple | Refusal) else await judged


class Says:
    needs: tuple[type, ...] = ()

    def __init__(self, fact: object) -> None:
        self.fact, self.gives = fact, (type(fact),)

    def check(self, context: Context) -> Verdict:
        return Pass((self.fact,))


FACTS = (Caller("i", "alice"), Approved("up", "tool", "echo", "d", b'{"inputSchema":{}}'), Grant(("1",), "p"))


async def permit(method: str = "tools/call") -> Permit:
    facts = (*FACTS, Inspected(), Approval())
    chain = Chain([*map(Says, facts)], [*map(type, facts)])
    call = Call(method, "up", "up", Era.MODERN, "x", 1, "mem://a" if method == "resources/read" else "echo")
    walked = await chain.run(Context(call, Presented(), time.monotonic() + 5, "ref"))
    assert isinstance(walked, Context)
    return chain.permit(walked)


def said(*texts: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": one} for one in texts], **more}


def shown(judged: Any) -> str:
    return json.dumps(judged[0])


# arguments


def test_honest_arguments_pass_and_leave_no_finding() -> None:
    room = Room()
    assert room.arguments(text="the weather in Seoul", nested={"a": [1, None, "b"]}) == Inspected()
    assert room.arguments() == Inspected()
    assert not room.seen


def test_arguments_above_the_limit_for_holding_need_a_person() -> None:
    assert Room().arguments(text="x PATH") == Inspected(0.7, ("argument.traversal",), ask=True)


def test_where_nobody_can_be_asked_they_are_refused() -> None:
    refusal = Room(asks=False).arguments(text="x PATH")
    assert isinstance(refusal, Refusal)
    assert refusal.reason.id == "content.blocked"


def test_a_secret_is_not_sent_to_a_stranger_but_to_a_trusted_server() -> None:
    room = Room()
    refusal = room.arguments(text="it is SECRET-1")
    assert isinstance(refusal, Refusal)
    assert refusal.reason.id == "content.blocked"
    assert "SECRET-1" not in refusal.detail
    assert room.seen["ref"].findings == ("secret.key",)
    trusted = Room({"servers": {"up": {"trusted": True}}}).arguments(text="it is SECRET-1")
    assert isinstance(trusted, Inspected)
    assert not trusted.ask
    asked = Room({"secrets": {"arguments": "approve"}}).arguments(text="it is SECRET-1")
    assert isinstance(asked, Inspected)
    assert asked.ask


def test_personal_data_is_recorded_unless_more_is_asked_for() -> None:
    assert Room().arguments(text="CARD-1").findings == ("pii.card",)  # type: ignore[union-attr]
    assert isinstance(Room({"personal": {"arguments": "block"}}).arguments(text="CARD-1"), Refusal)


def test_observing_records_and_stops_nothing() -> None:
    room = Room({"unsafe_observe": ["arguments", "results"], "personal": {"results": "redact"}})
    inspected = room.arguments(text="PATH SECRET-1")
    assert isinstance(inspected, Inspected)
    assert not inspected.ask
    assert set(inspected.findings) == {"argument.traversal", "secret.key"}
    poisoned = said("EVIL SECRET-1 CARD-1")
    assert room.result(poisoned) == (poisoned, ())
    assert room.seen["ref"].risk > 0.9


def test_more_text_than_can_be_judged_is_refused() -> None:
    room = Room()
    refusal = room.arguments(text=["x" * 1000] * 4300)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.id == "content.too_large"
    assert room.result(said("x" * (5 << 20))).reason.id == "content.too_large"
    assert room.detector.calls == 0


# results


def test_a_poisoned_result_is_refused_and_its_honest_twin_passes() -> None:
    room = Room()
    refusal = room.result(said("fine", "EVIL"))
    assert refusal.reason.id == "content.filtered"
    assert room.kept.content == [said("fine", "EVIL")]
    assert "EVIL" not in refusal.detail
    assert "q1" in refusal.detail
    assert room.result(said("fine", "evil is a word")) == (said("fine", "evil is a word"), ())


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tools/call", said("ODD", structuredContent={"a": 1}, resultType="complete")),
        ("resources/read", {"contents": [{"uri": "mem://a", "text": "ODD"}]}),
        (
            "prompts/get",
            {"messages": [{"role": "user", "content": {"type": "text", "text": "ODD"}}], "description": "o"},
        ),
    ],
)
def test_above_the_limit_for_holding_a_notice_takes_the_place(method: str, result: dict[str, Any]) -> None:
    high = {"content_safety": "medium", "servers": {"up": {"max_risk": 0.4}}}
    room = Room(high)
    judged = room.result(result, method)
    assert "ODD" not in shown(judged)
    assert "withheld" in shown(judged)
    assert ("resultType" in judged[0]) == ("resultType" in result)
    assert room.kept.content == [result]


def test_what_has_no_room_for_a_notice_is_refused() -> None:
    assert isinstance(Room().result({"completion": {"values": ["ODD"]}}, "completion/complete"), Refusal)
    form = {"method": "elicitation/create", "params": {"message": "ODD"}}
    asked = {"resultType": "input_required", "inputRequests": {"a": form}}
    assert isinstance(Room().result(asked), Refusal)


@pytest.mark.parametrize(
    "place",
    [
        {"content": [], "structuredContent": {"a": {"b": ["EVIL"]}}},
        {"content": [], "structuredContent": {"EVIL": 1}},
        {"content": [], "structuredContent": {"type": "image", "data": "EVIL"}},
        said("EVIL", isError=True),
        {"content": [{"type": "resource_link", "uri": "mem://a", "name": "a", "description": "EVIL"}]},
        {"content": [{"type": "resource", "resource": {"uri": "mem://a", "blob": "RVZJTA=="}}]},
        said("EV", "IL"),
    ],
)
def test_every_text_of_a_result_is_looked_at(place: dict[str, Any]) -> None:
    assert isinstance(Room().result(place), Refusal)


def test_pictures_are_no_text() -> None:
    picture = {"content": [{"type": "image", "mimeType": "image/png", "data": "EVIL" * (2 << 20)}]}
    assert Room().result(picture) == (picture, ())


def test_secrets_are_redacted_where_they_stand() -> None:
    given = said("key SECRET-1.", structuredContent={"a/b": ["x", "SECRET-1"], "n": 1})
    room = Room()
    cleaned, notes = room.result(given)
    assert cleaned == said("key [redacted:secret].", structuredContent={"a/b": ["x", "[redacted:secret]"], "n": 1})
    assert given["content"][0]["text"] == "key SECRET-1."
    assert "SECRET-1" not in " ".join(notes)
    assert room.seen["ref"].findings == ("secret.key",)


@pytest.mark.parametrize(
    "given",
    [
        {"content": [], "structuredContent": {"SECRET-1": "x"}},
        {"content": [{"type": "resource", "resource": {"uri": "mem://a", "blob": "U0VDUkVULTE="}}]},
    ],
)
def test_a_secret_that_cannot_be_taken_out_takes_the_whole_with_it(given: dict[str, Any]) -> None:
    judged = Room().result(given)
    assert isinstance(judged, Refusal) or "withheld" in shown(judged)
    assert "SECRET-1" not in str(judged)
    assert "U0VDUk" not in str(judged)


def test_settings_decide_about_secrets_and_personal_data() -> None:
    assert "SECRET-1" in shown(Room({"secrets": {"results": "record"}}).result(said("SECRET-1")))
    assert "withheld" in shown(Room({"secrets": {"results": "withhold"}}).result(said("SECRET-1")))
    assert "CARD-1" in shown(Room().result(said("CARD-1")))
    assert "[redacted:pii]" in shown(Room({"personal": {"results": "redact"}}).result(said("CARD-1")))


def test_an_exception_lets_one_finding_pass_until_it_ends() -> None:
    entry = {"finding": "injection.override", "server": "up", "tool": "ec*", "owner": "sam", "reason": "manual"}
    assert Room({"allow": [{**entry, "expires": "2999-01-01"}]}).result(said("EVIL")) == (said("EVIL"), ())
    for change in ({"expires": "2020-01-01"}, {"tool": "other", "expires": "2999-01-01"}):
        assert isinstance(Room({"allow": [{**entry, **change}]}).result(said("EVIL")), Refusal)


def test_low_risk_passes_and_is_recorded() -> None:
    room = Room()
    assert room.result(said("HMM")) == (said("HMM"), ())
    assert room.seen["ref"] == Inspected(0.3, ("injection.hint",))


def test_what_could_not_be_read_in_full_is_refused_and_an_ordinary_archive_is_not() -> None:
    assert isinstance(Room().result(said("BOMB")), Refusal)
    assert Room().result(said("PACKED")) == (said("PACKED"), ())


# detectors that fail


@pytest.mark.parametrize("size", [1, INLINE * 2])
def test_a_detector_that_crashes_refuses_and_its_message_is_not_kept(size: int) -> None:
    room = Room({"unsafe_observe": ["arguments", "results"]})
    room.detector.crash = "cannot read SECRET-1"
    for refusal in (room.arguments(text="x" * size), room.result(said("x" * size))):
        assert isinstance(refusal, Refusal)
        assert refusal.reason.id == "fault.guard"
        assert "SECRET-1" not in refusal.detail


@pytest.mark.parametrize("size", [1, INLINE * 2])
def test_a_detector_that_takes_too_long_refuses(size: int) -> None:
    room = Room(seconds=0.05)
    room.detector.wait = 0.2
    for refusal in (room.arguments(text="x" * size), room.result(said("x" * size))):
        assert isinstance(refusal, Refusal)
        assert refusal.reason.id == "fault.dependency"


def test_the_calls_own_deadline_ends_a_long_look() -> None:
    room = Room()
    room.detector.wait = 0.5
    assert room.arguments(0.05, text="x" * INLINE * 2).reason.id == "fault.dependency"  # type: ignore[union-attr]
    assert room.result(said("x" * INLINE * 2), seconds=0.05).reason.id == "fault.dependency"


def test_long_contents_are_judged_off_the_loop_while_others_are_answered() -> None:
    room = Room()

    async def run() -> list[float]:
        room.detector.wait = 0.4
        long = asyncio.create_task(room.answer(said("x" * INLINE * 2)))
        await asyncio.sleep(0.05)
        room.detector.wait = 0.0
        times = []
        for number in range(20):
            started = time.perf_counter()
            assert isinstance(await room.answer(said(f"short {number}")), tuple)
            times.append(time.perf_counter() - started)
        assert not long.done()
        assert isinstance(await long, tuple)
        return times

    assert max(asyncio.run(run())) < 0.2
    assert {name.startswith("limen-scan") for name in room.detector.threads} == {True, False}


def test_a_queue_of_long_contents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.detection.scanner.WAITING", 4)
    room = Room()
    room.detector.wait = 0.1

    async def run() -> list[Any]:
        answers = (room.answer(said(f"{number}" * INLINE * 2)) for number in range(1, 9))
        return await asyncio.gather(*answers)

    refused = [one for one in asyncio.run(run()) if isinstance(one, Refusal)]
    assert [one.reason.id for one in refused] == ["fault.dependency"] * 4
    assert isinstance(room.result(said("y" * INLINE * 2)), tuple)


def test_a_verdict_is_remembered_until_something_it_depends_on_changes() -> None:
    room = Room()
    for _ in range(3):
        room.result(said("HMM"))
    assert room.detector.calls == 1
    room.result(said("HMM", isError=True))  # another channel
    room.scanner.forget()
    room.result(said("HMM"))
    assert room.detector.calls == 3


# messages of running calls, definitions


class Heard:
    era, capabilities = Era.MODERN, {}

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notes.append(dict(params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        return {key: {"action": "accept"} for key in requests}


def over(room: Room) -> tuple[Heard, Any]:
    heard = Heard()
    messages = InspectMessages(room.judge, room.seen, redact)
    return heard, messages.over(asyncio.run(permit()), heard)


def test_notifications_are_judged_before_a_client_hears_them() -> None:
    room = Room()
    heard, conversation = over(room)
    conversation.notify("notifications/progress", {"progressToken": 1, "progress": 5})
    conversation.notify("notifications/progress", {"progressToken": 1, "progress": 6, "message": "half way"})
    conversation.notify("notifications/message", {"level": "info", "data": {"a": "EVIL"}})
    conversation.notify("notifications/message", {"level": "info", "data": "the SECRET-1", "logger": "x"})
    conversation.notify("notifications/message", {"level": "info", "data": "x" * INLINE * 2})
    room.detector.crash = "x"
    conversation.notify("notifications/message", {"level": "info", "data": "never judged"})
    assert heard.notes == [
        {"progressToken": 1, "progress": 5},
        {"progressToken": 1, "progress": 6, "message": "half way"},
        {"level": "info", "data": "the [redacted:secret]", "logger": "x"},
    ]
    assert {"injection.override", "secret.key", "notification.dropped"} == set(room.seen["ref"].findings)


def test_questions_are_judged_before_a_client_sees_them() -> None:
    room = Room()
    _, conversation = over(room)
    for message in ("EVIL", "EVIL" + "x" * INLINE):
        with pytest.raises(UpstreamFault):
            asyncio.run(conversation.ask({"a": {"method": "elicitation/create", "params": {"message": message}}}))
    honest = {"a": {"method": "elicitation/create", "params": {"message": "Which city?"}}}
    assert asyncio.run(conversation.ask(honest)) == {"a": {"action": "accept"}}


def test_definitions_get_a_risk() -> None:
    room = Room()

    def judge(**item: Any) -> Any:
        return inspect_definition(room.scanner, room.settings, "up", "tool", item, time.time())

    poisoned = judge(name="add", description="adds", inputSchema={"properties": {"a": {"description": "EVIL"}}})
    assert poisoned.action is Action.BLOCK
    assert judge(name="add", description="adds two numbers", inputSchema={}).action is Action.PASS
    assert judge(name="add", description="x" * (5 << 20)).action is Action.BLOCK
    room.detector.crash = "x"
    with pytest.raises(InvariantFault):
        judge(name="add", description="other")


def test_a_scan_that_fails_is_never_a_report() -> None:
    room = Room(seconds=0.01)
    room.detector.wait = 0.05
    with pytest.raises(DependencyFault):
        room.scanner.scan(Subject("up", "echo", Channel.RESULT, value={"a": "b"}))
    assert Report().findings == ()
