"""`limen eval`: measure the injection detector on a labelled file, in the open."""

from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer

from limen.cli.context import Misused, Refused
from limen.cli.eval_measures import Judged, curve, measure
from limen.cli.terminal import emit, line, table

MAX_LINE: Final = 8 << 20  # bytes of one row
MAX_ROWS: Final = 2_000_000
BENIGN: Final = "benign"


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows of text, label, kind, lang: .jsonl or .jsonl.gz.")],
    compare: Annotated[bool, typer.Option("--compare", help="Set plain keyword rules beside it.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Classify every text, not only those a signal asks for.")
    ] = False,
    write_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help='Write JSON; "-" prints it.')
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the ROC curve.")] = None,
) -> None:
    """Measure injection detection on a labelled file. Example: limen eval rows.jsonl.gz --compare --plot roc.svg

    A row is a JSON object: text; label ("benign", anything else is an attack); kind (user_prompt, tool_result,
    document, argument, tool_description); lang; source if known. Nothing leaves the machine. Thresholds are set on
    this file's own benign rows, and the built-in one is shown beside them.
    """
    from limen.detection.injection import Injection

    detector = Injection.load()
    rows = list(read(file))
    attacks = sum(row["label"] != BENIGN for row in rows)
    if not attacks or attacks == len(rows):
        raise Refused(f"{file}: needs both benign and attack rows; it has {attacks} attacks in {len(rows)}")
    score = detector.probability if full else detector.deployed
    judged, seconds = _judge(rows, lambda text, kind: score(text, _channel(kind)))
    kilobytes = max(sum(len(row["text"].encode("utf-8", "replace")) for row in rows), 1) / 1024
    limits = [detector.threshold(_channel(row["kind"])) for row in rows]
    result = measure(judged, limits)
    result["us_per_kb"] = round(seconds * 1e6 / kilobytes, 1)
    curves = {"limen": curve(judged)}
    if compare:
        from limen.cli.eval_keywords import keyword_score

        plain, spent = _judge(rows, lambda text, _: keyword_score(text))
        other = measure(plain, [0.5] * len(rows))
        result["keywords"] = {**other, "us_per_kb": round(spent * 1e6 / kilobytes, 1)}
        curves["keywords"] = curve(plain)
    if plot is not None:
        from limen.cli.eval_plot import roc_svg

        _write(plot, roc_svg(curves))
    if write_json == Path("-"):
        emit(result)
        return
    if write_json is not None:
        _write(write_json, json.dumps(result, indent=2, ensure_ascii=True) + "\n")
    _show(result)


def read(file: Path) -> Iterator[dict[str, str]]:
    """Rows of the file, checked. Raises Misused with file and line for the first bad one."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            yield from _rows(file, lines)
    except (OSError, EOFError, zlib.error) as error:
        raise Misused(f"{file}: cannot be read: {error}") from error


def _rows(file: Path, lines: IO[bytes] | gzip.GzipFile) -> Iterator[dict[str, str]]:
    number = 0
    while raw := lines.readline(MAX_LINE + 1):
        number += 1
        where = f"{file}:{number}"
        if len(raw) > MAX_LINE or number > MAX_ROWS:
            raise Misused(f"{where}: a row may have {MAX_LINE} bytes, a file {MAX_ROWS} rows")
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Misused(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise Misused(f"{where}: a row is a JSON object")
        for key in ("text", "label"):
            if not isinstance(row.get(key), str):
                raise Misused(f'{where}: "{key}" must be a string')
        for key in ("kind", "lang", "source"):
            if not isinstance(row.get(key, ""), str):
                raise Misused(f'{where}: "{key}" must be a string')
        if row.get("kind", "") not in ("", *KINDS):
            raise Misused(f'{where}: unknown kind "{row["kind"]}"; known: {", ".join(KINDS)}')
        yield {
            "text": row["text"],
            "label": row["label"],
            **{k: row.get(k) or "unknown" for k in ("kind", "lang", "source")},
        }


KINDS: Final = {
    "user_prompt": "prompt",
    "tool_result": "result",
    "document": "resource",
    "argument": "argument",
    "tool_description": "definition",
}


def _channel(kind: str) -> Any:
    from limen.detection.finding import Channel

    return Channel(KINDS.get(kind, "result"))


def _judge(rows: list[dict[str, str]], score: Callable[[str, str], float]) -> tuple[list[Judged], float]:
    """Every row with its score; and the seconds the scoring alone took."""
    judged: list[Judged] = []
    spent = 0.0
    for number, row in enumerate(rows):
        start = time.perf_counter()
        value = score(row["text"], row["kind"])
        spent += time.perf_counter() - start
        judged.append(Judged(value, row["label"] != BENIGN, row["source"], row["kind"], row["lang"]))
        _progress(number + 1, len(rows))
    return judged, spent


def _progress(done: int, total: int) -> None:
    if not sys.stderr.isatty() or (done % max(1, total // 200) and done != total):
        return
    filled = 40 * done // total
    end = "\n" if done == total else ""
    print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path}: cannot be written: {error}") from error


def _show(result: dict[str, Any]) -> None:
    detectors = [("limen", result), *([("keywords", result["keywords"])] if "keywords" in result else [])]
    table(
        ("detector", "TPR at 0.1 %", "at 1 %", "at 5 %", "AUC", "built-in TPR", "built-in FPR", "us/KB"),
        [
            {
                "detector": name,
                "TPR at 0.1 %": _percent(one["tpr_at_0_1pct_fpr"]),
                "at 1 %": _percent(one["tpr_at_1pct_fpr"]),
                "at 5 %": _percent(one["tpr_at_5pct_fpr"]),
                "AUC": f"{one['auc']:.4f}",
                "built-in TPR": _percent(one["built_in"]["tpr"]),
                "built-in FPR": _percent(one["built_in"]["fpr"]),
                "us/KB": one["us_per_kb"],
            }
            for name, one in detectors
        ],
    )
    for key in ("per_source", "per_kind", "per_lang"):
        line()
        groups = result[key]
        table(
            (key[4:], "attacks", "TPR", "benign", "FPR"),
            [
                {
                    "attacks": g["attacks"],
                    "TPR": _percent(g["tpr"]),
                    "benign": g["benign"],
                    "FPR": _percent(g["fpr"]),
                    key[4:]: name,
                }
                for name, g in groups.items()
            ],
        )
    line()
    table(
        ("score", "rows", "mean score", "attacks"),
        [
            {"score": b["range"], "rows": b["rows"], "mean score": b["mean"], "attacks": _percent(b["attacks"])}
            for b in result["calibration"]
        ],
    )
    counted = f"rows {result['rows']}, attacks {result['attacks']}"
    line(f"{counted}; groups are judged at this file's 1 % threshold, {result['threshold']:.4f}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
