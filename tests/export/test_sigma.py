"""Each Sigma rule is well formed, fires on the log of its attack, in both forms, and not on an ordinary day."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.processing.pipeline import ProcessingPipeline

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = sorted((ROOT / "rules" / "sigma").glob("*.yml"))
LOGS = ROOT / "samples" / "logs"


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samples_generate", ROOT / "samples" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(value: Any, path: str = "") -> Mapping[str, Any]:
    """Columns as SIEMs make them: members joined by dots, of a list the first."""
    if isinstance(value, list):
        return flat(value[0], path) if value else {}
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{path}.{name}" if path else name)
    return found


def hits(rule: Path, name: str, form: str) -> int:
    """Rows the rule's query (of a file with a correlation: the correlation's) selects from a sample."""
    pipeline = ProcessingPipeline.from_yaml((ROOT / "rules" / "sigma" / "pipelines" / f"{form}.yml").read_text())
    backend = sqliteBackend(pipeline, timestamp_field="at", timestamp_format="unix", collate_nocase=False)
    queries = backend.convert(SigmaCollection.from_yaml(rule.read_text()))
    rows = [flat(orjson.loads(line)) for line in (LOGS / f"{name}.{form}.jsonl").read_bytes().splitlines()]
    times = [row["record.ts"] if form == "record" else row["time"] / 1000 for row in rows]
    with sqlite3.connect(":memory:") as database:
        wanted = {"at", *(column for row in rows for column in row), *fields(form)}
        database.execute(f"CREATE TABLE logs ({', '.join(f'`{one}`' for one in sorted(wanted))})")
        for row, at in zip(rows, times, strict=True):
            columns = ", ".join(f"`{one}`" for one in ("at", *row))
            database.execute(
                f"INSERT INTO logs ({columns}) VALUES ({', '.join('?' * (len(row) + 1))})", (at, *row.values())
            )
        return len(database.execute(queries[-1]).fetchall())


def fields(form: str) -> set[str]:
    """Every field a rule may ask for in this form."""
    import yaml

    pipeline = yaml.safe_load((ROOT / "rules" / "sigma" / "pipelines" / f"{form}.yml").read_text())
    return {"type", *pipeline["transformations"][0]["mapping"].values()}


@pytest.mark.parametrize("form", ["record", "ocsf"])
@pytest.mark.parametrize("rule", RULES, ids=lambda path: path.stem)
def test_each_rule_fires_on_its_attack_and_not_on_an_ordinary_day(rule: Path, form: str) -> None:
    assert hits(rule, rule.stem, form) > 0
    assert hits(rule, "clean", form) == 0


def test_there_is_a_sample_for_each_rule_and_a_rule_for_each_sample() -> None:
    assert {path.stem for path in RULES} == set(generator().ATTACKS)
    assert len(RULES) >= 14


def test_rules_are_well_formed_and_told_apart() -> None:
    collections = [SigmaCollection.from_yaml(path.read_text()) for path in RULES]
    assert not [error for one in collections for error in one.errors]
    rules = [rule for one in collections for rule in one.rules]
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.level is not None and rule.title and rule.description for rule in rules)
    assert all(any(tag.namespace == "attack" for tag in rule.tags) for rule in rules)


def test_the_samples_are_what_the_script_makes() -> None:
    made = generator().files()
    assert {path.name: path.read_bytes() for path in LOGS.iterdir()} == made
