"""Numbers and findings in words, from a summary; the terminal and the report say the same thing in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PER_CENT = "\u00a0%"
"""With a space that no line is broken at."""

Json = Mapping[str, Any]


def metric(task: Json, value: float | None) -> str:
    """A metric with its unit; `task` is a task of the summary."""
    if value is None:
        return "–"
    if task["unit"] == "%":
        return f"{100 * value:.1f}{PER_CENT}"
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 or value == 0 else f"{value:.3g}"


def spread(task: Json, low: float | None, high: float | None) -> str:
    """A range of the metric."""
    if low is None or high is None:
        return "–"
    return f"{metric(task, low).removesuffix(PER_CENT)}–{metric(task, high)}"


def rate(value: float | None) -> str:
    """A learning rate."""
    return "its own" if value is None else f"{value:g}"


def seconds(value: float | None) -> str:
    """A duration a reader can grasp."""
    if value is None:
        return "–"
    if value >= 5400:
        return f"{int(value) // 3600} h {int(value) % 3600 // 60:02d} min"
    if value >= 90:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number to so many digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def ratio(value: float | None) -> str:
    """A ratio to two places."""
    return "–" if value is None else f"{value:.2f}"


def count(amount: int, noun: str) -> str:
    """A count with its noun in the right number."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listing(names: Sequence[str]) -> str:
    """Names joined as in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def configuration(chosen: Json | None) -> str:
    """A configuration that was chosen, in the fewest words that tell it."""
    if chosen is None:
        return "–"
    parts = [] if chosen["lr"] is None else [f"lr {chosen['lr']:g}"]
    parts += [f"decay {chosen['weight_decay']:g}"] if chosen["weight_decay"] is not None else []
    return ", ".join(parts + [f"{name} {value}" for name, value in chosen.get("searched", {}).items()]) or "its own"


def result(task: Json, row: Json) -> str:
    """The test metric, or why there is none."""
    return metric(task, row["test"]["median"]) if row["test"] else row["status"]


def target(row: Json) -> str:
    """Steps to the target; a miss is called a miss."""
    found = row["target"]
    if not found["runs"]:
        return "–"
    if found["hits"] == 0:
        return "missed"
    steps = "missed" if found["steps"] is None else f"{found['steps']:g}"
    return steps if found["hits"] == found["runs"] else f"{steps} ({found['hits']}/{found['runs']})"


def regret(task: Json, row: Json) -> str:
    """What default settings cost: points of a percentage, or how much more loss; ×3 is three times the best."""
    lost = row["default"]["regret"]
    if lost is None:
        return "–"
    if task["direction"] == "min":
        return f"{100 * lost:.3g}{PER_CENT}" if lost < 1 else f"×{1 + lost:.3g}"
    return f"{100 * lost:.1f} points" if task["unit"] == "%" else f"{lost:.2g}"


def headline(summary: Json) -> str:
    """The answer in one sentence."""
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    if summary["overall"] is None:
        return _task_headline(raced[0]) if raced else _checks_headline(summary["checks"])
    first = summary["overall"]["rows"][0]
    tasks = len(summary["overall"]["tasks"])
    if first["geometric_mean"] is None:
        return f"No optimizer reached the targets of the {tasks} tasks."
    return (
        f"Over {tasks} tasks {first['label']} needed the fewest steps to the targets: on the geometric mean "
        f"{ratio(first['geometric_mean'])} times those of each task's quickest optimizer "
        f"(95{PER_CENT} interval {ratio(first['interval'][0])} to {ratio(first['interval'][1])})."
    )


def _task_headline(task: Json) -> str:
    ranked = [row for row in task["standings"] if row["test"]]
    if not ranked:
        return f"No optimizer has finished on {task['name']} yet."
    leader = ranked[0]
    found = f"{metric(task, leader['test']['median'])} test {task['metric']} at {configuration(leader['chosen'])}"
    if len(task["standings"]) == 1:
        return f"{leader['label']} reaches {found} on {task['name']}."
    level = [row for row in ranked[1:] if row["behind_leader"] and not row["behind_leader"]["separated"]]
    if not level:
        return f"Train {task['name']} with {leader['label']}: {found}, ahead of every other optimizer."
    rivals = listing([row["label"] for row in level])
    if len(level) > 3:
        others = len(ranked) - 1
        rivals = "every other optimizer" if len(level) == others else f"{len(level)} of the other {others}"
    return (
        f"{leader['label']} comes first on {task['name']} with {found}; its lead over {rivals} is within what "
        "chance would give on these seeds."
    )


def _checks_headline(checks: Sequence[Json]) -> str:
    passed = sum(check["passed"] for check in checks)
    return f"{passed} of {count(len(checks), 'check')} passed."


def findings(summary: Json) -> list[str]:
    """What else the race shows, a sentence each."""
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    if summary["overall"] is None:
        found = [sentence for task in raced for sentence in _task_findings(task)]
    else:
        found = _overall_findings(summary["overall"], raced)
    checks = summary["checks"]
    for name in dict.fromkeys(check["task"] for check in checks):
        failed = [check["label"] for check in checks if check["task"] == name and not check["passed"]]
        total = sum(check["task"] == name for check in checks)
        found.append(f"The check {name} is passed by {total - len(failed)} of {count(total, 'optimizer')}.")
    return found


def _overall_findings(overall: Json, tasks: Sequence[Json]) -> list[str]:
    rows = overall["rows"]
    found = []
    first = rows[0]
    if first["geometric_mean"] is not None and first["interval"][1] is not None:
        close = [
            r["label"] for r in rows[1:] if r["interval"][0] is not None and r["interval"][0] <= first["interval"][1]
        ]
        if close:
            found.append(f"The intervals of {_several(close, len(rows) - 1)} overlap with that of {first['label']}.")
    by_rank = min(rows, key=lambda row: row["mean_rank"] if row["mean_rank"] is not None else float("inf"))
    if by_rank["mean_rank"] is not None:
        found.append(
            f"By the final test metric {by_rank['label']} ranks best: {by_rank['mean_rank']:.1f} of {len(rows)} on "
            "average."
        )
    wins: dict[str, list[str]] = {}
    for task in tasks:
        if task["standings"][0]["test"]:
            wins.setdefault(task["standings"][0]["label"], []).append(task["name"])
    leaders = sorted(wins.items(), key=lambda pair: -len(pair[1]))
    found.append(f"First on each task: {'; '.join(f'{label} on {listing(names)}' for label, names in leaders)}.")
    most = max(row["targets_reached"] for row in rows)
    reaching = [row["label"] for row in rows if row["targets_reached"] == most]
    found.append(f"Most targets, {most} of {len(overall['tasks'])}, are reached by {_several(reaching, len(rows))}.")
    found += [f"The model of {task['name']} cannot be trained by {who}." for task in tasks if (who := _refusing(task))]
    return found


def _task_findings(task: Json) -> list[str]:
    rows = task["standings"]
    ranked = [row for row in rows if row["test"]]
    found = []
    behind = [row["label"] for row in ranked if row["behind_leader"] and row["behind_leader"]["separated"]]
    if behind and len(behind) < len(ranked) - 1:
        verb = "is" if len(behind) == 1 else "are"
        found.append(f"Behind it by a sign test over seeds {verb} {listing(behind)}.")
    lost = [row["label"] for row in rows if row["status"] == "diverged"]
    if lost:
        found.append(f"Nowhere in the search did most runs of {listing(lost)} end without diverging.")
    if who := _refusing(task):
        found.append(f"The model cannot be trained by {who}.")
    return found + _target_findings(task, ranked) + _default_findings(task, ranked)


def _target_findings(task: Json, ranked: Sequence[Json]) -> list[str]:
    found = []
    unit = "" if task["unit"] in ("", "%") else f" {task['unit']}"
    goal = f"validation {task['metric']} of {metric(task, task['target'])}{unit}"
    quick = [row for row in ranked if row["target"]["steps"] is not None]
    if quick:
        first = min(quick, key=lambda row: (row["target"]["steps"], row["target"]["seconds"]))
        soonest = min(quick, key=lambda row: row["target"]["seconds"])
        fewest = f"{first['label']} ({first['target']['steps']:g} steps, {seconds(first['target']['seconds'])})"
        least = f" and in the least time by {soonest['label']} ({seconds(soonest['target']['seconds'])})"
        found.append(
            f"The target, a {goal}, is reached in the fewest steps by {fewest}{'' if soonest is first else least}."
        )
    missed = [row["label"] for row in ranked if row["target"]["steps"] is None]
    if missed:
        found.append(f"The target{'' if quick else f', a {goal},'} is missed by {_several(missed, len(ranked))}.")
    return found


def _default_findings(task: Json, ranked: Sequence[Json]) -> list[str]:
    """Whose defaults need no tuning here, and whose need it most."""
    known = [row for row in ranked if row["default"]["regret"] is not None]
    if len(known) < 2:
        return []
    least, most = (choose(known, key=lambda row: row["default"]["regret"]) for choose in (min, max))
    if least["default"]["regret"] == most["default"]["regret"]:
        return []
    best, worst = (f"{row['label']} ({regret(task, row)})" for row in (least, most))
    return [f"The default settings cost least for {best} and most for {worst}, against the best found on validation."]


def _refusing(task: Json) -> str:
    """Who cannot train a task's model."""
    names = [row["label"] for row in task["standings"] if row["status"] == "refused"]
    return "any of these optimizers" if len(names) == len(task["standings"]) else listing(names)


def _several(names: Sequence[str], total: int) -> str:
    """A few names in full; many as a count, since the table has the names."""
    if len(names) <= 4:
        return listing(names)
    return "every optimizer" if len(names) == total else f"{len(names)} of the {total} optimizers"
