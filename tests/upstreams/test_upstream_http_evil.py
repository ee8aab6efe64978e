"""A hostile or broken HTTP server gets a fault, within bounds, and never a second write. Each with an honest twin."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from limen.core.call import Era
from limen.core.faults import UpstreamError, UpstreamFault
from limen.gateway import upstream_wire
from limen.gateway.upstreams import HttpUpstream
from upstreams.minted import ACCEPT, Heard, call, permit
from upstreams.raw_server import Asked, Handler, RawServer, echo, head

OK = {"content": [{"type": "text", "text": "ok"}]}
JSON = "content-type: application/json"


def body(asked: Asked) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": asked.json["id"], "result": OK}).encode()


def bytes_(make: Callable[[bytes], bytes], close: bool = True) -> Handler:
    """A handler that sends what `make` does with an honest body, then closes."""

    async def handler(asked: Asked) -> None:
        await asked.send(make(body(asked)))
        if close:
            asked.writer.close()

    return handler


async def forward(handler: Handler, *, heard: Heard | None = None, modern: bool = True, **more: Any) -> dict[str, Any]:
    """One call against one server; the call is written once whatever happens."""
    progress = more.pop("progress_token", None)
    async with RawServer(handler, modern=modern, session="s") as server:
        upstream = HttpUpstream("up", server.url, **more)
        try:
            return await upstream.forward(await permit(call(progress_token=progress)), heard or Heard())
        finally:
            if heard is None:
                assert server.methods().count("tools/call") == 1
            await upstream.close()


HONEST = {
    "length": lambda b: head(200, JSON, f"content-length: {len(b)}") + b,
    "chunked": lambda b: head(200, JSON, "transfer-encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(b), b),
    "until close": lambda b: head(200, JSON, "connection: close") + b,
    "charset": lambda b: head(200, "Content-Type: Application/JSON; charset=UTF-8", f"content-length: {len(b)}") + b,
    "interim": lambda b: head(103, "link: x") + head(200, JSON, f"content-length: {len(b)}") + b,
    "identity": lambda b: head(200, JSON, "content-encoding: identity", f"content-length: {len(b)}") + b,
    "stream": lambda b: head(200, "content-type: text/event-stream") + b": x\r\n\r\ndata: " + b + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_answers_are_read(name: str) -> None:
    assert asyncio.run(forward(bytes_(HONEST[name]))) == OK


LENGTH = "content-length: %d"
EVIL: dict[str, Callable[[bytes], bytes]] = {
    "short body": lambda b: head(200, JSON, LENGTH % (len(b) + 9)) + b,
    "long body": lambda b: head(200, JSON, LENGTH % (len(b) - 1)) + b,
    "two lengths": lambda b: head(200, JSON, LENGTH % len(b), LENGTH % (len(b) + 1)) + b,
    "length and chunked": lambda b: (
        head(200, JSON, LENGTH % 5, "transfer-encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(b), b)
    ),
    "negative length": lambda b: head(200, JSON, "content-length: -5") + b,
    "bad chunk": lambda b: head(200, JSON, "transfer-encoding: chunked") + b"zz\r\n" + b,
    "cut chunk": lambda b: head(200, JSON, "transfer-encoding: chunked") + b"%x\r\n%b" % (len(b), b[:9]),
    "nothing": lambda b: b"",
    "half a head": lambda b: b"HTTP/1.1 200 OK\r\ncontent-type: appl",
    "not http": lambda b: b"SSH-2.0-OpenSSH\r\n\r\n",
    "gzip": lambda b: head(200, JSON, "content-encoding: gzip", LENGTH % len(gzip.compress(b))) + gzip.compress(b),
    "html": lambda b: head(200, "content-type: text/html", LENGTH % len(b)) + b,
    "no type": lambda b: head(200, LENGTH % len(b)) + b,
    "two types": lambda b: head(200, JSON, "content-type: text/event-stream", LENGTH % len(b)) + b,
    "utf-16": lambda b: head(200, JSON + "; charset=utf-16", LENGTH % len(b)) + b,
    "redirect": lambda b: head(307, "location: http://127.0.0.1:1/steal", "content-length: 0"),
    "accepted": lambda b: head(202, "content-length: 0"),
    "no content": lambda b: head(204),
    "unauthorized": lambda b: head(401, "www-authenticate: Bearer", "content-length: 0"),
    "server error": lambda b: head(500, JSON, LENGTH % len(b)) + b,
    "switching": lambda b: head(101, "upgrade: x", "connection: upgrade") + b,
    "interim for ever": lambda b: head(100) * 50,
    "one huge header": lambda b: head(200, JSON, "x: " + "A" * 40_000, LENGTH % len(b)) + b,
    "many headers": lambda b: head(200, JSON, *["x: y"] * 500, LENGTH % len(b)) + b,
    "endless header": lambda b: b"HTTP/1.1 200 OK\r\nx: " + b"A" * 500_000,
    "duplicate keys": lambda b: HONEST["length"](b[:-1] + b',"result":{"content":["EVIL"]}}'),
    "batch": lambda b: HONEST["length"](b"[" + b + b"]"),
    "deep": lambda b: HONEST["length"](b"[" * 100_000),
    "not utf-8": lambda b: HONEST["length"](b.replace(b"ok", b"\xff\xfe")),
    "wrong id": lambda b: HONEST["length"](b'{"jsonrpc":"2.0","id":999,"result":{}}'),
    "null id": lambda b: HONEST["length"](b'{"jsonrpc":"2.0","id":null,"result":{}}'),
    "both": lambda b: HONEST["length"](b[:-1] + b',"error":{"code":1,"message":""}}'),
    "stream without answer": lambda b: head(200, "content-type: text/event-stream") + b"data: {}\n\n",
    "stream with junk": lambda b: head(200, "content-type: text/event-stream") + b"data: junk\n\ndata: " + b + b"\n\n",
    "stream of batches": lambda b: head(200, "content-type: text/event-stream") + b"data: [" + b + b"]\n\n",
    "stream of others' answers": lambda b: (
        head(200, "content-type: text/event-stream") + b'data: {"jsonrpc":"2.0","id":999,"result":{}}\n\n'
    ),
    "huge event": lambda b: head(200, "content-type: text/event-stream") + b"data: " + b"A" * (5 << 20),
    "input for ever": lambda b: HONEST["length"](b.replace(b'{"content"', b'{"resultType":"task","content"')),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_answers_are_faults(name: str) -> None:
    if name == "long body":  # the length is obeyed: what is left is not JSON
        assert EVIL[name](b"{}")
    with pytest.raises(UpstreamFault):
        asyncio.run(forward(bytes_(EVIL[name]), timeout=5))


@pytest.mark.requirement("HTTP-32")
def test_a_huge_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_wire, "BODY_LIMIT", 1 << 20)

    def sized(size: int) -> Handler:
        return bytes_(lambda b: HONEST["chunked"](b[:-1] + b',"x":"' + b"A" * size + b'"}'))

    assert asyncio.run(forward(sized(1000)))
    with pytest.raises(UpstreamFault):
        asyncio.run(forward(sized(1 << 20)))


def test_errors_are_told_from_faults() -> None:
    def failing(status: int) -> Handler:
        async def handler(asked: Asked) -> None:
            await asked.error(-32602, status)

        return handler

    for status in (200, 400, 404):
        with pytest.raises(UpstreamError) as caught:
            asyncio.run(forward(failing(status)))
        assert caught.value.code == -32602


@pytest.mark.requirement("SES-22")
@pytest.mark.parametrize("drip", [b": x\n\n", b"data: \n\n", b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n'])
def test_an_endless_stream_ends_at_the_timeout(drip: bytes) -> None:
    async def endless(asked: Asked) -> None:
        await asked.stream()
        while True:
            await asked.event(drip)
            await asyncio.sleep(0.01)

    with pytest.raises(UpstreamFault) as caught:
        asyncio.run(forward(endless, timeout=0.3))
    assert caught.value.timeout


@pytest.mark.requirement("SES-22")
def test_silence_ends_at_the_timeout() -> None:
    async def silent(_: Asked) -> None:
        await asyncio.sleep(5)

    for modern in (True, False):
        with pytest.raises(UpstreamFault) as caught:
            asyncio.run(forward(silent, timeout=0.3, modern=modern))
        assert caught.value.timeout


def test_bytes_nobody_asked_for_are_not_the_next_answer() -> None:
    """Response splitting on a shared connection: the surplus must never answer another caller."""
    forged = b'{"jsonrpc":"2.0","id":%d,"result":{"content":["EVIL"]}}'

    async def scenario(late: float) -> None:
        async def splitting(asked: Asked) -> None:
            extra = forged % (asked.json["id"] + 1)
            first, second = HONEST["length"](body(asked)), HONEST["length"](extra)
            await asked.send(first if late else first + second)
            if late:
                await asyncio.sleep(late)
                await asked.send(second)

        async with RawServer(splitting) as server:
            upstream = HttpUpstream("up", server.url)
            for subject in ("alice", "bob", "carol"):
                try:
                    assert await upstream.forward(await permit(subject=subject), Heard()) == OK
                except UpstreamFault:
                    assert not late
                await asyncio.sleep(late * 2)
            assert server.connections >= 3
            await upstream.close()

    asyncio.run(scenario(0.0))
    asyncio.run(scenario(0.02))


def test_a_connection_the_server_closed_is_replaced_before_writing() -> None:
    async def scenario() -> None:
        async def once(asked: Asked) -> None:
            await echo(asked)
            asked.writer.close()  # says keep-alive, closes all the same

        async with RawServer(once) as server:
            upstream, allowed = HttpUpstream("up", server.url), await permit()
            for _ in range(3):
                await upstream.forward(allowed, Heard())
                await asyncio.sleep(0.03)
            assert server.methods().count("tools/call") == 3
            await upstream.close()

    asyncio.run(scenario())


def test_a_call_that_broke_off_is_never_written_again() -> None:
    """The server may have executed it: a reused connection that dies after the write is a fault, not a retry."""

    async def scenario() -> None:
        calls = 0

        async def second_dies(asked: Asked) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                asked.writer.close()
            else:
                await echo(asked)

        async with RawServer(second_dies) as server:
            upstream, allowed = HttpUpstream("up", server.url), await permit()
            await upstream.forward(allowed, Heard())
            with pytest.raises(UpstreamFault):
                await upstream.forward(allowed, Heard())
            assert calls == 2
            await upstream.forward(allowed, Heard())
            assert server.methods().count("tools/call") == 3
            await upstream.close()

    asyncio.run(scenario())


def test_nobody_listening_is_a_fault() -> None:
    async def scenario() -> None:
        async with RawServer(echo) as server:
            pass
        upstream = HttpUpstream("up", server.url)
        with pytest.raises(UpstreamFault):
            await upstream.describe()
        with pytest.raises(UpstreamFault):
            await upstream.forward(await permit(), Heard())
        assert upstream.revision == ""
        await upstream.close()

    asyncio.run(scenario())


def streaming(*before: dict[str, Any], each: Callable[[Asked], Awaitable[None]] | None = None) -> Handler:
    async def handler(asked: Asked) -> None:
        if "method" not in asked.json:
            await asked.accept()
            return
        await asked.stream()
        for message in before:
            await asked.event({"jsonrpc": "2.0", **message})
        if each is not None:
            await each(asked)
        await asked.event({"jsonrpc": "2.0", "id": asked.json["id"], "result": OK})
        await asked.end()

    return handler


ASK = {"id": "q", "method": "elicitation/create", "params": {"message": "Name?", "requestedSchema": {"type": "object"}}}


@pytest.mark.requirement("MRTR-06")
@pytest.mark.parametrize(
    ("question", "capabilities", "code"),
    [
        (ASK, {"elicitation": {}}, None),
        (ASK, {"elicitation": {"form": {}}}, None),
        ({"id": 1, "method": "ping"}, {}, None),
        ({"id": 1, "method": "sampling/createMessage", "params": {}}, {"sampling": {}}, None),
        ({"id": 1, "method": "roots/list"}, {"roots": {}}, None),
        (ASK, {}, -32601),
        (ASK, {"elicitation": {"url": {}}}, -32601),
        ({**ASK, "params": {"mode": "url", "url": "https://x"}}, {"elicitation": {"form": {}}}, -32601),
        ({**ASK, "params": {"mode": ["form"]}}, {"elicitation": {"form": {}}}, -32601),
        ({"id": 1, "method": "sampling/createMessage", "params": {}}, {"elicitation": {}}, -32601),
        ({"id": 1, "method": "client/exec", "params": {}}, {"elicitation": {}}, -32601),
        ({"id": 1, "method": "tools/call", "params": {}}, {"elicitation": {}}, -32601),
    ],
)
def test_a_handshake_server_may_ask_what_was_offered(question: Any, capabilities: Any, code: int | None) -> None:
    async def scenario() -> None:
        heard = Heard(ACCEPT, capabilities=capabilities)
        async with RawServer(streaming(question), modern=False, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            assert await upstream.forward(await permit(), heard) == OK
            (answer,) = [asked.json for asked in server.asked if asked.verb == "POST" and not asked.method]
            assert answer["id"] == question["id"]
            assert (answer.get("error") or {}).get("code") == code
            assert len(heard.asked) == (code is None and question["method"] != "ping")
            if heard.asked:
                assert answer["result"] == ACCEPT
            await upstream.close()

    asyncio.run(scenario())


def test_a_client_that_does_not_answer_is_told_to_the_server() -> None:
    async def scenario() -> None:
        async with RawServer(streaming(ASK), modern=False, session="s") as server:
            upstream, heard = HttpUpstream("up", server.url), Heard(UpstreamFault("up", "no"))
            assert await upstream.forward(await permit(), heard) == OK
            answers = [asked.json for asked in server.asked if asked.verb == "POST" and not asked.method]
            assert answers[0]["error"]["code"] == -32603
            await upstream.close()

    asyncio.run(scenario())


def test_a_person_may_take_longer_than_the_server() -> None:
    class Slow(Heard):
        async def ask(self, requests: Any) -> Any:
            await asyncio.sleep(0.5)
            return await super().ask(requests)

    slow = Slow(ACCEPT)
    assert asyncio.run(forward(streaming(ASK), heard=slow, modern=False, timeout=0.3)) == OK
    with pytest.raises(UpstreamFault):
        asyncio.run(forward(streaming(ASK), heard=Slow(ACCEPT), modern=False, timeout=0.3, longest=0.4))


@pytest.mark.requirement("HTTP-10")
def test_a_modern_server_cannot_send_requests() -> None:
    heard = Heard(ACCEPT)
    assert asyncio.run(forward(streaming(ASK, {"id": 1, "method": "ping"}), heard=heard)) == OK
    assert not heard.asked


@pytest.mark.requirement("HTTP-10", "SUB-03")
def test_only_notifications_of_this_call_are_passed_on() -> None:
    def note(token: Any, **more: Any) -> dict[str, Any]:
        return {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, **more}}

    async def own(asked: Asked) -> None:
        number = asked.json["params"]["_meta"]["progressToken"]
        for token in (number, str(number), float(number) + 0.5, number + 1, None, "theirs"):
            await asked.event({"jsonrpc": "2.0", **note(token, evil="x", message="m")})

    heard = Heard()
    log = {"method": "notifications/message", "params": {"level": "info", "data": "d", "evil": 1}}
    bad = [
        {"method": "notifications/message", "params": {"level": "x", "data": "d"}},
        {"method": "notifications/other"},
    ]
    handler = streaming(log, *bad, {"method": "notifications/progress", "params": []}, each=own)
    assert asyncio.run(forward(handler, heard=heard, progress_token="theirs")) == OK
    assert heard.notes == [
        ("notifications/message", {"level": "info", "data": "d"}),
        ("notifications/progress", {"progressToken": "theirs", "progress": 1, "message": "m"}),
    ]


@pytest.mark.requirement("SUB-04")
def test_notifications_are_bounded() -> None:
    heard = Heard()
    log = {"method": "notifications/message", "params": {"level": "info", "data": "d"}}
    assert asyncio.run(forward(streaming(*[log] * 1000), heard=heard)) == OK
    assert len(heard.notes) == 200


def test_a_change_is_reported_once_for_a_storm() -> None:
    async def scenario() -> None:
        changes: list[str] = []
        storm = streaming(*[{"method": "notifications/tools/list_changed"}] * 500)
        async with RawServer(storm) as server:
            upstream = HttpUpstream("up", server.url)
            upstream.on_change = changes.append
            await upstream.forward(await permit(), Heard())
            await asyncio.sleep(0.05)
            assert changes == ["up"]
            await upstream.close()

    asyncio.run(scenario())


def asking(rounds: int, request: dict[str, Any] | None = None, key: str = "k") -> Handler:
    """Asks for input `rounds` times by input_required, then answers with what it was sent."""
    seen: list[dict[str, Any]] = []

    async def handler(asked: Asked) -> None:
        seen.append(asked.json["params"])
        if len(seen) <= rounds:
            wants = {"inputRequests": {key: request}} if request else {}
            await asked.result({"resultType": "input_required", "requestState": f"s{len(seen)}", **wants})
        else:
            last = {name: seen[-1].get(name) for name in ("inputResponses", "requestState", "arguments")}
            await asked.result({"resultType": "complete", "content": [], "last": last})

    return handler


INPUT = {"method": "elicitation/create", "params": {"message": "m", "requestedSchema": {"type": "object"}}}


@pytest.mark.requirement("MRTR-07")
def test_input_required_is_played_out_for_a_handshake_client() -> None:
    heard = Heard(ACCEPT, ACCEPT)
    result = asyncio.run(forward(asking(2, INPUT), heard=heard))
    assert result["last"] == {"inputResponses": {"k": ACCEPT}, "requestState": "s2", "arguments": {"text": "hi"}}
    assert heard.asked == [{"k": INPUT}] * 2
    result = asyncio.run(forward(asking(1), heard=Heard()))
    assert result["last"] == {"inputResponses": None, "requestState": "s1", "arguments": {"text": "hi"}}


@pytest.mark.requirement("MRTR-05", "MRTR-06")
def test_input_required_is_bounded_and_within_what_was_offered() -> None:
    with pytest.raises(UpstreamFault):
        asyncio.run(forward(asking(99, INPUT), heard=Heard(*[ACCEPT] * 99)))
    for request in (
        {"method": "sampling/createMessage", "params": {}},
        {"method": "x"},
        ["x"],
        {"method": "roots/list"},
    ):
        with pytest.raises(UpstreamFault):
            asyncio.run(forward(asking(1, request), heard=Heard(ACCEPT)))  # type: ignore[arg-type]
    heard = Heard(era=Era.MODERN)
    assert asyncio.run(forward(asking(1, INPUT), heard=heard))["inputRequests"] == {"k": INPUT}


def test_a_handshake_server_cannot_pose_as_modern() -> None:
    with pytest.raises(UpstreamFault):
        asyncio.run(forward(asking(1, INPUT), heard=Heard(ACCEPT, era=Era.MODERN), modern=False))
