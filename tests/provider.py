"""Runs a certified OpenID provider (npm oidc-provider) on loopback, for every test that needs real tokens.

    with running_provider({"https://gw.example/mcp": "read call"}) as provider:
        token = provider.token("https://gw.example/mcp", "read", sub="alice")

Skips the calling test, with the reason, where the provider cannot be installed or run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote_plus, urljoin, urlsplit

import httpx2
import pytest

from launched import readable

_SOURCE = Path(__file__).parent / "identity" / "provider"
_TOOLS = Path(os.environ.get("LIMEN_TOOLS") or Path(__file__).parents[1] / ".tools")
_CALLBACK = "http://127.0.0.1:9/callback"  # nothing listens there; the code is read from the redirect
_START = 60.0


def _is_new_enough(node: str) -> bool:
    try:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(r"v(\d+)\.", version)
    return found is not None and int(found[1]) >= 22


def _install() -> Path:
    """The directory the provider is installed in; one test process installs, the others wait."""
    wanted = hashlib.sha256((_SOURCE / "package-lock.json").read_bytes()).hexdigest()
    place = _TOOLS / f"provider-{wanted[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place / "installed"
        if not done.exists():
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("the program npm is missing: the real identity provider cannot be installed")
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_SOURCE / name, place / name)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
            if ran.returncode:
                pytest.skip(f"npm ci failed, the real identity provider is missing: {ran.stderr.strip()[-300:]}")
            done.touch()
        shutil.copy(_SOURCE / "idp.mjs", place / "idp.mjs")
    return place


def _node(place: Path) -> str:
    candidates = [str(path) for path in sorted(place.glob("node_modules/node-*/bin/node"))]
    for candidate in (*candidates, shutil.which("node")):
        if candidate and _is_new_enough(candidate):
            return candidate
    pytest.skip("the program node (22 or newer) is missing: the real identity provider cannot run")


class Provider:
    """A running provider."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def tokens(
        self, resource: str, scope: str, sub: str = "alice", prove: Callable[[str], str] | None = None
    ) -> dict[str, Any]:
        """The token response of a code flow with PKCE and a resource indicator (RFC 7636, RFC 8707).

        `prove` makes a DPoP proof for the URL of the token endpoint.
        """
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "client_id": "client",
            "response_type": "code",
            "redirect_uri": _CALLBACK,
            "scope": f"openid {scope}",
            "resource": resource,
            "state": "s",
            "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        with httpx2.Client(timeout=20, trust_env=False) as client:
            answer = _sign_in(client, client.get(f"{self.issuer}/auth", params=query), sub)
            if "code" not in answer:
                raise RuntimeError(f"the provider refused: {answer}")
            form = {
                "grant_type": "authorization_code",
                "client_id": "client",
                "code": answer["code"][0],
                "redirect_uri": _CALLBACK,
                "code_verifier": verifier,
                "resource": resource,
            }
            headers = {"DPoP": prove(f"{self.issuer}/token")} if prove is not None else {}
            response = client.post(f"{self.issuer}/token", data=form, headers=headers)
            response.raise_for_status()
            tokens: dict[str, Any] = response.json()
            return tokens

    def machine_token(self, resource: str, scope: str) -> str:
        """An access token of the client `robot` for itself (RFC 6749 section 4.4)."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        with httpx2.Client(timeout=20, trust_env=False) as client:
            secret = ("robot", quote_plus("a secret of the robot"))
            response = client.post(f"{self.issuer}/token", data=form, auth=secret)
            response.raise_for_status()
            return str(response.json()["access_token"])

    def revoke(self, token: str) -> None:
        """End a token of the public client (RFC 7009)."""
        with httpx2.Client(timeout=20, trust_env=False) as client:
            form = {"token": token, "client_id": "client"}
            client.post(f"{self.issuer}/token/revocation", data=form).raise_for_status()

    def token(self, resource: str, scope: str, sub: str = "alice") -> str:
        """An access token for this resource."""
        return str(self.tokens(resource, scope, sub)["access_token"])

    def come_back(self, url: str, sub: str = "alice") -> str:
        """A browser without a past opens this URL of the provider and signs in: where it is sent back to."""
        back = dict(parse_qsl(urlsplit(url).query))["redirect_uri"]
        with httpx2.Client(timeout=20, trust_env=False) as client:
            return _sign_in_for(client, client.get(url), sub, back)

    def rotate(self) -> list[str]:
        """Sign with a new key from now on; the old ones stay published. The key ids."""
        return self._post("rotate")

    def retire(self) -> list[str]:
        """Publish the newest key only."""
        return self._post("retire")

    def _post(self, what: str) -> list[str]:
        with httpx2.Client(timeout=20, trust_env=False) as client:
            kids: list[str] = client.post(f"{self.issuer}/test/{what}").raise_for_status().json()
            return kids


def _sign_in(client: httpx2.Client, page: httpx2.Response, sub: str) -> dict[str, list[str]]:
    """The query of the redirect to the test's own client."""
    return parse_qs(urlsplit(_sign_in_for(client, page, sub, _CALLBACK)).query)


def _sign_in_for(client: httpx2.Client, page: httpx2.Response, sub: str, back: str) -> str:
    """Fill in the provider's login and consent forms until it redirects to the client. The redirect's target."""
    for _ in range(12):
        if page.is_redirect:
            place = urljoin(str(page.url), page.headers["location"])
            if place.startswith(back):
                return place
            page = client.get(place)
            continue
        action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
        prompt = re.search(r'name="prompt" value="(\w+)"', page.text)
        if action is None or prompt is None:
            raise RuntimeError(f"neither a form nor a redirect: {page.status_code}")
        fields = {"prompt": prompt[1], **({"login": sub, "password": "any"} if prompt[1] == "login" else {})}
        page = client.post(urljoin(str(page.url), action[1]), data=fields)
    raise RuntimeError("the sign-in does not end")


@contextmanager
def running_provider(
    resources: Mapping[str, str], opaque: Collection[str] = (), callback: str = ""
) -> Iterator[Provider]:
    """A provider that issues at+jwt tokens for these resources, each with its space-separated scopes; `opaque`: those
    whose tokens are not JWTs. `callback`: where its confidential client `gateway` takes people back."""
    place = _install()
    command = [_node(place), "idp.mjs", json.dumps(dict(resources)), json.dumps(list(opaque)), callback]
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        for _ in range(20):
            line = process.stdout.readline() if readable(process.stdout, _START) else b""
            if not line:
                raise RuntimeError(f"the provider did not start, see {place / 'log'}")
            if line.startswith(b'{"issuer"'):
                break
        yield Provider(json.loads(line)["issuer"])
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
