"""Digests of programs that are on this disk already: what an operator may pin with `security.artifact`."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Final

from limen.adapters import package_tree
from limen.core.faults import DependencyFault
from limen.sandbox.launch import Local, NotLaunchable

_SEARCH: Final = (
    "lib/python3*/site-packages",
    "lib64/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib/python3*",
)


def digest_of(local: Local, path: str, cwd: str) -> str:
    """ "sha256-<hex>": of the program itself, or of program and script, or of program and module. `path`: the child's
    PATH.

    Raises NotLaunchable when it cannot be told what would run, DependencyFault when it cannot be read.
    """
    if local.loose:
        raise NotLaunchable(f"cannot be pinned: {local.loose}")
    command = local.argv[0]
    program = shutil.which(command if "/" not in command else os.path.join(cwd, command), path=path)
    if program is None:
        raise NotLaunchable("the program is not found")
    try:
        parts = [package_tree.of_file(Path(program).resolve())]
        if local.kind == "script":
            parts.append(package_tree.of_file(Path(cwd, local.subject).resolve()))
        elif local.kind == "module":
            parts.append(_module(Path(program), local.subject.split(".")[0]))
    except OSError as error:
        raise DependencyFault("program", f"{error.filename}: {error.strerror}") from None
    if len(parts) == 1:
        return f"sha256-{parts[0]}"
    return f"sha256-{sha256(' '.join(parts).encode()).hexdigest()}"


def _module(program: Path, name: str) -> str:
    """Of the top-level package in the interpreter's own directories; what it imports from others is not covered."""
    for prefix in (program.parent.parent, program.resolve().parent.parent):
        for pattern in _SEARCH:
            for folder in sorted(prefix.glob(pattern)):
                if (folder / f"{name}.py").is_file():
                    return package_tree.of_file(folder / f"{name}.py")
                if (folder / name).is_dir():
                    return package_tree.digest(folder / name, lambda path: "__pycache__" not in path.split("/"))
    raise NotLaunchable("cannot be pinned: the module is not among the interpreter's own packages")
