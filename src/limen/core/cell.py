"""A cell: all that is needed to start somebody else's program where it can do no harm. Decided, not yet started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of ours that appears at `target` inside. `exact`: no part of `source` may be a symbolic link."""

    source: str
    target: str
    write: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a cell may use: bytes, counts and seconds; None is without a bound."""

    memory: int
    processes: int
    files: int
    file_size: int
    tmp: int
    cpu_seconds: int | None = None
    cpus: float | None = None
    output_bytes_per_second: int | None = None
    idle: float | None = None
    wall: float | None = None


# Takes the sockets on which a cell's connections arrive, before it runs; what it returns ends that.
Attend = Callable[[Any, Sequence[Any]], Awaitable[Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class CellSpec:
    """`env` is the whole environment and may hold secrets: it appears on no command line. `ports`: TCP ports on which
    the cell's connections are taken by the gateway; without any the cell has no network at all.

    `links` are symbolic links to make, target by path; `user` the host's user id to become when started by root.
    `image`: NAME@sha256:HEX of a container image the program is in; then an empty argv[0] means what the image starts.
    """

    server: str
    argv: tuple[str, ...]
    cwd: str
    bounds: Bounds
    user: int
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    mounts: tuple[Mount, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    attend: Attend | None = field(default=None, repr=False, compare=False)  # takes the sockets of `ports`
    image: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cell uses now: bytes of memory, seconds of processor time, processes, bytes read and written."""

    memory: int
    cpu: float
    processes: int
    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a sandbox, tried. `needed`: nothing is started where it does not hold."""

    name: str
    holds: bool
    found: str
    remedy: str = ""
    needed: bool = True


class Process(Protocol):
    """As subprocess.Popen: unbuffered binary pipes."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Cell(Protocol):
    """One started cell. `process` ends when the cell does, and everything in the cell ends when `process` does."""

    @property
    def process(self) -> Process: ...
    def usage(self) -> Usage | None:
        """What it uses; None when that can no longer be seen."""
        ...

    def exceeded(self) -> str:
        """The bound it went beyond, where nothing else enforces that; else ""."""
        ...

    def bound_hit(self) -> str:
        """After the end: the bound that ended it, as far as the system tells; else ""."""
        ...

    def end(self) -> None:
        """Kill whatever is left and give back what was made for it. May be called more than once."""
        ...
