"""Child processes: the real servers as they are installed, and one that misbehaves in every way we know."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from limen.core.call import Era
from limen.core.faults import ConfigFault, UpstreamError, UpstreamFault
from limen.gateway.upstream_process import LINE_LIMIT, STDERR_KEPT
from limen.gateway.upstreams import StdioUpstream
from upstreams.minted import ACCEPT, TOKEN, Heard, call, permit

HERE = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent


def evil(mode: str, **more: Any) -> StdioUpstream:
    return StdioUpstream("up", [sys.executable, str(HERE / "evil_stdio.py"), mode], **more)


def text(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


async def using(upstream: StdioUpstream, work: Callable[[StdioUpstream], Awaitable[Any]]) -> Any:
    try:
        return await work(upstream)
    finally:
        await upstream.close()


def forward(mode: str, heard: Heard | None = None, *, token: str | None = None, **more: Any) -> dict[str, Any]:
    async def work(upstream: StdioUpstream) -> dict[str, Any]:
        return await upstream.forward(await permit(call(progress_token=token)), heard or Heard())

    result: dict[str, Any] = asyncio.run(using(evil(mode, **more), work))
    return result


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.02)


def test_the_time_server_works() -> None:
    async def work(upstream: StdioUpstream) -> None:
        told = await upstream.describe()
        assert {tool["name"] for tool in told.tools} == {"get_current_time", "convert_time"}
        asked = call(name="get_current_time", arguments=b'{"timezone":"UTC"}')
        assert "UTC" in text(await upstream.forward(await permit(asked), Heard()))

    asyncio.run(using(StdioUpstream("up", [str(SCRIPTS / "mcp-server-time")]), work))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_git_server_works(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    arguments = json.dumps({"repo_path": str(tmp_path)}).encode()

    async def work(upstream: StdioUpstream) -> None:
        told = await upstream.describe()
        assert "git_status" in {tool["name"] for tool in told.tools}
        answer = await upstream.forward(await permit(call(name="git_status", arguments=arguments)), Heard())
        assert "Repository status" in text(answer)

    command = [str(SCRIPTS / "mcp-server-git"), "--repository", str(tmp_path)]
    asyncio.run(using(StdioUpstream("up", command, env={"HOME": str(tmp_path)}), work))


@pytest.mark.requirement("STD-04")
@pytest.mark.parametrize("era", [Era.MODERN, Era.HANDSHAKE])
def test_the_sdk_works_in_both_eras(era: Era) -> None:
    async def work(upstream: StdioUpstream) -> None:
        told = await upstream.describe()
        assert told.revision == upstream.revision == ("2026-07-28" if era is Era.MODERN else "2025-11-25")
        assert told.instructions == "Be kind."
        heard = Heard(ACCEPT)
        assert text(await upstream.forward(await permit(), heard)) == "echo hi"
        counting = call(name="count", arguments=b"{}", progress_token="mine")
        assert text(await upstream.forward(await permit(counting), heard)) == "counted"
        assert [note["progressToken"] for _, note in heard.notes] == ["mine"] * 3
        asking = call(name="greet_modern" if era is Era.MODERN else "greet", arguments=b"{}")
        assert text(await upstream.forward(await permit(asking), heard)) == "hello Ada"
        assert len(heard.asked) == 1

    command = [sys.executable, str(HERE / "sdk_server.py"), "stdio"]
    asyncio.run(using(StdioUpstream("up", command, era=era), work))


@pytest.mark.requirement("STD-04")
def test_an_old_revision_is_spoken_over_stdio() -> None:
    async def work(upstream: StdioUpstream) -> None:
        assert (await upstream.describe()).revision == "2024-11-05"

    asyncio.run(using(evil("old"), work))


@pytest.mark.requirement("STD-04")
@pytest.mark.parametrize("mode", ["probe_death", "probe_silent"])
def test_servers_that_cannot_stand_the_probe_are_served(mode: str) -> None:
    assert text(forward(mode, probe=0.5)) == "echo hi"


HONEST = ["plain", "junk", "dup_response", "stderr_flood", "list_changed_storm", "ping_storm", "progress_storm", "slow"]


@pytest.mark.requirement("STD-01")
@pytest.mark.parametrize("mode", HONEST)
def test_noise_does_not_stop_an_answer(mode: str) -> None:
    answer = text(forward(mode, token="mine"))
    assert answer == ("first" if mode == "dup_response" else "echo hi")


UNREAD = [
    "never",
    "string_id",
    "float_id",
    "null_id",
    "wrong_id",
    "batch",
    "dup_keys",
    "deep_result",
    "bigint",
    "bad_utf8",
]
BROKEN = ["result_and_error", "no_result", "result_not_object", "bad_error", "exit", "long_line", "endless_line",
          "junk_flood", "close_stdout"]  # fmt: skip


@pytest.mark.requirement("STD-01")
@pytest.mark.parametrize("mode", UNREAD)
def test_what_is_not_our_answer_is_not_taken(mode: str) -> None:
    async def work(upstream: StdioUpstream) -> None:
        await upstream.describe()
        with pytest.raises(UpstreamFault) as caught:
            await upstream.forward(await permit(), Heard())
        assert caught.value.timeout
        assert bool(upstream.oddities) is (mode != "never")

    asyncio.run(using(evil(mode, timeout=0.3), work))


@pytest.mark.parametrize("mode", BROKEN)
def test_broken_answers_are_faults_at_once_and_the_next_run_works(mode: str) -> None:
    async def work(upstream: StdioUpstream) -> None:
        with pytest.raises(UpstreamFault) as caught:
            await upstream.forward(await permit(), Heard())
        assert not caught.value.timeout
        assert len((await upstream.describe()).tools) == 1  # restarted where it had to be

    asyncio.run(using(evil(mode, timeout=20), work))


def test_an_error_is_an_error() -> None:
    with pytest.raises(UpstreamError) as caught:
        forward("error_poison")
    assert "keys" not in str(caught.value)


def test_last_words_are_heard() -> None:
    assert text(forward("last_words")) == "last"


@pytest.mark.parametrize("mode", ["init_error", "init_version", "init_never"])
def test_a_failed_handshake_is_a_fault(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.gateway.upstream_stdio.SECONDS", 0.5)
    with pytest.raises(UpstreamFault):
        forward(mode, timeout=5)


@pytest.mark.parametrize("mode", ["cursor_loop", "cursor_endless", "many_tools", "huge_page", "tools_not_list"])
def test_a_reading_is_complete_or_none(mode: str) -> None:
    async def work(upstream: StdioUpstream) -> None:
        with pytest.raises(UpstreamFault) as caught:
            await upstream.describe()
        assert not caught.value.timeout
        assert text(await upstream.forward(await permit(), Heard())) == "echo hi"

    asyncio.run(using(evil(mode), work))


def test_a_command_that_is_not_there_is_a_fault() -> None:
    async def work(upstream: StdioUpstream) -> None:
        for _ in range(2):
            with pytest.raises(UpstreamFault):
                await upstream.forward(await permit(), Heard())

    asyncio.run(using(StdioUpstream("up", ["/nowhere/at-all"]), work))
    for argv in ([], ["a\0b"]):
        with pytest.raises(ConfigFault):
            StdioUpstream("up", argv)


def test_a_server_that_keeps_failing_is_left_alone_for_longer() -> None:
    async def work(upstream: StdioUpstream) -> None:
        messages = []
        for _ in range(9):
            with pytest.raises(UpstreamFault) as caught:
                await upstream.describe()
            messages.append(str(caught.value))
            if "keeps failing" in messages[-1]:
                break
        assert "keeps failing" in messages[-1]

    asyncio.run(using(StdioUpstream("up", ["/bin/false"]), work))


def test_calls_in_flight_fail_when_the_process_dies() -> None:
    async def work(upstream: StdioUpstream) -> None:
        calls = [asyncio.ensure_future(upstream.forward(await permit(), Heard())) for _ in range(5)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(done.exception(), UpstreamFault) for done in calls)

    asyncio.run(using(evil("exit"), work))


def test_many_calls_share_one_process_and_get_their_own_answers() -> None:
    async def work(upstream: StdioUpstream) -> None:
        texts = [f"t{number}" for number in range(12)]
        asked = [await permit(call(arguments=json.dumps({"text": word}).encode())) for word in texts]
        answers = await asyncio.gather(*(upstream.forward(one, Heard()) for one in asked))
        assert [text(answer) for answer in answers] == [f"echo {word}" for word in texts]

    asyncio.run(using(evil("plain"), work))


@pytest.mark.requirement("AUTH-23")
def test_the_environment_is_scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", TOKEN)
    secret = os.open(HERE / "minted.py", os.O_RDONLY)
    os.set_inheritable(secret, True)

    def seen(**more: Any) -> Any:
        return json.loads(text(forward("environment", **more)))

    try:
        environment, directory, files = seen()
        assert set(environment) - {"LC_CTYPE"} <= {"PATH", "LANG"}
        assert directory == "/"
        assert len(files) <= 4  # the three, and the one that lists them
        environment, directory, _ = seen(env={"HOME": str(tmp_path), "KEY": "declared"}, cwd=str(tmp_path))
        assert environment["KEY"] == "declared"
        assert environment["HOME"] == directory == str(tmp_path)
        assert "GATEWAY_SECRET" not in environment
    finally:
        os.close(secret)


@pytest.mark.requirement("AUTH-07", "AU-02")
def test_only_rendered_bytes_reach_the_process() -> None:
    asked = call(client=TOKEN, session=TOKEN, param_headers=(("mcp-param-x", TOKEN),))

    async def work(upstream: StdioUpstream) -> str:
        allowed = await permit(asked, headers=(("authorization", "Bearer static"),))
        return text(await upstream.forward(allowed, Heard(), (("mcp-param-x", "v"),)))

    heard = asyncio.run(using(evil("heard"), work))
    assert TOKEN not in heard
    assert "earer" not in heard
    assert json.loads(heard)[-1]["params"] == {"name": "echo", "arguments": {"text": "hi"}}


@pytest.mark.parametrize(
    ("mode", "capabilities", "answer"),
    [
        ("elicit", {"elicitation": {}}, "result " + json.dumps(ACCEPT)),
        ("elicit", {}, "error -32601"),
        ("elicit_url", {"elicitation": {"form": {}, "url": {}}}, "error -32601"),
        ("sampling", {"sampling": {}}, "error -32601"),
        ("roots", {"roots": {}}, "error -32601"),
        ("unknown_request", {"elicitation": {}}, "error -32601"),
    ],
)
def test_a_shared_process_may_ask_by_form_only(mode: str, capabilities: Any, answer: str) -> None:
    heard = Heard(ACCEPT, capabilities=capabilities)
    assert text(forward(mode, heard)) == answer
    assert len(heard.asked) == (answer[:6] == "result")


def test_a_question_that_cannot_be_matched_to_a_call_is_refused() -> None:
    async def work(upstream: StdioUpstream) -> None:
        await upstream.describe()
        heard = [Heard(ACCEPT), Heard(ACCEPT)]
        allowed = await permit()
        answers = await asyncio.gather(*(upstream.forward(allowed, one) for one in heard))
        assert [text(answer) for answer in answers].count("error -32603") >= 1
        assert sum(len(one.asked) for one in heard) <= 1

    asyncio.run(using(evil("elicit"), work))


@pytest.mark.requirement("SUB-03", "SUB-04")
def test_progress_is_for_the_call_that_asked_for_it() -> None:
    heard = Heard()
    forward("progress", heard, token="mine")
    assert heard.notes == [("notifications/progress", {"progressToken": "mine", "progress": 1})]
    heard = Heard()
    forward("progress_storm", heard, token="mine")
    assert 0 < len(heard.notes) <= 200
    heard = Heard()
    forward("progress_storm", heard)
    assert not heard.notes


def test_a_storm_of_changes_is_one_change() -> None:
    changes: list[str] = []

    async def work(upstream: StdioUpstream) -> None:
        upstream.on_change = changes.append
        await upstream.forward(await permit(), Heard())
        await asyncio.sleep(0.05)

    asyncio.run(using(evil("list_changed_storm"), work))
    assert changes == ["up"]


def test_stderr_is_kept_in_bounds() -> None:
    async def work(upstream: StdioUpstream) -> bytes:
        await upstream.forward(await permit(), Heard())
        return upstream.stderr

    assert 0 < len(asyncio.run(using(evil("stderr_flood"), work))) <= STDERR_KEPT < LINE_LIMIT


@pytest.mark.parametrize("early", ["cancel", "timeout"])
def test_a_call_that_ends_early_is_cancelled_at_the_server(early: str) -> None:
    async def work(upstream: StdioUpstream) -> None:
        await upstream.describe()
        task = asyncio.ensure_future(upstream.forward(await permit(), Heard()))
        await asyncio.sleep(0.1)
        channel = upstream._channel
        assert channel is not None
        said: list[bytes] = []
        offer = channel.child.offer
        channel.child.offer = lambda line, *limit: (said.append(line), offer(line, *limit))[1]  # type: ignore[method-assign,assignment]
        if early == "cancel":
            task.cancel()
        with pytest.raises(asyncio.CancelledError if early == "cancel" else UpstreamFault):
            await task
        assert [json.loads(line)["method"] for line in said] == ["notifications/cancelled"]
        assert channel.usable

    asyncio.run(using(evil("never", timeout=0.5), work))


@pytest.mark.requirement("STD-03")
def test_stopping_leaves_nobody_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.gateway.upstream_process.GRACE_SECONDS", 0.3)

    async def scenario(mode: str) -> None:
        upstream = evil(mode)
        answer = text(await upstream.forward(await permit(), Heard()))
        channel = upstream._channel
        assert channel is not None
        leader = channel.child.pid
        members = [leader, *([int(answer)] if mode == "linger" else [])]
        assert all(map(alive, members))
        await upstream.close()
        await until(lambda: not any(map(alive, members)))
        with pytest.raises(UpstreamFault):
            await upstream.forward(await permit(), Heard())

    for mode in ("plain", "linger", "stubborn"):
        asyncio.run(scenario(mode))


def test_a_killed_server_is_noticed_and_started_again() -> None:
    async def work(upstream: StdioUpstream) -> None:
        await upstream.forward(await permit(), Heard())
        first = upstream._channel
        assert first is not None
        os.kill(first.child.pid, 9)
        await until(lambda: not first.usable)
        assert text(await upstream.forward(await permit(), Heard())) == "echo hi"
        assert upstream._channel is not first

    asyncio.run(using(evil("plain"), work))


def test_a_server_that_does_not_read_is_a_fault_and_can_be_closed() -> None:
    big = call(arguments=json.dumps({"text": "A" * (3 << 20)}).encode())

    async def work(upstream: StdioUpstream) -> None:
        await upstream.forward(await permit(), Heard())
        asked = await permit(big)
        calls = [upstream.forward(asked, Heard()) for _ in range(6)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, UpstreamFault) for outcome in outcomes)
        assert any("does not read" in str(outcome) for outcome in outcomes)

    asyncio.run(using(evil("deaf", timeout=1.0), work))
