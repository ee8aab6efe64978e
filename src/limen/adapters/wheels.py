"""Puts wheels (PEP 427) side by side into one directory, without running anything of them and without pip's help.

pip writes scripts with absolute paths and notes of its own into what it installs, so that the same wheels never make
the same tree twice. This makes the same tree every time. A wheel is a ZIP archive with a RECORD of every file's digest;
any file that is not as recorded, or that would land anywhere but in the tree, refuses the whole wheel.
"""

from __future__ import annotations

import base64
import configparser
import csv
import io
import os
import re
import stat
import zipfile
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from limen.adapters.package_tree import MAX_BYTES, MAX_FILES
from limen.sandbox.packages import NotLaunchable, normal

_CHUNK: Final = 1 << 20
_SMALL: Final = 16 << 20  # bytes of RECORD, METADATA and entry_points.txt, which are read whole
_ENTRY: Final = re.compile(r"(?P<call>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)\s*(?:\[[^\]]*\])?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Exact(configparser.ConfigParser):
    """Names keep their case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


class Wheel:
    """One opened wheel. `name` (PEP 503), `version`, `commands`: executable -> `module:attribute`, or a path in the
    tree."""

    def __init__(self, path: Path) -> None:
        """Raises NotLaunchable, OSError."""
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise NotLaunchable(f"{path.name}: not a wheel") from None
        self._files = self._members()
        infos = {name.split("/", 1)[0] for name in self._files if name.split("/", 1)[0].endswith(".dist-info")}
        if len(infos) != 1:
            raise NotLaunchable(f"{path.name}: a wheel has exactly one .dist-info")
        self._info = infos.pop()
        self._stem = self._info.removesuffix(".dist-info")
        name, _, self.version = self._stem.rpartition("-")
        self.name = normal(name)
        self.commands = self._entry_points()

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        size = 0
        for member in self._zip.infolist():
            name = member.filename
            size += member.file_size
            parts = name.rstrip("/").split("/")
            if "\\" in name or "\0" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
                raise NotLaunchable(f"{self.path.name}: a file would be written elsewhere: {name[:200]!r}")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise NotLaunchable(f"{self.path.name}: neither a file nor a directory: {name[:200]!r}")
            if name in found:
                raise NotLaunchable(f"{self.path.name}: holds a file twice: {name[:200]!r}")
            if not member.is_dir():
                found[name] = member
        if len(found) > MAX_FILES or size > MAX_BYTES:
            raise NotLaunchable(f"{self.path.name}: larger than a package may be")
        return found

    def _text(self, name: str) -> str:
        member = self._files.get(f"{self._info}/{name}")
        if member is None:
            return ""
        if member.file_size > _SMALL:
            raise NotLaunchable(f"{self.path.name}: its {name} is too large")
        try:
            return self._zip.read(member).decode("utf-8")
        except (zipfile.BadZipFile, UnicodeDecodeError, OSError, EOFError) as error:
            raise NotLaunchable(f"{self.path.name}: its {name} cannot be read: {error}") from None

    def _entry_points(self) -> dict[str, str]:
        reader = _Exact(delimiters=("=",), interpolation=None, strict=False)
        try:
            reader.read_string(self._text("entry_points.txt"))
        except configparser.Error:
            raise NotLaunchable(f"{self.path.name}: its entry_points.txt cannot be read") from None
        found: dict[str, str] = {}
        for name, value in reader.items("console_scripts") if reader.has_section("console_scripts") else ():
            call = _ENTRY.fullmatch(value.strip())
            if call is None or not _NAME.fullmatch(name):
                raise NotLaunchable(f"{self.path.name}: an entry point that is none")
            found[name] = call["call"]
        scripts = f"{self._stem}.data/scripts/"
        for path in self._files:
            if path.startswith(scripts) and _NAME.fullmatch(name := path.removeprefix(scripts)):
                found.setdefault(name, f"bin/{name}")
        return found

    def unpack(self, tree: Path, taken: dict[str, str | None]) -> None:
        """Write it below `tree`. `taken`: what other wheels wrote, with its digest: several may bring the same file of
        a common namespace. Raises NotLaunchable, OSError."""
        recorded = self._recorded()
        unsigned = {f"{self._info}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s")}
        for name, member in self._files.items():
            wanted = recorded.get(name)
            if wanted is None and name not in unsigned:
                raise NotLaunchable(f"{self.path.name}: a file its RECORD does not list: {name[:200]!r}")
            goal = self._goal(name)
            if goal is None:
                continue
            if goal in taken:
                if wanted is None or taken[goal] != wanted:
                    raise NotLaunchable(f"{self.path.name}: another package has another such file: {goal[:200]!r}")
                continue
            taken[goal] = wanted
            mode = 0o755 if goal.startswith("bin/") or (member.external_attr >> 16) & 0o111 else 0o644
            found = self._write(member, tree / goal, mode)
            if name not in unsigned and found != wanted:
                raise NotLaunchable(f"{self.path.name}: a file is not the one of its RECORD: {name[:200]!r}")

    def _recorded(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for row in csv.reader(io.StringIO(self._text("RECORD"))):
            if len(row) == 3 and row[1].startswith("sha256="):
                found[row[0]] = row[1].removeprefix("sha256=").rstrip("=")
        return found

    def _goal(self, name: str) -> str | None:
        """Where a file of the archive goes; None for what is not needed to run."""
        parts = PurePosixPath(name).parts
        if "__pycache__" in parts:
            return None  # compiled by a stranger, and run in place of the source that people read
        if parts[0] != f"{self._stem}.data":
            return f"site/{name}"
        if len(parts) < 3:
            return None
        rest = "/".join(parts[2:])
        places = {"purelib": "site/", "platlib": "site/", "scripts": "bin/", "data": "data/"}
        return places[parts[1]] + rest if parts[1] in places else None

    def _write(self, member: zipfile.ZipInfo, goal: Path, mode: int) -> str:
        goal.parent.mkdir(parents=True, exist_ok=True)
        found, left = sha256(), member.file_size
        handle = os.open(goal, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(handle, "wb") as stream, self._zip.open(member) as source:
                while data := source.read(_CHUNK):
                    left -= len(data)
                    if left < 0:
                        raise NotLaunchable(f"{self.path.name}: a file is larger than it says")
                    found.update(data)
                    stream.write(data)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise NotLaunchable(f"{self.path.name}: cannot be unpacked: {error}") from None
        return base64.urlsafe_b64encode(found.digest()).rstrip(b"=").decode()

    def strangers(self) -> list[str]:
        """Packages it wants from somewhere else than the index: `name @ url` (PEP 508). Raises NotLaunchable."""
        wanted = (
            row.split(":", 1)[1] for row in self._text("METADATA").splitlines() if row.startswith("Requires-Dist:")
        )
        return [text.split("@", 1)[0].strip()[:100] for text in wanted if "@" in text.split(";", 1)[0]]

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()
