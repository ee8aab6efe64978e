"""What a cell is made of, from the settings of a server and what its program needs to run. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from limen.core.cell import CellSpec, Mount
from limen.core.faults import ConfigFault
from limen.sandbox.settings import Directory, Limits

HOME: Final = "/cell"
INSIDE: Final = 65534  # the user id a program sees itself as
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_FIRST_USER, _USERS = 0x70000000, 1 << 27  # ids no distribution and no container runtime hands out
# Directories too wide to be shown whole because a program happens to lie in them.
_WIDE: Final = frozenset(
    {
        "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
        "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr/local", "/var", "/var/lib", "/var/tmp",  # noqa: S108
    }
)  # fmt: skip
_NODE: Final = ("node", "nodejs", "npm", "npx", "corepack")


@dataclass(frozen=True, slots=True)
class Program:
    """What the disk says about a command, by real path. `trees` are directories it belongs to, each with the file that
    is enough where the directory cannot be shown; `files` single files; `system` parts of the host's own system;
    `links` symbolic links it goes through. `present`: programs of other languages that are there as well.
    """

    argv: tuple[str, ...]
    trees: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    system: tuple[str, ...]
    links: Mapping[str, str]
    present: tuple[str, ...] = ()
    cwd: str = "/"


def plan(
    server: str,
    program: Program,
    *,
    limits: Limits,
    directories: Sequence[Directory] = (),
    env: Mapping[str, str],
    language: str = "",
    home: str = "",
    private: Iterable[str] = (),
    root: bool = False,
    uid: int = 0,
) -> CellSpec:
    """`home` is the gateway's home directory, `private` its own files: neither appears in a cell. `root`: the gateway
    runs as root, else `uid` is its user. Raises ConfigFault."""
    hidden = [posixpath.normpath(path) for path in private]
    _check(server, program.files, directories, home, hidden)
    paths = [*program.system, *program.files]
    trees = (*program.trees, *(((program.cwd, ""),) if program.cwd != "/" else ()))
    paths += [one if _showable(one, home, hidden) else enough for one, enough in trees]
    granted = {one.path: Mount(one.path, one.path, one.write, exact=True) for one in directories}
    # What others could exchange is opened exactly as it was found; the system's own links (/etc/localtime) are root's.
    own = {path: Mount(path, path, exact=path not in program.system) for path in _outermost(paths)}
    shown = own | granted
    strangers = {path: Mount("", path) for path in _strangers(program, shown)}
    mounts = sorted((strangers | shown).values(), key=lambda mount: (mount.target.count("/"), mount.target))
    return CellSpec(
        server=server,
        argv=program.argv,
        cwd=program.cwd if any(_holds(path, program.cwd) for path in shown) else HOME,
        bounds=limits.bounds,
        user=user_of(server) if root else uid,
        env=_environment(program, env, language),
        mounts=tuple(mounts),
        links={path: to for path, to in program.links.items() if not any(_holds(one, path) for one in shown)},
    )


def containerised(
    server: str,
    image: str,
    argv: Sequence[str],
    *,
    limits: Limits,
    directories: Sequence[Directory] = (),
    env: Mapping[str, str],
    cwd: str = "",
    home: str = "",
    private: Iterable[str] = (),
    root: bool = False,
    uid: int = 0,
) -> CellSpec:
    """A cell in a container of `image`: of the host it sees what was granted. Arguments as for `plan`. Raises
    ConfigFault."""
    _check(server, (), directories, home, [posixpath.normpath(path) for path in private])
    return CellSpec(
        server=server,
        argv=tuple(argv),
        cwd=cwd or HOME,
        bounds=limits.bounds,
        user=user_of(server) if root else uid,
        env={"HOME": HOME, "TMPDIR": "/tmp", **env},  # noqa: S108 - the cell's own
        mounts=tuple(Mount(one.path, one.path, one.write, exact=True) for one in directories),
        image=image,
    )


def _check(
    server: str, files: Iterable[str], directories: Sequence[Directory], home: str, hidden: Sequence[str]
) -> None:
    """What must not be granted. Raises ConfigFault."""
    where = f"mcpServers.{server}.security.directories"
    for one in directories:
        if inside := [path for path in hidden if _holds(one.path, path) or _holds(path, one.path)]:
            raise ConfigFault(f"{one.path} holds files of Limen ({inside[0]})", where)
        if home and _holds(one.path, home):
            raise ConfigFault(f"{one.path} holds a home directory: grant directories inside it", where)
        own = [path for path in files if _holds(one.path, path)]
        if one.write and own:
            raise ConfigFault(f"{one.path} holds the server's own program ({own[0]}), which it could rewrite", where)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Without those that are inside another."""
    kept: list[str] = []
    for path in sorted(filter(None, paths)):
        if not kept or not _holds(kept[-1], path):
            kept.append(path)
    return kept


def user_of(server: str) -> int:
    """The host's user id of a server's cell where the gateway runs as root: the same one every time."""
    return _FIRST_USER + int.from_bytes(sha256(server.encode()).digest()[:4]) % _USERS


def _environment(program: Program, declared: Mapping[str, str], language: str) -> dict[str, str]:
    own = posixpath.dirname(program.argv[0])
    path = _PATH if own in _PATH.split(":") else f"{own}:{_PATH}"
    base = {"PATH": path, "HOME": HOME, "TMPDIR": "/tmp"}  # noqa: S108 - the cell's own
    return {**base, **({"LANG": language} if language else {}), **declared}


def _strangers(program: Program, mounts: Mapping[str, Mount]) -> list[str]:
    """A program of one language has no use for another's package manager, and some call it when they find it."""
    if any(posixpath.basename(path) in _NODE for path in (*program.files, program.argv[0])):
        return []
    return [path for path in program.present if path not in mounts]


def _showable(directory: str, home: str, hidden: Iterable[str]) -> bool:
    if directory in _WIDE or posixpath.dirname(directory) == "/home":
        return False
    if home and (_holds(directory, home) or directory in (f"{home}/.local", f"{home}/.config", f"{home}/.cache")):
        return False
    return not any(_holds(directory, path) for path in hidden)


def _holds(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")
