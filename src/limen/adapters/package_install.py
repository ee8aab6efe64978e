"""Fetches packages with the ecosystem's own tool, runs nothing of them, and leaves a plain directory tree.

npm and pip find and check what they fetch, by the operator's own settings of them (registry, proxy, certificates).
Neither may run a package's scripts: npm is told so, pip is given wheels only and does not even unpack them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limen.adapters.package_tree import of_file
from limen.adapters.wheels import Wheel
from limen.core.faults import DependencyFault
from limen.sandbox.packages import Ecosystem, NotLaunchable, Part, spec_name

SECONDS: Final = 900.0  # one run of npm or pip
_NPM: Final = (
    "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--omit=dev", "--save-exact",
    "--install-links", "--allow-git=none", "--loglevel=error",
)  # fmt: skip
_PIP: Final = ("download", "--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check")
_DROPPED: Final = ("NODE_OPTIONS", "NODE_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD", "BASH_ENV")
_TOLD: Final = 600  # characters of a tool's complaint


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a request became. The tree is complete and nobody else knows of it yet."""

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    commands: Mapping[str, str]
    runtime: str


def interpreter() -> Path:
    """The Python that packages run on: the one Limen runs on, without its virtual environment."""
    return Path(sys.executable).resolve()


def runtime_of(ecosystem: Ecosystem) -> str:
    """What a tree depends on besides itself: compiled parts fit one interpreter and processor."""
    node = f"{sys.platform}-{platform.machine()}"
    return node if ecosystem == "npm" else f"{sys.implementation.cache_tag}-{node}"


def fetch(ecosystem: Ecosystem, specs: Sequence[str], work: Path, tree: Path, say: Callable[[str], None]) -> Fetched:
    """Install into `tree`, using `work` (both empty directories). Raises NotLaunchable, DependencyFault, OSError."""
    return (_npm if ecosystem == "npm" else _python)(specs, work, tree, say)


def _run(tool: str, argv: Sequence[str], cwd: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name.upper() not in _DROPPED}
    try:
        done = subprocess.run(  # noqa: S603 - our own command line, checked names
            argv, cwd=cwd, env=kept, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise DependencyFault(tool, "is not installed here", retryable=False) from None
    except subprocess.TimeoutExpired:
        raise DependencyFault(tool, f"did not finish within {SECONDS:.0f} s") from None
    if done.returncode != 0:
        told = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise DependencyFault(tool, told[-_TOLD:] or f"ended with status {done.returncode}")


# npm


def _npm(specs: Sequence[str], work: Path, tree: Path, say: Callable[[str], None]) -> Fetched:
    program = shutil.which("npm")
    if program is None:
        raise DependencyFault("npm", "is not installed here", retryable=False)
    (work / "package.json").write_text('{"name": "limen", "private": true}\n')
    say(f"npm: fetching {', '.join(specs)}")
    _run("npm", [program, *_NPM, "--", *specs], work)
    lock = json.loads((work / "package-lock.json").read_bytes())
    packages: dict[str, Any] = lock.get("packages", {})
    wanted: dict[str, str] = packages.get("", {}).get("dependencies", {})
    names = tuple(_asked(spec, wanted) for spec in specs)
    parts = tuple(_part(path, entry, specs) for path, entry in sorted(packages.items()) if path)
    modules = work / "node_modules"
    (modules / ".package-lock.json").unlink(missing_ok=True)  # npm's own note, of no use to what runs
    for part in parts:
        if not (modules / part.name / "package.json").is_file() and not _optional(
            packages[f"node_modules/{part.name}"]
        ):
            raise NotLaunchable(f"{part.name}: is in npm's lockfile and not on disk")
    present = tuple(part for part in parts if (modules / part.name).is_dir())
    modules.rename(tree / "node_modules")
    commands: dict[str, str] = {}
    for name in names:
        for command, path in _bins(tree, name).items():
            commands.setdefault(command, path)
    return Fetched(names, present, commands, runtime_of("npm"))


def _asked(spec: str, wanted: Mapping[str, str]) -> str:
    """The package of a spec. Of a package file only npm knows its name."""
    name = spec_name("npm", spec)
    if not name:
        file = spec.rsplit("/", 1)[-1]
        name = next((one for one, value in wanted.items() if value.rsplit("/", 1)[-1] == file), "")
    if name not in wanted:
        raise NotLaunchable(f"npm did not install {spec!r}")
    return name


def _optional(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("optional") or entry.get("peer") or entry.get("devOptional"))


def _part(path: str, entry: Mapping[str, Any], specs: Sequence[str]) -> Part:
    """One package of npm's lockfile. What came from a repository or a directory has no integrity there."""
    name = path.removeprefix("node_modules/")
    source, integrity = str(entry.get("resolved", "")), str(entry.get("integrity", ""))
    inside = entry.get("inBundle") is True
    if entry.get("link") is True or not path.startswith("node_modules/"):
        raise NotLaunchable(f"{name}: is a link to a directory, not a package")
    if source.startswith("file:") and not any(spec.endswith(source.rsplit("/", 1)[-1]) for spec in specs):
        raise NotLaunchable(f"{name}: is wanted from a file of this disk")
    if source and not source.startswith(("https:", "http:", "file:")):
        raise NotLaunchable(f"{name}: is wanted from a repository, not from the registry")
    if not integrity.startswith("sha512-") and not inside:
        raise NotLaunchable(f"{name}: comes without a SHA-512 digest")
    return Part(name, str(entry.get("version", "")), integrity, entry.get("hasInstallScript") is True)


def _bins(tree: Path, name: str) -> dict[str, str]:
    folder = tree / "node_modules" / name
    try:
        about = json.loads((folder / "package.json").read_bytes())
    except (OSError, ValueError) as error:
        raise NotLaunchable(f"{name}: its package.json cannot be read: {error}") from None
    bins = about.get("bin") or {}
    if isinstance(bins, str):
        bins = {name.rsplit("/", 1)[-1]: bins}
    found: dict[str, str] = {}
    for command, path in bins.items() if isinstance(bins, dict) else ():
        place = Path(os.path.normpath(folder / str(path)))
        if not place.is_relative_to(folder) or not place.resolve().is_relative_to(folder.resolve()):
            raise NotLaunchable(f"{name}: an executable lies outside of the package")
        if place.is_file():
            found[str(command)] = place.relative_to(tree).as_posix()
    return found


# Python


def _python(specs: Sequence[str], work: Path, tree: Path, say: Callable[[str], None]) -> Fetched:
    wheels = work / "wheels"
    wheels.mkdir()
    (work / "requirements.txt").write_text("".join(f"{spec}\n" for spec in specs))
    say(f"pip: fetching {', '.join(specs)}")
    _run("pip", [sys.executable, "-m", "pip", *_PIP, "-d", str(wheels), "-r", "requirements.txt"], work)
    names = tuple(spec_name("python", spec) for spec in specs)
    parts: list[Part] = []
    commands: dict[str, str] = {}
    taken: dict[str, str | None] = {}
    (tree / "site").mkdir()
    for path in sorted(wheels.iterdir()):
        wheel = Wheel(path)
        try:
            if strangers := wheel.strangers():
                raise NotLaunchable(f"{wheel.name}: wants {', '.join(strangers)} from an address, not from the index")
            wheel.unpack(tree, taken)
        finally:
            wheel.close()
        parts.append(Part(wheel.name, wheel.version, f"sha256:{of_file(path)}"))
        if wheel.name == names[0]:
            commands = wheel.commands
    if missing := [name for name in names if name not in {part.name for part in parts}]:
        raise NotLaunchable(f"pip did not fetch {', '.join(missing)}")
    say(f"compiling {len(parts)} packages")
    _compile(tree)
    return Fetched(names, tuple(sorted(parts, key=lambda part: part.name)), commands, runtime_of("python"))


def _compile(tree: Path) -> None:
    """Byte code, made by us: the tree is read-only later. A file that is no Python of this version stays as it is, so
    the status says nothing."""
    argv = [str(interpreter()), "-I", "-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    try:
        subprocess.run(  # noqa: S603 - our own interpreter; compiling runs nothing of what is compiled
            [*argv, "-s", str(tree), "site"], cwd=tree, env={}, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DependencyFault("compileall", str(error)) from None
