"""The rows that the report's charts draw, and that their CSV files hold, from the tasks of a summary.

A row is a flat dictionary; None stands for a value that does not exist, such as the test metric of a run that diverged.
Nothing here knows how a chart looks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thalweg.lab import report_words, wording

Row = dict[str, Any]
Rows = list[Row]
Task = dict[str, Any]
"""One entry of a summary's ``tasks``."""


def metric_factor(task: Task) -> float:
    """What turns a difference of the metric into points (a fraction shown in per cent) or leaves it as it is."""
    return 100.0 if task["unit"] == "%" else 1.0


def regret_factor(task: Task) -> float:
    """What turns a regret into points, into per cent of the best loss, or into the metric's own unit."""
    return 100.0 if task["direction"] == "min" else metric_factor(task)


def regret_unit(task: Task) -> str:
    """The unit of a regret times its factor."""
    if task["direction"] == "min":
        return "% of the best"
    return "points" if task["unit"] == "%" else task["unit"]


def standing_rows(task: Task) -> Rows:
    """One row a contender: its result with the interval."""
    rows = []
    for one in task["standings"]:
        test = one["test"] or {"median": None, "low": None, "high": None, "interval": [None, None]}
        rows.append(
            {
                "optimizer": one["label"],
                "rank": one["rank"],
                "status": one["status"],
                "median": test["median"],
                "lowest": test["low"],
                "highest": test["high"],
                "interval_low": test["interval"][0],
                "interval_high": test["interval"][1],
            }
        )
    return rows


def cost_rows(task: Task) -> Rows:
    """One row a contender that ran: what tuning, a step and its memory cost, in numbers and in words."""
    factor = regret_factor(task)
    return [
        {
            "optimizer": one["label"],
            "steps_to_target": one["target"]["steps"],
            "steps_to_target_words": wording.target(one),
            "regret": None if one["default"]["regret"] is None else factor * one["default"]["regret"],
            "regret_words": wording.regret(task, one),
            "share_within": one["share_within"],
            "share_within_words": report_words.share(one["share_within"]),
            "step_ms": one["step_ms"],
            "step_ms_words": wording.number(one["step_ms"]),
            "bytes_per_parameter": one["bytes_per_parameter"],
            "bytes_per_parameter_words": wording.number(one["bytes_per_parameter"]),
        }
        for one in task["standings"]
        if one["status"] not in ("missing", "refused")
    ]


def seed_rows(task: Task) -> Rows:
    """One row a run of the report phase."""
    return [
        {
            "optimizer": one["label"],
            "seed": run["seed"],
            "status": run["status"],
            "test": run["test"],
            "validation": run["validation"],
            "steps_to_target": run["target_step"],
            "seconds_to_target": run["target_seconds"],
        }
        for one in task["standings"]
        for run in one["runs"]
    ]


def curve_rows(task: Task) -> Rows:
    """One row a contender and evaluation: the median over the seeds that got as far, the lowest and the highest."""
    rows: Rows = []
    for one in task["standings"]:
        at: dict[int, dict[str, list[float]]] = {}
        for run in one["runs"]:
            curve = run["curve"] or {}
            for index, step in enumerate(curve.get("step", ())):
                found = at.setdefault(step, {"seconds": [], "validation": [], "training": []})
                for name, key in (("seconds", "seconds"), ("validation", "validation"), ("training", "train_loss")):
                    value = curve[key][index] if index < len(curve.get(key, ())) else None
                    if value is not None and math.isfinite(value):
                        found[name].append(value)
        for step, found in sorted(at.items()):
            row: Row = {"optimizer": one["label"], "step": step, "seconds": _median(found["seconds"])}
            for name in ("validation", "training"):
                row[name] = _median(found[name])
                row[f"{name}_low"] = min(found[name], default=None)
                row[f"{name}_high"] = max(found[name], default=None)
            rows.append(row | {"seeds": len(found["validation"])})
    return rows


def grid_rows(task: Task) -> Rows:
    """One row a point of a contender's grid; `multiple` is its learning rate over the default."""
    rows = []
    for one in task["standings"]:
        default, chosen = one["default"]["lr"], one["chosen"]
        for cell in one["grid"]:
            validation = cell["validation"] or {"median": None, "low": None, "high": None}
            rows.append(
                {
                    "optimizer": one["label"],
                    "lr": cell["lr"],
                    "multiple": cell["lr"] / default if cell["lr"] and default else None,
                    "weight_decay": cell["weight_decay"],
                    "searched": _searched(cell),
                    "own_decay": bool(chosen) and _others(cell) == _others(chosen),
                    "chosen": bool(chosen) and (cell["lr"], _others(cell)) == (chosen["lr"], _others(chosen)),
                    "validation": validation["median"],
                    "lowest": validation["low"],
                    "highest": validation["high"],
                    "finished": cell["finished"],
                    "diverged": cell["diverged"],
                    "failed": cell["failed"],
                }
            )
    return rows


def trial_rows(task: Task) -> Rows:
    """One row a contender and number of trials: the best validation metric to be expected of so many."""
    return [
        {"optimizer": one["label"], "trials": int(trials), "expected": value}
        for one in task["standings"]
        for trials, value in one["best_after"].items()
        if value is not None
    ]


def rank_rows(tasks: Sequence[Task]) -> Rows:
    """One row a contender and task: its rank by the final test metric, or why it has none."""
    return [
        {
            "optimizer": one["label"],
            "task": task["name"],
            "rank": one["rank"] if one["test"] else None,
            "of": len(task["standings"]),
            "place": one["rank"] / len(task["standings"]) if one["test"] else None,
            "text": str(one["rank"]) if one["test"] else "–",
            "status": one["status"],
            "metric": task["metric"],
            "median": one["test"]["median"] if one["test"] else None,
        }
        for task in tasks
        for one in task["standings"]
    ]


def profile_rows(overall: Mapping[str, Any]) -> Rows:
    """One row a contender and ratio: the share of tasks whose steps to target are within it of the fewest."""
    profile = overall["profile"]
    return [
        {"optimizer": row["label"], "ratio": ratio, "share": share}
        for row in overall["rows"]
        for ratio, share in zip(profile["ratios"], profile["curves"][row["label"]], strict=True)
        if share is not None
    ]


def overall_rows(overall: Mapping[str, Any]) -> Rows:
    """One row a contender: its geometric mean with the interval, its mean rank, the targets it reached."""
    return [
        {
            "optimizer": row["label"],
            "tasks": row["tasks"],
            "geometric_mean": row["geometric_mean"],
            "interval_low": row["interval"][0],
            "interval_high": row["interval"][1],
            "mean_rank": row["mean_rank"],
            "targets_reached": row["targets_reached"],
        }
        for row in overall["rows"]
    ]


def result_range(task: Task, split: str = "test") -> tuple[float, float] | None:
    """The range of the runs' metric worth drawing; None where no run finished.

    The last quarter of the ranking is in it only where that does not squeeze the others: one contender at chance level
    would otherwise hide every difference that matters.
    """
    better = -1 if task["direction"] == "max" else 1
    groups = [[run[split] for run in one["runs"] if run[split] is not None] for one in task["standings"]]
    groups = sorted((group for group in groups if group), key=lambda group: better * statistics.median(group))
    kept = [value for group in groups[: max(2, math.ceil(0.75 * len(groups)))] for value in group]
    every = [value for group in groups for value in group]
    if not every:
        return None
    if spans_decades(task, every):
        return min(every) / 1.2, max(every) * 1.2
    wide = max(every) - min(every) <= 2.5 * (max(kept) - min(kept))
    return padded(every if wide else kept)


def late_range(task: Task, rows: Rows) -> tuple[float, float] | None:
    """The range of the validation curves from a fifth of training on, without the worst tenth of their points."""
    values = [row["validation"] for row in rows]
    late = [row["validation"] for row in rows if row["step"] >= task["steps"] / 5]
    return best_range(task, values if spans_decades(task, values) else late, 0.9, task["target"])


def best_range(task: Task, values: Iterable[float | None], share: float, *also: float) -> tuple[float, float] | None:
    """The range of the best `share` of the values and of `also`; None without values.

    Where the metric spans decades it is the range of nearly all of them, since a logarithmic axis has the room.
    """
    found = sorted((value for value in values if value is not None), reverse=task["direction"] == "max")
    if not found:
        return None
    if spans_decades(task, found):
        kept = [*found[: max(2, math.ceil(0.98 * len(found)))], *(value for value in also if value > 0)]
        return min(kept) / 1.2, max(kept) * 1.2
    return padded([*found[: max(2, math.ceil(share * len(found)))], *also])


def spans_decades(task: Task, values: Iterable[float | None]) -> bool:
    """Whether a logarithmic axis suits them: a metric to be minimised, above zero, over a factor of more than eight."""
    found = [value for value in values if value is not None]
    return bool(found) and task["direction"] == "min" and min(found) > 0 and max(found) > 8 * min(found)


def padded(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest value, with a margin."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    return low - margin, high + margin


def _others(configuration: Mapping[str, Any]) -> tuple[Any, ...]:
    """All of a configuration but its learning rate."""
    return configuration["weight_decay"], _searched(configuration)


def _searched(configuration: Mapping[str, Any]) -> str | None:
    """What a sweep set besides learning rate and weight decay."""
    return ", ".join(f"{name} {value}" for name, value in configuration.get("searched", {}).items()) or None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
