"""What a hostile server announces is held, what an honest one announces is not, and no field changes unseen."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.catalogue import ECHO, announce, tool
from limen.catalog.definitions import MAX_ITEMS, Intake, check
from limen.catalog.definitions import intake as whole_intake
from limen.catalog.differences import changes
from limen.catalog.text import clean, hidden_character, names_a_secret, printable

FULL = {
    "name": "files/read",
    "title": "Read",
    "description": "Reads a file.\n\tLine by line. ⚠\ufe0f 👩\u200d💻 日本語",
    "inputSchema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "path": {
                "type": "string",
                "description": "Where",
                "default": "x",
                "examples": ["a"],
                "pattern": "^[a-z/]+$",
            },
            "mode": {"enum": ["fast", "safe"]},
            "node": {"$ref": "#/$defs/node"},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    },
    "outputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    "annotations": {"title": "Read", "readOnlyHint": True},
    "icons": [{"src": "https://example.com/i.png", "mimeType": "image/png"}],
    "_meta": {"vendor/x": 1},
    "execution": {"taskSupport": "forbidden"},
    "unknown": {"later": "member"},
}


def intake(announcement):
    """The reading without the records of the server and of its set: what is offered."""
    found = whole_intake(announcement)
    return Intake(tuple(one for one in found.accepted if one.kind not in ("server", "set")), found.held, found.whole)


def leaves(value, path=()):
    if type(value) is dict:
        for name, member in value.items():
            yield (*path, name), True
            yield from leaves(member, (*path, name))
    elif type(value) is list:
        for index, member in enumerate(value):
            yield from leaves(member, (*path, index))
    else:
        yield path, False


PLACES = sorted(set(leaves(FULL)), key=repr)


@given(st.sampled_from(PLACES), st.text("abcXYZ é", min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_flipping_any_field_or_member_name_changes_the_digest(place, text):
    (path, is_name), before = place, check("tool", FULL).digest
    flipped = copy.deepcopy(FULL)
    at = flipped
    for step in path[:-1]:
        at = at[step]
    if is_name:
        at[str(path[-1]) + text] = at.pop(path[-1])
    else:
        at[path[-1]] = (not at[path[-1]]) if type(at[path[-1]]) is bool else f"{at[path[-1]]}{text}"
    assert flipped != FULL
    try:
        after = check("tool", flipped).digest
    except ValueError:
        return  # held: not in service either
    assert after != before


def test_the_order_of_members_is_no_change():
    turned = dict(reversed(FULL.items()))
    assert check("tool", turned) == check("tool", FULL)


HONEST = [
    FULL,
    ECHO,
    tool(name="x" * 128),
    tool(name="github.create_issue-2"),
    tool(inputSchema={"type": "object"}),
    tool(inputSchema={"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}}),
    tool(inputSchema={"type": "object", "properties": {"$ref": {"type": "string"}, "pattern": {"type": "integer"}}}),
    tool(inputSchema={"type": "object", "properties": {"t": {"type": "string", "pattern": "^(a+)+$"}}}),
    tool(inputSchema={"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}),
    tool(inputSchema={"type": "object", "properties": {"a": {"$ref": "#"}}, "$defs": {"x": {"type": "string"}}}),
    tool(
        inputSchema={
            "type": "object",
            "properties": {"v": {"$ref": "#/$defs/v"}},
            "$defs": {
                "v": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"$ref": "#/$defs/v"}},
                        {"type": "object", "additionalProperties": {"$ref": "#/$defs/v"}},
                    ]
                }
            },
        }
    ),
    tool(icons=[{"src": "data:image/png;base64,iVBORw0KGgo="}]),
]


@pytest.mark.parametrize("definition", HONEST)
def test_honest_tools_are_accepted(definition):
    found = intake(announce(definition))
    assert not found.held
    assert found.accepted[0].name == definition["name"]


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def in_schema(**properties):
    return tool(inputSchema={"type": "object", "properties": properties})


def laughs(levels):
    defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {}}}


WEIRD = [
    "",
    " ",
    "..",
    "a//b",
    "../x",
    "naïve",
    "\u202egnip",
    "p\u0456ng",
    "x" * 10000,
    "ping\0",
    "a\nb",
    "__proto__",
    5,
    None,
]
HOSTILE = [
    *[tool(name=name) | {"name": name} for name in WEIRD],
    None,
    7,
    "x",
    {"name": "noschema"},
    {"name": "s", "inputSchema": "x"},
    tool(inputSchema={"type": "array"}),
    tool(description={"a": 1}),
    tool(title=["x"]),
    tool(description="A" * 16385),
    tool(annotations={"readOnlyHint": "yes"}),
    tool(annotations=[]),
    tool(description="Echo.\x1b[8m hidden\x1b[0m"),
    tool(title="\u202eohce"),
    in_schema(text={"type": "string", "description": "zero\u200bwidth"}),
    in_schema(text={"enum": ["tag\U000e0041"]}),
    in_schema(**{"soft\u00adhyphen": {}}),
    tool(_meta={"x": "selectors\ufe0f\ufe0f"}),
    tool(_meta={"x": "joined\u200dletters"}),
    tool(description="C1 \x9b31m"),
    tool(description="lone \ud800"),
    tool(description="carriage\rreturn"),
    in_schema(a={"$ref": "http://127.0.0.1:9/schema.json"}),
    in_schema(a={"$ref": "file:///etc/passwd"}),
    in_schema(a={"$ref": "other.json#/x"}),
    in_schema(a={"default": {"$ref": "https://example.com/x"}}),
    in_schema(a={"$ref": "#/$defs/missing"}),
    in_schema(a={"$ref": "#/properties/b/default"}, b={"default": {}}),
    in_schema(a={"$id": "https://example.com/x", "$ref": "#"}),
    in_schema(a={"$dynamicRef": "#x"}),
    tool(inputSchema={"type": "object", "$id": "https://json-schema.org/draft/2020-12/schema"}),
    tool(inputSchema={"type": "object", "$schema": "https://example.com/mine"}),
    tool(
        inputSchema={
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/x"}},
            "$defs": {"x": {"$ref": "#/$defs/x"}},
        }
    ),
    tool(inputSchema={"type": "object", "$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}]}}}),
    tool(inputSchema=laughs(28)),
    tool(inputSchema={"type": "object", "properties": {"a": {"allOf": [{"$ref": "#"}] * 40}}}),
    tool(inputSchema=deep(900)),
    tool(inputSchema=deep(20)),
    in_schema(**{f"p{n}": {} for n in range(2001)}),
    in_schema(text={"enum": [str(n) for n in range(30000)]}),
    in_schema(text={"type": "string", "pattern": "a" * 257}),
    in_schema(text={"type": "string", "pattern": "(?=x)y"}),
    in_schema(text={"type": "string", "pattern": "((a{1000}){1000}){1000}"}),
    tool(inputSchema={"type": "object", "patternProperties": {"(x": {}}}),
    in_schema(text={"type": "banana"}),
    tool(outputSchema={"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}),
    tool(outputSchema="x"),
    tool(icons=[{"src": "http://127.0.0.1:9/icon.svg"}]),
    tool(icons=[{"src": "javascript:alert(1)"}]),
    tool(icons=[{"src": "data:text/html;base64,AAAA"}]),
    tool(icons={"src": "https://example.com"}),
    in_schema(text={"type": "string", "x-mcp-header": "Authorization\r\nX-Evil: 1"}),
    in_schema(text={"type": "string", "x-mcp-header": ""}),
    in_schema(text={"type": "string", "x-mcp-header": 5}),
    in_schema(text={"type": "number", "x-mcp-header": "N"}),
    in_schema(text={"type": ["string"], "x-mcp-header": "N"}),
    in_schema(text={"x-mcp-header": "N"}),
    in_schema(a={"type": "string", "x-mcp-header": "N"}, b={"type": "string", "x-mcp-header": "n"}),
    in_schema(a={"type": "array", "items": {"type": "string", "x-mcp-header": "N"}}),
    in_schema(a={"anyOf": [{"type": "string", "x-mcp-header": "N"}]}),
    tool(inputSchema={"type": "object", "x-mcp-header": "N"}),
    in_schema(password={"type": "string", "x-mcp-header": "Region"}),
    in_schema(region={"type": "string", "x-mcp-header": "Api-Key"}),
    tool(_meta="x"),
    tool(_meta={"x": "A" * (300 << 10)}),
]


@pytest.mark.requirement("HTTP-26", "HTTP-28")
@pytest.mark.parametrize("definition", HOSTILE)
def test_hostile_tools_are_held_and_their_neighbours_are_not(definition):
    found = intake(announce(definition, tool(name="honest")))
    assert [one.name for one in found.accepted] == ["honest"]
    assert len(found.held) == 1
    assert found.held[0].reason
    assert found.held[0].name.isprintable()
    assert len(found.held[0].name) < 2000


@pytest.mark.parametrize("twin", ["echo", "ECHO", "Echo"])
def test_names_that_could_be_taken_for_each_other_are_all_held(twin):
    found = intake(announce(ECHO, tool(name=twin, description="another"), tool(name="other")))
    assert [one.name for one in found.accepted] == ["other"]
    assert len(found.held) == 2


def test_a_bad_twin_does_not_free_the_good_one():
    found = intake(announce(ECHO, {"name": "Echo"}))
    assert not found.accepted


def test_a_flood_holds_the_whole_server():
    found = intake(announce(*[tool(name=f"t{n}") for n in range(MAX_ITEMS + 1)], tool(name="t0")))
    assert not found.accepted
    assert "more than" in found.whole
    assert not intake(announce(*[tool(name=f"t{n}") for n in range(MAX_ITEMS)])).whole
    big = [tool(name=f"t{n}", _meta={"x": "A" * (200 << 10)}) for n in range(60)]
    assert intake(announce(*big)).whole
    wide = tool(inputSchema={"type": "object", "properties": {f"p{n}": {} for n in range(900)}})
    assert intake(announce(*[wide | {"name": f"t{n}"} for n in range(60)])).whole
    assert not intake(announce(*[wide | {"name": f"t{n}"} for n in range(20)])).whole


def other(kind, item):
    member = {"prompt": "prompts", "resource": "resources", "template": "templates"}[kind]
    return intake(announce(**{member: (item,)}))


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("prompt", {"name": "p"}),
        ("prompt", {"name": "p", "arguments": [{"name": "a", "required": True, "description": "x"}]}),
        ("resource", {"uri": "file:///srv/a%20b.txt", "name": "a", "mimeType": "text/plain", "size": 3}),
        ("resource", {"uri": "memo://insights", "name": "Insights"}),
        ("template", {"uriTemplate": "db://{table}/rows/{id}", "name": "row"}),
    ],
)
def test_honest_prompts_and_resources_are_accepted(kind, item):
    assert [one.kind for one in other(kind, item).accepted] == [kind]


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("prompt", {"name": "p", "arguments": {}}),
        ("prompt", {"name": "p", "arguments": [{"name": "a"}, {"name": "A"}]}),
        ("prompt", {"name": "p", "arguments": [{"name": ""}]}),
        ("prompt", {"name": "p", "arguments": [{"name": "a", "required": "yes"}]}),
        ("prompt", {"name": "p", "arguments": [{"name": "a", "description": 5}]}),
        ("prompt", {"name": "p", "description": "x\u202e"}),
        ("resource", {"uri": "relative/path", "name": "a"}),
        ("resource", {"uri": "javascript:alert(1)", "name": "a"}),
        ("resource", {"uri": "data:text/html,x", "name": "a"}),
        ("resource", {"uri": "file:///a b", "name": "a"}),
        ("resource", {"uri": "file:///a\r\nX: 1", "name": "a"}),
        ("resource", {"uri": "x://" + "a" * 2048, "name": "a"}),
        ("resource", {"uri": "x://a"}),
        ("resource", {"uri": "x://a", "name": "a", "size": "big"}),
        ("template", {"uriTemplate": "db://{+path}", "name": "a"}),
        ("template", {"uriTemplate": "db://{a,b}", "name": "a"}),
        ("template", {"uriTemplate": "db://{a}{b}", "name": "a"}),
        ("template", {"uriTemplate": "{scheme}://x", "name": "a"}),
        ("template", {"uriTemplate": "db://x", "name": "a"}),
        ("template", {"uriTemplate": "db://{a", "name": "a"}),
    ],
)
def test_hostile_prompts_and_resources_are_held(kind, item):
    found = other(kind, item)
    assert not found.accepted
    assert len(found.held) == 1


def test_instructions_are_a_definition_of_their_own():
    found = intake(announce(instructions="Use metric units."))
    assert (found.accepted[0].kind, found.accepted[0].name) == ("instructions", "")
    assert not intake(announce(instructions="")).accepted
    assert intake(announce(instructions="x\x1b[8m")).held
    assert intake(announce(instructions="x" * 20000)).held
    assert intake(announce(instructions=5)).held


def test_differences_are_told_by_path_and_safe_to_show():
    after = copy.deepcopy(FULL)
    after["description"] = "Reads\u202e a file\x1b[8m"
    after["inputSchema"]["required"] = ["path", "mode"]
    del after["title"]
    from limen.protocol.jsonrpc import canonical

    found = {one.path: one for one in changes(canonical(FULL), canonical(after))}
    assert set(found) == {"/description", "/inputSchema/required/1", "/title"}
    assert found["/title"].after is None
    assert all((one.before or "").isprintable() and (one.after or "").isprintable() for one in found.values())
    assert "\\u{202e}" in found["/description"].after
    assert changes(canonical(FULL), canonical(FULL)) == ()
    (flip,) = changes(b'{"a":1}', b'{"a":"1"}')
    assert flip.before != flip.after


@given(st.text())
@settings(max_examples=400, deadline=None)
def test_cleaned_text_has_nothing_a_terminal_obeys_and_cleaning_is_stable(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not set(cleaned) & set(
        map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160), 0x202E, 0x2066, 0xD800])
    )
    cleaned.encode()
    assert printable(text).isprintable()
    if text.isascii() and text.isprintable():
        assert cleaned is text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("ok \x1b[2J\x1b]52;c;ZWNobyBwd25lZA==\x07 done", "ok  done"),
        ("a\ud800b\0c\x85d\u2028e", "a\ufffdbcd\u2028e"),
        ("x\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        ("\x9b31mred", "red"),
        ("hi\ufe00\ufe01\U000e0100there", "hithere"),
        ("a\U000e0049\U000e0047b", "ab"),
        (
            "ناخواسته\u200cها و שלום \u200f 👩\u200d💻 ⚠\ufe0f\r\n\t",
            "ناخواسته\u200cها و שלום \u200f 👩\u200d💻 ⚠\ufe0f\r\n\t",
        ),
    ],
)
def test_cleaning_takes_sequences_and_leaves_languages(text, left):
    assert clean(text) == left


def test_secret_names():
    secret = ["password", "apiKey", "API_KEY", "accessToken", "token", "card number", "cvv", "client_secret", "PIN"]
    honest = ["name", "page_token", "next-token", "max_tokens", "secretary", "pinned", "keyboard", "author", "company"]
    secret += [
        "비밀번호를 입력하세요",
        "인증 번호",
        "パスワード",
        "请输入密码",
        "驗證碼",
        "Kennwort",
        "пароль",
        "pa\u200bssword",
    ]
    secret += ["раssword", "ｐａｓｓｗｏｒｄ", "pass\u00adword"]  # Cyrillic letters, full-width ones, a soft hyphen
    honest += ["암호화 방식", "도시 이름", "都市", "城市", "Stadt", "город", "번호", "号码"]
    assert [name for name in secret if not names_a_secret(name)] == []
    assert [name for name in honest if names_a_secret(name)] == []


def test_hidden_characters_are_named():
    assert hidden_character("a\u200bb") == "U+200B"
    assert hidden_character("plain\n\ttext ✓ é 中文 한국어") == ""
