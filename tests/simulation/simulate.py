"""Fits the weights of behaviour on some organisations and publishes what they find on others.

python -m simulation.simulate fit WEIGHTS.json
python -m simulation.simulate publish RESULTS.json [--small]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from statistics import median

import numpy as np

from limen.detection.behavior_model import ALL, CAP, Weights, load_weights
from simulation.injected import KINDS, plan
from simulation.measures import Result, areas, measure, run
from simulation.organisations import HELD_OUT, TUNED, build

FIRST, LAST = 45, 110  # days: what happens before is for learning
BASE = 0.1  # share of hostile days the score is calibrated to, of a subject on which something was odd at all
EVEN = {group: Weights(-8.0, dict.fromkeys(ALL, 0.4)) for group in ("people", "things")}


def one(name: str, seed: int, weights: dict[str, Weights] | None, *, clean: bool, people: int | None = None) -> Result:
    """One organisation, with attacks or without."""
    organisation = build(name, seed, LAST, people)
    attacks = [] if clean else plan(organisation, seed, FIRST, LAST)
    return run(organisation, seed, FIRST, LAST, attacks, weights)


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
    runs = [(name, seed) for name in TUNED for seed in (1, 2, 3)]
    results = [one(name, seed, EVEN, clean=False, people=60 if name == "hospital" else None) for name, seed in runs]
    groups = {"people": ("caller",), "things": ("server", "tool")}
    made: dict[str, object] = {
        "provenance": {
            "from": "tests/simulation/simulate.py fit",
            "organisations": list(TUNED),
            "seeds": [1, 2, 3],
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


def publish(path: str, names: tuple[str, ...], seeds: tuple[int, ...], people: dict[str, int]) -> None:
    weights = load_weights()
    delays: dict[str, list[float | None]] = defaultdict(list)
    curve: dict[str, list[float]] = defaultdict(list)
    alone: dict[str, list[float]] = defaultdict(list)
    alerts = true = 0
    clean: dict[str, list[float]] = defaultdict(list)
    costs = []
    for name in names:
        for seed in seeds:
            result = one(name, seed, weights, clean=False, people=people.get(name))
            told = measure(result)
            for place, values in told["found"].items():  # type: ignore[attr-defined]
                delays[place] += values
            for place, value in told["areas"].items():  # type: ignore[attr-defined]
                curve[place].append(value)
            for place, value in areas(by_trees(result)).items():
                alone[place].append(value)
            alerts, true = alerts + told["alerts"], true + told["true"]  # type: ignore[operator]
            costs.append(told["microseconds"])
            told = measure(one(name, seed, weights, clean=True, people=people.get(name)))
            clean[name].append(told["clean_a_day"])  # type: ignore[arg-type]
            print(name, seed, result.events, "clean alerts a day", told["clean_a_day"], flush=True)
    table = {}
    for place in sorted(delays):
        hits = [one for one in delays[place] if one is not None]
        table[place] = {
            "attacks": len(delays[place]),
            "recall": round(len(hits) / len(delays[place]), 2),
            "median_delay_minutes": round(median(hits) / 60, 1) if hits else None,
            "auc": round(sum(curve[place]) / len(curve[place]), 3) if curve[place] else None,
            "auc_trees_alone": round(sum(alone[place]) / len(alone[place]), 3) if alone[place] else None,
        }
    made = {
        "organisations": list(names), "seeds": list(seeds), "days": [FIRST, LAST], "threshold": 0.5,
        "precision": round(true / max(1, alerts), 3), "alerts": alerts,
        "clean_alerts_a_day": {name: round(sum(v) / len(v), 2) for name, v in clean.items()},
        "attacks": table,
    }  # fmt: skip
    with open(path, "w") as file:
        json.dump(made, file, indent=1)
        file.write("\n")
    print(json.dumps(made, indent=1), "us/event", costs)


def by_trees(result: Result) -> Result:
    """The same run as the model alone would have judged it."""
    days = {place: (bits.get("trees", 0.0), bits) for place, (_, bits) in result.days.items()}
    return Result(result.organisation, result.attacks, result.first, result.last, days=days)


def main() -> None:
    what, path = sys.argv[1:3]
    if what == "fit":
        fit(path)
    else:
        names = tuple(sys.argv[3].split(",")) if len(sys.argv) > 3 else HELD_OUT
        publish(path, names, (11, 12), {"bank": 400})
    assert KINDS


if __name__ == "__main__":
    main()
