"""What the documents claim is there: files, guards, tests, reasons, commands. A threat without its test is an error."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer

from limen.cli.main import app
from limen.config.load import load_config
from limen.config.model import Config
from limen.core.reasons import REASONS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
THREATS = ROOT / "docs" / "threats.md"


def tables(path: Path) -> list[list[str]]:
    """The cells of every table row except head and rule lines."""
    lines = path.read_text().splitlines()
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line) and "-" in line}
    skipped = rules | {number - 1 for number in rules}
    return [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in skipped
    ]


@cache
def definitions() -> frozenset[str]:
    """Every class and function of the source."""
    return frozenset(
        node.name
        for path in (ROOT / "src" / "limen").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )


@cache
def named_tests(path: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


THREAT_ROWS = tables(THREATS)


def test_there_are_threats() -> None:
    assert len(THREAT_ROWS) >= 20
    assert len({row[0] for row in THREAT_ROWS}) == len(THREAT_ROWS)


@pytest.mark.parametrize("row", THREAT_ROWS, ids=lambda row: row[0][:50])
def test_every_threat_names_a_guard_and_a_test_that_exist(row: list[str]) -> None:
    assert len(row) == 4, row
    _, guards, shown, remains = row
    named = re.findall(r"`([A-Za-z_.]+)`", guards)
    assert named, "no guard named"
    for name in named:
        assert name.rpartition(".")[2] in definitions(), f"{name} does not exist"
    tests = re.findall(r"`([^`]+)`", shown)
    assert tests, "no test named"
    for test in tests:
        file, _, function = test.partition("::")
        path = ROOT / "tests" / file
        assert path.is_file(), f"tests/{file} does not exist"
        assert not function or function in named_tests(path), f"{test} does not exist"
    assert remains, "say what remains, or that nothing known does"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    broken = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert not broken


def test_posture_document_has_the_order_of_the_source() -> None:
    source = ast.parse((ROOT / "src" / "limen" / "posture.py").read_text())
    tuples = {
        node.target.id: [getattr(item, "id", None) or getattr(item.value, "id", "") for item in node.value.elts]
        for node in source.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Tuple)
    }
    call = [name for item in tuples["CALL"] for name in (tuples["CALLER"] if item == "CALLER" else [item])]
    rows = tables(ROOT / "docs" / "posture.md")
    admit = next(row[1] for row in rows if "ADMIT" in row[1])
    assert re.findall(r"`(\w+)`", admit) == tuples["ADMIT"]
    assert [row[1].strip("`") for row in rows if row[0].isdigit()] == call + tuples["RESULT"]


def test_posture_document_names_reasons_that_exist() -> None:
    for row in tables(ROOT / "docs" / "posture.md"):
        family = ""
        for name in re.findall(r"`([a-z_]*\.[a-z_*]+\*?)`", row[-1]) if len(row) == 5 else []:
            room, _, rest = name.partition(".")
            family = room or family
            pattern = re.escape(f"{family}.{rest}").replace(r"\*", ".*")
            assert any(re.fullmatch(pattern, reason) for reason in REASONS), f"{family}.{rest}"


def test_every_unsafe_key_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "limen").rglob("*.py"))
    keys = set(re.findall(r"\bunsafe_[a-z_]+", source))
    documented = {row[0].strip("`") for row in tables(ROOT / "docs" / "posture.md") if row[0].startswith("`unsafe_")}
    assert keys == documented


def test_readme_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = "\n".join(re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL) + re.findall(r"`(make [^`]*)`", readme))
    named = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert {"demo", "test"} <= named <= made


def test_picture_is_readable_in_light_and_dark() -> None:
    picture = (ROOT / "docs" / "corridor.svg").read_text()
    assert "prefers-color-scheme: dark" in picture
    assert "<title" in picture
    assert "<desc" in picture
    assert "docs/corridor.svg" in (ROOT / "README.md").read_text()


def test_readme_configuration_loads(tmp_path: Path) -> None:
    text = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(text) == 2
    (tmp_path / "limen.yaml").write_text(text[0])
    config = load_config(tmp_path / "limen.yaml", {"DOCS_TOKEN": "a-token"}).config
    assert set(config.servers) == {"docs", "time"}
    assert len(config.policy.rules) == 3


def yaml_blocks() -> list[tuple[str, str]]:
    """Every configuration the documents show: a block of YAML that begins with one of its top-level keys."""
    keys, found = "|".join(Config.model_fields), []
    for document in DOCUMENTS:
        blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(), flags=re.DOTALL)
        parts = [part for block in blocks for part in re.split(r"^---\n", block, flags=re.MULTILINE)]
        shown = [part for part in parts if re.match(rf"(?:#.*\n)*(?:{keys}):", part)]
        found += [(f"{document.stem}-{number}", part) for number, part in enumerate(shown)]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=id) for id, text in yaml_blocks()])
def test_documented_configuration_loads(text: str, tmp_path: Path) -> None:
    """Secrets and files it names are there; nothing else is added but the version."""
    for name in re.findall(r"\$\{file:([^{}]+)\}", text):
        path = tmp_path / name
        path.write_text("a-secret-of-a-test-that-is-long")
        path.chmod(0o600)
    environment = dict.fromkeys(re.findall(r"\$\{env:([^{}]+)\}", text), "a-secret-of-a-test-that-is-long")
    environment |= {"LIMEN_DATABASE": "postgresql://127.0.0.1/limen", "LIMEN_REDIS": "redis://127.0.0.1"}
    environment |= dict.fromkeys(("SLACK_HOOK", "TEAMS_HOOK"), "https://hooks.example/x") | {"SIEM": "s" * 24}
    whole = text if text.startswith("version:") else f"version: 1\n{text}"
    (tmp_path / "limen.yaml").write_text(whole)
    load_config(tmp_path / "limen.yaml", environment)


def test_readme_names_commands_limen_has() -> None:
    readme = (ROOT / "README.md").read_text()
    code = "\n".join(re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL) + re.findall(r"`(limen [^`]*)`", readme))
    used = [line.split("#")[0].split() for line in re.findall(r"^limen (.*)$", code, flags=re.MULTILINE)]
    assert len(used) >= 5
    for words in used:
        command = typer.main.get_command(app)
        for word in [word for word in words if not word.startswith("-") and not word.endswith(".yaml")]:
            commands = getattr(command, "commands", {})
            if not commands:
                break
            assert word in commands, f"limen {' '.join(words)}: no {word}"
            command = commands[word]
