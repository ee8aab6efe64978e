"""What a command needs from the disk: its interpreter, its environment, the scripts it names. Decides nothing."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from limen.core.faults import UpstreamFault
from limen.sandbox.cell import Program

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS: Final = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "host.conf", "ld.so.cache",
    "localtime", "mime.types", "nsswitch.conf", "pki/ca-trust", "pki/tls/certs", "protocols", "services", "ssl/certs",
    "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_STRANGERS: Final = ("node", "nodejs", "npm", "npx", "corepack")
_SCRIPTS: Final = frozenset(
    {".py", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".mts", ".sh", ".bash", ".rb", ".pl", ".php", ".lua", ".jar", ".wasm"}
)
_PROJECTS: Final = ("pyproject.toml", "setup.py", "package.json")
_LANGUAGES: Final = ("python", "node_modules", "ruby", "deno")
_ABOVE: Final = 4  # directories above a script in which a project is looked for
_DEPTH: Final = 8  # interpreters of interpreters, links to links


class _Found:
    """What was met on the way, by real path; links are kept as links."""

    def __init__(self, search: str) -> None:
        self.search = search
        self.trees: dict[str, str] = {}
        self.files: dict[str, None] = {}
        self.links: dict[str, str] = {}

    def real(self, path: str) -> str:
        """Where a path leads; every link it goes through is remembered, since the program may look at it."""
        done = "/"
        rest = [part for part in path.split("/") if part]
        for _ in range(40 + len(rest) * 2):
            if not rest:
                break
            here = os.path.normpath(os.path.join(done, rest.pop(0)))
            if os.path.islink(here):
                self.links[here] = target = os.readlink(here)
                rest = [part for part in target.split("/") if part] + rest
                done = "/" if target.startswith("/") else done
            else:
                done = here
        return done

    def tree(self, path: str, enough: str) -> None:
        """A directory that belongs to the program, and the file that will do where it cannot be shown. What root keeps
        to itself cannot: the program will not be root."""
        real = self.real(path)
        readable = os.access(real, os.R_OK | os.X_OK)
        closed = os.stat(real).st_mode & 0o005 != 0o005 if os.getuid() == 0 else not readable
        if not closed:
            self.trees.setdefault(real, enough)
        elif enough:
            self.files[enough] = None

    def program(self, path: str, depth: int = _DEPTH) -> None:
        """A file that is executed: itself, what it links to, the environment it belongs to, its interpreter."""
        if depth == 0 or path in self.links or path in self.files:
            return
        real = self.real(path)
        folder = os.path.dirname(path)
        if os.path.basename(folder) in ("bin", "sbin"):
            self.prefix(os.path.dirname(folder), real, depth)
        if os.path.islink(path):
            self.program(os.path.join(folder, os.readlink(path)), depth - 1)
            self.program(real, depth - 1)
            return
        self.files[real] = None
        if os.path.basename(folder) not in ("bin", "sbin"):
            self.tree(folder, real)
        if "node_modules" in real.split("/"):
            self.script(real)
        if interpreter := _interpreter(real, self.search):
            self.program(interpreter, depth - 1)

    def prefix(self, prefix: str, program: str, depth: int) -> None:
        """A directory with bin/ and lib/, where it is that of a language."""
        settings = os.path.join(prefix, "pyvenv.cfg")
        libraries = os.path.join(prefix, "lib")
        names = os.listdir(libraries) if os.path.isdir(libraries) else []
        if not os.path.isfile(settings) and not any(name.startswith(_LANGUAGES) for name in names):
            return
        self.tree(prefix, program)
        for extra in _path_files(prefix):
            self.tree(extra, "")
        if os.path.isfile(settings):
            for line in Path(settings).read_text("utf-8", errors="replace").splitlines():
                key, _, value = line.partition("=")
                base = shutil.which("python3", path=value.strip()) if key.strip() == "home" else None
                if base is not None:
                    self.program(base, depth - 1)

    def script(self, path: str) -> None:
        """A script named in the arguments: its project, or the directory it lies in."""
        real = self.real(path)
        self.files[real] = None
        parts = real.split("/")
        if "node_modules" in parts:
            self.tree("/".join(parts[: parts.index("node_modules")]) or "/", real)
            return
        folder = os.path.dirname(real)
        above = [folder, *(str(parent) for parent in Path(folder).parents)][:_ABOVE]
        projects = (up for up in above if any(os.path.isfile(os.path.join(up, name)) for name in _PROJECTS))
        self.tree(next(projects, folder), real)


def find(server: str, argv: Sequence[str], *, path: str, cwd: str) -> Program:
    """Look the command up in `path` as `subprocess` would, and what it depends on. Raises UpstreamFault."""
    name = argv[0]
    program = shutil.which(os.path.join(cwd, name) if "/" in name else name, path=path)
    if program is None:
        raise UpstreamFault(server, f"could not be started: {name!r} is not found, or is not a program")
    program = os.path.abspath(program)
    found = _Found(path)
    found.program(program)
    for argument in argv[1:]:
        if len(argument) < 4096 and _is_script(script := os.path.join(cwd, argument)):
            found.script(os.path.abspath(script))
    system, links = _system()
    there = tuple({one: None for folder in ("/usr/local/bin", "/usr/bin") for one in _strangers(folder)})
    cwd = found.real(cwd)
    return Program(
        (program, *argv[1:]),
        tuple(found.trees.items()),
        tuple(found.files),
        system,
        {**found.links, **links},
        there,
        cwd,
    )


def _path_files(prefix: str) -> Iterator[str]:
    """Directories that .pth files of a Python environment add: packages installed to be edited."""
    for file in Path(prefix).glob("lib/python3*/site-packages/*.pth"):
        for line in file.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("/") and os.path.isdir(line.strip()):
                yield os.path.normpath(line.strip())


def _interpreter(path: str, search: str) -> str | None:
    """What a script's first line names; `env NAME` is looked up."""
    try:
        with open(path, "rb") as stream:
            line = stream.readline(512)
    except OSError:
        return None
    if not line.startswith(b"#!"):
        return None
    words = line[2:].decode("utf-8", errors="replace").split()
    if not words:
        return None
    if os.path.basename(words[0]) != "env":
        return words[0]
    for word in shlex.split(" ".join(words[1:])):
        if not word.startswith("-") and "=" not in word:
            return shutil.which(word, path=search)
    return None


def _is_script(path: str) -> bool:
    """A file that is run, rather than one that is worked on: those have to be granted."""
    try:
        if not os.path.isfile(path):
            return False
        if os.path.splitext(path)[1].lower() in _SCRIPTS:
            return True
        with open(path, "rb") as stream:
            return stream.read(2) == b"#!"
    except (OSError, ValueError):
        return False


def _system() -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Directories of the system every program shares, and those that are links into others."""
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    real = [path for path in _SYSTEM if path not in links and os.path.isdir(path)]
    settings = [f"/etc/{name}" for name in _SETTINGS if os.path.exists(f"/etc/{name}")]
    return (*real, *settings), links


def _strangers(folder: str) -> Iterator[str]:
    """Programs of other languages in a directory of the system, by real path."""
    for name in _STRANGERS:
        real = os.path.realpath(os.path.join(folder, name))
        if os.path.isfile(real) and real.startswith("/usr/"):
            yield real


def search_path(env: Mapping[str, str]) -> str:
    """Where a command is looked for: the PATH declared for it, else ours."""
    return env.get("PATH", os.environ.get("PATH", os.defpath))
