"""B5, B7: TLS 1.3 and certificate-bound tokens (RFC 8705) against the running gateway, and proxies that tell of one."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.running import META, Running, running
from launched import free_port
from limen.core.verdict import Refuse
from limen.gateway.certificates import ForwardedCertificates, thumbprint

SERVERS, CLIENTS, STRANGERS = trustme.CA(), trustme.CA(), trustme.CA()
ALICE, MALLORY = CLIENTS.issue_cert("alice@example.org"), CLIENTS.issue_cert("mallory@example.org")
FOREIGN = STRANGERS.issue_cert("alice@example.org")
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
OLD = CLIENTS.issue_cert("old@example.org", not_after=YESTERDAY)
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
SENT = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}


def der(leaf: trustme.LeafCert) -> bytes:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)


def x5t(leaf: trustme.LeafCert) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(der(leaf)).digest()).rstrip(b"=").decode()


def client(leaf: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    SERVERS.configure_trust(context)
    if leaf is not None:
        leaf.configure_cert(context)
    return context


def ask(
    port: int, token: str | None, leaf: trustme.LeafCert | None = None, server: str = "one", **headers: str
) -> tuple[int, dict[str, str]]:
    """tools/list over TLS: status and headers."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=client(leaf))
    sent = {**SENT, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    with contextlib.closing(connection):
        connection.request("POST", f"/mcp/{server}", json.dumps(LIST), sent)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def connected(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="127.0.0.1")


def pems(directory: Path) -> dict[str, str]:
    leaf = SERVERS.issue_cert("127.0.0.1", "localhost")
    leaf.private_key_pem.write_to_path(directory / "server.key")
    for at, pem in enumerate(leaf.cert_chain_pems):
        pem.write_to_path(directory / "server.pem", append=bool(at))
    CLIENTS.cert_pem.write_to_path(directory / "clients.pem")
    return {"certificate": "server.pem", "key": "server.key", "client_ca": "clients.pem"}


URL = "http://127.0.0.1:9/mcp"  # nobody is called in these tests
TWO = {"one": {"url": URL}, "two": {"url": URL, "security": {"sender_constrained": "mtls"}}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory, port = tmp_path_factory.mktemp("tls"), free_port()
    listen = {"url": f"https://127.0.0.1:{port}", "tls": pems(directory)}
    with running(directory, port=port, approved=(), listen=listen, mcpServers=TWO) as started:
        yield started


def token(gateway: Running, server: str = "one", **claims: Any) -> str:
    return gateway.token(server=server, aud=f"https://127.0.0.1:{gateway.port}/mcp/{server}", **claims)


@pytest.mark.requirement("AUTH-20")
def test_tls_1_2_is_refused_b5(gateway: Running) -> None:
    old = client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", gateway.port), 10) as raw:
        old.wrap_socket(raw, server_hostname="127.0.0.1").close()
    with connected(gateway.port, client()) as modern:
        assert modern.version() == "TLSv1.3"


@pytest.mark.requirement("AUTH-20")
def test_plain_http_to_the_tls_port_b5(gateway: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    with contextlib.closing(connection), pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/healthz")
        connection.getresponse()


@pytest.mark.requirement("AU-19")
def test_bound_token_needs_its_certificate_b7(gateway: Running) -> None:
    bound = token(gateway, cnf={"x5t#S256": x5t(ALICE)})
    assert ask(gateway.port, bound, ALICE)[0] == 200
    for leaf in (None, MALLORY):
        for _ in range(2):  # the second time the token is remembered
            status, headers = ask(gateway.port, bound, leaf)
            assert status == 401
            assert 'error="invalid_token"' in headers["www-authenticate"]
    assert ask(gateway.port, bound, ALICE)[0] == 200


def test_unbound_token_is_free_to_come_with_a_certificate_or_without(gateway: Running) -> None:
    assert ask(gateway.port, token(gateway), ALICE)[0] == ask(gateway.port, token(gateway))[0] == 200


def test_token_bound_to_certificate_and_key_needs_both(gateway: Running) -> None:
    both = {"x5t#S256": x5t(ALICE), "jkt": x5t(MALLORY)}
    assert ask(gateway.port, token(gateway, cnf=both), ALICE)[0] == 401


@pytest.mark.parametrize("leaf", [FOREIGN, OLD], ids=["of another authority", "expired"])
def test_certificates_that_do_not_verify_end_the_handshake(gateway: Running, leaf: trustme.LeafCert) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(gateway.port, token(gateway, cnf={"x5t#S256": x5t(leaf)}), leaf)


def test_no_session_is_resumed_without_looking_at_the_certificate(gateway: Running) -> None:
    with connected(gateway.port, client(ALICE)) as secured:
        secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in secured.recv(4096)
        assert secured.session is None or not secured.session.has_ticket


def test_route_that_demands_a_certificate_b7(gateway: Running) -> None:
    bound = token(gateway, "two", cnf={"x5t#S256": x5t(ALICE)})
    assert ask(gateway.port, bound, ALICE, "two")[0] == 200
    assert ask(gateway.port, bound, MALLORY, "two")[0] == 401
    status, headers = ask(gateway.port, token(gateway, "two"), ALICE, "two")
    assert status == 401 and headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    refusals = [record for record in gateway.records("refusal") if record["reason"] == "identity.binding"]
    assert any("which this route demands" in record["detail"] for record in refusals)


def test_header_of_a_proxy_nobody_named_means_nothing(gateway: Running) -> None:
    bound = token(gateway, cnf={"x5t#S256": x5t(ALICE)})
    told = f":{base64.b64encode(der(ALICE)).decode()}:"
    assert ask(gateway.port, bound, None, Client_Cert=told)[0] == 401
    assert ask(gateway.port, bound, MALLORY, Client_Cert=told)[0] == 401


def test_metadata_says_what_is_offered(gateway: Running) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, timeout=10, context=client())
    with contextlib.closing(connection):
        connection.request("GET", "/.well-known/oauth-protected-resource/mcp/two")
        document = json.loads(connection.getresponse().read())
    assert document["tls_client_certificate_bound_access_tokens"] is True
    assert document["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA", "RS256", "PS256"]
    assert "dpop_bound_access_tokens_required" not in document


def test_no_connection_without_a_certificate_where_that_is_required(tmp_path: Path) -> None:
    port = free_port()
    listen = {"url": f"https://127.0.0.1:{port}", "tls": {**pems(tmp_path), "require_client_certificate": True}}
    with running(tmp_path, port=port, approved=(), listen=listen, mcpServers=TWO) as gateway:
        assert ask(gateway.port, token(gateway), ALICE)[0] == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            ask(gateway.port, token(gateway))


# what a proxy tells

TRUSTED = [ip_network("10.0.0.5"), ip_network("fd00::/64"), ip_network("127.0.0.1")]
ITEM = f":{base64.b64encode(der(ALICE)).decode()}:"
PEM = quote(ALICE.cert_chain_pems[0].bytes().decode(), safe="")


@pytest.mark.parametrize("peer", ["10.0.0.5", "fd00::1", "::ffff:10.0.0.5"])
def test_named_proxies_are_believed(peer: str) -> None:
    for form, value in (("rfc9440", ITEM), ("nginx", PEM)):
        told = ForwardedCertificates("Client-Cert", form, TRUSTED)  # type: ignore[arg-type]
        assert told.header == "client-cert"
        assert told.read(peer, [value], "") == x5t(ALICE) == thumbprint(der(ALICE))
        assert told.read(peer, [value], "the proxy's own") == x5t(ALICE)
        assert told.read(peer, [], "the proxy's own") == ""  # the proxy's certificate is not the client's


@pytest.mark.parametrize(
    "peer", ["10.0.0.6", "127.0.0.2", "fd00:0:0:1::1", "", "10.0.0.5 ", "localhost", "::ffff:10.0.0.6"]
)
def test_anybody_else_is_refused_b7(peer: str) -> None:
    told = ForwardedCertificates("Client-Cert", "rfc9440", TRUSTED)
    refused = told.read(peer, [ITEM], "own")
    assert isinstance(refused, Refuse) and refused.reason.id == "identity.forwarded"
    assert told.read(peer, [], "own") == "own"


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("rfc9440", [ITEM, ITEM]),
        ("rfc9440", [f"{ITEM}, {ITEM}"]),
        ("rfc9440", [f"{ITEM};a=1"]),
        ("rfc9440", [PEM]),
        ("rfc9440", [ITEM.strip(":")]),
        ("rfc9440", [ITEM[:-9] + ":"]),
        ("rfc9440", ["::"]),
        ("rfc9440", [""]),
        ("rfc9440", [f":{base64.b64encode(der(ALICE) + der(MALLORY)).decode()}:"]),
        ("rfc9440", [f":{base64.b64encode(b'x' * 40_000).decode()}:"]),
        ("nginx", [ITEM]),
        ("nginx", [PEM + PEM]),
        ("nginx", [PEM.replace("BEGIN", "END")]),
        ("nginx", ["%ff%fe"]),
        ("nginx", ["(null)"]),
        ("nginx", [quote("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]),
    ],
)
def test_what_is_not_one_certificate_is_refused(form: Any, values: list[str]) -> None:
    refused = ForwardedCertificates("Client-Cert", form, TRUSTED).read("10.0.0.5", values, "")
    assert isinstance(refused, Refuse) and refused.reason.id == "identity.forwarded"


NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key; ssl_protocols TLSv1.3;
    ssl_client_certificate {directory}/clients.pem; ssl_verify_client optional;
    location / {{
      proxy_pass http://127.0.0.1:{behind}; proxy_set_header Host $http_host;
      proxy_set_header X-SSL-Cert $ssl_client_escaped_cert;
    }}
  }}
}}
"""


def test_behind_a_real_proxy_b7(tmp_path: Path) -> None:
    """nginx terminates TLS and is named; the thief speaks to it, and to the gateway from another address."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("the program nginx is missing: no real TLS-terminating proxy")
    pems(tmp_path)
    front, behind = free_port(), free_port()
    listen = {
        "url": f"https://127.0.0.1:{front}",
        "bind": f"127.0.0.1:{behind}",
        "client_certificate": {"header": "X-SSL-Cert", "form": "nginx", "peers": ["127.0.0.1"]},
    }
    (tmp_path / "nginx.conf").write_text(NGINX.format(directory=tmp_path, port=front, behind=behind))
    with running(tmp_path, port=behind, approved=(), listen=listen, mcpServers=TWO) as gateway:
        proxy = subprocess.Popen([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", front), 0.2).close()
                    break
                time.sleep(0.05)
            bound = gateway.token(aud=f"https://127.0.0.1:{front}/mcp/one", cnf={"x5t#S256": x5t(ALICE)})
            assert ask(front, bound, ALICE)[0] == 200
            assert ask(front, bound, MALLORY)[0] == ask(front, bound)[0] == 401
            for posing in (PEM, PEM.lower()):  # nginx overwrites what the client sent
                assert ask(front, bound, MALLORY, X_SSL_Cert=posing)[0] == 401
                assert ask(front, bound, None, X_SSL_Cert=posing)[0] == 401
            assert direct(gateway.port, "127.0.0.2", bound, front) == 400
        finally:
            proxy.terminate()
            proxy.wait(20)


def direct(port: int, address: str, bound: str, front: int) -> int:
    """The proxy's header from an address that is not the proxy's."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    sent = {**SENT, "Authorization": f"Bearer {bound}", "X-SSL-Cert": PEM, "Host": f"127.0.0.1:{front}"}
    with contextlib.closing(connection):
        connection.request("POST", "/mcp/one", json.dumps(LIST), sent)
        return connection.getresponse().status
