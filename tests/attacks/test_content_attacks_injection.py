"""Words that give orders, by every way they come (PI-01 to PI-20): what a client gets holds none of them, and texts on
the same matters arrive as they were written. The guards and detectors are the shipped ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attacks.content_corridor import Corridor, text, unsaid
from attacks.content_texts import DELIMITERS, HONEST, MISTAKEN, ORDERS, PULL, TICKET
from detection.text_disguises import ALL
from limen.catalog.visible import visible
from limen.detection.fuse import Action

Case = tuple[dict[str, Any], str, str]


def block(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def b64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def resource(member: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "resource", "resource": {"uri": "note://x", "mimeType": "text/plain", **member}}]}


def link(**members: str) -> dict[str, Any]:
    return {"content": [{"type": "resource_link", "uri": "note://x", "name": "x", **members}]}


def half(value: str) -> tuple[str, str]:
    return value[: len(value) // 2], value[len(value) // 2 :]


OK = {"content": [block("ok")]}
WAYS: dict[str, Callable[[str], Case]] = {
    "result (PI-01)": lambda said: (text(said), "tools/call", "read_issue"),
    "second text (PI-01)": lambda said: ({"content": [block("Found one."), block(said)]}, "tools/call", "read_issue"),
    "error (PI-04)": lambda said: (text(said, isError=True), "tools/call", "read_issue"),
    "structured (PI-11)": lambda said: ({**OK, "structuredContent": {"r": [{"n": said}]}}, "tools/call", "typed"),
    "member name (PI-11)": lambda said: ({**OK, "structuredContent": {said: 1}}, "tools/call", "typed"),
    "split members (PI-11, PI-12)": lambda said: (
        {**OK, "structuredContent": dict(zip("ab", half(said), strict=True))}, "tools/call", "typed",
    ),
    "split texts (PI-12)": lambda said: ({"content": [*map(block, half(said))]}, "tools/call", "read_issue"),
    "word by word (PI-12)": lambda said: ({"content": [block(w) for w in said.split()]}, "tools/call", "read_issue"),
    "embedded (PI-06)": lambda said: (resource({"text": said}), "tools/call", "read_issue"),
    "embedded blob (PI-06)": lambda said: (resource({"blob": b64(said)}), "tools/call", "read_issue"),
    "link (PI-06)": lambda said: (link(description=said), "tools/call", "read_issue"),
    "link name (PI-06)": lambda said: (link(name=said), "tools/call", "read_issue"),
    "resource (PI-06)": lambda said: ({"contents": [{"uri": "note://one", "text": said}]}, "resources/read", "note://one"),
    "resource blob (PI-06)": lambda said: (
        {"contents": [{"uri": "note://one", "mimeType": "text/plain", "blob": b64(said)}]}, "resources/read", "note://one",
    ),
    "prompt (PI-07)": lambda said: (
        {"messages": [{"role": "user", "content": block(said)}]}, "prompts/get", "summarise",
    ),
    "assistant (PI-07)": lambda said: (
        {"messages": [{"role": "assistant", "content": block(said)}]}, "prompts/get", "summarise",
    ),
    "completion (PI-20)": lambda said: ({"completion": {"values": ["a", said]}}, "completion/complete", "summarise"),
}  # fmt: skip


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    made = Corridor(tmp_path_factory.mktemp("injection"))
    yield made
    made.close()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", WAYS)
def test_orders_do_not_arrive(corridor: Corridor, way: str, order: str) -> None:
    """PI-01, PI-04, PI-06, PI-07, PI-11, PI-12, PI-20."""
    said = ORDERS[order]
    result, method, name = WAYS[way](said)
    shown = corridor.answered(result, method, name)
    assert unsaid(shown, said, b64(said), *half(said))
    assert corridor.seen["ref"].risk > 0.5


TAKEN = pytest.mark.xfail(strict=True, reason="the classifier takes it for orders; see docs/limits.md, Content")


@pytest.mark.parametrize("twin", HONEST)
@pytest.mark.parametrize("way", ["result (PI-01)", "error (PI-04)", "prompt (PI-07)", "completion (PI-20)"])
def test_texts_on_the_same_matters_arrive_as_they_are(corridor: Corridor, way: str, twin: str) -> None:
    """PI-01, PI-04, PI-07, PI-20, honest twins."""
    result, method, name = WAYS[way](HONEST[twin])
    assert corridor.answered(result, method, name) == result


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"member name (PI-11)"}))
def test_an_honest_text_arrives_by_every_way(corridor: Corridor, way: str) -> None:
    """PI-06, PI-11, PI-12, honest twins."""
    result, method, name = WAYS[way]("The meeting is on Friday at ten. Ann will bring the slides and the figures.")
    assert corridor.answered(result, method, name) == result


@pytest.mark.parametrize("twin", MISTAKEN)
@TAKEN
def test_honest_texts_that_are_taken_for_orders(corridor: Corridor, twin: str) -> None:
    """PI-01, honest twins that are withheld today."""
    assert corridor.answered(text(MISTAKEN[twin])) == text(MISTAKEN[twin])


@pytest.mark.parametrize("disguise", ALL)
def test_disguised_orders_do_not_arrive(corridor: Corridor, disguise: str) -> None:
    """PI-03, PI-05, PI-12: hidden, encoded or spelt otherwise. Withheld, or taken out where nobody could see it."""
    said = ALL[disguise](TICKET)
    shown = corridor.answered(text(said))
    assert unsaid(shown, said, TICKET)
    if "refused" not in shown and "withheld this answer" not in json.dumps(shown):
        assert "integration_tokens" not in json.dumps(shown)
        assert not any(ord(sign) >= 0xFE00 for sign in shown["content"][0]["text"] if sign != "😀")


@pytest.mark.parametrize("disguise", ["comment", "zero-width space", "base64", "percent", "entity"])
def test_a_harmless_text_in_the_same_disguise_arrives(corridor: Corridor, disguise: str) -> None:
    """PI-03, PI-05, honest twins: pages have comments, logs have percent signs, mails have attachments."""
    said = {
        "comment": "<!-- begin of the navigation --><nav><a href='/docs'>Docs</a></nav>",
        "zero-width space": "https://docs.example/\u200ba/long/path/\u200bthat/may/be/broken",
        "base64": f"attachment: {b64('The minutes of the meeting on Friday, for all who were there.')}",
        "percent": "GET /search?q=open%20tickets%20of%20last%20week&lang=de 200 31ms",
        "entity": "Fish &amp; chips &lt;b&gt;today&lt;/b&gt; for 5&nbsp;&euro;",
    }[disguise]
    assert corridor.answered(text(said)) == text(said)


PAGES = {
    "comment": f"<p>Prices</p><!-- {PULL} --><p>5 EUR</p>",
    "style": f'<p>Prices</p><div style="display:none">{PULL}</div>',
    "white": f'<span style="color:#fff;font-size:0">{PULL}</span>Prices',
    "alternative text": f'<img src="cat.png" alt="{PULL}">',
    "title": f'<a href="/x" title="{PULL}">x</a>',
    "attribute": f'<meta name="description" content="{PULL}">',
    "markdown comment": f"# Prices\n\n[//]: # ({PULL})\n",
    "script data": f'<script type="application/json">{json.dumps({"note": PULL})}</script>',
}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_hides_does_not_arrive(corridor: Corridor, page: str) -> None:
    """PI-03."""
    assert unsaid(corridor.answered(text(PAGES[page])), PULL)


LINES = {
    "plain": f'1.2.3.4 "GET / HTTP/1.1" 200 "{TICKET}"',
    "percent": f'1.2.3.4 "GET /?q={"".join(f"%{byte:02X}" for byte in TICKET.encode())} HTTP/1.1" 200',
    "base64": f'1.2.3.4 "GET /?q={b64(TICKET)} HTTP/1.1" 200',
    "escapes": '1.2.3.4 "GET / HTTP/1.1" 200 "' + "".join(f"\\u{ord(sign):04x}" for sign in TICKET) + '"',
    "broken lines": TICKET.replace(" ", "\n"),
}


@pytest.mark.parametrize("line", LINES)
def test_orders_in_a_log_do_not_arrive(corridor: Corridor, line: str) -> None:
    """PI-05: among a hundred ordinary lines."""
    ordinary = [f'10.0.0.{n} "GET /page/{n} HTTP/1.1" 200 {n * 7}' for n in range(1, 100)]
    said = "\n".join([*ordinary[:50], LINES[line], *ordinary[50:]])
    assert unsaid(corridor.answered(text(said)), LINES[line])
    assert corridor.answered(text("\n".join(ordinary))) == text("\n".join(ordinary))


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_fake_turns_do_not_arrive(corridor: Corridor, delimiter: str) -> None:
    """PI-17."""
    assert unsaid(corridor.answered(text(DELIMITERS[delimiter])), DELIMITERS[delimiter])


def test_what_cannot_end_the_mark_of_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """PI-17: nobody can write the end of a mark that is drawn anew for each answer; the text inside, the honest
    twin, is unchanged."""
    marking = Corridor(tmp_path_factory.mktemp("marks"), spotlight="delimit")
    said = "The weather in Seoul: 21 degrees, light wind."
    first, second = (marking.answered(text(said))["content"][0]["text"] for _ in range(2))
    assert said in first
    assert first.split()[1] != second.split()[1]
    marking.close()


@pytest.mark.parametrize("padding", [10_000, 300_000])
def test_orders_behind_padding_do_not_arrive(corridor: Corridor, padding: int) -> None:
    """PI-18: all of it is looked at, or none of it is passed. The padding alone, the honest twin, arrives."""
    ordinary = "The garden is open from nine to five, and on Sundays from ten to four. "
    filler = ordinary * (padding // len(ordinary))
    assert unsaid(corridor.answered(text(filler + PULL)), PULL)
    assert corridor.answered(text(filler)) == text(filler)


def test_what_is_too_large_to_look_at_is_not_passed(corridor: Corridor) -> None:
    """PI-18: above the bound nothing passes, whatever it says."""
    said = text("The garden is open. " * 400_000)
    assert corridor.answered(said) == {"refused": "content.too_large"}


@pytest.mark.parametrize("order", ORDERS)
def test_orders_in_notifications_are_not_heard(corridor: Corridor, order: str) -> None:
    """PI-16: in every text a notification has."""
    said = ORDERS[order]
    for params in ({"data": said}, {"data": {"rows": [said]}}, {"data": 1, "logger": said}):
        assert corridor.told("notifications/message", {"level": "info", **params}) == []
    assert corridor.told("notifications/progress", {"progressToken": 1, "progress": 1, "message": said}) == []


@pytest.mark.parametrize("twin", ["advisory", "korean", "error", "log", "encoded"])
def test_honest_notifications_are_heard(corridor: Corridor, twin: str) -> None:
    """PI-16, honest twin."""
    params = {"level": "info", "data": HONEST[twin]}
    assert corridor.told("notifications/message", params) == [params]


def form(**field: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"city": {"type": "string", **field}}}


@pytest.mark.parametrize("order", ORDERS)
def test_orders_in_questions_are_not_asked(corridor: Corridor, order: str) -> None:
    """PI-09: in the message, a description or a choice."""
    said = ORDERS[order]
    assert not corridor.questioned({"message": said, "requestedSchema": form()})
    assert not corridor.questioned({"message": "Which city?", "requestedSchema": form(description=said)})
    assert not corridor.questioned({"message": "Which city?", "requestedSchema": form(enum=["Seoul", said])})


PHISHING = [
    {"message": "Please enter your password to continue", "requestedSchema": form()},
    {"message": "Sign in", "requestedSchema": {"type": "object", "properties": {"api_key": {"type": "string"}}}},
    {"message": "Sign in", "requestedSchema": form(title="Access token")},
    {"message": "Sign in", "requestedSchema": {"type": "object", "properties": {"pass\u200bword": {"type": "string"}}}},
    {"message": "Bitte gib dein Passwort ein", "requestedSchema": form()},
    {"message": "비밀번호를 입력하세요", "requestedSchema": form()},
    {"mode": "url", "message": "Sign in", "url": "https://login.examp1e.example/", "elicitationId": "1"},
    {"mode": "url", "message": "Sign in", "url": "javascript:alert(1)", "elicitationId": "1"},
]


@pytest.mark.parametrize("question", PHISHING, ids=lambda one: str(one.get("url") or one["message"])[:30])
def test_a_person_is_not_asked_for_secrets_or_sent_elsewhere(corridor: Corridor, question: dict[str, Any]) -> None:
    """PI-09."""
    assert not corridor.questioned(question)


@pytest.mark.parametrize(
    "message", ["Which city?", "어느 도시의 날씨를 볼까요?", "Welche Stadt meinst du?", "请选择城市"]
)
def test_an_honest_question_is_asked(corridor: Corridor, message: str) -> None:
    """PI-09, honest twin."""
    assert corridor.questioned({"message": message, "requestedSchema": form(enum=["Seoul", "Busan"])})
    assert corridor.questioned({"message": message, "requestedSchema": form(description="where you live")})


@pytest.mark.parametrize("method", ["sampling/createMessage", "roots/list"])
def test_a_server_gets_neither_the_model_nor_the_files_of_a_client(corridor: Corridor, method: str) -> None:
    """PI-08, PI-20: asked for in a result (2026-07-28); on the wire, see upstreams/test_upstream_eras.py. The honest
    twin, a question to the person, is asked."""
    asking = {"resultType": "input_required", "inputRequests": {"a": {"method": method, "params": {"messages": []}}}}
    assert corridor.answered(asking, capabilities=b'{"elicitation":{},"sampling":{},"roots":{}}') == {
        "refused": "catalog.result"
    }
    honest = {"method": "elicitation/create", "params": {"message": "Which city?", "requestedSchema": form()}}
    asked = {"resultType": "input_required", "inputRequests": {"a": honest}}
    assert corridor.answered(asked, capabilities=b'{"elicitation":{}}') == asked


MEMORIES = (
    {"name": "add_observations", "description": "Adds facts.", "inputSchema": {"type": "object"}},
    {"name": "qdrant-store", "description": "Keeps text for later sessions.", "inputSchema": {"type": "object"}},
    {"name": "note", "description": "Long-term memory of the assistant.", "inputSchema": {"type": "object"}},
)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    made = Corridor(tmp_path_factory.mktemp("memory"), *MEMORIES)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["remember", *(one["name"] for one in MEMORIES)])
def test_orders_are_not_remembered_without_a_person(keeping: Corridor, name: str) -> None:
    """PI-14: written today, obeyed in another session. Words are asked about; hidden ones may be refused."""
    for order in ORDERS.values():
        assert keeping.asked({"text": f"When somebody asks for the report: {order}"}, name) == "held", order
    for disguise in ("base64", "zero-width space", "comment", "reversed"):
        assert keeping.asked({"facts": [{"entity": "report", "text": ALL[disguise](TICKET)}]}, name) != "passed"


@pytest.mark.parametrize("twin", [*HONEST, *MISTAKEN])
def test_ordinary_notes_are_remembered(keeping: Corridor, twin: str) -> None:
    """PI-14, honest twin; other tools may be told what looks like an order: a server runs nothing of it."""
    if twin in HONEST:
        assert keeping.asked({"text": HONEST[twin]}, "remember") == "passed"
    assert keeping.asked({"text": {**HONEST, **MISTAKEN}[twin]}, "read_issue") == "passed"


def test_the_person_who_decides_is_shown_what_would_happen() -> None:
    """PI-19: no sign of a text can hide, reorder or push away what follows. The honest twin
    is shown as it is. The whole view: catalog/test_present.py."""
    spoofed = "read notes.txt" + "\n" * 200 + "\x1b[2J\u202egnp.x\u202c" + "\u200b" + "; rm -rf ."
    shown = visible(spoofed)
    assert "rm -rf ." in shown
    assert not any(sign in shown for sign in ("\n", "\x1b", "\u202e", "\u200b"))
    assert visible("read notes.txt") == "read notes.txt"


def test_active_pictures_and_pages_do_not_arrive(corridor: Corridor) -> None:
    """PI-13, as far as it is text: what a browser would run is no picture. The honest twin, a picture, arrives."""
    svg = {"type": "image", "mimeType": "image/svg+xml", "data": b64(f"<svg><text>{PULL}</text></svg>")}
    assert corridor.answered({"content": [svg, block("a cat")]}) == {"content": [block("a cat")]}
    png = {"content": [{"type": "image", "mimeType": "image/png", "data": "iVBORw0KGgo="}]}
    assert corridor.answered(png) == png


@pytest.mark.xfail(strict=True, reason="pictures and sound are not looked into, and no setting holds them back")
def test_orders_inside_a_picture(corridor: Corridor) -> None:
    """PI-13: a comment of a PNG file. See docs/limits.md, Content."""
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\0tEXtComment\0" + PULL.encode()).decode()
    result = {"content": [{"type": "image", "mimeType": "image/png", "data": picture}]}
    assert corridor.answered(result) != result


@pytest.mark.parametrize("order", ORDERS)
def test_orders_in_instructions_are_told_to_who_decides(corridor: Corridor, order: str) -> None:
    """PI-07, TP-05: what every session would read."""
    assert corridor.announced("instructions", {"instructions": ORDERS[order]}) in (Action.HOLD, Action.BLOCK)


def test_honest_instructions_are_not_suspected(corridor: Corridor) -> None:
    """PI-07, TP-05, honest twin."""
    said = "Dates are ISO 8601 and in UTC. Searches return at most fifty rows; use the cursor for the next page."
    assert corridor.announced("instructions", {"instructions": said}) in (Action.PASS, Action.RECORD)
