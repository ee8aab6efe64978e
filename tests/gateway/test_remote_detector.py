"""D3 at the running gateway: Prompt Shields judges answers, its silence holds them, its key is nowhere to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from detection.azure_service import KEY, saying, serving
from gateway.running import Running, running

TOOLS = ("echo", "attack", "later")


@pytest.fixture(scope="module")
def shielded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Any]]:
    directory = tmp_path_factory.mktemp("shields")
    with serving() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIELD_KEY", KEY)
        one = {"kind": "azure_prompt_shields", "endpoint": service.endpoint, "key": "${env:SHIELD_KEY}"}
        content = {"spotlight": "off", "remote": [one]}
        with running(directory, TOOLS[1:], approved=("one",), tools=TOOLS, content=content) as gateway:
            yield gateway, service


def call(gateway: Running, tool: str, subject: str) -> tuple[int, str]:
    status, body = gateway.call(tool, gateway.token(subject))
    return status, json.dumps(body)


def test_an_answer_it_calls_an_attack_is_withheld_and_its_twin_passes_d3(shielded: tuple[Running, Any]) -> None:
    gateway, service = shielded
    service.always = None
    attack = saying(200, {"documentsAnalysis": [{"attackDetected": True}]})
    status, body = call(gateway, "echo", "ann")
    assert (status, "ran echo" in body) == (200, True)
    service.plays = [attack]
    status, body = call(gateway, "attack", "ann")
    assert "ran attack" not in body and "shield" not in body and status == 502
    assert any(b"ran attack" in raw for _, _, raw in service.asked)
    outcome = [one for one in gateway.records("outcome") if one.get("sub") == "ann" or "findings" in one]
    assert any("injection.prompt_shield" in json.dumps(one) for one in outcome)


def test_while_it_is_away_nothing_unjudged_passes_and_nothing_tells_its_key_d3(shielded: tuple[Running, Any]) -> None:
    gateway, service = shielded
    service.plays, service.always = [], saying(503, {"error": {"code": "503", "message": f"{KEY} is busy"}})
    status, body = call(gateway, "later", "bob")
    assert status == 502 and "ran later" not in body and "remote" not in body and "azure" not in body
    told = gateway.limen("audit", "tail", "--json", "-n", "400")
    assert "remote.unavailable" in told and "status 503" in told
    service.always = None
    assert "ran later" in call(gateway, "later", "bob")[1]  # no verdict is not remembered as one
    assert KEY not in gateway.log and KEY not in told
    for path in gateway.directory.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
