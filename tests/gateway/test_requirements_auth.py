"""Rules of MCP authorization and attacks on it, at the running gateway (AUTH, AU, OA rows of tests/requirements.py)."""

from __future__ import annotations

import base64
import http.client
import json
import stat
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from challenges import read_challenges
from gateway.running import ISSUER, Running, running
from gateway.wire import EVERY, JSON, LIST, NEW, OLD, PING, ask, bearer, message
from limen.core.call import Era

THIEF = ECKey.generate_key("P-256", {"kid": "test", "alg": "ES256", "use": "sig"})
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("auth"), tools=("echo", "danger")) as started:
        yield started


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(gateway: Running) -> dict[str, str | None]:
    """Credentials that are none, by what is wrong with them."""
    good, now = gateway.token(), int(time.time())
    claims = json.loads(base64.urlsafe_b64decode(good.split(".")[1] + "=="))
    return {
        "none at all": None,
        "garbage": "garbage",
        "another key": jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": "test"}, claims, THIEF),
        "alg none": f"{segment({'alg': 'none', 'typ': 'at+jwt'})}.{segment(claims)}.",
        "no signature": good.rpartition(".")[0] + ".",
        "expired": gateway.token(iat=now - 900, exp=now - 600),
        "not yet": gateway.token(nbf=now + 600),
        "other issuer": gateway.token(iss="https://evil.example"),
        "next door": gateway.token(server="two"),
        "two audiences": gateway.token(aud=[f"http://127.0.0.1:{gateway.port}/mcp/one", "https://evil.example"]),
        "no audience": gateway.token(aud=None),
    }


def metadata(gateway: Running, path: str = "/mcp/one", **headers: str) -> Any:
    status, answered, body = ask(gateway, "GET", f"{WELL_KNOWN}{path}", headers)
    assert (status, answered["content-type"]) == (200, "application/json")
    return json.loads(body)


def bearer_challenge(headers: dict[str, str]) -> dict[str, str]:
    """What the challenge says to somebody who has no key to prove possession of."""
    return dict(read_challenges(headers["www-authenticate"]))["Bearer"]


def resource(gateway: Running, path: str = "/mcp/one") -> str:
    return f"http://127.0.0.1:{gateway.port}{path}"


@pytest.mark.requirement("AUTH-01", "AUTH-02", "AUTH-03", "AUTH-22")
@pytest.mark.parametrize("path", ["/mcp/one", "/mcp/two", "/mcp"])
def test_each_route_describes_itself_where_its_challenge_says(gateway: Running, path: str) -> None:
    document = metadata(gateway, path)
    assert document["resource"] == resource(gateway, path)
    assert document["authorization_servers"] == [ISSUER]
    status, headers, _ = ask(gateway, "POST", path, JSON, PING)
    told = bearer_challenge(headers)["resource_metadata"]
    assert status == 401
    assert told == f"http://127.0.0.1:{gateway.port}{WELL_KNOWN}{path}"
    assert json.loads(ask(gateway, "GET", told.partition(f":{gateway.port}")[2])[2]) == document


@pytest.mark.requirement("AUTH-01", "AUTH-03")
def test_the_root_form_describes_the_bundle_of_all(gateway: Running) -> None:
    assert metadata(gateway, "")["resource"] == resource(gateway, "/mcp")
    assert ask(gateway, "GET", f"{WELL_KNOWN}/mcp/none")[0] == 404


@pytest.mark.requirement("AUTH-04", "AU-01", "AU-03", "HTTP-04")
@pytest.mark.parametrize(("method", "era"), EVERY, ids=str)
def test_no_method_answers_without_a_token_that_is_good_here(gateway: Running, method: str, era: Era) -> None:
    body, headers = message(method, era)
    before = gateway.calls_seen()
    for what, token in forged(gateway).items():
        status, answered, said = ask(gateway, headers={**headers, **bearer(token)}, body=body)
        assert status == 401, what
        assert answered["www-authenticate"].startswith("Bearer "), what
        assert b"result" not in said, what
    assert gateway.calls_seen() == before


@pytest.mark.requirement("AUTH-04", "SES-02", "HTTP-04")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_streams_and_the_end_of_a_session_need_a_token_as_well(gateway: Running, method: str) -> None:
    session = gateway.session(gateway.token())
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session, "MCP-Protocol-Version": OLD}
    for what, token in forged(gateway).items():
        assert ask(gateway, method, headers={**headers, **bearer(token)})[0] == 401, what
    assert gateway.post(LIST, gateway.token(), Mcp_Session_Id=session, MCP_Protocol_Version=OLD)[0] == 200  # unharmed


@pytest.mark.requirement("AUTH-04", "AU-01")
@pytest.mark.parametrize(("method", "era"), EVERY, ids=str)
def test_the_honest_twin_gets_past_authentication(gateway: Running, method: str, era: Era) -> None:
    """Whatever a method answers to somebody with a token and a session, it is not 401."""
    if method == "subscriptions/listen":  # answered by a stream without an end
        return
    body, headers = message(method, era)
    if era is Era.HANDSHAKE and method != "initialize":
        headers["Mcp-Session-Id"] = gateway.session(gateway.token())
    status, _, _ = ask(gateway, headers={**headers, **bearer(gateway.token())}, body=body)
    assert status in (200, 202, 403)  # nothing but `echo` may be used


@pytest.mark.requirement("AUTH-09")
def test_a_token_that_expires_between_two_calls(gateway: Running) -> None:
    now = int(time.time())
    token = gateway.token(iat=now - 300, exp=now - 26)  # clocks may differ by half a minute
    assert gateway.call("echo", token)[0] == 200
    gateway.until(lambda: gateway.call("echo", token)[0] == 401, 20)
    body, headers = message("tools/list", Era.MODERN)
    _, answered, _ = ask(gateway, headers={**headers, **bearer(token)}, body=body)
    assert bearer_challenge(answered)["error"] == "invalid_token"
    assert gateway.call("echo", gateway.token())[0] == 200


@pytest.mark.requirement("AUTH-10")
def test_each_cause_has_its_status(gateway: Running) -> None:
    def answer(*authorization: str, **more: str) -> tuple[int, str | None]:
        body, headers = message("tools/call", Era.MODERN)
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        connection.putrequest("POST", "/mcp/one")
        data = json.dumps(body).encode()
        for name, value in {**headers, **more, "Content-Length": str(len(data))}.items():
            connection.putheader(name, value)
        for value in authorization:
            connection.putheader("Authorization", value)
        connection.endheaders(data)
        got = connection.getresponse()
        answered = {name.lower(): value for name, value in got.getheaders()}
        got.read()
        connection.close()
        return got.status, bearer_challenge(answered).get("error") if "www-authenticate" in answered else None

    good = f"Bearer {gateway.token()}"
    assert answer(good) == (200, None)
    assert answer() == (401, None)
    assert answer("Bearer x") == (401, "invalid_token")
    assert answer("Basic YTpi") == (401, "invalid_token")
    assert answer(good, good)[0] == 400
    assert answer(good, "Basic YTpi")[0] == 400
    assert answer(f"Bearer {gateway.token(scope='other')}") == (403, "insufficient_scope")


@pytest.mark.requirement("AUTH-11", "AUTH-12", "AUTH-14", "AU-04")
def test_challenges_name_the_scope_and_are_the_same_for_everybody(gateway: Running) -> None:
    body, headers = message("tools/call", Era.MODERN)
    challenges: dict[int, set[str]] = {401: set(), 403: set()}
    before = gateway.calls_seen()
    for token in (None, gateway.token(scope="other"), gateway.token("bob", scope=""), gateway.token("eve", exp=5)):
        status, answered, _ = ask(gateway, headers={**headers, **bearer(token)}, body=body)
        parameters = bearer_challenge(answered)
        assert parameters["resource_metadata"] == f"http://127.0.0.1:{gateway.port}{WELL_KNOWN}/mcp/one"
        assert (parameters.get("error") == "insufficient_scope") is (status == 403)
        challenges[status].add(parameters["scope"])
    assert challenges == {401: {"use"}, 403: {"use"}}
    assert gateway.calls_seen() == before
    assert gateway.call("echo", gateway.token("bob"))[0] == 200


@pytest.mark.requirement("AUTH-24")
def test_a_refusal_for_want_of_scope_is_recorded_once_under_the_clients_reference(gateway: Running) -> None:
    status, body = gateway.call("echo", gateway.token("climber", scope="other"))
    reference = body["error"]["data"]["reference"]
    assert (status, body["error"]["data"]["scopes"]) == (403, ["use"])
    gateway.until(lambda: any(record["ref"] == reference for record in gateway.records("refusal")))
    (found,) = [record for record in gateway.records("refusal") if record["ref"] == reference]
    assert (found["sub"], found["reason"], found["name"]) == ("climber", "identity.scope", "echo")


@pytest.mark.requirement("AUTH-22", "HTTP-05", "AU-12")
@pytest.mark.parametrize(
    "path",
    ["/mcp/one/", "/mcp//one", "/mcp/%6fne", "/MCP/one", "/mcp/One", "/mcp/none", "/mcp/", "/mcp/one/../two", "/sse",
     "/message", "/mcp/one;x=1", "//mcp/one", "/mcp/one%00", "/", "/servers/one/mcp", "/mcp/*"],
)  # fmt: skip
def test_no_other_path_is_an_endpoint(gateway: Running, path: str) -> None:
    body, headers = message("tools/list", Era.MODERN)
    for token in (gateway.token(), gateway.token(aud=resource(gateway, path)), None):
        status, answered, said = ask(gateway, "POST", path, {**headers, **bearer(token)}, body)
        assert (status, said) == (404, b"")
        assert "www-authenticate" not in answered
    assert ask(gateway, headers={**headers, **bearer(gateway.token())}, body=body)[0] == 200


@pytest.mark.requirement("AUTH-22", "OA-66")
@pytest.mark.parametrize("audience", ["/mcp/one/", "/mcp/one?", "/mcp/one#", "/mcp", "/", "/MCP/one"])
def test_an_audience_has_one_spelling(gateway: Running, audience: str) -> None:
    assert gateway.call("echo", gateway.token(aud=resource(gateway, audience)))[0] == 401
    assert gateway.call("echo", gateway.token(aud=resource(gateway)))[0] == 200


@pytest.mark.requirement("AU-13", "SES-21")
def test_nobody_names_himself_in_a_header(gateway: Running) -> None:
    names = ("X-User", "X-Forwarded-User", "Remote-User", "X-Remote-User", "X-Authenticated-User", "X-Roles",
             "X-Auth-Request-User", "X-Ms-Client-Principal-Name", "X-Client-Cert", "X-Forwarded-Client-Cert",
             "X-Scopes")  # fmt: skip
    claims = dict.fromkeys(names, "root")
    body, headers = message("tools/call", Era.MODERN)
    assert ask(gateway, headers={**headers, **claims}, body=body)[0] == 401
    poor = bearer(gateway.token("pretender", scope="other"))
    assert ask(gateway, headers={**headers, **claims, **poor}, body=body)[0] == 403
    rich = bearer(gateway.token("pretender"))
    assert ask(gateway, headers={**headers, **claims, **rich}, body=body)[0] == 200
    gateway.until(lambda: any(record["sub"] == "pretender" for record in gateway.records("intent")))
    assert not [record for record in gateway.records("intent") if record["sub"] == "root"]
    assert not any("root" in head for head, _ in gateway.recorder.seen)


@pytest.mark.requirement("AU-05", "AU-18")
def test_what_is_denied_is_reached_by_no_other_method(gateway: Running) -> None:
    """`danger` is a denied tool; under every method that names something it is not there."""
    before = len(gateway.recorder.seen)
    for method, era in EVERY:
        body, headers = message(method, era)
        text = json.dumps(body).replace('"echo"', '"danger"')
        if "danger" not in text or era is not Era.MODERN:
            continue
        sent = {**headers, **bearer(gateway.token())}
        if "Mcp-Name" in sent:
            sent["Mcp-Name"] = "danger"
        status, _, said = ask(gateway, headers=sent, body=json.loads(text))
        assert (status, json.loads(said)["error"]["code"]) == (200, -32602), method
    assert not [body for _, body in gateway.recorder.seen[before:] if b"danger" in body]
    assert gateway.call("echo", gateway.token())[0] == 200


@pytest.mark.requirement("OA-93", "AUTH-03")
def test_what_we_say_we_are_does_not_come_from_the_request(gateway: Running) -> None:
    told = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher", "X-Original-Host": "evil.example",
            "Forwarded": "host=evil.example;proto=http", "X-Forwarded-Prefix": "/evil",
            "X-Original-URL": "/evil"}  # fmt: skip
    assert metadata(gateway, **told) == metadata(gateway)
    _, plain, _ = ask(gateway, headers=JSON, body=PING)
    _, lied, _ = ask(gateway, headers={**JSON, **told}, body=PING)
    assert lied["www-authenticate"] == plain["www-authenticate"]
    assert "evil" not in json.dumps(metadata(gateway, Host="evil.example"))
    assert ask(gateway, headers={**JSON, "Host": "evil.example"}, body=PING)[0] == 403


@pytest.mark.requirement("OA-90", "OA-91", "HTTP-09")
def test_answers_are_for_nobody_elses_script_and_no_cache(gateway: Running) -> None:
    body, headers = message("tools/call", Era.MODERN)
    own = {"Origin": f"http://127.0.0.1:{gateway.port}"}
    good = bearer(gateway.token())
    answers = [
        ask(gateway, headers={**headers, **good}, body=body),
        ask(gateway, headers={**headers, **good, **own}, body=body),
        ask(gateway, headers={**headers, **own}, body=body),
        ask(gateway, headers={**headers, **good, "Origin": "https://evil.example"}, body=body),
        ask(gateway, headers={**headers, **bearer(gateway.token(scope=""))}, body=body),
        ask(gateway, headers={**JSON, **good}, body=b"{"),
        ask(gateway, "OPTIONS", headers={**own, "Access-Control-Request-Method": "POST"}),
        ask(gateway, "GET", "/nowhere"),
    ]
    assert [answer[0] for answer in answers] == [200, 200, 401, 403, 403, 400, 405, 404]
    for status, answered, said in answers:
        assert answered["cache-control"] == "no-store", status
        assert answered["x-content-type-options"] == "nosniff", status
        assert not [name for name in answered if name.startswith("access-control-")], status
        assert answered.get("content-type", "") == ("application/json" if said else ""), status
    _, public, _ = ask(gateway, "GET", f"{WELL_KNOWN}/mcp/one", own)
    assert public["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in public


@pytest.mark.requirement("OA-89")
def test_what_clients_write_stays_one_line_of_the_log(gateway: Running) -> None:
    body, headers = message("tools/call", Era.MODERN)
    evil = 'x\r\n{"t":"intent","sub":"root"}\x1b[2J</script>'
    body["params"]["_meta"] = {
        **body["params"]["_meta"],
        "io.modelcontextprotocol/clientInfo": {"name": evil, "version": ""},
    }
    body["params"]["name"] = headers["Mcp-Name"] = "echo<script>"
    status, _, said = ask(gateway, headers={**headers, **bearer(gateway.token("writer"))}, body=body)
    assert status == 200
    assert b"script" not in said
    gateway.until(lambda: any(record.get("sub") == "writer" for record in gateway.records("refusal")))
    assert not [record for record in gateway.records("intent") if record["sub"] == "root"]
    shown = gateway.limen("audit", "tail", "-n", "50")
    assert "\x1b" not in shown
    assert "\r" not in shown


@pytest.mark.requirement("OA-92", "AUTH-19")
def test_what_is_kept_is_ours_alone_and_holds_no_token(gateway: Running) -> None:
    token = gateway.token("keeper")
    session = gateway.session(token)
    assert gateway.call("echo", token)[0] == 200
    secrets = [part.encode() for part in (*token.split(".")[1:], session)]
    state = gateway.directory / "limen-state"
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert not any(secret in path.read_bytes() for secret in secrets), path
        reachable = [path, *[parent for parent in path.parents if parent.is_relative_to(state)]]
        assert not all(stat.S_IMODE(one.stat().st_mode) & 0o077 for one in reachable), (
            path
        )  # some step keeps others out
    for key in (*state.rglob("*.key"), *state.rglob("kek")):
        assert stat.S_IMODE(key.stat().st_mode) & 0o077 == 0, key
    assert not any(secret in gateway.log.encode() for secret in secrets)


@pytest.mark.requirement("AU-20", "AUTH-17")
def test_more_sessions_clients_and_connections_are_not_more_calls(tmp_path: Any) -> None:
    with running(tmp_path, approved=("one",), tools=("echo",), limits={"rate": 0.001, "burst": 12}) as gateway:
        statuses = []
        for number in range(10):
            token = gateway.token(client_id=f"client-{number}", jti=f"t{number}")
            status, _, _ = gateway.post(message("initialize", Era.HANDSHAKE)[0], token)
            statuses += [status, gateway.call("echo", token)[0]]
        assert statuses == [200] * 12 + [429] * 8
        assert gateway.calls_seen() == 6
        assert gateway.call("echo", gateway.token("bob"))[0] == 200


@pytest.mark.requirement("AUTH-17", "SES-01")
def test_a_connection_that_was_let_in_is_not_let_in_again(gateway: Running) -> None:
    body, headers = message("tools/call", Era.MODERN)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    seen = []
    for token in (gateway.token(), None, gateway.token(), None):
        connection.request("POST", "/mcp/one", json.dumps(body), {**headers, **bearer(token)})
        answer = connection.getresponse()
        answer.read()
        seen.append(answer.status)
    connection.close()
    assert seen == [200, 401, 200, 401]
    assert NEW in headers.values()
