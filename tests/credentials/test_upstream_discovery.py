"""Where the authorization server of a server is found, in which order, and what of it is not believed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from credentials.account_kit import ISSUER, URL, House, World, reply
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.credentials.challenge import bearer, scopes
from limen.credentials.discovery import Found, Place, is_inside

PRM = "https://mcp.example/.well-known/oauth-protected-resource"
META = f"{ISSUER}/.well-known/oauth-authorization-server"


def find(tmp_path: Path, world: World, place: Place | None = None, challenge: str = "") -> Found:
    house = House(tmp_path, world, place)
    return asyncio.run(house.discovery.find(house.place, challenge))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer resource_metadata="https://a/x"', {"resource_metadata": "https://a/x"}),
        ('Basic realm="a, b=c", Bearer error="invalid_token", scope="a b"', {"error": "invalid_token", "scope": "a b"}),
        ('bearer scope=read , Digest qop="auth", nonce=x', {"scope": "read"}),
        ('Negotiate YII=, Bearer realm="q\\"uoted", unknown=1', {"realm": 'q"uoted', "unknown": "1"}),
        ("Bearer", {}),
        ('DPoP algs="ES256"', {}),
        ("", {}),
        ('Bearer scope="a", scope="b"', {}),
        ('Bearer scope="a" junk"', {}),
        ('Bearer scope="never closed', {}),
        ("Bearer " + "a=b, " * 4000, {}),
        ('Basic Bearer="x", scope="y"', {}),
        ('Basic realm="Bearer scope=evil"', {}),
    ],
)  # fmt: skip
@pytest.mark.requirement("CLI-28")
def test_a_challenge_is_read_in_one_way_or_not_at_all_cli28(header: str, expected: dict[str, str]) -> None:
    assert dict(bearer(header)) == expected


@pytest.mark.requirement("CLI-29")
def test_scopes_are_scope_tokens_cli29() -> None:
    assert scopes("read write read") == ("read", "write")
    assert scopes('read "evil') == scopes("a\tb") == scopes("a  b") == scopes(" ".join(map(str, range(65)))) == ()


@pytest.mark.requirement("CLI-01", "CLI-02")
def test_the_challenge_first_then_the_path_then_the_root_cli02(tmp_path: Path) -> None:
    world = World(challenge=f'Bearer resource_metadata="{PRM}/elsewhere"')
    world.documents[f"{PRM}/elsewhere"] = reply(world.resource())
    find(tmp_path, world)
    assert world.asked[:2] == [URL, f"{PRM}/elsewhere"]

    world = World(challenge="Bearer")
    world.documents[f"{PRM}/tools/mcp"] = Fetched(404, {}, b"")
    world.documents[PRM] = reply(world.resource(resource="https://mcp.example"))
    found = find(tmp_path, world)
    assert world.asked[:3] == [URL, f"{PRM}/tools/mcp", PRM]
    assert found.resource == "https://mcp.example"  # RFC 9728: the document at the root is about the origin


@pytest.mark.parametrize(
    ("issuer", "order"),
    [
        ("https://as.example", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        (
            "https://as.example/tenant/1",
            [
                "/.well-known/oauth-authorization-server/tenant/1",
                "/.well-known/openid-configuration/tenant/1",
                "/tenant/1/.well-known/openid-configuration",
            ],
        ),
    ],
)
@pytest.mark.requirement("CLI-03", "CLI-01")
def test_metadata_is_looked_for_in_the_order_of_the_specification_cli03(
    tmp_path: Path, issuer: str, order: list[str]
) -> None:
    world = World(issuer=issuer)
    last = f"https://as.example{order[-1]}"
    for path in order[:-1]:
        world.documents[f"https://as.example{path}"] = Fetched(404, {}, b"")
    world.documents[last] = reply(world.metadata())
    assert find(tmp_path, world).server.issuer == issuer
    assert world.asked[-len(order) :] == [f"https://as.example{path}" for path in order]


@pytest.mark.parametrize(
    "issuer", [f"{ISSUER}/", "https://AS.example", "https://as.example:443", "https://evil.example", None, 7]
)
@pytest.mark.requirement("CLI-04")
def test_metadata_of_another_issuer_is_not_used_cli04(tmp_path: Path, issuer: Any) -> None:
    world = World()
    world.documents[META] = reply(world.metadata(issuer=issuer))
    with pytest.raises(DependencyFault, match="issuer is"):
        find(tmp_path, world)


@pytest.mark.parametrize("methods", [None, [], ["plain"], "S256", ["s256"]])
@pytest.mark.requirement("CLI-11")
def test_without_pkce_nobody_is_sent_there_cli11(tmp_path: Path, methods: Any) -> None:
    world = World()
    world.documents[META] = reply(world.metadata(code_challenge_methods_supported=methods))
    with pytest.raises(DependencyFault, match="S256"):
        find(tmp_path, world)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "vbscript:x", "https://as.example/$(id)",
        "https://as.example/`id`", "https://as.example/a|b", "http://as.example/token", "https://evil.example/token",
        "https://as.example@evil.example/", "https://as.example.evil.example/", "https://as.example/#x",
        "//as.example/x",
        "https://as.example\\@evil.example", " https://as.example/x", "https://as.example/\n", "https:///x", "",
        "https://169.254.169.254/latest", "http://127.0.0.1/x", "HTTPS://as.example:x/", 5, ["https://as.example/x"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "revocation_endpoint"])
@pytest.mark.requirement("CLI-25", "CLI-23", "OA-47")
def test_endpoints_that_are_no_web_page_of_the_issuer_oa47_cli25(tmp_path: Path, name: str, url: Any) -> None:
    world = World()
    world.documents[META] = reply(world.metadata(**{name: url}))
    with pytest.raises(DependencyFault, match=name):
        find(tmp_path, world)


@pytest.mark.requirement("OA-47")
def test_endpoints_below_the_issuer_and_on_named_hosts_oa47(tmp_path: Path) -> None:
    world = World()
    told = world.metadata(token_endpoint="https://api.as.example/token", revocation_endpoint="https://keys.other/r")
    world.documents[META] = reply(told)
    with pytest.raises(DependencyFault, match=r"credential\.hosts"):
        find(tmp_path, world)
    found = find(tmp_path, world, Place("notes", URL, hosts=frozenset({"keys.other"})))
    assert found.server.token_endpoint == "https://api.as.example/token"
    assert found.server.revocation_endpoint == "https://keys.other/r"


@pytest.mark.requirement("OA-48")
@pytest.mark.parametrize(
    "resource",
    ["https://mcp.example/tools", f"{URL}/", "https://MCP.example/tools/mcp", "https://evil.example/mcp",
     "https://mcp.example/tools/mcp?x", "https://mcp.example", None, [URL]],
)  # fmt: skip
def test_metadata_for_another_resource_oa48(tmp_path: Path, resource: Any) -> None:
    world = World()
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(resource=resource))
    with pytest.raises(DependencyFault, match="resource is"):
        find(tmp_path, world)
    assert META not in world.asked


@pytest.mark.parametrize(
    "url",
    ["http://mcp.example/x", "https://10.0.0.1/x", "https://169.254.169.254/latest", "https://evil.example/prm",
     "file:///etc/passwd", "https://mcp.example@evil.example/", "https://mcp.example.evil.example/"],
)  # fmt: skip
@pytest.mark.requirement("CLI-22", "OA-48")
def test_a_challenge_leads_nowhere_else_oa48_cli22(tmp_path: Path, url: str) -> None:
    world = World(challenge=f'Bearer resource_metadata="{url}"')
    with pytest.raises(DependencyFault, match="resource_metadata"):
        find(tmp_path, world)
    assert world.asked == [URL]  # nothing was connected to


@pytest.mark.requirement("OA-48")
def test_a_server_in_a_private_network_leads_to_no_other_machine_of_it_oa48(tmp_path: Path) -> None:
    place = Place("notes", "https://10.1.2.3/mcp", private=True)
    assert is_inside(place)
    assert not is_inside(Place("notes", URL))
    assert is_inside(Place("notes", "http://127.0.0.1:1/mcp"))
    world = World(url=place.url, issuer="https://10.9.9.9", challenge="Bearer")
    with pytest.raises(DependencyFault, match="on the host"):
        find(tmp_path, world, place)
    assert not [url for url in world.asked if "10.9.9.9" in url]
    named = Place("notes", place.url, private=True, hosts=frozenset({"10.9.9.9"}))
    assert find(tmp_path, world, named).server.issuer == "https://10.9.9.9"


@pytest.mark.requirement("CLI-14", "OA-48")
def test_the_first_authorization_server_is_kept_to_oa48_cli14(tmp_path: Path) -> None:
    world = World()
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=[ISSUER, "https://b.example"]))
    assert find(tmp_path, world).server.issuer == ISSUER

    # Another one is put first: the known one is still asked.
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=["https://evil.example", ISSUER]))
    assert find(tmp_path, world).server.issuer == ISSUER

    # The known one is gone: nobody is sent anywhere until an operator says so.
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=["https://evil.example"]))
    house = House(tmp_path, world)
    with pytest.raises(DependencyFault, match=r"credential\.issuer"):
        asyncio.run(house.discovery.find(house.place))
    assert house.named("upstream_issuer")[0]["accepted"] is False
    assert not [url for url in world.asked if "evil" in url]

    # The operator names another one: that one it is.
    told = reply(world.metadata(issuer="https://new.example", **{
        name: f"https://new.example/{name}" for name in
        ("authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint")
    }))  # fmt: skip
    world.documents["https://new.example/.well-known/oauth-authorization-server"] = told
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=["https://new.example"]))
    place = Place("notes", URL, issuer="https://new.example")
    assert find(tmp_path, world, place).server.issuer == "https://new.example"


@pytest.mark.requirement("CLI-15")
def test_the_operators_issuer_must_be_named_by_the_server_cli15(tmp_path: Path) -> None:
    with pytest.raises(DependencyFault, match="names"):
        find(tmp_path, World(), Place("notes", URL, issuer="https://other.example"))


@pytest.mark.requirement("CLI-04")
def test_a_slash_behind_an_issuer_is_another_issuer_until_an_operator_says_which_cli04(tmp_path: Path) -> None:
    world = World()
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=[f"{ISSUER}/"]))
    with pytest.raises(DependencyFault, match="issuer is"):
        find(tmp_path, world)
    assert find(tmp_path, world, Place("notes", URL, issuer=ISSUER)).server.issuer == ISSUER


@pytest.mark.parametrize("listed", [[], "https://as.example", [7], None])
def test_no_authorization_server_named(tmp_path: Path, listed: Any) -> None:
    world = World()
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(authorization_servers=listed))
    with pytest.raises(DependencyFault, match="authorization_servers"):
        find(tmp_path, world)


@pytest.mark.parametrize(
    ("challenge", "offered", "wanted", "expected"),
    [
        ('Bearer scope="a b"', ["x"], None, ("a", "b")),
        ("Bearer", ["x", "y"], None, ("x", "y")),
        ("Bearer", None, None, ()),
        ('Bearer scope="a b"', ["x"], ("only",), ("only",)),
        ('Bearer scope="a"', ["x"], (), ()),
    ],
)
@pytest.mark.requirement("CLI-19", "CLI-29")
def test_scopes_of_the_challenge_then_of_the_metadata_then_none_cli19(
    tmp_path: Path, challenge: str, offered: Any, wanted: Any, expected: tuple[str, ...]
) -> None:
    world = World(challenge=challenge)
    world.documents[f"{PRM}/tools/mcp"] = reply(world.resource(scopes_supported=offered))
    assert find(tmp_path, world, Place("notes", URL, scopes=wanted)).scopes == expected


@pytest.mark.requirement("CLI-21")
def test_offline_access_where_the_authorization_server_has_it_cli21(tmp_path: Path) -> None:
    world = World()
    world.documents[META] = reply(world.metadata(scopes_supported=["read", "offline_access"]))
    assert find(tmp_path, world).scopes == ("read", "offline_access")


@pytest.mark.parametrize(
    "answer",
    [
        Fetched(200, {"content-type": "text/html"}, b"{}"),
        Fetched(200, {"content-type": "application/json"}, b'{"resource":"a","resource":"b"}'),
        Fetched(200, {"content-type": "application/json"}, b"[" * 1000),
        Fetched(200, {"content-type": "application/json"}, b'"text"'),
        Fetched(200, {"content-type": "application/json"}, b" " * (65 << 10)),
    ],
)
def test_documents_that_can_be_read_in_two_ways_or_not_at_all(tmp_path: Path, answer: Fetched) -> None:
    world = World()
    world.documents[f"{PRM}/tools/mcp"] = answer
    with pytest.raises(DependencyFault):
        find(tmp_path, world)


def test_redirects_and_errors_are_no_documents(tmp_path: Path) -> None:
    world = World()
    world.documents[META] = Fetched(302, {"location": "https://evil.example"}, b"")
    with pytest.raises(DependencyFault, match="publishes no"):
        find(tmp_path, world)
    assert not [url for url in world.asked if "evil" in url]
