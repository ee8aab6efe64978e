"""A registry on loopback that both npm and pip fetch from, and packages for it: small MCP servers, honest and
hostile."""

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

JS = """#!/usr/bin/env node
const fs = require('fs'), lines = require('readline').createInterface({input: process.stdin})
if (process.argv[2]) fs.writeFileSync(process.argv[2], 'started')
lines.on('line', line => {
  const {id, method} = JSON.parse(line)
  const tools = [{name: 'hello', description: 'Say hello.', inputSchema: {type: 'object'}}]
  const results = {
    initialize: {protocolVersion: '2025-11-25', capabilities: {tools: {}}, serverInfo: {name: 'js', version: '1'}},
    'tools/list': {tools},
  }
  if (id === undefined) return
  const known = results[method]
  const answer = known ? {result: known} : {error: {code: -32601, message: 'no such method'}}
  console.log(JSON.stringify({jsonrpc: '2.0', id, ...answer}))
})
"""
PY = """
import json, pathlib, sys

def main():
    if sys.argv[1:]:
        pathlib.Path(sys.argv[1]).write_text("started " + " ".join(sys.argv[2:]))
    results = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "py", "version": "1"}},
        "tools/list": {"tools": [{"name": "hello", "description": "Say hello.", "inputSchema": {"type": "object"}}]},
    }
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        known = results.get(message["method"])
        answer = {"result": known} if known else {"error": {"code": -32601, "message": "no such method"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""


def tarball(files: dict[str, str], links: dict[str, str] | None = None) -> bytes:
    """What `npm pack` would make of these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name if name.startswith(("/", "..")) else f"package/{name}")
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return made.getvalue()


def npm_files(name: str, version: str, text: str = JS, **more: Any) -> dict[str, str]:
    about = {"name": name, "version": version, "bin": {name.rsplit("/", 1)[-1]: "server.js"}, **more}
    return {"package.json": json.dumps(about), "server.js": text}


def wheel(
    name: str, version: str, files: dict[str, str] | None = None, *, requires: tuple[str, ...] = (), record: str = "",
    unlisted: dict[str, str] | None = None, scripts: str = "",
) -> bytes:  # fmt: skip
    """A wheel with an honest RECORD unless told otherwise. `unlisted`: files the RECORD does not know."""
    info = f"{name}-{version}.dist-info"
    entry = scripts or f"{name} = {name}:main"
    content = {
        **(files if files is not None else {f"{name}.py": PY}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{entry}\n",
    }
    rows = [f"{path},sha256={_urlsafe(text)},{len(text.encode())}" for path, text in content.items()]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**content, **(unlisted or {})}.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", (2026, 1, 1, 0, 0, 0)), record or "\n".join(rows) + "\n")
    return made.getvalue()


def _urlsafe(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Registry:
    """`seen`: every path asked for. `stuck`: paths that get no answer until `close`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stuck: set[str] = set()
        self._npm: dict[str, dict[str, tuple[dict[str, Any], bytes]]] = {}
        self._wheels: dict[str, bytes] = {}
        self._over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Silent."""

            def do_GET(self) -> None:
                path = urllib.parse.unquote(self.path.split("?")[0])
                outer.seen.append(path)
                if any(part in path for part in outer.stuck):
                    outer._over.wait(60)
                body = outer._answer(path)
                self.send_response(404 if body is None else 200)
                html = path.startswith("/simple/")
                self.send_header("Content-Type", "text/html" if html else "application/json")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self, folder: Path) -> dict[str, str]:
        """Settings of npm and pip that make them ask here and nowhere else."""
        return {
            "NPM_CONFIG_REGISTRY": f"{self.url}/", "NPM_CONFIG_CACHE": str(folder / "npm-cache"),
            "NPM_CONFIG_USERCONFIG": "/dev/null", "NPM_CONFIG_FETCH_RETRIES": "0", "PIP_INDEX_URL":
            f"{self.url}/simple/", "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": "",
            "PIP_RETRIES": "0", }  # fmt: skip

    def npm(self, files: dict[str, str], links: dict[str, str] | None = None) -> None:
        about = json.loads(files["package.json"])
        self._npm.setdefault(about["name"], {})[about["version"]] = (about, tarball(files, links))

    def python(self, file: str, data: bytes) -> None:
        self._wheels[file] = data

    def wheel(self, name: str, version: str, *args: Any, **more: Any) -> None:
        self.python(f"{name}-{version}-py3-none-any.whl", wheel(name, version, *args, **more))

    def _answer(self, path: str) -> bytes | None:
        if path.startswith("/simple/"):
            name = path.split("/")[2]
            files = {file: data for file, data in self._wheels.items() if file.split("-")[0].replace("_", "-") == name}
            rows = (f'<a href="/files/{f}#sha256={hashlib.sha256(d).hexdigest()}">{f}</a>' for f, d in files.items())
            return f"<!DOCTYPE html><html><body>{''.join(rows)}</body></html>".encode() if files else None
        if path.startswith("/files/"):
            return self._wheels.get(path.removeprefix("/files/"))
        if "/-/" in path:
            name, _, version = path[1:].removesuffix(".tgz").partition("/-/")
            return self._npm[name][version][1] if version in self._npm.get(name, {}) else None
        return self._packument(path[1:])

    def _packument(self, name: str) -> bytes | None:
        if name not in self._npm:
            return None
        versions = {}
        for version, (about, data) in self._npm[name].items():
            integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
            hooks = {"hasInstallScript": True} if "postinstall" in about.get("scripts", {}) else {}
            dist = {"tarball": f"{self.url}/{name}/-/{version}.tgz", "integrity": integrity}
            versions[version] = {**about, **hooks, "dist": dist}
        return json.dumps({"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions}).encode()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
