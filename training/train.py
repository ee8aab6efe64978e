"""Train the embedded injection model, report it by held-out source, write it into the package.

    python training/train.py CORPUS_DIRECTORY [--count 1500] [--report FILE.json]

Needs numpy, scipy, scikit-learn and google-re2 (training/requirements.txt); at run time only numpy and google-re2.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import pickle
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression, SGDClassifier

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "training")]

from generate import Generator  # noqa: E402
from measures import report  # noqa: E402

from limen.detection import features, model, patterns  # noqa: E402

KEY = 12  # letters by which an order inside a composed row is looked up
FRAMES = re.compile(r"ignore previous|task complete|must strictly adhere", re.IGNORECASE)
CONFIG = json.loads((ROOT / "training" / "config.json").read_text())


@dataclass
class Row:
    text: str
    attack: bool
    kind: str
    lang: str
    source: str
    parents: frozenset[str]
    weight: float = 1.0

    @property
    def layer(self) -> str:
        return "definition" if self.kind == "tool_description" else "content"


def corpus(folder: Path) -> list[Row]:
    rows = []
    for name in ("attacks", "benign"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                one = json.loads(line)
                meta = one.get("meta") or {}
                parents = {one["source"], *(str(meta[key]) for key in ("a", "c", "base") if key in meta)}
                weight = CONFIG["weak_weight"] if meta.get("weak") or meta.get("style") == "implicit" else 1.0
                rows.append(
                    Row(
                        one["text"],
                        one["label"] != "benign",
                        one["kind"],
                        one["lang"],
                        one["source"],
                        frozenset(parents),
                        weight,
                    )
                )
    return marked(rows)


def marked(rows: list[Row]) -> list[Row]:
    """Attack rows whose wording gives nothing away get the weight of implicit ones where the corpus dropped that mark:
    rows composed of an implicit order, and plain requests of the source whose explicit ones carry one of FRAMES."""
    known: dict[str, list[str]] = {}
    for row in rows:
        if row.attack and row.weight < 1 and len(row.text) > 15:
            bare = _bare(row.text)
            known.setdefault(bare[:KEY], []).append(bare)
    for row in rows:
        if not row.attack or row.weight < 1:
            continue
        if "asb-aios" in row.parents:
            plain = FRAMES.search(row.text) is None
        elif row.source == "composed-train":
            bare = _bare(row.text)
            starts = known.keys() & {bare[at : at + KEY] for at in range(len(bare))}
            plain = any(one in bare for start in starts for one in known[start])
        else:
            continue
        if plain:
            row.weight = CONFIG["weak_weight"]
    return rows


def _bare(text: str) -> str:
    return re.sub(r"\W+", "", text.lower())


def generated(rows: list[Row], seed: int, count: int) -> list[Row]:
    """Made rows on top of the benign rows given (so that held-out carriers stay out)."""
    documents = [
        row.text for row in rows if not row.attack and row.kind in ("document", "tool_result") and len(row.text) > 80
    ]
    descriptions = [row.text for row in rows if not row.attack and row.kind == "tool_description"]
    made = Generator(seed, documents, descriptions).rows(count)
    return [Row(one.text, one.label != "benign", one.kind, one.lang, one.part, frozenset({one.part})) for one in made]


class Matrix:
    """Windows of all rows as one sparse matrix, longer ones than at run time: they show what stands around an order.
    An n-gram that a window holds twice stands in it twice."""

    def __init__(self, rows: list[Row], cap: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        indptr, indices, data, self.owner = [0], [], [], []
        for number, row in enumerate(rows):
            for piece in features.chunks(row.text)[: CONFIG["max_chunks"]]:
                found = features.grams(piece[1])
                order = np.argsort(found.at, kind="stable")
                index, at = found.index[order].astype(np.int32), found.at[order]
                begin, end = model.window_bounds(found.length, CONFIG["window"])
                chosen = np.arange(len(begin))
                if not row.attack and len(begin) > cap:
                    chosen = random.choice(len(begin), cap, replace=False)
                first, last = np.searchsorted(at, begin[chosen]), np.searchsorted(at, end[chosen])
                for one, here, there in zip(chosen, first, last, strict=True):
                    length = end[one] - begin[one]
                    indices.append(index[here:there])
                    data.append(np.full(there - here, 1 / math.sqrt(length + model.PAD), dtype=np.float32))
                    indptr.append(indptr[-1] + there - here)
                    self.owner.append(number)
        shape = (len(self.owner), 1 << features.BITS)
        self.x = sparse.csr_matrix((np.concatenate(data), np.concatenate(indices), np.array(indptr)), shape=shape)
        self.owner = np.array(self.owner)
        self.attack = np.array([rows[number].attack for number in self.owner])


def fit_linear(rows: list[Row], matrix: Matrix, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias. Of an attack with several windows only the loudest stays an attack in later rounds."""
    allowed = chosen[matrix.owner]
    windows = np.bincount(matrix.owner, minlength=len(rows))
    single = windows[matrix.owner] <= 2
    keep = np.flatnonzero(allowed & (~matrix.attack | single))
    weights, bias = _sgd(rows, matrix, keep)
    for _ in range(CONFIG["rounds"]):
        scores = matrix.x @ weights
        order = np.lexsort((-scores, matrix.owner))
        first = np.ones(len(order), dtype=bool)
        first[1:] = matrix.owner[order][1:] != matrix.owner[order][:-1]
        loudest = np.zeros(len(order), dtype=bool)
        loudest[order[first]] = True
        keep = np.flatnonzero(allowed & (~matrix.attack | loudest))
        weights, bias = _sgd(rows, matrix, keep)
    return weights, bias


def _sgd(rows: list[Row], matrix: Matrix, keep: np.ndarray) -> tuple[np.ndarray, float]:
    labels = matrix.attack[keep]
    weight = np.array([rows[number].weight for number in matrix.owner[keep]])
    weight[labels] *= CONFIG["attack_share"] * weight[~labels].sum() / weight[labels].sum()
    learner = SGDClassifier(
        loss="log_loss", alpha=CONFIG["alpha"], max_iter=CONFIG["epochs"], tol=None, average=True, random_state=7
    )
    learner.fit(matrix.x[keep], labels, sample_weight=weight)
    return learner.coef_[0].astype(np.float32), float(learner.intercept_[0])


def quantised(weights: np.ndarray, bias: float) -> model.Model:
    limit = float(np.quantile(np.abs(weights[weights != 0]), CONFIG["clip"]))
    table = np.clip(np.round(weights / limit * 127), -127, 127).astype(np.int8)
    return model.Model(table, limit / 127, bias, {}, {}, {})


def joints(linear: model.Model, rows: list[Row]) -> np.ndarray:
    return np.array([model.joint(linear.windows(row.text), row.text) for row in rows], dtype=np.float64).reshape(
        len(rows), -1
    )


def fit_layers(x: np.ndarray, rows: list[Row]) -> dict[str, model.Layer]:
    """A second layer for each kind of channel: the same rows, held more or less closely to zero."""
    return {name: fit_layer(x, rows, strength) for name, strength in CONFIG["layer_c"].items()}


def fit_layer(x: np.ndarray, rows: list[Row], strength: float) -> model.Layer:
    """The second layer on scores of models that did not see the row's source; Platt scaling at the prior of CONFIG."""
    y = np.array([row.attack for row in rows])
    weight = np.array([row.weight for row in rows])
    counts: dict[tuple[str, bool], int] = {}
    for row in rows:
        counts[row.source, row.attack] = counts.get((row.source, row.attack), 0) + 1
    weight *= np.array([min(1.0, CONFIG["source_cap"] / counts[row.source, row.attack]) for row in rows])
    weight[y] *= weight[~y].sum() / weight[y].sum()
    learner = LogisticRegression(C=strength, max_iter=2000).fit(x, y, sample_weight=weight)
    margin = learner.decision_function(x)
    prior = CONFIG["prior"]
    weight[y] *= prior / (1 - prior)
    platt = LogisticRegression(C=1e6).fit(margin[:, None], y, sample_weight=weight)
    return model.Layer(
        tuple(map(float, learner.coef_[0])),
        float(learner.intercept_[0]),
        float(platt.coef_[0, 0]),
        float(platt.intercept_[0]),
    )


def judged(layers: dict[str, model.Layer], x: np.ndarray, rows: list[Row]) -> np.ndarray:
    return np.array([layers[row.layer].probability(list(one)) for one, row in zip(x, rows, strict=True)])


def write(
    linear: model.Model, layers: dict[str, model.Layer], thresholds: dict[str, float], precision: dict[str, Any]
) -> None:
    head = {
        "signals": patterns.SIGNALS,
        "scale": linear.scale,
        "bias": linear.bias,
        "thresholds": thresholds,
        "precision": precision,
        "layers": {
            name: {"weights": one.weights, "bias": one.bias, "slope": one.slope, "offset": one.offset}
            for name, one in layers.items()
        },
    }
    raw_head = json.dumps(head, sort_keys=True).encode()
    raw = model.MAGIC + len(raw_head).to_bytes(4, "big") + raw_head + linear.table.tobytes()
    folder = ROOT / "src" / "limen" / "detection"
    (folder / "data" / model.NAME).write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    (folder / "model_digest.py").write_text(
        '"""SHA-256 of data/injection.bin; written by training/train.py."""\n\nfrom typing import Final\n\n'
        f'DIGEST: Final = "{digest}"\n'
    )


def signal_precision(rows: list[Row], x: np.ndarray) -> dict[str, dict[str, float]]:
    """P(attack | signal in the best window) at the prior of CONFIG, smoothed; per layer."""
    shown = x[:, -len(patterns.SIGNALS) :]
    prior, result = CONFIG["prior"], {}
    for layer in ("content", "definition"):
        mask = np.array([row.layer == layer for row in rows])
        y = np.array([row.attack for row in rows])
        hit = shown[mask & y].mean(axis=0), (shown[mask & ~y].sum(axis=0) + 1) / ((mask & ~y).sum() + 2)
        result[layer] = {
            n: round(float(prior * a / (prior * a + (1 - prior) * b)), 4)
            for n, a, b in zip(patterns.SIGNALS, *hit, strict=True)
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--count", type=int, default=CONFIG["count"])
    parser.add_argument("--report", type=Path)
    parser.add_argument("--scores", type=Path, help="keep held-out rows and features here (not to be committed)")
    wanted = parser.parse_args()
    started = time.time()
    rows = corpus(wanted.corpus)
    held, held_x = [], []
    for number, fold in enumerate(CONFIG["folds"]):
        out = frozenset(fold)
        train = [row for row in rows if not (row.parents & out) and row.source not in CONFIG["views_only"]]
        train += generated(train, number, wanted.count)
        test = [row for row in rows if row.parents & out and row.source not in CONFIG["views_only"]]
        if len(CONFIG["folds"]) > 1 and number:
            seen = {row.text for row in held}
            test = [row for row in test if row.text not in seen]
        matrix = Matrix(train, CONFIG["cap"], number)
        print(
            f"fold {number}: {len(train)} rows, {matrix.x.shape[0]} windows, {time.time() - started:.0f} s",
            flush=True,
        )
        linear = quantised(*fit_linear(train, matrix, np.ones(len(train), dtype=bool)))
        held += test
        held_x.append(joints(linear, test))
        print(f"  scored {len(test)} held-out rows, {time.time() - started:.0f} s", flush=True)
    x = np.concatenate(held_x)
    fold_of = np.concatenate([np.full(len(one), number) for number, one in enumerate(held_x)])
    if wanted.scores:
        wanted.scores.write_bytes(pickle.dumps((held, x, fold_of)))
    probability = np.zeros(len(held))
    for number in range(len(held_x)):  # judged by a layer that did not see the fold either
        inner, outer = fold_of != number, fold_of == number
        layers = fit_layers(x[inner], [row for row, own in zip(held, inner, strict=True) if own])
        probability[outer] = judged(layers, x[outer], [row for row, own in zip(held, outer, strict=True) if own])
    thresholds, text = report(held, probability, CONFIG["hard"])
    print(text)
    if wanted.report:
        wanted.report.write_text(json.dumps({"thresholds": thresholds, "text": text}, indent=1))
    full = [row for row in rows if row.source not in CONFIG["views_only"]]
    full += generated(full, 99, wanted.count)
    matrix = Matrix(full, CONFIG["cap"], 99)
    linear = quantised(*fit_linear(full, matrix, np.ones(len(full), dtype=bool)))
    layers = fit_layers(x, held)
    thresholds, _ = report(held, judged(layers, x, held), CONFIG["hard"])
    write(linear, layers, thresholds, signal_precision(held, x))
    print(f"written, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
