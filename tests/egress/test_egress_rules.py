"""What an entry means, which addresses are never reached, and the words for a refusal (G5)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from limen.core.addresses import kind
from limen.sandbox.egress import MAX_PINS, REASONS, Bucket, Denied, Egress, Memory, Route, Window, data_like
from limen.sandbox.egress_rules import MAX_PORTS, EgressSettings, Rule, parse_destination

PUBLIC = ip_address("93.184.216.34")


def egress(*allow: Any, **more: Any) -> Egress:
    return Egress("files", EgressSettings.model_validate({"allow": list(allow), **more}))


def reason(found: Any) -> str:
    assert isinstance(found, Denied), found
    return found.reason


# entries


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("api.example.com:443", ("api.example.com", False, None, 443)),
        ("API.Example.COM.:443", ("api.example.com", False, None, 443)),
        ("*.example.org:8443", ("example.org", True, None, 8443)),
        ("bücher.example:443", ("xn--bcher-kva.example", False, None, 443)),
        ("xn--bcher-kva.example:443", ("xn--bcher-kva.example", False, None, 443)),
        ("192.0.2.7:5432", ("", False, ip_address("192.0.2.7"), 5432)),
        ("[2001:db8::7]:443", ("", False, ip_address("2001:db8::7"), 443)),
        ("db:5432", ("db", False, None, 5432)),
        ("my_host.example.org:80", ("my_host.example.org", False, None, 80)),
    ],
)
def test_entries_that_can_be_read(text: str, meaning: Any) -> None:
    assert parse_destination(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "*", "*:443", "example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:+1", "a.b:53",
        "https://example.com:443", "example.com:443/path", "10.0.0.0/8:443", "*.com:443", "a.*.com:443", "*a.com:443",
        "**.a.com:443", "2130706433:80", "0x7f000001:80", "0177.0.0.1:80", "127.1:80", "1.2.3:80", "a.0x7f:80",
        "::1:443", "[1.2.3.4]:443", "[fe80::1%eth0]:443", "[::ffff:1.2.3.4]:443", "224.0.0.1:443", "0.0.0.0:443",
        "localhost:80", "x.localhost:80", "straße.de:443", "a..b:443", "-a.b:443", "a b.c:443", "a\u200db.c:443",
        f"{'a' * 64}.com:443", f"{'a.' * 130}com:443", "a.com:４４３", "*.*.a.com:443", "user@a.com:443",
    ],
)  # fmt: skip
def test_entries_that_are_refused(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EgressSettings.model_validate([text])
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ValueError):
        parse_destination(text)


@pytest.mark.parametrize(
    "allow",
    [
        ["a.test:443", "A.test:443"],
        [{"to": "a.test:443", "methods": ["GET"]}],
        [{"to": "a.test:80", "methods": ["CONNECT"]}],
        [{"to": "10.0.0.1:80", "allow_private": True}],
        [{"to": "a.test:443", "protocol": "udp"}],
        [{"to": "a.test:443", "protocl": "tls"}],
        [f"a.test:{port}" for port in range(1000, 1001 + MAX_PORTS)],
    ],
)
def test_settings_that_contradict_themselves(allow: Any) -> None:
    with pytest.raises(ValidationError):
        EgressSettings.model_validate(allow)


def test_short_and_long_form_mean_the_same() -> None:
    short = EgressSettings.model_validate(["a.test:443", "b.test:80"])
    assert short == EgressSettings.model_validate({"allow": [{"to": "a.test:443"}, {"to": "b.test:80"}]})
    assert [one.compiled().protocol for one in short.allow] == ["tls", "http"]
    assert short.ports == (80, 443)
    assert short.active
    nothing = EgressSettings.model_validate([])
    assert (nothing.active, nothing.ports) == (False, ())
    learning = EgressSettings.model_validate({"mode": "learn"})
    assert learning.active
    assert {80, 443, 5432} <= set(learning.ports)


# names


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("xexample.org", False),
        ("a.example.org.evil.test", False),
        ("", False),
        (".example.org", True),
    ],
)
def test_what_a_wildcard_takes_in(name: str, allowed: bool) -> None:
    one = egress("*.example.org:443")
    if name == ".example.org":
        with pytest.raises(ValueError):
            parse_destination("*..example.org:443")
        return
    assert (one.question(name, one.memory(), 0) is None) is allowed


def test_an_exact_rule_goes_before_a_wildcard_and_a_longer_before_a_shorter() -> None:
    one = egress(
        {"to": "*.test.org:80", "methods": ["POST"]},
        {"to": "*.b.test.org:80", "methods": ["PUT"]},
        {"to": "a.b.test.org:80", "methods": ["GET"]},
    )
    memory = one.memory()

    def allowed(name: str) -> set[str]:
        memory.pin(name, [PUBLIC], 0)
        route = one.connect(PUBLIC, 80, memory, 0)
        assert isinstance(route, Route)
        return {method for method in ("GET", "PUT", "POST") if isinstance(one.http(route, method, name, None), Rule)}

    assert allowed("a.b.test.org") == {"GET"}
    assert allowed("c.b.test.org") == {"PUT"}
    assert allowed("c.test.org") == {"POST"}


def test_names_below_a_wildcard_are_counted_and_a_plain_name_is_not() -> None:
    one = egress("*.w.test:443", "plain.test:443", limits={"names": 3})
    memory = one.memory()
    assert [one.question(f"n{n}.w.test", memory, 0) for n in range(3)] == [None] * 3
    assert reason(one.question("n4.w.test", memory, 1)) == "dns.names"
    assert one.question("n1.w.test", memory, 1) is None  # known
    assert one.question("plain.test", memory, 1) is None
    assert one.question("n5.w.test", memory, 3601) is None


@pytest.mark.parametrize(
    ("below", "data"),
    [
        ("www", False),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", False),
        ("myapp.happyhill-70162bb9.canadacentral", False),
        ("my-company-production-data-archive-2024-eu-central", False),
        ("d111111abcdef8", False),
        ("mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhfqwmnrv", True),
        ("4a6f686e20446f652c20766973612034.3131312031313131203131313120313131312c.2065787020303132", True),
        ("a." * 8 + "a", True),
        ("a" * 101, True),
    ],
)
def test_what_looks_like_data(below: str, data: bool) -> None:
    assert data_like(below) is data


# addresses

INNER = {
    "169.254.169.254": "metadata", "168.63.129.16": "metadata", "100.100.100.200": "metadata",
    "fd00:ec2::254": "metadata",
    "127.0.0.1": "loopback", "127.9.9.9": "loopback", "::1": "loopback", "169.254.1.1": "link-local",
    "fe80::1": "link-local", "0.0.0.0": "unspecified", "::": "unspecified", "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "::ffff:8.8.8.8": "embedded", "::7f00:1": "embedded", "64:ff9b::8.8.8.8": "embedded", "64:ff9b:1::1": "embedded",
    "2002:7f00:1::": "embedded", "2001:0:4136:e378::1": "embedded", "10.0.0.1": "private", "172.16.0.1": "private",
    "192.168.0.1": "private", "100.64.0.1": "private", "fc00::1": "private", "0.1.2.3": "reserved",
    "192.0.0.8": "reserved", "192.88.99.1": "reserved", "198.18.0.1": "reserved", "203.0.113.1": "reserved",
    "240.0.0.1": "reserved", "255.255.255.255": "reserved", "fec0::1": "reserved", "2001:db8::1": "reserved",
    "3fff::1": "reserved", "5f00::1": "reserved", "100::1": "reserved",
}  # fmt: skip


@pytest.mark.parametrize(("text", "what"), INNER.items())
def test_addresses_that_are_not_public(text: str, what: str) -> None:
    address = ip_address(text)
    assert kind(address) == what
    one = egress("a.test:443", {"to": "private.test:443", "allow_private": True})
    assert one.usable("a.test", [PUBLIC, address]) == ([PUBLIC], f"{address} ({what})")
    assert (one.usable("private.test", [address])[0] == [address]) is (what == "private")
    memory = one.memory()
    memory.pin("a.test", [address], 0)  # as if it had been public when it was handed out
    assert reason(one.connect(address, 443, memory, 0)) == "connect.address"


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses(text: str) -> None:
    assert kind(ip_address(text)) == ""


def test_an_address_that_is_listed_may_be_reached_by_name_too_on_its_port_only() -> None:
    inner = ip_address("127.0.0.1")
    one = egress({"to": "127.0.0.1:8080", "protocol": "http"}, "a.test:8080", "a.test:8081")
    assert one.usable("a.test", [inner]) == ([inner], "")
    memory = one.memory()
    memory.pin("a.test", [inner], 0)
    assert isinstance(one.connect(inner, 8080, memory, 0), Route)
    assert reason(one.connect(inner, 8081, memory, 0)) == "connect.address"


def test_this_machines_own_public_address_is_an_inner_one() -> None:
    one = Egress("files", EgressSettings.model_validate(["a.test:443"]), lambda address: address == PUBLIC)
    assert one.usable("a.test", [PUBLIC]) == ([], f"{PUBLIC} (of this machine)")
    inner = ip_address("10.0.0.1")
    private = EgressSettings.model_validate([{"to": "a.test:443", "allow_private": True}])
    assert Egress("files", private, lambda address: True).usable("a.test", [inner])[0] == []
    assert Egress("files", private).usable("a.test", [inner])[0] == [inner]
    listed = Egress("files", EgressSettings.model_validate([f"{PUBLIC}:443"]), lambda address: True)
    assert isinstance(listed.connect(PUBLIC, 443, listed.memory(), 0), Route)


def test_what_was_handed_out_is_forgotten_in_time_and_number() -> None:
    one = egress("a.test:443")
    memory = one.memory()
    memory.pin("a.test", [PUBLIC], 0)
    assert isinstance(one.connect(PUBLIC, 443, memory, 899), Route)
    assert reason(one.connect(PUBLIC, 443, memory, 901)) == "connect.unnamed"
    for number in range(MAX_PINS + 50):
        memory.pin("a.test", [ip_address(0x5DB80000 + number)], 0)
    assert len(memory.pins) == MAX_PINS


def test_cells_share_nothing() -> None:
    one = egress("a.test:443")
    first, second = one.memory(), one.memory()
    first.pin("a.test", [PUBLIC], 0)
    assert reason(one.connect(PUBLIC, 443, second, 0)) == "connect.unnamed"


# protocols


def test_tls_by_name_address_and_hidden() -> None:
    one = egress("a.test:443", "b.test:443", f"{PUBLIC}:8443")
    memory: Memory = one.memory()
    memory.pin("a.test", [PUBLIC], 0)
    route = one.connect(PUBLIC, 443, memory, 0)
    assert isinstance(route, Route)
    assert isinstance(one.tls(route, "a.test", False), Rule)
    assert reason(one.tls(route, "", False)) == "tls.unnamed"
    assert reason(one.tls(route, "b.test", False)) == "tls.name"
    assert reason(one.tls(route, "a.test", True)) == "tls.ech"
    loose = egress("a.test:443", unsafe_ech=True)
    assert isinstance(loose.tls(route, "a.test", True), Rule)
    literal = one.connect(PUBLIC, 8443, memory, 0)
    assert isinstance(literal, Route)
    assert isinstance(one.tls(literal, "", False), Rule)
    assert reason(one.tls(literal, "evil.test", False)) == "tls.name"


def test_http_to_an_address() -> None:
    one = egress("10.0.0.5:80")
    route = one.connect(ip_address("10.0.0.5"), 80, one.memory(), 0)
    assert isinstance(route, Route)
    assert isinstance(one.http(route, "GET", "10.0.0.5", 80), Rule)
    assert reason(one.http(route, "GET", "evil.test", 80)) == "http.host"


def test_rules_that_differ_about_what_is_spoken() -> None:
    one = egress({"to": "h.test:8080", "protocol": "http"}, {"to": "t.test:8080", "protocol": "tls"})
    memory = one.memory()
    for name in ("h.test", "t.test"):
        memory.pin(name, [PUBLIC], 0)
    route = one.connect(PUBLIC, 8080, memory, 0)
    assert isinstance(route, Route)
    assert (route.protocol(22), route.protocol(71)) == ("tls", "http")
    assert reason(one.tls(route, "h.test", False)) == "tls.malformed"
    assert reason(one.http(route, "GET", "t.test", None)) == "http.malformed"


# words and numbers


@pytest.mark.parametrize("name", REASONS)
def test_every_refusal_names_server_reason_and_remedy_in_one_line(name: str) -> None:
    said = egress("a.test:443").say(Denied(name, "a.test:443", "more", "a.test:443"))
    assert said.startswith("files: a.test:443 refused, rule a.test:443: ")
    assert REASONS[name] in said
    assert "\n" not in said
    if name == "contained.cut":
        assert "limen contain release" in said
    elif not name.startswith(
        ("fault.", "dns.malformed", "dns.type", "dns.failed", "dns.shape", "connect.failed", "http.c", "contained.")
    ):
        assert "mcpServers.files.security.egress" in said


def test_windows_and_buckets() -> None:
    window = Window(10)
    assert [window.take(5, now) for now in (0, 1, 2, 3599, 3601)] == [True, True, False, False, True]
    bucket = Bucket(2)
    assert [bucket.take(0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert bucket.take(1)


def test_explain_agrees_with_what_is_decided() -> None:
    one = egress("a.test:443", "10.0.0.1:22")
    assert isinstance(one.explain("a.test", None, 443), Rule)
    assert reason(one.explain("a.test", None, 444)) == "connect.port"
    assert reason(one.explain("b.test", None, 443)) == "dns.not_allowed"
    assert isinstance(one.explain("", ip_address("10.0.0.1"), 22), Rule)
    assert reason(one.explain("", ip_address("10.0.0.2"), 22)) == "connect.address"
    assert reason(one.explain("", PUBLIC, 22)) == "connect.unnamed"
