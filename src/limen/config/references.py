"""`${env:NAME}` and `${file:path}` in values become what they point to. No message ever holds what was found.

What goes to a server (headers, environment, arguments) stays wrapped, so that printing a configuration shows none of
it. References elsewhere are for values that differ between machines, not for secrets.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import SecretStr

from limen.config.document import Document, Path, read_file
from limen.core.faults import ConfigFault

_STORES: Final = (("storage", "url"), ("storage", "redis", "url"))  # they may hold a password
CEDAR: Final = ("policy", "cedar")  # texts in a language of their own: not looked into
MAX_SECRET: Final = 64 << 10
_REFERENCE: Final = re.compile(r"\$\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CREDENTIAL_NAME: Final = re.compile(
    r"auth|api[-_]?key|access[-_]?key|(^|[-_])key$|token|secret|passw|cookie|credential|signature|(^|[-_])pin$",
    re.IGNORECASE,
)
CREDENTIAL_VALUE: Final = re.compile(
    r"^\s*(bearer|basic|token|apikey|digest|negotiate)\s+\S|^(sk-|gh[pousr]_|github_pat_|xox[abprs]-|glpat-|eyJ[\w-]+\.)",
    re.IGNORECASE,
)
_BETTER: Final = "write a reference, ${env:NAME} or ${file:path}"


class References:
    """Resolves references for one run. `found` is every value that was put in, to keep it out of messages."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.found: set[str] = set()
        self.warnings: list[str] = []

    def resolve(self, document: Document, base: FilePath) -> None:
        """Replace in place; files are relative to `base`. Raises ConfigFault naming where."""
        self._walk(document.value, (), document, base, True)

    def hide(self, message: str) -> str:
        """The message without anything that was resolved."""
        for secret in sorted(self.found, key=len, reverse=True):
            if len(secret) >= 3:
                message = message.replace(secret, "***").replace(repr(secret)[1:-1], "***")
        return message

    def _walk(self, value: Any, path: Path, document: Document, base: FilePath, wanted: bool) -> None:
        """A disabled server is not used, so what it refers to need not exist."""
        if path == CEDAR:
            return
        if len(path) == 2 and path[0] == "mcpServers" and isinstance(value, dict) and value.get("disabled") is True:
            wanted = False
        steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(steps):
            here = (*path, key)
            if not isinstance(inner, str):
                self._walk(inner, here, document, base, wanted)
                continue
            if is_header(here) or is_ours(here):
                refuse_inline(inner, here, document)
            if "${" in inner and wanted:
                value[key] = self._replace(inner, here, document, base)
            elif is_environment(here) and inner and "${" not in inner and CREDENTIAL_NAME.search(str(here[-1])):
                self.warnings.append(f"{document.where(here)}: looks like a secret in the file; {_BETTER}")

    def _replace(self, text: str, path: Path, document: Document, base: FilePath) -> str | SecretStr:
        where = document.where(path)

        def one(match: re.Match[str]) -> str:
            kind, colon, target = match[1].partition(":")
            if not colon or kind not in ("env", "file") or not target:
                raise ConfigFault("unknown reference; only ${env:NAME} and ${file:path} are understood", where)
            value = self._environ(target, where) if kind == "env" else self._file(target, base, where, is_wrapped(path))
            self.found.add(value)
            return value

        if text.count("${") != len(_REFERENCE.findall(text)):
            raise ConfigFault("a reference is not closed; it reads ${env:NAME} or ${file:path}", where)
        if is_server_url(path) and "${" in text.partition("?")[2]:
            raise ConfigFault("a secret in a URL ends up in logs; put it into `headers`", where)
        resolved = _REFERENCE.sub(one, text)
        self.found.add(resolved)
        return SecretStr(resolved) if is_wrapped(path) else resolved

    def _environ(self, name: str, where: str) -> str:
        if not _NAME.fullmatch(name):
            raise ConfigFault("the reference does not name an environment variable", where)
        value = self._environment.get(name, "")
        if not value:
            raise ConfigFault(f"environment variable {name} is not set or empty", where)
        return value

    def _file(self, name: str, base: FilePath, where: str, secret: bool) -> str:
        path = locate(name, base)
        try:
            data = read_file(path, f"the referenced file {name}", limit=MAX_SECRET, follow=True)
            mode = path.stat().st_mode
            text = data.decode("utf-8").rstrip("\r\n")
        except ConfigFault as fault:
            raise ConfigFault(fault.message, where) from None
        except (OSError, UnicodeDecodeError):
            raise ConfigFault(f"the referenced file {name} is not UTF-8 text", where) from None
        if not text:
            raise ConfigFault(f"the referenced file {name} is empty", where)
        if secret and mode & stat.S_IROTH:
            self.warnings.append(f"{where}: everybody on this machine may read {name} (chmod o-r)")
        return text


def refuse_inline(text: str, path: Path, document: Document) -> None:
    """A header that carries a credential takes it by reference. Raises ConfigFault."""
    if "${" in text or not text:
        return
    if CREDENTIAL_NAME.search(str(path[-1])) or CREDENTIAL_VALUE.search(text):
        raise ConfigFault(f"a credential must not stand in the file; {_BETTER}", document.where(path))


def locate(name: str, base: FilePath) -> FilePath:
    """A path as written, relative to the file it is written in; `~` is the home directory."""
    return base / FilePath(os.path.expanduser(name))


def _below_server(path: Path) -> Path:
    return path[2:] if len(path) > 2 and path[0] == "mcpServers" else ()


def is_header(path: Path) -> bool:
    """A value of some server's `headers`."""
    return _below_server(path)[:1] == ("headers",)


def is_environment(path: Path) -> bool:
    """A value of some server's `env`."""
    return _below_server(path)[:1] == ("env",)


def is_server_url(path: Path) -> bool:
    """Some server's `url`."""
    return _below_server(path) == ("url",)


def is_client_secret(path: Path) -> bool:
    """What we authenticate ourselves to some issuer with."""
    return path[:1] in (("identity",), ("oauth",)) and path[-1] == "client_secret"


def is_remote_credential(path: Path) -> bool:
    """What we authenticate ourselves to a remote detector with."""
    return path[:2] == ("content", "remote") and path[-1] in ("key", "token")


def is_vault_credential(path: Path) -> bool:
    """What opens the place where the key-encryption key is."""
    return path[:2] == ("vault", "keys") and path[-1] in ("pin", "client_secret")


def is_own_client(path: Path) -> bool:
    """What we authenticate ourselves with where credentials for some server are obtained."""
    return _below_server(path)[:2] == ("security", "credential") and path[-1] in ("secret", "key")


def is_follower_credential(path: Path) -> bool:
    """What we prove ourselves with where the log is sent."""
    inner = path[3:] if path[:2] == ("audit", "followers") else ()
    return inner[:1] == ("headers",) or inner in (("token",), ("secret",), ("client_secret",))


def is_ours(path: Path) -> bool:
    """What we prove ourselves with, wherever it is."""
    kinds = (is_client_secret, is_remote_credential, is_vault_credential, is_own_client, is_follower_credential)
    return any(one(path) for one in kinds)


def is_wrapped(path: Path) -> bool:
    """Does what a reference gives here stay wrapped?"""
    wrapped = (("headers",), ("env",), ("args",))
    return is_ours(path) or path in _STORES or _below_server(path)[:1] in wrapped
