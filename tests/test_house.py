"""The rules of the house a machine can check: who may import, construct and print; names, sizes, what must stay out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "limen"
LONGEST = {"src": 400, "tests": 600}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "service", "services", "misc"}

# Written in parts: this file is searched as well.
REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "npmjs" + ".com", "deb" + "ian.org")
MACHINE_PATHS = ("/wo" + "rk/", "/ho" + "me/", "/ro" + "ot/", "/Us" + "ers/", "/opt/" + "pypi", "/opt/" + "wheels")


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that is in the repository or would be with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = {ROOT / name for name in listed.stdout.decode().split("\0") if name}
        return tuple(sorted(path for path in names if path.is_file()))
    built = {".venv", ".tools", ".demo", "dist", "__pycache__", ".git", ".hypothesis", ".mypy_cache", ".ruff_cache"}
    return tuple(sorted(p for p in ROOT.rglob("*") if p.is_file() and not built & set(p.relative_to(ROOT).parts)))


@cache
def sources() -> tuple[tuple[Path, ast.Module], ...]:
    return tuple((path, ast.parse(path.read_text(), str(path))) for path in sorted(SOURCE.rglob("*.py")))


def called(module: ast.Module) -> Iterator[tuple[str, int]]:
    """The plain or last name of everything that is called, with its line."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node.lineno
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, node.lineno


def posture_guards() -> set[str]:
    """The guard classes of posture.py, read and not imported: this must hold while rooms are being built."""
    found: set[str] = set()
    for node in ast.parse((SOURCE / "posture.py").read_text()).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple)):
            continue
        if isinstance(node.target, ast.Name) and node.target.id in ("CALLER", "CALL", "RESULT"):
            found |= {item.id for item in node.value.elts if isinstance(item, ast.Name)}
    return found


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_no_module_is_named_vaguely() -> None:
    assert not [path for path, _ in sources() if VAGUE & set(path.relative_to(SOURCE).with_suffix("").parts)]


def test_chains_and_guards_are_constructed_in_assemble_only() -> None:
    guards = posture_guards()
    assert {"Authenticate", "Authorize", "Resolve", "ValidateResult"} <= guards
    elsewhere = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, module in sources()
        if path.name not in ("assemble.py", "inspection.py")  # the two halves of the composition root
        for name, line in called(module)
        if name == "Chain" or name in guards
    ]
    assert not elsewhere


def test_permits_are_minted_in_the_chain_only() -> None:
    minted = {
        path.relative_to(SOURCE).as_posix()
        for path, module in sources()
        for name, _ in called(module)
        if name == "Permit"
    }
    assert minted <= {"core/chain.py"}


@pytest.mark.parametrize("folder", LONGEST)
def test_files_stay_readable(folder: str) -> None:
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > LONGEST[folder]
    }
    assert not long


def test_only_the_command_line_prints_to_standard_output() -> None:
    """Standard output may be a protocol (stdio); what is said to the operator names its stream."""
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, module in sources()
        if SOURCE / "cli" not in path.parents
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "print"
        and not any(keyword.arg == "file" for keyword in node.keywords)
    ]
    assert not printing


def test_no_exception_is_swallowed() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, module in sources()
        for node in ast.walk(module)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent


def test_nothing_names_a_registry_or_a_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in (*REGISTRIES, *MACHINE_PATHS) if word in text]
    assert not found


def test_npm_lock_says_what_and_not_from_where() -> None:
    text = (ROOT / "tests" / "conformance" / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert '"integrity"' in text


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


def test_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, dev = requirement_lines("run.in"), requirement_lines("dev.in")
    build = {*project["build-system"]["requires"], "editables"}
    assert sorted(set(run) - build) == sorted(project["project"]["dependencies"])
    assert build <= set(run)
    assert sorted(dev) == sorted(project["project"]["optional-dependencies"]["dev"])


@pytest.mark.parametrize("name", ["run", "dev"])
def test_locks_pin_exactly_and_with_digests(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    pins = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    pinned = set()
    for pin in pins:
        head = re.match(r"([a-z0-9._-]+)==[^\s;]+( ; [^\\]+)? \\\n", pin)
        assert head, pin[:80]
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+", pin[head.end() :]), pin[:80]
        pinned.add(head[1])
    wanted = requirement_lines("run.in") + (requirement_lines("dev.in") if name == "dev" else [])
    names = {re.split(r"[\[<>=;! ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names <= pinned
