"""Fits the weights of behaviour on some organisations and publishes what they find on others.

python -m simulation.simulate fit WEIGHTS.json
python -m simulation.simulate publish RESULTS.json [--small]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from limen.detection.behavior_model import ALL, CAP, Weights, load_weights
from simulation.injected import plan
from simulation.measures import ALERT, Others, Result, areas, measure, of, run
from simulation.organisations import HELD_OUT, TUNED, build
from simulation.responding import Responding, only, responded, responses

SEEDS = (1, 2)
FIRST, LAST = 45, 110  # days: what happens before is for learning
BASE = 0.1  # share of hostile days the score is calibrated to, of a subject on which something was odd at all
EVEN = {group: Weights(-8.0, dict.fromkeys(ALL, 0.4)) for group in ("people", "things")}


def one(
    name: str, seed: int, weights: dict[str, Weights] | None, *, clean: bool, people: int | None = None,
    others: Others = (),
) -> Result:  # fmt: skip
    """One organisation, with attacks or without."""
    organisation = build(name, seed, LAST, people)
    attacks = [] if clean else plan(organisation, seed, FIRST, LAST)
    return run(organisation, seed, FIRST, LAST, attacks, weights, others)


def rows_of(results: list[Result], kinds: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each subject and day, and whether the day was hostile."""
    bits, hostile = [], []
    for result in results:
        bad = {(k, v, day) for a in result.attacks for k, v in a.victims for day in a.days_seen}
        touched = {(k, v) for k, v, _ in bad}
        for (kind, value, day), (_, found) in result.days.items():
            if kind not in kinds or day < FIRST:
                continue
            here = (kind, value, day) in bad
            if (kind, value) in touched and not here:
                continue  # after an attack its echo is neither
            bits.append([min(CAP, found.get(name, 0.0)) for name in ALL])
            hostile.append(float(here))
    return np.array(bits), np.array(hostile)


def fitted(bits: np.ndarray, hostile: np.ndarray, base: float) -> Weights:
    """Logistic regression with no negative weight, by projected gradient; hostile rows weigh as `base` of all."""
    share = hostile.mean()
    weight = np.where(hostile > 0, base / share, (1 - base) / (1 - share))
    theta, bias = np.where(bits.any(axis=0), 0.1, 0.0), -6.0
    lipschitz = 0.25 * float((weight[:, None] * np.c_[bits, np.ones(len(bits))] ** 2).sum(axis=1).mean())
    momentum, was = np.zeros(len(ALL) + 1), np.zeros(len(ALL) + 1)
    step = 1.0 / lipschitz
    at = np.append(theta, bias)
    full = np.c_[bits, np.ones(len(bits))]
    for turn in range(6000):
        ahead = at + (turn / (turn + 3)) * (at - was) if turn else at
        likely = 1 / (1 + np.exp(-np.clip(full @ ahead, -30, 30)))
        slope = full.T @ (weight * (likely - hostile)) / len(bits)
        slope[:-1] += 1e-5 * ahead[:-1]
        was, at = at, ahead - step * slope
        at[:-1] = np.maximum(at[:-1], 0.0)
    del momentum
    return Weights(
        round(float(at[-1]), 4), {n: round(float(w), 4) for n, w in zip(ALL, at[:-1], strict=True) if w > 1e-3}
    )


def fit(path: str) -> None:
    runs = [(name, seed) for name in TUNED for seed in SEEDS]
    results = [one(name, seed, EVEN, clean=False, people=45 if name == "hospital" else None) for name, seed in runs]
    groups = {"people": ("caller",), "things": ("server", "tool")}
    made: dict[str, object] = {
        "provenance": {
            "from": "tests/simulation/simulate.py fit",
            "organisations": list(TUNED),
            "seeds": list(SEEDS),
            "days": [FIRST, LAST],
            "base_rate": BASE,
        }
    }
    for group, kinds in groups.items():
        bits, hostile = rows_of(results, kinds)
        for base in (0.03, 0.1, 0.2, 0.3):
            weights = fitted(bits, hostile, base)
            scores = 1 / (1 + np.exp(-(bits @ [weights.weights.get(name, 0.0) for name in ALL] + weights.bias)))
            false = float(((scores >= 0.5) & (hostile == 0)).sum()) / ((LAST - FIRST) * len(results))
            print(group, base, "false a day", round(false, 2), "recall of days", (scores[hostile > 0] >= 0.5).mean())
        weights = fitted(bits, hostile, BASE)
        print(group, bits.shape, int(hostile.sum()), weights)
        made[group] = {"bias": weights.bias, "weights": dict(weights.weights)}
    with open(path, "w") as file:
        json.dump(made, file, indent=1, sort_keys=True)
        file.write("\n")


SIZES = {"bank": 200, "support": 40, "agency": 30}
RUNS = (("bank", 11), ("support", 11), ("support", 12), ("agency", 11), ("agency", 12))


def measured(run_of: tuple[str, int]) -> dict[str, Any]:
    """One organisation with attacks, and the same without."""
    name, seed = run_of
    result = one(name, seed, load_weights(), clean=False, people=SIZES[name], others=(Responding,))
    told = measure(result)
    told["alone"] = areas(by_trees(result))
    clean = one(name, seed, load_weights(), clean=True, people=SIZES[name], others=(Responding,))
    told["clean"] = measure(clean)["clean_a_day"]
    told["responses"], told["clean_responses"] = (responses(each, only(each), of) for each in (result, clean))
    told["events"] = result.events
    return told


def publish(path: str) -> None:
    """Two runs at a time; the file is the table of docs/behavior.md and more."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    clean: dict[str, list[float]] = defaultdict(list)
    answered: dict[str, list[Any]] = defaultdict(list)
    alerts = true = events = 0
    with ProcessPoolExecutor(2) as pool:
        for (name, seed), told in zip(RUNS, pool.map(measured, RUNS), strict=True):
            for column in ("found", "areas", "alone"):
                for place, value in told[column].items():
                    found[place][column] += value if column == "found" else [value]
            clean[name].append(told["clean"])
            answered[name].append((told["responses"], told["clean_responses"]))
            alerts, true, events = alerts + told["alerts"], true + told["true"], events + told["events"]
            print(name, seed, told["events"], "clean alerts a day", told["clean"], flush=True)
    table = {}
    for place, columns in sorted(found.items()):
        hits = [one for one in columns["found"] if one is not None]
        table[place] = {
            "attacks": len(columns["found"]),
            "recall": round(len(hits) / len(columns["found"]), 2),
            "median_delay_minutes": round(median(hits) / 60, 1) if hits else None,
            "auc": round(sum(columns["areas"]) / len(columns["areas"]), 3),
            "auc_trees_alone": round(sum(columns["alone"]) / len(columns["alone"]), 3),
        }
    made = {
        "organisations": list(HELD_OUT), "runs": [list(one) for one in RUNS], "sizes": SIZES, "days": [FIRST, LAST],
        "threshold": ALERT, "events": events, "alerts": alerts, "precision": round(true / max(1, alerts), 3),
        "clean_alerts_a_day": {name: round(sum(v) / len(v), 2) for name, v in clean.items()}, "attacks": table,
        "responses": responded(answered),
    }  # fmt: skip
    with open(path, "w") as file:
        json.dump(made, file, indent=1)
        file.write("\n")


def by_trees(result: Result) -> Result:
    """The same run as the model alone would have judged it."""
    days = {place: (bits.get("trees", 0.0), bits) for place, (_, bits) in result.days.items()}
    return Result(result.organisation, result.attacks, result.first, result.last, days=days)


def main() -> None:
    what, path = sys.argv[1:3]
    {"fit": fit, "publish": publish}[what](path)


if __name__ == "__main__":
    main()
