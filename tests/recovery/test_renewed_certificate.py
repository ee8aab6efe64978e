"""J3: certificates are renewed on disk; nobody's connection or call is dropped, and new ones meet the new one."""

import hashlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import launched
from gateway.running import Running, running
from gateway.test_client_certificates import LIST, SENT, SERVERS, client, connected, free_port, pems, token


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory, port = tmp_path_factory.mktemp("renew"), free_port()
    listen = {"url": f"https://127.0.0.1:{port}", "tls": pems(directory)}
    url = "http://127.0.0.1:9/mcp"
    with running(
        directory,
        port=port,
        approved=(),
        listen=listen,
        mcpServers={name: {"url": url} for name in ("one", "two")},
        limits={"caller": {"rate": 9999}},
    ) as started:
        yield started


def met(gateway: Running) -> str:
    with connected(gateway.port, client()) as stream:
        return hashlib.sha256(stream.getpeercert(True) or b"").hexdigest()


def issue(directory: Path, *, half: bool = False) -> str:
    """Another certificate in place of the one there is; `half`: without its key."""
    leaf = SERVERS.issue_cert("127.0.0.1", "localhost")
    (directory / "server.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    if not half:
        leaf.private_key_pem.write_to_path(directory / "server.key")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())).hexdigest()


def test_twenty_callers_and_an_open_connection_do_not_notice_j3(gateway: Running) -> None:
    before, stop, problems, done = met(gateway), threading.Event(), list[str](), [0]
    held = http.client.HTTPSConnection("127.0.0.1", gateway.port, timeout=20, context=client())
    proof = token(gateway)

    def ask(connection: http.client.HTTPSConnection) -> None:
        connection.request("POST", "/mcp/one", json.dumps(LIST), {**SENT, "Authorization": f"Bearer {proof}"})
        answer = connection.getresponse()
        answer.read()
        done[0] += 1
        if answer.status != 200:
            problems.append(str(answer.status))

    def call() -> None:
        while not stop.is_set():
            try:
                fresh = http.client.HTTPSConnection("127.0.0.1", gateway.port, timeout=20, context=client())
                ask(fresh)
                fresh.close()
            except OSError as error:
                problems.append(repr(error))

    ask(held)
    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    digests = []
    for _ in range(3):
        digests.append(issue(gateway.directory))
        gateway.until(lambda: met(gateway) == digests[-1], 15)
        ask(held)  # the very connection that was there before
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert done[0] > 20 and before not in digests
    records = [one for one in gateway.records("certificate", 4000) if one["ok"]]
    assert [one["digest"] for one in records][-3:] == digests


def test_a_certificate_without_its_key_changes_nothing_and_is_told(gateway: Running) -> None:
    before = met(gateway)
    issue(gateway.directory, half=True)
    gateway.until(lambda: "certificate not taken over" in gateway.log)
    assert met(gateway) == before
    refused = launched.limen("-c", str(gateway.config), "keys", "rotate", "tls")
    assert refused.returncode == 1 and "cannot be used" in refused.stdout
    digest = issue(gateway.directory)
    done = json.loads(gateway.limen("keys", "rotate", "tls", "--json"))
    assert digest[:16] in done["keys"][0]["done"]
    assert met(gateway) == digest
    row = next(one for one in json.loads(gateway.limen("keys", "list", "--json")) if one["name"] == "tls")
    assert row["state"].startswith("until ")


def test_another_authority_of_clients_holds_for_new_connections(gateway: Running) -> None:
    """What is exchanged is all of it: who may present a certificate as well."""
    others = trustme.CA()
    stranger = others.issue_cert("carol@example.org")
    with pytest.raises((ssl.SSLError, ConnectionError)), connected(gateway.port, client(stranger)) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert not stream.recv(100) or pytest.fail("was let in")
        raise ConnectionError
    others.cert_pem.write_to_path(gateway.directory / "clients.pem")
    time.sleep(2.5)
    with connected(gateway.port, client(stranger)) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 ")
