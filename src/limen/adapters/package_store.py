"""Installed packages on this disk: trees named by what is in them, and signed records of what was asked for.

    trees/<digest>     read-only; node_modules/, or site/ and bin/
    records/<request>  JSON: the request, every package with its digest, the digests of the tree; signed with our key
    work/              installations under way

A tree appears by one rename when it is complete. Before every start it is compared with its record: whole the first
time in a process, and whenever anything about it changed; else by names, sizes and times.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from limen.adapters import package_tree
from limen.adapters.package_install import fetch, interpreter, runtime_of
from limen.audit.folders import sync_folder
from limen.core.faults import DependencyFault
from limen.core.ports import Signer
from limen.sandbox.launch import Plan, command_of, compare
from limen.sandbox.packages import (
    MAX_RECORD,
    NotLaunchable,
    Package,
    Record,
    RecordFault,
    differences,
    opened,
    sealed,
    swaps,
)

__all__ = ["PackageStore"]

_START: Final = (  # runs an entry point as pip's scripts do, on a path that holds nothing but the package
    "import sys;p,c,sys.argv[0]=sys.argv[1:4];del sys.argv[1:4];sys.path.insert(0,p);m,_,a=c.partition(':');"
    "import importlib,functools;sys.exit(functools.reduce(getattr,a.split('.'),importlib.import_module(m))())"
)
_SCRIPT: Final = (
    "import sys,runpy;p,f=sys.argv[1:3];del sys.argv[1:3];sys.argv[0]=f;sys.path.insert(0,p);"
    "runpy.run_path(f,run_name='__main__')"
)
_COMPILED: Final = re.compile(r"(?:^|/)__pycache__(?:/|$)")


class PackageStore:
    """One directory of ours. Raises NotLaunchable for what is not as recorded, DependencyFault when disk or tool
    fail."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self._trees, self._records, self._work = root / "trees", root / "records", root / "work"
        self._root, self._signer = root, signer
        self._known: dict[str, frozenset[package_tree.Mark]] = {}
        self._checking = threading.Lock()

    # reading

    def find(self, package: Package) -> Record | None:
        """The record of a request, verified; None when nobody installed it."""
        path = self._records / f"{package.request}.json"
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_RECORD + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DependencyFault("package store", f"{path}: {error.strerror}") from None
        if len(data) > MAX_RECORD:
            raise RecordFault("the record is larger than one can be")
        record = opened(data, self._signer.name, self._signer.public_key)
        if (record.ecosystem, record.specs) != (package.ecosystem, package.specs):
            raise RecordFault("the record is of another request")
        return record

    def check(self, record: Record, *, fully: bool = False) -> None:
        """Compare the tree with its record. `fully`: read every byte even if nothing seems to have changed."""
        tree = self._tree(record)
        with self._checking:
            try:
                marks = package_tree.marks(tree)
                if not fully and self._known.get(record.tree) == marks:
                    return
                self._known.pop(record.tree, None)
                found = package_tree.digest(tree)
                after = package_tree.marks(tree)
            except FileNotFoundError:
                raise NotLaunchable("the installed files are gone: run `limen servers install`") from None
            except OSError as error:
                raise DependencyFault("package store", f"{tree}: {error.strerror}") from None
            if found != record.whole or after != marks:
                raise NotLaunchable("the installed files are not those that were recorded: somebody changed them")
            self._known[record.tree] = marks

    def plan(self, package: Package, expected: Mapping[str, str]) -> Plan:
        """How to run it from the store, offline. `expected`: who names its artifact -> digest. Waits for the disk."""
        record = self.find(package)
        if record is None:
            raise NotLaunchable("not installed: run `limen servers install`; nothing is fetched at start")
        if record.runtime != runtime_of(record.ecosystem):
            raise NotLaunchable(f"installed for {record.runtime}: run `limen servers install --update`")
        compare(record.digest, expected)
        self.check(record)
        tree = self._tree(record)
        name, place = command_of(package, record)
        argv, mounts = _argv(tree, name, place)
        return Plan((*argv, *package.rest), (str(tree), *mounts), digest=record.digest)

    def _tree(self, record: Record) -> Path:
        return self._trees / record.tree

    # writing

    def install(
        self,
        package: Package,
        expected: Mapping[str, str],
        say: Callable[[str], None],
        *,
        update: bool = False,
        replace: bool = False,
    ) -> tuple[Record, list[str]]:
        """Resolve and install a request, unless that was done and `update` is off. Returns the record and what changed.

        A version that has another content than before is refused unless `replace`. Nothing is recorded on a refusal.
        """  # fmt: skip
        before = self.find(package)
        if before is not None and not update:
            compare(before.digest, expected)
            self.check(before, fully=True)
            return before, []
        with self._locked(fcntl.LOCK_SH):
            made = self._make(package, expected, say, before, replace)
        return made, differences(before, made) if before else []

    def _make(
        self, package: Package, expected: Mapping[str, str], say: Callable[[str], None], before: Record | None,
        replace: bool,
    ) -> Record:  # fmt: skip
        work = self._work / secrets.token_hex(8)
        try:
            (work / "fetch").mkdir(parents=True, mode=0o700)
            (work / "tree").mkdir()
            fetched = fetch(package.ecosystem, package.specs, work / "fetch", work / "tree", say)
            digest = package_tree.digest(work / "tree", lambda path: not _COMPILED.search(path))
            package_tree.seal(work / "tree")
            whole = package_tree.digest(work / "tree")
            record = Record(
                package.ecosystem, package.specs, fetched.names, fetched.parts, digest, whole, whole,
                dict(fetched.commands), fetched.runtime, int(time.time()),
            )  # fmt: skip
            if before is not None and not replace and (other := swaps(before, record)):
                raise NotLaunchable(f"other content under an unchanged version: {', '.join(other)[:300]}")
            command_of(package, record)
            compare(digest, expected)
            self._place(work / "tree", record)
            self._write(package, record)
        except OSError as error:
            raise DependencyFault(
                "package store", f"{error.filename or self._root}: {error.strerror or error}"
            ) from None
        finally:
            _forget(work)
        return record

    def _place(self, made: Path, record: Record) -> None:
        """By one rename; where another process was faster its tree is the same, and is checked."""
        goal = self._tree(record)
        self._trees.mkdir(parents=True, exist_ok=True, mode=0o700)
        made.chmod(0o700)  # a directory that is moved must be writable: its `..` changes
        try:
            made.rename(goal)
        except OSError:
            if not goal.is_dir():
                raise
            try:
                self.check(record, fully=True)
                return
            except NotLaunchable:
                goal.rename(self._work / f"broken-{secrets.token_hex(8)}")  # put right what was tampered with
            made.rename(goal)
        goal.chmod(0o555)
        sync_folder(self._trees)

    def _write(self, package: Package, record: Record) -> None:
        self._records.mkdir(parents=True, exist_ok=True, mode=0o700)
        goal = self._records / f"{package.request}.json"
        draft = goal.with_name(f".{goal.name}.{secrets.token_hex(8)}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(sealed(record, self._signer))
                stream.flush()
                os.fsync(handle)
            draft.replace(goal)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(self._records)

    def collect(self, wanted: Iterable[Package], *, dry: bool = False) -> list[str]:
        """Delete records nobody wants, trees no record names, and what interrupted installations left. Returns
        which."""
        keep = {f"{package.request}.json" for package in wanted}
        gone: list[str] = []
        with self._locked(fcntl.LOCK_EX):
            kept: set[str] = set()
            for package in wanted:
                record = self.find(package)
                kept |= {record.tree} if record else set()
            doomed = [
                *(path for path in _children(self._records) if path.name not in keep),
                *(path for path in _children(self._trees) if path.name not in kept),
                *_children(self._work),
            ]
            for path in doomed:
                gone.append(path.relative_to(self._root).as_posix())
                if not dry:
                    _forget(path)
        return gone

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Installations may overlap; nothing is deleted meanwhile."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


def _argv(tree: Path, name: str, place: str) -> tuple[list[str], tuple[str, ...]]:
    """Command line and what the interpreter needs to be seen. Raises NotLaunchable."""
    python = [str(interpreter()), "-I", "-S", "-B", "-c"]
    if ":" in place:
        return [*python, _START, str(tree / "site"), place, name], (sys.base_prefix,)
    path = tree / place
    first = path.open("rb").read(256).split(b"\n", 1)[0]
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if words[:1] and words[0].rsplit("/", 1)[-1] == "env":
        words = words[1:]
    if path.suffix in (".js", ".mjs", ".cjs") or (words and words[0].rsplit("/", 1)[-1] in ("node", "nodejs")):
        node = shutil.which("node")
        if node is None:
            raise NotLaunchable("node is not installed here")
        real = Path(node).resolve()
        return [str(real), str(path)], (str(real),)
    if words and words[0].rsplit("/", 1)[-1].startswith("python"):
        return [*python, _SCRIPT, str(tree / "site"), str(path)], (sys.base_prefix,)
    if words:
        raise NotLaunchable("the executable is a script of an interpreter that is not supported")
    return [str(path)], ()


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _forget(path: Path) -> None:
    """Delete a file or a directory, sealed or not. Raises DependencyFault."""
    try:
        if path.is_dir() and not path.is_symlink():
            for folder, _, _ in os.walk(path):
                os.chmod(folder, 0o700)  # sealed ones can be read and not be changed
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DependencyFault("package store", f"{error.filename or path}: {error.strerror or error}") from None
