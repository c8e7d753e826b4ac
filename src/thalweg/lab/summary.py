"""From the runs' records to the summary that tables and reports are made of.

Configurations are chosen on validation; the ranking is by the test metric on fresh seeds, which nothing was chosen
on. Runs that diverged count as worse than every run that did not; failed runs count as not made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import binomtest

import thalweg
from thalweg.lab import statistics, wording
from thalweg.lab.loading import task_names
from thalweg.lab.overall import checks, finite, overall
from thalweg.lab.planning import Course, Entry, Field, Record, median
from thalweg.lab.protocol import Protocol
from thalweg.lab.search import Trial, edge

SCHEMA = 2
DRAWS = (1, 2, 4, 8, 16)
"""Numbers of trials for which the expected best is given."""
LEVEL = 0.05
"""Of the sign test by which a leader is said to be ahead."""

Json = dict[str, Any]


def summarise(fields: Sequence[Field], protocol: Protocol, name: str, complete: bool) -> Json:
    """Everything that a report needs of the results; the race adds when, where and by which command."""
    tasks = [_task(field) for field in fields]
    summary: Json = {
        "schema": SCHEMA,
        "name": name,
        "complete": complete,
        "protocol": protocol.as_dict(),
        "tasks": tasks,
        "overall": overall(fields, tasks, protocol),
        "checks": [check for field in fields if field.course.task.kind == "check" for check in checks(field)],
    }
    summary["warnings"] = _warnings(fields, tasks, protocol, complete)
    summary["not_run"] = _not_run(fields)
    summary["headline"] = wording.headline(summary)
    summary["findings"] = wording.findings(summary)
    return summary


def _task(field: Field) -> Json:
    course = field.course
    task = course.task
    rows = [_standing(entry) for entry in field.entries.values()]
    rows.sort(
        key=lambda row: (
            math.inf if row["test"] is None else -course.sign * row["test"]["median"],
            row["target"]["steps"] or math.inf,
        )
    )
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
        row["behind_leader"] = _behind(field, rows[0], row)
    return {
        "name": task.name,
        "kind": task.kind,
        "statement": task.statement,
        "limits": task.limits,
        "metric": task.metric,
        "direction": task.direction,
        "unit": task.unit,
        "target": task.target,
        "steps": course.steps,
        "split": task.split,
        "standings": rows,
    }


def _standing(entry: Entry) -> Json:
    course, contender = entry.course, entry.contender
    race = course.task.kind == "race"
    chosen = entry.chosen if race else None
    runs = entry.reported()
    made = [run for run in runs if run["status"] not in ("failed", "refused")]
    tests = [course.value(run, "test") for run in made]
    middle = median(tests)
    ended = [value for value in tests if math.isfinite(value)]
    trained = [trial for trial in entry.scores if trial.share == 1]
    values = [course.sign * entry.scores[trial][0] * 1.0 for trial in trained]
    at = dict(chosen or ())
    return {
        "label": contender.label,
        "optimizer": contender.name,
        "hyper": dict(contender.hyper),
        "rank": 0,
        "status": _status(entry, runs, middle),
        "reason": _reason(entry, runs),
        "chosen": {"lr": at.get("lr"), "weight_decay": at.get("weight_decay")} | _others(at) if chosen else None,
        "edge": edge(entry.search, chosen, entry.scores),
        "test": None
        if middle is None
        else {
            "median": middle,
            "low": min(ended),
            "high": max(ended),
            "interval": [finite(end) for end in statistics.bootstrap_interval(tests)],
        },
        "behind_leader": None,
        "target": {
            "hits": sum(run["target_step"] is not None for run in made),
            "runs": len(made),
            "steps": median(_or_infinite(run["target_step"]) for run in made),
            "seconds": median(_or_infinite(run["target_seconds"]) for run in made),
        },
        "default": _default(entry, values),
        "best_after": {
            str(k): finite(statistics.expected_best(values, k, course.task.direction)) if values else None
            for k in DRAWS
        },
        "share_within": finite(statistics.share_within(values, course.task.direction)) if values else None,
        "step_ms": median(run["step_ms"] for run in made if run.get("step_ms") is not None),
        "bytes_per_parameter": median(run["state_bytes"] / run["parameters"] for run in made if run.get("parameters")),
        "grid": [_cell(entry, trial) for trial in _in_order(trained)] if race else [],
        "runs": [_run(course, run) for run in runs],
    }


def _status(entry: Entry, runs: Sequence[Record], middle: float | None) -> str:
    statuses = {run["status"] for run in runs or entry.records.values()}
    if middle is not None and statuses != {"failed"}:
        return "ok"
    if entry.refused is not None:
        return "refused"
    if not statuses or (not runs and entry.chosen is not None):
        return "missing"
    return "diverged" if "diverged" in statuses else "failed"


def _reason(entry: Entry, runs: Sequence[Record]) -> str | None:
    """Why there is no result, or why a run is missing from it."""
    records = [*runs, *entry.records.values()]
    for status in ("refused", "failed", "diverged"):
        reasons = [record["reason"] for record in records if record["status"] == status]
        if reasons and (status != "diverged" or entry.chosen is None):
            return reasons[0]
    return None


def _default(entry: Entry, values: Sequence[float]) -> Json:
    """What the defaults cost against the best that was found, both on validation."""
    point = entry.default
    score = entry.scores.get(Trial(point))
    direction = entry.course.task.direction
    value = None if score is None else entry.course.sign * score[0]
    lost = None
    if value is not None:
        best = max(values) if direction == "max" else min(values)
        lost = finite(statistics.regret(value, best, direction))
    at = dict(point)
    return {"lr": at.get("lr"), "weight_decay": at.get("weight_decay"), "validation": finite(value), "regret": lost}


def _in_order(trials: Iterable[Trial]) -> list[Trial]:
    def order(trial: Trial) -> Any:
        at = dict(trial.point)
        return at.get("weight_decay", 0.0), at.get("lr", 0.0), repr(trial.point)

    return sorted(trials, key=order)


def _cell(entry: Entry, trial: Trial) -> Json:
    runs = entry.tuned(trial)
    made = [run for run in runs if run["status"] != "failed"]
    values = [entry.course.value(run) for run in made]
    middle, ended = median(values), [value for value in values if math.isfinite(value)]
    at = dict(trial.point)
    return {
        "lr": at.get("lr"),
        "weight_decay": at.get("weight_decay"),
        **_others(at),
        "validation": None if middle is None else {"median": middle, "low": min(ended), "high": max(ended)},
        "finished": len(ended),
        "diverged": len(made) - len(ended),
        "failed": len(runs) - len(made),
    }


def _run(course: Course, run: Record) -> Json:
    metric = course.task.metric
    return {
        "seed": run["seed"],
        "status": run["status"],
        "test": (run["test"] or {}).get(metric),
        "validation": (run["validation"] or {}).get(metric),
        "loss": (run["validation"] or {}).get("loss"),
        "target_step": run.get("target_step"),
        "target_seconds": run.get("target_seconds"),
        "curve": run.get("curve"),
    }


def _behind(field: Field, leader: Json, row: Json) -> Json | None:
    """On how many of the seeds that both have the leader is strictly better, and whether a sign test calls it ahead."""
    if row is leader or leader["test"] is None or row["status"] in ("refused", "failed", "missing"):
        return None
    course = field.course
    ours, theirs = (
        {run["seed"]: course.value(run, "test") for run in field.entries[one["label"]].reported() if run["test"]}
        | {run["seed"]: -course.sign * math.inf for run in field.entries[one["label"]].reported() if _lost(run)}
        for one in (leader, row)
    )
    shared = sorted(ours.keys() & theirs.keys())
    ahead = sum(course.sign * ours[seed] > course.sign * theirs[seed] for seed in shared)
    untied = sum(ours[seed] != theirs[seed] for seed in shared)
    separated = untied > 0 and ahead > untied / 2 and binomtest(ahead, untied).pvalue < LEVEL
    return {"seeds": ahead, "paired": len(shared), "separated": bool(separated)}


def _lost(run: Record) -> bool:
    return run["status"] == "diverged"


def _warnings(fields: Sequence[Field], tasks: Sequence[Json], protocol: Protocol, complete: bool) -> list[str]:
    found = [] if complete else ["The race was interrupted: what it shows is partial."]
    found += protocol.shortfalls()
    if fields and not any(entry.contender.baseline for entry in fields[0].entries.values()):
        found.append("No baseline was raced: neither SGD with momentum nor AdamW.")
    for field, task in zip(fields, tasks, strict=True):
        if field.broken:
            found.append(f"{task['name']} was given up, since every run failed: {field.broken}.")
        failed = sum(r["status"] == "failed" for entry in field.entries.values() for r in entry.records.values())
        if failed and not field.broken:
            found.append(f"On {task['name']} {wording.count(failed, 'run')} failed and counted as not made.")
        for row in task["standings"]:
            if row["edge"]:
                found.append(
                    f"On {task['name']} the best learning rate of {row['label']}, "
                    f"{wording.rate(row['chosen']['lr'])}, is the {row['edge']} one tried; a better one may lie beyond."
                )
    return found


def _not_run(fields: Sequence[Field]) -> list[str]:
    """What the race leaves out, a sentence each."""
    found = []
    for field in fields:
        lacking = [label for label, entry in field.entries.items() if _open_runs(entry)]
        if lacking:
            found.append(f"On {field.course.task.name} runs are missing of {wording.listing(lacking)}.")
    raced = {entry.contender.name for field in fields for entry in field.entries.values()}
    if absent := sorted(set(thalweg.list_optimizers()) - raced):
        found.append(f"Optimizers not raced: {wording.listing(absent)}.")
    if other := sorted(set(task_names()) - {field.course.task.name for field in fields}):
        found.append(f"Tasks not raced: {wording.listing(other)}.")
    return found


def _open_runs(entry: Entry) -> bool:
    jobs = entry.tuning_jobs() + entry.report_jobs()
    return any(job.key not in entry.records for job in jobs)


def _others(at: dict[str, Any]) -> Json:
    """What a sweep set besides the two that every race searches."""
    rest = {name: value for name, value in at.items() if name not in ("lr", "weight_decay")}
    return {"searched": rest} if rest else {}


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)
