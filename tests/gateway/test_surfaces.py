"""The other ways in: standard input and output for one local client, and TLS."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import trustme
from mcp import Client, MCPError, StdioServerParameters

from gateway.running import running
from launched import free_port


def offer(path: Path, *arguments: str) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "limen", "-c", str(path), "stdio", *arguments])


@pytest.mark.requirement("AUTH-23")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_local_client_speaks_stdio_as_its_own_user(tmp_path: Path, mode: str) -> None:
    with running(tmp_path, policy={"rules": [{"allow": "anyone", "call": "one/echo"}]}) as gateway:
        gateway.stop()

        async def talk() -> tuple[list[str], str]:
            async with Client(offer(gateway.config, "one"), mode=mode) as client:
                names = [tool.name for tool in (await client.list_tools()).tools]
                answer = await client.call_tool("echo", {})
                with pytest.raises(MCPError):
                    await client.call_tool("danger", {})
                return names, answer.content[0].text

        assert asyncio.run(talk()) == (["echo"], "ran echo")
        lines = gateway.limen("audit", "tail", "--json", "-n", "50").splitlines()
        intents = [record for record in map(json.loads, lines) if record["t"] == "intent"]
        assert intents[-1]["iss"] == "local"
        assert intents[-1]["sub"]


@pytest.mark.requirement("STD-01")
def test_junk_on_standard_input_is_answered_and_survived(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        gateway.stop()
        argv = [sys.executable, "-m", "limen", "-c", str(gateway.config), "stdio", "one"]
        lines = [
            b"junk",
            b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}',
            b"[]",
            b'{"jsonrpc":"2.0","id":2,',
        ]
        done = subprocess.run(argv, input=b"\n".join(lines) + b"\n", capture_output=True, timeout=60)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(lines)
        assert all(answer["error"]["code"] in (-32700, -32600) for answer in answers)
        assert done.returncode == 0


@pytest.mark.requirement("AUTH-20")
def test_tls_is_1_3_or_nothing(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    key.chmod(0o600)

    port = free_port()
    listen = {"url": f"https://127.0.0.1:{port}", "tls": {"certificate": str(chain), "key": str(key)}}
    with running(tmp_path, port=port, listen=listen):
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        url = f"https://127.0.0.1:{port}/healthz"
        assert httpx2.get(url, verify=trusting).json() == {"status": "ok"}
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(url, verify=trusting)


def test_an_address_somebody_else_listens_on_is_said_and_nothing_is_served(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        with pytest.raises(AssertionError) as told, running(tmp_path, port=port):
            pass
        assert f"cannot listen on 127.0.0.1, port {port}" in str(told.value)
