"""Over all tasks: steps to the target against the quickest contender's, ranks, and which checks are passed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg.lab import statistics
from thalweg.lab.planning import Field, Record
from thalweg.lab.protocol import Protocol

PROFILE_RATIOS = [round(float(ratio), 4) for ratio in np.geomspace(1, 16, 49)]

Json = dict[str, Any]


def checks(field: Field) -> list[Json]:
    """Whether each contender passes a check: on every fresh seed, tuned as for a race."""
    task = field.course.task
    found = []
    for entry in field.entries.values():
        runs = entry.reported()
        passed = [run for run in runs if run["test"] and task.reached(run["test"][task.metric])]
        reasons = [run["reason"] for run in runs if run["reason"]]
        missed = "" if len(passed) == len(runs) else f"not passed on {len(runs) - len(passed)} of {len(runs)} seeds"
        found.append(
            {
                "task": task.name,
                "label": entry.contender.label,
                "passed": bool(runs) and len(passed) == len(runs),
                "runs": len(runs),
                "reason": reasons[0] if reasons else missed or None if runs else "not run",
            }
        )
    return found


def overall(fields: Sequence[Field], tasks: Sequence[Json], protocol: Protocol) -> Json | None:
    """Across tasks: steps to the target against the quickest contender's, and ranks by the test metric."""
    raced = [
        (field, task)
        for field, task in zip(fields, tasks, strict=True)
        if task["kind"] == "race" and any(row["test"] for row in task["standings"])
    ]
    if len(raced) < 2:
        return None
    steps: dict[str, dict[str, list[float]]] = {label: {} for label in fields[0].entries}
    medians: dict[str, dict[str, float]] = {label: {} for label in steps}
    tests: dict[str, dict[str, float | None]] = {label: {} for label in steps}
    for field, task in raced:
        for row in task["standings"]:
            if row["status"] in ("missing", "failed"):
                continue
            label, name = row["label"], task["name"]
            reached = {run["seed"]: run for run in field.entries[label].reported()}
            steps[label][name] = [_cost(reached.get(seed), row["status"]) for seed in protocol.reported_on]
            medians[label][name] = steps_to_target(row["target"]["steps"])
            tests[label][name] = row["test"]["median"] if row["test"] else None
    budgets = {task["name"]: float(field.course.steps) for field, task in raced}
    means = statistics.geometric_means(steps, budgets)
    ranks = statistics.mean_ranks(tests, {task["name"]: task["direction"] for _, task in raced})
    rows: list[Json] = [
        {
            "label": label,
            "tasks": len(steps[label]),
            "geometric_mean": finite(means[label][0]),
            "interval": [finite(end) for end in means[label][1:]],
            "mean_rank": finite(ranks[label]),
            "targets_reached": sum(math.isfinite(value) for value in medians[label].values()),
        }
        for label in steps
    ]
    rows.sort(key=lambda row: [math.inf if row[key] is None else row[key] for key in ("geometric_mean", "mean_rank")])
    curves = statistics.performance_profile(medians, PROFILE_RATIOS)
    return {
        "tasks": list(budgets),
        "rows": rows,
        "profile": {
            "ratios": PROFILE_RATIOS,
            "curves": {k: [finite(v) for v in curve] for k, curve in curves.items()},
        },
    }


def _cost(run: Record | None, status: str) -> float:
    """Steps to the target: a miss is infinite, a run that was not made NaN; where no rate trains, all are misses."""
    if run is None:
        return math.inf if status in ("diverged", "refused") else math.nan
    if run["status"] == "failed":
        return math.nan
    return steps_to_target(run.get("target_step"))


def steps_to_target(steps: float | None) -> float:
    """As a cost that ratios can be taken of: a miss is infinite, and a target reached at the start takes one step."""
    return math.inf if steps is None else max(1.0, float(steps))


def finite(value: float | None) -> float | None:
    """As JSON has numbers: None stands for what is not finite."""
    return value if value is not None and math.isfinite(value) else None
