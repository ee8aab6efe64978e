"""Feeds from strangers' files: only signed, only newer, and whatever is wrong, the last good one stays."""

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen.detection.feeds import MAX_INDICATORS, Feed, FeedRefused, signed
from limen.detection.settings import FeedSettings

KEY = Ed25519PrivateKey.generate()
ROWS = [
    {"id": "l1", "kind": "literal", "value": "Zanzibar Protocol"},
    {"id": "p1", "kind": "pattern", "value": r"beacon-[0-9]{6}"},
    {"id": "d1", "kind": "domain", "value": "collector.example"},
    {"id": "k1", "kind": "package", "value": "evil-mcp-server", "score": 0.7},
    {"id": "h1", "kind": "sha256", "value": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"},
]


def file(version: int = 1, rows: Any = ROWS, name: str = "acme", key: Ed25519PrivateKey = KEY, **more: Any) -> bytes:
    payload = json.dumps({"name": name, "version": version, "indicators": rows, **more}).encode()
    return signed(payload, key.sign)


def fresh(floor: int = 0) -> Feed:
    return Feed(KEY.public_key().public_bytes_raw(), floor)


def ids(feed: Feed, text: str) -> set[str]:
    return {finding.id for finding in feed.scan(text)}


@pytest.mark.parametrize(
    ("hostile", "honest", "id"),
    [
        ("follow the zanzibar PROTOCOL now", "we flew to Zanzibar; the protocol is TCP", "feed.literal"),
        ("GET /beacon-123456", "beacon-12345 ", "feed.pattern"),
        ("see https://x.y.Collector.EXAMPLE/?q=1", "see mycollector.example, collector.example.org", "feed.domain"),
        ("npm i evil-mcp-server", "npm i not-evil-mcp-server evil-mcp-server-docs", "feed.package"),
        ("hello", "hello ", "feed.sha256"),
    ],
)  # fmt: skip
def test_each_kind_finds_what_it_is_for_and_not_its_neighbour(hostile: str, honest: str, id: str) -> None:
    feed = fresh()
    assert feed.offer(file())
    assert ids(feed, hostile) == {id}
    assert ids(feed, honest) == set()


def test_findings_name_the_indicator_and_never_the_text() -> None:
    feed = fresh()
    feed.offer(file(7))
    (finding,) = feed.scan("npm i evil-mcp-server")
    assert (finding.family, finding.score, finding.detail) == ("feed", 0.7, "acme 7: k1")


def test_a_newer_version_is_swapped_in_and_the_same_file_changes_nothing() -> None:
    feed = fresh()
    assert feed.offer(file(1))
    assert not feed.offer(file(1))
    assert feed.offer(file(2, ROWS[1:]))
    assert ids(feed, "zanzibar protocol") == set()
    assert ids(feed, "beacon-123456") == {"feed.pattern"}


OTHER = Ed25519PrivateKey.generate()
GOOD = file(3)
BAD = {
    "another key": file(4, key=OTHER),
    "flipped": file(4).replace(b"evil", b"good"),
    "older": file(2),
    "same version, other content": file(3, ROWS[:2]),
    "another feed": file(4, name="other"),
    "no signature": b"{}",
    "empty": b"",
    "signature that is none": b"limen-feed/1 !!!!\n{}",
    "unknown kind": file(4, [{"id": "a", "kind": "yara", "value": "aaaaaaaa"}]),
    "unknown member": file(4, [{"id": "a", "kind": "literal", "value": "aaaaaaaa", "run": "x"}]),
    "pattern RE2 does not take": file(4, [{"id": "a", "kind": "pattern", "value": r"(?=abc)abc"}]),
    "pattern for everything": file(4, [{"id": "a", "kind": "pattern", "value": "(abc)*"}]),
    "literal for everything": file(4, [{"id": "a", "kind": "literal", "value": "e"}]),
    "domain that is a suffix": file(4, [{"id": "a", "kind": "domain", "value": "com"}]),
    "score out of range": file(4, [{**ROWS[0], "score": 2}]),
    "twice": file(4, [ROWS[0], ROWS[0]]),
    "version that is no number": file(True, ROWS),
    "too many": file(4, [{"id": f"d{n}", "kind": "domain", "value": f"d{n}.io"} for n in range(MAX_INDICATORS + 1)]),
    "too many patterns": file(4, [{"id": f"d{n}", "kind": "literal", "value": f"literal {n}"} for n in range(2001)]),
    "duplicate member": signed(b'{"name":"acme","version":4,"version":5,"indicators":[]}', KEY.sign),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_changes_nothing(bad: bytes) -> None:
    feed = fresh()
    feed.offer(GOOD)
    with pytest.raises(FeedRefused) as refused:
        feed.offer(bad)
    assert str(refused.value)
    assert feed.current is not None
    assert feed.current.version == 3
    assert ids(feed, "zanzibar protocol") == {"feed.literal"}
    assert feed.offer(file(4))


def test_a_restart_does_not_forget_which_version_was_in_force() -> None:
    feed = fresh(floor=3)
    with pytest.raises(FeedRefused):
        feed.offer(file(2))
    assert feed.scan("zanzibar protocol") == []
    assert feed.offer(file(3))


def test_without_a_feed_nothing_is_found() -> None:
    assert fresh().scan("zanzibar protocol") == []


def test_hostile_text_costs_linear_time() -> None:
    rows = [{"id": f"p{n}", "kind": "pattern", "value": rf"(a|b)*c{n}(x+x+)+y"} for n in range(200)]
    feed = fresh()
    feed.offer(file(1, rows))
    started = time.perf_counter()
    feed.scan("ab" * 20_000)
    small = time.perf_counter() - started
    started = time.perf_counter()
    feed.scan("ab" * 80_000)
    assert time.perf_counter() - started < 12 * small + 0.2


def test_a_large_feed_is_quick() -> None:
    def cost(count: int) -> float:
        rows = [{"id": f"d{n}", "kind": "domain", "value": f"d{n}.example"} for n in range(count)]
        feed = fresh()
        feed.offer(file(1, rows))
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            assert ids(feed, "a " * 2000 + f"https://d{count - 1}.example/") == {"feed.domain"}
            best = min(best, time.perf_counter() - started)
        return best

    assert cost(20_000) < 10 * cost(20)


def test_the_format_is_what_the_document_says() -> None:
    head, _, payload = file().partition(b"\n")
    label, signature = head.split(b" ")
    assert label == b"limen-feed/1"
    KEY.public_key().verify(base64.b64decode(signature), b"limen-feed/1\n" + payload)


@pytest.mark.parametrize(
    "url",
    ["http://feeds.example/a", "http://127.0.0.1.evil.example/a", "http://localhost@evil.example/a", "https://", "x"],
)
def test_a_feed_comes_over_tls_or_from_this_machine(url: str) -> None:
    key = base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError):
        FeedSettings(url=url, key=key)
    for honest in (
        "https://feeds.example/a?edition=2",
        "http://127.0.0.1:8080/a",
        "http://localhost/a",
        "http://[::1]/a",
    ):
        assert FeedSettings(url=honest, key=key).source == honest
