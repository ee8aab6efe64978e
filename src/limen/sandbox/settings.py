"""What may be said about the cell of one server: what it sees, and how much it may use."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from limen.core.cell import Bounds

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]{1,15})\s*([kKmMgG]i?)?[bB]?")
_CLOSED: Final = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot")  # ways to the host, and sockets of its services
_WHOLE: Final = frozenset(
    {"/", "/bin", "/etc", "/home", "/lib", "/lib64", "/root", "/sbin", "/tmp", "/usr", "/var"}  # noqa: S108
)


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("a size is a number of bytes, or a number with k, M, G, Ki, Mi or Gi")
        return int(match[1]) * _UNITS[(match[2] or "").lower()]
    return value


Size = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _SIZE.pattern}]}),
]
_MI: Final = 1 << 20


class Limits(BaseModel):
    """What a server may use. Sizes are bytes, or written as 512Mi."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    memory: Annotated[Size, Field(ge=16 * _MI)] = Field(default=512 * _MI, description="of all its processes together")
    processes: Annotated[int, Field(ge=4, le=32_768)] = Field(default=128, description="processes and threads")
    files: Annotated[int, Field(ge=16, le=1_048_576)] = Field(default=1024, description="open files of a process")
    file_size: Annotated[Size, Field(ge=0)] = Field(default=256 * _MI, description="of one file it writes")
    tmp: Annotated[Size, Field(ge=64 << 10)] = Field(
        default=64 * _MI, description="of each: /tmp, its home directory, /dev/shm; counts as memory"
    )
    cpu_seconds: Annotated[int, Field(ge=1)] | None = Field(default=None, description="processor time of a process")
    cpus: Annotated[float, Field(ge=0.05, le=1024)] | None = Field(
        default=None, description="processors; needs control groups"
    )
    output_bytes_per_second: Annotated[Size, Field(ge=1024)] | None = Field(
        default=32 * _MI, description="of its standard output; more is read later"
    )
    idle: Annotated[float, Field(ge=1)] | None = Field(default=None, description="seconds without a call until stopped")
    wall: Annotated[float, Field(ge=1)] | None = Field(default=None, description="seconds until stopped and restarted")

    @property
    def bounds(self) -> Bounds:
        """The same for who enforces them."""
        return Bounds(**self.model_dump())


class Directory(BaseModel):
    """A directory or file the server sees, at the same path."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    path: str = Field(description="absolute; no part of it may be a symbolic link")
    write: bool = False

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        if not value.startswith("/") or value.startswith("//") or "\0" in value:
            raise ValueError("a granted path is absolute")
        if posixpath.normpath(value) != (value.rstrip("/") or "/"):
            raise ValueError("a granted path has no . or .. and no doubled slash")
        value = value.rstrip("/") or "/"
        if value in _WHOLE:
            raise ValueError(f"{value} holds what every server must not see: grant directories inside it")
        if any(value == closed or value.startswith(f"{closed}/") for closed in _CLOSED):
            raise ValueError(f"{value} leads out of the sandbox (devices, processes, sockets of services)")
        return value
