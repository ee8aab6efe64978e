"""Edits of a configuration's text: only what was meant changes, comments and layout stay, or nothing is returned."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml

from limen.config.document import parse
from limen.config.edit import difference, edited
from limen.core.faults import ConfigFault

RULES = """\
policy:   # who may what
  rules:
    # first
    - allow: [anyone, "user:a"]   # both
      call:
        - files/*    # all
        - github/x
      require:
        - approval
    - {allow: anyone, call: [a/b, c/*, d/e], scopes: [s]}
    # last
    - allow: anyone
      call: a/*
      when: |
        principal.mfa
      # after
  # end
limits: {rate: 5}
"""


def rule(number: int, *more: str | int) -> tuple[str | int, ...]:
    return ("policy", "rules", number, *more)


def test_values_change_and_everything_else_stays() -> None:
    made = edited(
        RULES.encode(),
        "x.yaml",
        {
            rule(0, "call", 0): ("files/a", "files/b"),
            rule(0, "allow", 0): ("user:c",),
            rule(1, "call", 1): ("c/d",),
            rule(1, "call", 2): (),
            rule(2, "call"): ("a/b", "a/c"),
        },
    )
    removed = [text for text in RULES.splitlines() if text not in made.splitlines()]
    assert [text.strip() for text in removed] == [
        '- allow: [anyone, "user:a"]   # both',
        "- files/*    # all",
        "- {allow: anyone, call: [a/b, c/*, d/e], scopes: [s]}",
        "call: a/*",
    ]
    first, second, third = yaml.safe_load(made)["policy"]["rules"]
    assert (first["allow"], first["call"]) == (["user:c", "user:a"], ["files/a", "files/b", "github/x"])
    assert (second["call"], third["call"]) == (["a/b", "c/d"], ["a/b", "a/c"])
    assert made.count("#") == RULES.count("#")


def test_rules_are_taken_out() -> None:
    for gone in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        made = edited(RULES.encode(), "x.yaml", {rule(number): () for number in gone})
        before, after = yaml.safe_load(RULES), yaml.safe_load(made)
        assert after["policy"]["rules"] == [one for n, one in enumerate(before["policy"]["rules"]) if n not in gone]
        assert after["limits"] == before["limits"]
        assert "# first" in made
    assert yaml.safe_load(edited(RULES.encode(), "x.yaml", {rule(n): () for n in range(3)}))["policy"]["rules"] == []


def test_json_and_a_byte_order_mark_and_windows_lines() -> None:
    value = {"policy": {"rules": [{"call": "a/*"}, {"call": ["b/*", "c/d"]}]}}
    text = json.dumps(value, indent="\t")
    edits: dict[Any, tuple[str, ...]] = {rule(0, "call"): ("a/b", "a/\u00e9"), rule(1, "call", 0): ()}
    made = json.loads(edited(text.encode(), "x.json", edits))
    assert made == {"policy": {"rules": [{"call": ["a/b", "a/\u00e9"]}, {"call": ["c/d"]}]}}
    marked = edited(b"\xef\xbb\xbf" + RULES.replace("\n", "\r\n").encode(), "x.yaml", {rule(1): ()})
    assert marked.startswith("\ufeff")
    assert len(yaml.safe_load(marked.removeprefix("\ufeff"))["policy"]["rules"]) == 2


def test_a_layout_it_does_not_understand_is_refused() -> None:
    for text in ("policy: {rules: 7}\n", "policy:\n  rules:\n    - - a\n      - b\n", "policy: {}\n"):
        with pytest.raises(ConfigFault):
            edited(text.encode(), "x.yaml", {rule(0): (), rule(0, "call"): ("x",)})
    with pytest.raises(ConfigFault):
        edited(RULES.encode(), "x.yaml", {rule(0): (), rule(0, "call", 0): ("x",)})


def test_whatever_the_layout_the_result_is_what_was_meant() -> None:
    """Random lists in every style the writer knows: the edit does exactly what it should, or refuses."""
    chance = random.Random(7)
    for _ in range(150):
        rules = [
            {"allow": "anyone", "call": [f"s{chance.randrange(9)}/n{n}" for n in range(chance.randrange(1, 4))]}
            for _ in range(chance.randrange(1, 5))
        ]
        style = chance.choice([True, False, None])
        text = yaml.safe_dump(
            {"policy": {"rules": rules}, "z": 1}, default_flow_style=style, width=chance.choice([30, 200])
        )
        edits: dict[Any, tuple[str, ...]] = {}
        meant = []
        for number, one in enumerate(rules):
            act = chance.choice(["keep", "drop", "change"])
            if act == "drop":
                edits[rule(number)] = ()
                continue
            call = list(one["call"])
            if act == "change":
                at = chance.randrange(len(call))
                new = tuple(f"new/{n}" for n in range(chance.randrange(0 if len(call) > 1 else 1, 3)))
                edits[rule(number, "call", at)] = new
                call[at : at + 1] = new
            meant.append({**one, "call": call})
        assert yaml.safe_load(edited(text.encode(), "x.yaml", edits)) == {"policy": {"rules": meant}, "z": 1}, text


def test_a_difference_is_one_that_programs_read() -> None:
    text = difference("a\nb", "a\nc", "limen.yaml")
    assert text.splitlines() == [
        "--- limen.yaml",
        "+++ limen.yaml",
        "@@ -1,2 +1,2 @@",
        " a",
        "-b",
        "\\ No newline at end of file",
        "+c",
        "\\ No newline at end of file",
    ]
    assert parse(b"a: 1\n", "x.yaml").value == {"a": 1}
