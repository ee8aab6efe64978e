"""D3: a service judges as well. What it did not judge is held, never passed; what it must not learn is not sent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from azure_service import KEY, TOKEN, Play, saying, serving, units
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.detection.finding import Channel, Finding
from limen.detection.fuse import Action
from limen.detection.inspect import Judgement, weigh
from limen.detection.remote import Remote, windows
from limen.detection.scanner import INLINE, Report, Scanner, Subject
from limen.detection.settings import ContentSettings, RemoteSettings
from limen.detection.text import Content
from limen.inspection import remote

WORDS = "an ordinary sentence about a garden. "


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(service: Any) -> None:
    service.asked.clear()
    service.plays, service.always = [], None


def given_settings(service: Any, **more: Any) -> RemoteSettings:
    base = {"kind": "azure_prompt_shields", "endpoint": service.endpoint}
    credential = {} if "token" in more else {"key": KEY}
    return RemoteSettings.model_validate({**base, **credential, **more})


class Local:
    """A detector of our own."""

    name = "local"

    def __init__(self) -> None:
        self.calls = 0

    def find(self, content: Content, subject: Subject) -> list[Finding]:
        self.calls += 1
        return [Finding("hidden.zero", "hidden", 0.2)] if any("LOCAL" in piece.text for piece in content.pieces) else []


def subject(value: Any, channel: Channel = Channel.RESULT) -> Subject:
    return Subject("s", "t", channel, value=value)


def judged(scanner: Scanner, value: Any, channel: Channel = Channel.RESULT) -> Report:
    async def run() -> Report:
        report = scanner.scan(subject(value, channel))
        return report if isinstance(report, Report) else await report

    return asyncio.run(run())


def scan(service: Any, value: Any, channel: Channel = Channel.RESULT, **more: Any) -> Report:
    return judged(Scanner([Local()], remotes=[remote(given_settings(service, **more))]), value, channel)


def ids(report: Report) -> list[str]:
    return [one.id for one in report.findings]


def action(report: Report, level: str = "medium") -> Action:
    content = ContentSettings.model_validate({"content_safety": level})
    return weigh(content, report, "s", "t", Channel.RESULT, 0.0).action


def test_an_attack_it_sees_is_blocked_and_an_honest_text_passes_d3(service: Any) -> None:
    bad = scan(service, {"text": f"{WORDS} EVIL {WORDS}"})
    assert ids(bad) == ["injection.prompt_shield"] and action(bad) is Action.BLOCK
    good = scan(service, {"text": WORDS})
    assert good == Report() and action(good) is Action.PASS
    both = scan(service, {"text": "EVIL LOCAL"})
    assert ids(both) == ["hidden.zero", "injection.prompt_shield"]


def test_what_is_sent_is_what_the_contract_says(service: Any) -> None:
    scan(service, {"text": "one", "more": ["two", {"name": "three"}]})
    scan(service, {"text": "four"}, token=TOKEN)
    (path, headers, raw), (_, others, _) = service.asked
    assert path == "/contentsafety/text:shieldPrompt?api-version=2024-09-01"
    assert headers["Ocp-Apim-Subscription-Key"] == KEY and "Authorization" not in headers
    assert others["Authorization"] == f"Bearer {TOKEN}" and "Ocp-Apim-Subscription-Key" not in others
    assert headers["Content-Type"] == "application/json" and headers["x-ms-client-request-id"]
    assert json.loads(raw) == {"documents": ["one\ntwo\nthree\ntext\nmore\nname"]}


@pytest.mark.parametrize("at", [0, 1995, 9_998, 10_000, 33_333, 59_990])
@pytest.mark.parametrize("filler", ["a", "\U0001f600", "é"])
def test_a_long_text_is_cut_with_overlap_and_nothing_falls_between_d3(service: Any, at: int, filler: str) -> None:
    text = filler * at + "EVIL" + filler * (60_000 - at)
    assert ids(scan(service, text)) == ["injection.prompt_shield"]
    assert len(service.asked) > 5 and not any(b"userPrompt" in raw for _, _, raw in service.asked)


def test_a_payload_over_several_fields_is_seen_together(service: Any) -> None:
    long = [WORDS * 20 for _ in range(10)]
    assert ids(scan(service, {"content": [*long, "EVIL", *long]})) == ["injection.prompt_shield"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text("aé\U0001f600\n", max_size=400), st.integers(8, 50))
def test_windows_cover_everything(text: str, size: int) -> None:
    overlap = size // 4
    parts = windows(text, size, overlap)
    assert all(units(part) <= size for part in parts)
    reach = overlap // 2  # every stretch this long is whole in some window
    assert all(any(text[at : at + reach] in part for part in parts) for at in range(max(1, len(text) - reach + 1)))


GARBAGE: dict[str, Play] = {
    "no json": saying(200, b"<html>welcome</html>"),
    "half": saying(200, b'{"documentsAnalysis":[{"attackDetected":false'),
    "not an object": saying(200, []),
    "nothing": saying(200, {}),
    "other": saying(200, {"userPromptAnalysis": {"attackDetected": False}}),
    "none of one": saying(200, {"documentsAnalysis": []}),
    "two of one": saying(200, {"documentsAnalysis": [{"attackDetected": False}] * 2}),
    "a text": saying(200, {"documentsAnalysis": [{"attackDetected": "false"}]}),
    "null": saying(200, {"documentsAnalysis": [{"attackDetected": None}]}),
    "a number": saying(200, {"documentsAnalysis": [{"attackDetected": 0}]}),
    "no objects": saying(200, {"documentsAnalysis": [False]}),
    "large": saying(200, b" " * 100_000),
    "400": saying(400, {"error": {"code": "InvalidRequestBody", "message": "no"}}),
    "401": saying(401, {"error": {"code": "401", "message": "no"}}),
    "redirect": saying(307, b"", Location="https://elsewhere.example/"),
    "204": saying(204, b""),
    "500": saying(500, {"documentsAnalysis": [{"attackDetected": False}]}),
}


@pytest.mark.parametrize("play", GARBAGE.values(), ids=GARBAGE.keys())
def test_no_verdict_is_no_pass_d3(service: Any, play: Play) -> None:
    service.always = play
    report = scan(service, {"text": WORDS})
    assert ids(report) == ["remote.unavailable"]
    assert [action(report, level) for level in ("low", "medium", "high")] == [Action.HOLD, Action.BLOCK, Action.BLOCK]


def test_late_is_no_pass_either(service: Any) -> None:
    over = threading.Event()

    def play(handler: Any) -> bool:
        over.wait(20)
        return False

    service.always = play
    report = scan(service, {"text": WORDS}, seconds=0.3)
    assert ids(report) == ["remote.unavailable"] and not over.is_set()
    over.set()


def test_nobody_there_is_no_pass(service: Any) -> None:
    with serving() as gone:
        endpoint = gone.endpoint
    report = scan(service, {"text": WORDS}, endpoint=endpoint)
    assert ids(report) == ["remote.unavailable"]
    assert KEY not in report.findings[0].detail and WORDS not in report.findings[0].detail


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_where_it_fits_and_obeyed_where_not(service: Any, status: int) -> None:
    busy = {"error": {"code": "429", "message": "slow down"}}
    service.plays = [saying(status, busy, Retry_After="1")]
    assert ids(scan(service, "EVIL")) == ["injection.prompt_shield"]
    assert len(service.asked) == 2
    service.asked.clear()
    service.always = saying(status, busy, Retry_After="60")
    scanner = Scanner([], remotes=[remote(given_settings(service))])
    assert ids(judged(scanner, "first")) == ["remote.unavailable"]
    service.always = None
    told = judged(scanner, "second")
    assert ids(told) == ["remote.unavailable"] and "left alone" in told.findings[0].detail
    assert len(service.asked) == 1


def test_one_part_unjudged_is_all_unjudged_and_what_was_found_stays(service: Any) -> None:
    def play(handler: Any) -> bool:
        evil = b"EVIL" in service.asked[-1][2]
        if not evil:
            handler.say(500, {})
        return not evil

    service.always = play
    report = scan(service, "a" * 30_000 + "EVIL")
    assert "remote.unavailable" in ids(report)


def test_text_that_is_too_long_or_cannot_be_sent_is_unjudged(service: Any) -> None:
    report = scan(service, "a" * 5000, most=4000)
    assert ids(report) == ["remote.unavailable"] and service.asked == []
    answer = asyncio.run(remote(given_settings(service)).ask("half a pair \ud800"))
    assert [one.id for one in answer.findings] == ["remote.unavailable"]


def test_a_low_score_does_not_let_the_unjudged_through(service: Any) -> None:
    service.always = saying(500, {})
    report = scan(service, WORDS, unavailable=0.01)
    assert action(report) is Action.HOLD
    excepted = {"finding": "remote.*", "server": "s", "owner": "a", "expires": "2999-01-01", "reason": "r"}
    with pytest.raises(ValidationError, match="cannot be excepted"):
        ContentSettings.model_validate({"allow": [excepted]})


def test_only_an_unsafe_key_lets_it_through_and_that_is_recorded(service: Any) -> None:
    service.always = saying(500, {})
    report = scan(service, WORDS, unsafe_continue=True)
    assert ids(report) == ["remote.skipped"] and action(report) is Action.PASS
    service.always = None
    assert ids(scan(service, "EVIL", unsafe_continue=True)) == ["injection.prompt_shield"]


def test_a_verdict_is_remembered_by_digest_and_no_verdict_is_not(service: Any) -> None:
    scanner = Scanner([], remotes=[remote(given_settings(service))])
    assert ids(judged(scanner, "EVIL")) == ids(judged(scanner, "EVIL")) == ["injection.prompt_shield"]
    assert len(service.asked) == 1
    service.always = saying(500, {})
    assert ids(judged(scanner, "other")) == ["remote.unavailable"]
    service.always = None
    assert ids(judged(scanner, "other")) == []
    assert len(service.asked) == 3


def test_several_services_are_asked_at_once_and_each_counts(service: Any) -> None:
    both = threading.Barrier(2)

    def play(handler: Any) -> bool:
        both.wait(2)  # broken, and the connection with it, unless the other is under way as well
        return False

    service.always = play
    kinds = ("azure_prompt_shields", "azure_text_analyze")
    scanner = Scanner([], remotes=[remote(given_settings(service, kind=kind)) for kind in kinds])
    assert sorted(ids(judged(scanner, "EVIL HATE6"))) == ["harm.hate", "injection.prompt_shield"]


@pytest.mark.parametrize(("text", "expected"), [("HATE0", Action.PASS), ("HATE3", Action.PASS), ("HATE4", Action.HOLD)])
def test_harm_by_severity(service: Any, text: str, expected: Action) -> None:
    report = scan(service, text, kind="azure_text_analyze")
    assert action(report) is expected
    assert action(scan(service, "HATE7", kind="azure_text_analyze")) is Action.BLOCK


def rows(**severities: Any) -> dict[str, Any]:
    base = {"Hate": 0, "SelfHarm": 0, "Sexual": 0, "Violence": 0, **severities}
    return {"categoriesAnalysis": [{"category": name, "severity": value} for name, value in base.items()]}


BAD: list[Any] = [{}, {"categoriesAnalysis": []}, {"categoriesAnalysis": [3]}]
BAD += [rows(Hate=None), rows(Hate="0"), rows(Hate=True), rows(Hate=8), rows(Hate=-1)]
BAD += [{"categoriesAnalysis": rows(Hate=7)["categoriesAnalysis"] + rows()["categoriesAnalysis"]}]
BAD += [{"categoriesAnalysis": rows()["categoriesAnalysis"][:3]}]
BAD += [{"categoriesAnalysis": [{"category": [], "severity": 0}]}]


@pytest.mark.parametrize("body", BAD)
def test_ratings_that_are_none(service: Any, body: dict[str, Any]) -> None:
    service.always = saying(200, body)
    assert ids(scan(service, WORDS, kind="azure_text_analyze")) == ["remote.unavailable"]


def test_a_category_of_tomorrow_counts(service: Any) -> None:
    service.always = saying(200, rows(Novel=6))
    assert ids(scan(service, WORDS, kind="azure_text_analyze")) == ["harm.other"]


@pytest.mark.parametrize("channel", [Channel.ARGUMENT, Channel.NOTIFICATION, Channel.DEFINITION])
def test_channels_that_are_not_configured_stay_here(service: Any, channel: Channel) -> None:
    scanner = Scanner([Local()], remotes=[remote(given_settings(service))])
    assert isinstance(scanner.scan(subject("EVIL", channel)), Report)
    assert service.asked == []
    wider = remote(given_settings(service, channels=["argument"]))
    assert ids(judged(Scanner([], remotes=[wider]), "EVIL", Channel.ARGUMENT)) == ["injection.prompt_shield"]


def test_without_a_service_nothing_is_awaited() -> None:
    local = Local()
    assert isinstance(Scanner([local]).scan(subject("LOCAL")), Report)
    assert local.calls == 1


def test_long_texts_are_read_off_the_loop(service: Any) -> None:
    assert ids(scan(service, {"text": WORDS * (INLINE // 8), "end": "EVIL"})) == ["injection.prompt_shield"]


ENDPOINTS = ("http://a.example", "https://a.example/path", "https://u@a.example", "ftp://127.0.0.1", "https://")
WRONG: list[Any] = [{"endpoint": value} for value in ENDPOINTS]
WRONG += [
    {"token": TOKEN, "key": KEY},
    {"key": "a\r\nX: y"},
    {"key": ""},
    {"channels": []},
    {"channels": ["definition"]},
]
WRONG += [{"channels": ["definition"]}, {"unavailable": 0.0}, {"seconds": 60}, {"kind": "other"}, {"key": None}]


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_are_refused(service: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as told:
        given_settings(service, **({"key": KEY} | wrong if "token" in wrong else wrong))
    assert KEY not in str(told.value) and TOKEN not in str(told.value)


@pytest.mark.parametrize("name", ["key", "token"])
def test_the_credential_is_a_reference_and_stays_wrapped(tmp_path: Any, name: str) -> None:
    def written(value: str) -> Any:
        one = {"kind": "azure_prompt_shields", "endpoint": "https://x.example", name: value}
        path = tmp_path / "limen.yaml"
        path.write_text(
            json.dumps({"version": 1, "content": {"remote": [one]}, "identity": {"unsafe_anonymous": True}})
        )
        path.chmod(0o600)
        return load_config(path, environment={"SERVICE_KEY": KEY})

    loaded = written("${env:SERVICE_KEY}").config
    assert KEY not in repr(loaded) and KEY not in loaded.model_dump_json()
    assert getattr(loaded.content.remote[0], name).get_secret_value() == KEY
    with pytest.raises(ConfigFault) as told:
        written(KEY)
    assert "reference" in str(told.value) and KEY not in str(told.value)


def test_why_is_told_to_the_operator(service: Any) -> None:
    service.always = saying(401, {})
    report = scan(service, WORDS)
    told = weigh(ContentSettings(), report, "s", "t", Channel.RESULT, 0.0)
    assert isinstance(told, Judgement) and "azure_prompt_shields" in told.detail and "status 401" in told.detail
    assert isinstance(remote(given_settings(service)), Remote)
