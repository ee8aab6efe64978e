"""What we are connected to, as far as it can be told from here: which program, or which address and whose certificate.

Recorded with every reading, so that a server that was exchanged behind an unchanged name is noticed. A certificate's
key is not part of it: certificates are renewed every few weeks, the authority that vouches for the name is not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from limen.gateway.upstream_run import scrubbed

LARGEST: Final = 1 << 30  # bytes of one program
_CHUNK: Final = 1 << 20
_ARGUMENTS: Final = 64
_SCRIPTS: Final = frozenset(
    {
        ".py", ".pyz", ".pyc", ".js", ".mjs", ".cjs", ".ts", ".mts", ".sh", ".bash", ".rb", ".pl", ".php", ".lua",
        ".jar", ".wasm", ".dll", ".exe", ".ps1",
    }
)  # fmt: skip
_Mark = tuple[int, int, int, int, int]


def of_url(url: str, certificate: Mapping[str, Any] | None) -> dict[str, str]:
    """Origin and path, and for https who issued the certificate (`ssl.SSLSocket.getpeercert` shape).

    The query is left out: it may carry what is not ours to record.
    """
    parts = urlsplit(url)
    found = {"url": f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"}
    if certificate:
        found["tls_issuer"] = _authority(certificate)
    return found


def _authority(certificate: Mapping[str, Any]) -> str:
    """The issuing organisation, or its common name where it states none: intermediate certificates are exchanged,
    and their common names with them."""
    said = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    return str(said.get("organizationName") or said.get("commonName") or "unknown")[:256]


class Programs:
    """Digests of what a command runs. A file is read again only when its inode, size or times changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Mark, str]] = {}

    def of_command(self, argv: Sequence[str], shown: Sequence[str], env: Mapping[str, str], cwd: str) -> dict[str, str]:
        """`argv`: the command line without its secrets (`shown`); `executable` and `file NAME`: SHA-256 of the program
        and of each script named in its arguments. Waits for the disk. Packages that the program loads by itself are
        not seen."""
        found = {"argv": orjson.dumps(list(shown)).decode()}
        program = shutil.which(argv[0] if "/" not in argv[0] else os.path.join(cwd, argv[0]), path=_path(env))
        found["executable"] = self._digest(Path(program)) if program else "not found"
        for argument, plain in zip(argv[1:_ARGUMENTS], shown[1:], strict=False):
            if argument == plain and len(argument) < 4096 and _is_script(path := Path(cwd, argument)):
                found[f"file {argument}"] = self._digest(path)
        return found

    def _digest(self, path: Path) -> str:
        try:
            real = path.resolve(strict=True)
            with open(real, "rb") as stream:
                told = os.fstat(stream.fileno())
                mark = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
                known = self._known.get(real)
                if known is not None and known[0] == mark:
                    return known[1]
                if told.st_size > LARGEST:
                    return f"larger than {LARGEST} bytes"
                digest = sha256()
                while data := stream.read(_CHUNK):
                    digest.update(data)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        value = f"sha256:{digest.hexdigest()}"
        self._known[real] = (mark, value)
        return value


def _path(env: Mapping[str, str]) -> str:
    """Where the child's command is looked for: `subprocess` asks the child's own PATH."""
    return scrubbed(env).get("PATH", os.defpath)


def _is_script(path: Path) -> bool:
    """A file that is run, rather than one that is worked on: a database named in the arguments changes every day."""
    try:
        if not path.is_file():
            return False
        if path.suffix.lower() in _SCRIPTS or os.access(path, os.X_OK):
            return True
        with open(path, "rb") as stream:
            return stream.read(2) == b"#!"
    except (OSError, ValueError):
        return False
