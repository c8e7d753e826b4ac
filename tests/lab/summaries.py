"""Summaries of races that were never run: what the report is tested on, drawn from one seeded generator.

The shapes are those of real races: a learning rate too high diverges, a few tasks have a hard optimizer, some runs miss
the target. Everything derived (regret, ranks, profiles) comes from `thalweg.lab.statistics`, as in a real summary.
"""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from thalweg.lab.statistics import (
    bootstrap_interval,
    expected_best,
    geometric_means,
    mean_ranks,
    performance_profile,
    regret,
    share_within,
)

Summary = dict[str, Any]

#: Name, hyper-parameters, default learning rate, default decay, bytes of state per parameter, milliseconds per step.
CONTENDERS: tuple[tuple[str, dict[str, Any], float | None, float | None, float, float], ...] = (
    ("sgd", {"momentum": 0.9}, 1e-3, 0.0, 4, 0.31),
    ("adamw", {}, 1e-3, 0.01, 8, 0.42),
    ("adam", {}, 1e-3, None, 8, 0.41),
    ("nadam", {}, 2e-3, None, 8, 0.47),
    ("radam", {}, 1e-3, None, 8, 0.46),
    ("lion", {}, 1e-4, 0.0, 4, 0.35),
    ("lamb", {}, 1e-3, 0.01, 8, 0.66),
    ("adafactor", {}, None, None, 0.0078, 0.92),
    ("muon", {}, 2e-2, 0.0, 4, 1.84),
    ("schedulefree_adamw", {}, 2.5e-3, 0.0, 8, 0.51),
    ("prodigy", {}, 1.0, 0.0, 16, 0.88),
    ("soap", {}, 3e-3, 0.01, 24, 4.9),
)
#: Name, metric, direction, unit, target, steps, where training ends at best, where it begins.
TASKS: tuple[tuple[str, str, str, str, float, int, float, float], ...] = (
    ("digits", "accuracy", "max", "%", 0.97, 200, 0.985, 0.10),
    ("digits_mlp", "accuracy", "max", "%", 0.95, 300, 0.972, 0.10),
    ("digits_noisy", "accuracy", "max", "%", 0.90, 300, 0.93, 0.10),
    ("autoencoder", "loss", "min", "nats per image", 19.5, 400, 18.6, 44.0),
    ("chars", "loss", "min", "nats per character", 2.4, 400, 2.12, 4.6),
    ("diabetes", "loss", "min", "", 0.55, 250, 0.49, 1.0),
    ("factors", "loss", "min", "", 0.12, 300, 0.085, 1.3),
    ("quadratic", "distance", "min", "", 1e-3, 500, 2.2e-4, 1.0),
)
RATIOS = [round(2 ** (power / 4), 3) for power in range(17)]


def label(name: str, hyper: dict[str, Any]) -> str:
    """As the contender writes itself."""
    return f"{name}({', '.join(f'{key}={value}' for key, value in hyper.items())})" if hyper else name


def make(
    tasks: int = 1,
    contenders: int = 10,
    seeds: int = 10,
    *,
    name: str = "digits",
    seed: int = 0,
    interrupted: bool = False,
    checks: bool = False,
    troubles: bool = True,
) -> Summary:
    """A whole summary: the first `tasks` tasks and the first `contenders` contenders.

    With `troubles` one contender is refused on the third task, one diverges on the second and one sits on the edge of
    its grid; an interrupted race has no run of its last contenders and no overall part.
    """
    generator = np.random.default_rng(seed)
    raced = [
        _task(row, number, contenders, seeds, generator, interrupted=interrupted, troubles=troubles)
        for number, row in enumerate(TASKS[:tasks])
    ]
    leader = raced[0]["standings"][0]
    return {
        "schema": 2,
        "name": name,
        "complete": not interrupted,
        "headline": f"{leader['label']} comes first on {raced[0]['name']}.",
        "findings": [
            "The target, a validation accuracy of 97.0 %, is reached in the fewest steps by muon (90 steps, 0.4 s).",
            "The default learning rate of sgd(momentum=0.9) costs 6.1 points.",
        ],
        "warnings": ["3 report seeds instead of 10: differences of less than a point may be noise."] * (seeds < 10)
        + ["The race was interrupted after 412 of 900 planned runs."] * interrupted,
        "not_run": ["adabelief, adopt and 48 more: not named in --optimizers.", "Any learning-rate decay."],
        "command": f"thalweg race {','.join(task['name'] for task in raced)} --budget small",
        "written": "2026-08-14T10:12:00+00:00",
        "wall_seconds": 171.4 * tasks,
        "workers": 2,
        "machine": {"system": "Linux 6.8", "processor": "AMD EPYC 7B13", "cores": 2, "memory_gib": 7.7},
        "versions": {"thalweg": "0.4.0", "torch": "2.13.0", "python": "3.11.9", "optuna": "5.0.0"},
        "protocol": {
            "budget": "small",
            "search": "grid",
            "tune_seeds": [0, 1, 2],
            "report_seeds": list(range(1000, 1000 + seeds)),
            "points": 5,
            "decays": [0.0, 0.01, 0.1],
        },
        "tasks": raced + [_check(name) for name in ("bfloat16_stall", "spike") if checks],
        "overall": None if interrupted or tasks < 2 else _overall(raced),
        "checks": [
            {"task": task, "label": one["label"], "passed": number % 4 != lost, "runs": 3,
             "reason": "" if number % 4 != lost else "The weights stopped moving at step 40: updates round to zero."}
            for task, lost in (("bfloat16_stall", 2), ("spike", 3))
            for number, one in enumerate(raced[0]["standings"])
        ]
        if checks
        else [],
    }  # fmt: skip


def _task(
    row: tuple[str, str, str, str, float, int, float, float],
    number: int,
    contenders: int,
    seeds: int,
    generator: np.random.Generator,
    *,
    interrupted: bool,
    troubles: bool,
) -> Summary:
    name, metric, direction, unit, target, steps, *_ = row
    standings = []
    for place, (optimizer, hyper, lr, decay, size, step_ms) in enumerate(CONTENDERS[:contenders]):
        status = "ok"
        if interrupted and place >= contenders - 2:
            status = "missing"
        elif troubles and number == 2 and optimizer == "muon":
            status = "refused"
        elif troubles and number == 1 and optimizer == "nadam":
            status = "diverged"
        edge = "highest" if troubles and place == 5 else None
        standing = {
            "label": label(optimizer, hyper), "optimizer": optimizer, "hyper": hyper, "rank": 0, "status": status,
            "reason": {"refused": "Sparse gradients: the momentum of a row without one would have to move.",
                       "missing": "The race ended before its turn.",
                       "diverged": "Most runs diverged at every learning rate."}.get(status, ""),
            "edge": edge if status == "ok" else None,
        }  # fmt: skip
        skill = generator.uniform(0.0, 1.0)
        standing |= _results(row, skill, lr, decay, size, step_ms, status, seeds, generator)
        standings.append(standing)
    better = -1 if direction == "max" else 1
    standings.sort(key=lambda one: math.inf if one["test"] is None else better * one["test"]["median"])
    for rank, one in enumerate(standings, 1):
        one["rank"] = rank
        one["behind_leader"] = _behind(standings[0], one, better)
    return {
        "name": name, "kind": "race", "statement": f"A small model learns {name}.",
        "limits": "It cannot show how an optimizer scales: the model is small and training is short.",
        "metric": metric, "direction": direction, "unit": unit, "target": target, "steps": steps,
        "split": "1,077 examples for training, 360 for validation, 360 for test; the same in all runs.",
        "standings": standings,
    }  # fmt: skip


def _check(name: str) -> Summary:
    return {
        "name": name, "kind": "check", "statement": f"Whether an optimizer survives {name}.", "limits": "",
        "metric": "loss", "direction": "min", "unit": "", "target": 0.1, "steps": 100, "split": "", "standings": [],
    }  # fmt: skip


def _results(
    row: tuple[str, str, str, str, float, int, float, float],
    skill: float,
    lr: float | None,
    decay: float | None,
    size: float,
    step_ms: float,
    status: str,
    seeds: int,
    generator: np.random.Generator,
) -> Summary:
    """What a contender's runs amount to; nothing where it made none."""
    _, _, direction, _, _, _, goal, start = row
    empty = {"chosen": None, "test": None, "target": {"hits": 0, "runs": 0, "steps": None, "seconds": None},
             "default": {"lr": lr, "weight_decay": decay, "validation": None, "regret": None},
             "best_after": {}, "share_within": None, "step_ms": None, "bytes_per_parameter": None,
             "grid": [], "runs": []}  # fmt: skip
    if status in ("missing", "refused"):
        return empty
    worst = goal + (start - goal) * 0.06
    end = goal + (worst - goal) * (1 - skill)
    rates = [lr * 10 ** (power / 2) for power in range(-2, 4)] if lr else [None]
    decays = [None] if decay is None else [0.0, 0.01, 0.1]
    grid = [
        _cell(one, other, number, end, start, status, generator)
        for other in decays
        for number, one in enumerate(rates)
        if other == decay or number in (2, 3, 4)
    ]
    if status == "diverged":
        runs = [_run(row, start, step_ms, 1000 + one, generator, diverged=True) for one in range(seeds)]
        return empty | {"grid": grid, "runs": runs, "step_ms": step_ms, "bytes_per_parameter": size}
    scores = [_score(cell, direction) for cell in grid]
    best = grid[scores.index(max(scores) if direction == "max" else min(scores))]
    own = next(cell for cell in grid if (lr is None or cell["lr"] == lr) and cell["weight_decay"] == decay)
    # In the last third of the skills one seed in ten diverges after half of the steps.
    lost = {3} if skill < 0.2 else set()
    runs = [_run(row, end, step_ms, 1000 + one, generator, diverged=one in lost) for one in range(seeds)]
    tests = [run["test"] for run in runs if run["test"] is not None]
    hits = [run for run in runs if run["target_step"] is not None]
    most = len(hits) > len(runs) / 2
    return {
        "chosen": {"lr": best["lr"], "weight_decay": best["weight_decay"]},
        "test": {"median": middle.median(tests), "low": min(tests), "high": max(tests),
                 "interval": list(bootstrap_interval(tests))},
        "target": {"hits": len(hits), "runs": len(runs),
                   "steps": middle.median(run["target_step"] for run in hits) if most else None,
                   "seconds": middle.median(run["target_seconds"] for run in hits) if most else None},
        "default": {"lr": lr, "weight_decay": decay, "validation": own["validation"] and own["validation"]["median"],
                    "regret": _finite(regret(_score(own, direction), _score(best, direction), direction))},
        "best_after": {str(k): expected_best(scores, k, direction) for k in (1, 2, 4, 8, 16)},
        "share_within": share_within(scores, direction), "step_ms": step_ms, "bytes_per_parameter": size,
        "grid": grid, "runs": runs,
    }  # fmt: skip


def _cell(
    lr: float | None,
    decay: float | None,
    number: int,
    end: float,
    start: float,
    status: str,
    generator: np.random.Generator,
) -> Summary:
    """One point of the grid; the best rate is the fourth, and the highest diverges."""
    away = (0 if lr is None else abs(number - 3.2) ** 2 * 0.035) + generator.uniform(0, 0.01)
    value = end + (start - end) * min(0.9, away)
    lost = status == "diverged" or (number == 5 and generator.uniform() < 0.6)
    spread = abs(start - end) * 0.01
    return {
        "lr": lr, "weight_decay": decay,
        "validation": None if lost else {"median": value, "low": value - spread, "high": value + spread},
        "finished": 0 if lost else 3, "diverged": 3 if lost else 0, "failed": 0,
    }  # fmt: skip


def _run(
    row: tuple[str, str, str, str, float, int, float, float],
    end: float,
    step_ms: float,
    seed: int,
    generator: np.random.Generator,
    *,
    diverged: bool,
) -> Summary:
    _, _, direction, unit, target, steps, goal, start = row
    grid = [round(steps * part / 20) for part in range(1, 21)]
    if diverged:
        grid = grid[:10]
    noise = abs(start - goal) * 0.006
    speed = generator.uniform(5, 9)
    curve = [end + (start - end) * math.exp(-speed * step / steps) + generator.normal(0, noise) for step in grid]
    if direction == "max" and unit == "%":
        curve = [min(value, 1.0) for value in curve]
    else:
        curve = [max(value, goal * 0.9) for value in curve]
    loss = [4.6 * math.exp(-speed * step / steps) + 0.04 * generator.uniform(0.8, 1.2) for step in grid]
    seconds = [step * step_ms / 1000 * 9 for step in grid]
    there = [value >= target if direction == "max" else value <= target for value in curve]
    first = None if diverged or not any(there) else there.index(True)
    return {
        "seed": seed, "status": "diverged" if diverged else "finished",
        "test": None if diverged else curve[-1] + generator.normal(0, noise / 2),
        "validation": None if diverged else curve[-1], "loss": None if diverged else loss[-1],
        "target_step": None if first is None else grid[first],
        "target_seconds": None if first is None else seconds[first],
        "curve": {"step": grid, "seconds": seconds, "train_loss": loss, "validation": curve},
    }  # fmt: skip


def _behind(leader: Summary, one: Summary, better: int) -> Summary | None:
    if one is leader or leader["test"] is None or one["test"] is None:
        return None
    pairs = [
        (better * ours["test"], better * theirs["test"])
        for ours, theirs in zip(leader["runs"], one["runs"], strict=True)
        if ours["test"] is not None and theirs["test"] is not None
    ]
    ahead = sum(ours < theirs for ours, theirs in pairs)
    return {"seeds": ahead, "paired": len(pairs), "separated": bool(binomtest(ahead, len(pairs)).pvalue < 0.05)}


def _overall(tasks: Sequence[Summary]) -> Summary:
    labels = sorted({one["label"] for task in tasks for one in task["standings"]})
    found = {(task["name"], one["label"]): one for task in tasks for one in task["standings"]}
    runs: dict[str, dict[str, list[float]]] = {}
    for (task, who), one in found.items():
        seeds = len(tasks[0]["standings"][0]["runs"])
        missed = [math.inf] * seeds
        costs = [math.inf if run["target_step"] is None else float(run["target_step"]) for run in one["runs"]]
        runs.setdefault(who, {})[task] = costs or missed
    budgets = {task["name"]: float(task["steps"]) for task in tasks}
    means = geometric_means(runs, budgets, resamples=400)
    ranks = mean_ranks(
        {who: {task["name"]: (found[task["name"], who]["test"] or {}).get("median") for task in tasks}
         for who in labels},
        {task["name"]: task["direction"] for task in tasks},
    )  # fmt: skip
    medians = {who: {task: middle.median(costs) for task, costs in row.items()} for who, row in runs.items()}
    rows = [
        {"label": who, "tasks": len(tasks), "geometric_mean": means[who][0], "interval": list(means[who][1:]),
         "mean_rank": ranks[who], "targets_reached": sum(math.isfinite(cost) for cost in medians[who].values())}
        for who in labels
    ]  # fmt: skip
    curves = performance_profile(medians, RATIOS)
    return {
        "tasks": [task["name"] for task in tasks],
        "rows": sorted(rows, key=lambda one: one["geometric_mean"]),
        "profile": {"ratios": RATIOS, "curves": curves},
    }


def _score(cell: Summary, direction: str) -> float:
    if cell["validation"] is None:
        return -math.inf if direction == "max" else math.inf
    return cell["validation"]["median"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
