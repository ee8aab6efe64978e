"""What starting a server means: which program, of which digest, with which environment. Decides; touches nothing.

A command either fetches what it runs (then it runs what was installed and recorded, offline), is a container image
(then by digest), or is a program on this disk (then its digest is compared if the operator named one).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from limen.sandbox.launchers import LAUNCHERS, Image, contained
from limen.sandbox.packages import NotLaunchable, Package, Record

__all__ = [
    "Form", "Image", "Local", "NotLaunchable", "Package", "Plan", "command_of", "compare", "contained",
    "environment", "read",
]  # fmt: skip

_FETCHERS: Final = frozenset(
    {"bunx", "bun", "pnpm", "pnpx", "yarn", "deno", "curl", "wget", "pip", "pip3", "cargo", "go"}
)
_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "ash", "busybox", "cmd", "powershell", "pwsh"}
)
_WRAPPERS: Final = frozenset({"env", "sudo", "doas", "nohup", "xargs", "timeout", "setsid", "nice", "exec", "eval"})
_PYTHON: Final = re.compile(r"(?:python|pypy)(?:[0-9](?:\.[0-9]+)?)?")
_PLAIN_FLAGS: Final = {
    "python": re.compile(r"-[uBIsSEOdPq]+|-OO"),
    "node": re.compile(r"--max-old-space-size=[0-9]+|--no-warnings|--enable-source-maps|--no-deprecation"),
}
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_LOADERS: Final = frozenset(  # variables that put other code into a process than its command line says
    {"LD_PRELOAD", "LD_AUDIT", "NODE_OPTIONS", "BASH_ENV", "PYTHONSTARTUP", "PERL5OPT", "RUBYOPT",
     "JAVA_TOOL_OPTIONS", "PYTHONINSPECT", "PYTHONBREAKPOINT"}
)  # fmt: skip
_PATHS: Final = frozenset(  # variables that change where a verified program finds the rest of itself
    {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX", "PYTHONPLATLIBDIR", "NODE_PATH",
     "LD_LIBRARY_PATH", "OPENSSL_CONF", "OPENSSL_MODULES", "GCONV_PATH"}
)  # fmt: skip
_PREFIXES: Final = ("DYLD_", "NPM_CONFIG_", "PIP_", "UV_", "PIPX_")
_HEAP: Final = re.compile(r"(?:--max-old-space-size=[0-9]+ ?)+")


@dataclass(frozen=True, slots=True)
class Local:
    """A program on this disk. `kind`: what its digest is taken of: the program, a script it is given, or a module.

    `loose`: why a digest would not cover what runs; then it cannot be pinned.
    """

    argv: tuple[str, ...]
    kind: Literal["program", "script", "module"] = "program"
    subject: str = ""
    loose: str = ""


Form = Package | Image | Local


@dataclass(frozen=True, slots=True)
class Plan:
    """How one server is started now. `mounts`: directories and files it is read from, to be mounted read-only.

    `env`: what is set for it besides what every server gets. `digest`: "sha256-<hex>", or "" for a program on this
    disk that nobody pinned. `image`: the container image it is started in, NAME@sha256:HEX; "" is none.
    """

    argv: tuple[str, ...]
    mounts: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    digest: str = ""
    image: str = ""


def read(command: str, args: Sequence[str]) -> Form:
    """Which form a configured command has. Raises NotLaunchable for a shell line and for launchers nobody verifies."""
    name = command.rsplit("/", 1)[-1].removesuffix(".exe").removesuffix(".cmd")
    if name in LAUNCHERS:
        return LAUNCHERS[name](args)
    if name in _FETCHERS:
        raise NotLaunchable(f"{name} fetches code whenever it starts and is not verified here: use npx or uvx")
    if name in _SHELLS:
        return _shell(name, command, args)
    if name in _WRAPPERS:
        raise NotLaunchable(f"{name} starts another program: name that program itself")
    argv = (command, *args)
    if _PYTHON.fullmatch(name):
        return _interpreted("python", argv)
    if name in ("node", "nodejs"):
        return _interpreted("node", argv)
    return Local(argv)


def _shell(name: str, command: str, args: Sequence[str]) -> Local:
    """A script is a program like any other. A line of text is not: what it starts cannot be told from it (SC-07)."""
    if not args or args[0].startswith("-"):
        raise NotLaunchable(f"{name} is started with a command line or without a script: name the program itself")
    return Local((command, *args), "script", args[0])


def _interpreted(kind: str, argv: tuple[str, ...]) -> Local:
    at = 1
    while at < len(argv) and _PLAIN_FLAGS[kind].fullmatch(argv[at]):
        at += 1
    if at == len(argv):
        return Local(argv, loose="no program is named")
    if kind == "python" and argv[at] == "-m":
        module = argv[at + 1] if at + 1 < len(argv) else ""
        if not _MODULE.fullmatch(module):
            raise NotLaunchable("-m needs the name of a module")
        return Local(argv, "module", module)
    if argv[at].startswith("-"):
        return Local(argv, loose="an option of the interpreter decides what runs")
    return Local(argv, "script", argv[at])


def environment(form: Form, declared: Mapping[str, str], *, pinned: bool) -> None:
    """Refuse variables that would run other code than what was verified. Raises NotLaunchable."""
    for name, value in declared.items():
        upper = name.upper()
        if upper == "NODE_OPTIONS" and _HEAP.fullmatch(value):
            continue
        redirects = upper in _PATHS or upper.startswith(_PREFIXES)
        if upper in _LOADERS or upper.startswith("DYLD_") or (redirects and (pinned or isinstance(form, Package))):
            raise NotLaunchable(f"the variable {name} would put other code into the program than was verified")


def command_of(package: Package, record: Record) -> tuple[str, str]:
    """Name and place of the executable a package form runs, by the rules of npx and uvx. Raises NotLaunchable."""
    known = record.commands
    name = package.command
    if not name and record.main is None and len(known) > 1:
        raise NotLaunchable("the package has several executables: name one with --package")
    if not name:
        short = record.main.name.rsplit("/", 1)[-1] if record.main else ""
        name = next(iter(known)) if len(set(known.values())) == 1 else short
    if name not in known:
        offered = ", ".join(sorted(known)[:20]) or "none"
        raise NotLaunchable(f"the package has no such executable; it has: {offered}")
    return name, known[name]


def compare(found: str, expected: Mapping[str, str]) -> None:
    """Refuse an artifact that is not the one named. `expected`: who names it -> digest. Raises NotLaunchable."""
    for who, digest in expected.items():
        if digest != found:
            raise NotLaunchable(f"the artifact is {found or 'not known'}, and {who} says {digest}")
