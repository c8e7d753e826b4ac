"""Numbers and findings in words; the terminal and the report say the same thing in the same words."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.lab.summary import Standing
from thalweg.lab.tasks import Task

PER_CENT = "\u00a0%"
"""With a space that no line is broken at."""


def metric(task: Task, value: float | None) -> str:
    """A metric with its unit."""
    if value is None:
        return "–"
    if task.unit == "%":
        return f"{100 * value:.1f}{PER_CENT}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def spread(task: Task, low: float | None, high: float | None) -> str:
    """The range over the seeds that finished."""
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
    if value >= 90:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number to so many digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def count(amount: int, noun: str) -> str:
    """A count with its noun in the right number."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listing(names: Sequence[str]) -> str:
    """Names joined as in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def result(task: Task, row: Standing) -> str:
    """The test metric, or why there is none."""
    if row.test is None and any(cell.diverged for cell in row.cells):
        return "diverged"
    return metric(task, row.test)


def target(task: Task, row: Standing) -> str:
    """Steps to the target; a miss is called a miss."""
    runs = [run for run in row.runs if run["status"] != "failed"]
    if not runs:
        return "–"
    if row.target_hits == len(runs):
        return f"{row.target_steps:g}"
    if row.target_hits == 0:
        return "missed"
    steps = "missed" if row.target_steps is None else f"{row.target_steps:g}"
    return f"{steps} ({row.target_hits}/{len(runs)})"


def headline(task: Task, rows: Sequence[Standing], seeds: int) -> str:
    """The answer in one sentence."""
    ranked = [row for row in rows if row.test is not None]
    if not ranked:
        return f"No optimizer has finished on {task.name} yet."
    leader = ranked[0]
    level = [row for row in ranked[1:] if not row.separated]
    at = "" if leader.best is None or leader.best.lr is None else f" at a learning rate of {rate(leader.best.lr)}"
    result = f"{metric(task, leader.test)} test {task.metric}{at}"
    if len(rows) == 1:
        return f"{leader.label} reaches {result} on {task.name}."
    if seeds < 3:
        return (
            f"{leader.label} comes first on {task.name} with {result}, "
            f"but {count(seeds, 'seed')} cannot tell a lead from noise."
        )
    if not level:
        return f"Train {task.name} with {leader.label}: {result}, ahead of every other optimizer on every seed."
    rivals = listing([row.label for row in level])
    if len(level) > 3:
        others = len(ranked) - 1
        rivals = "every other optimizer" if len(level) == others else f"{len(level)} of the other {others}"
    return (
        f"{leader.label} comes first on {task.name} with {result}; its lead over {rivals} lies within the seed spread."
    )


def findings(task: Task, rows: Sequence[Standing], seeds: int) -> list[str]:
    """What else the race shows, a sentence each."""
    ranked = [row for row in rows if row.test is not None]
    sentences = []
    behind = [row.label for row in ranked if row.separated]
    if behind and len(behind) < len(ranked) - 1:
        verb = "is" if len(behind) == 1 else "are"
        sentences.append(f"Behind it on all {seeds} seeds {verb} {listing(behind)}.")
    lost = [row.label for row in rows if row.test is None and row.cells]
    if lost:
        sentences.append(f"Nowhere in the grid did most runs of {listing(lost)} end without diverging.")
    return sentences + _target_findings(task, ranked)


def _target_findings(task: Task, ranked: Sequence[Standing]) -> list[str]:
    sentences = []
    goal = f"validation {task.metric} of {metric(task, task.target)}{_unit(task)}"
    quick = [row for row in ranked if row.target_steps is not None]
    if quick:
        first = min(quick, key=lambda row: (row.target_steps, row.target_seconds))
        soonest = min(quick, key=lambda row: row.target_seconds or 0.0)
        fewest = f"{first.label} ({first.target_steps:g} steps, {seconds(first.target_seconds)})"
        least = f" and in the least time by {soonest.label} ({seconds(soonest.target_seconds)})"
        sentences.append(
            f"The target, a {goal}, is reached in the fewest steps by {fewest}{'' if soonest is first else least}."
        )
    missed = [row.label for row in ranked if row.target_steps is None]
    if missed:
        sentences.append(f"The target{'' if quick else f', a {goal},'} is missed by {_several(missed, len(ranked))}.")
    return sentences


def _several(names: Sequence[str], total: int) -> str:
    """A few names in full; many as a count, since the table has the names."""
    if len(names) <= 4:
        return listing(names)
    return "every optimizer" if len(names) == total else f"{len(names)} of the {total} optimizers"


def _unit(task: Task) -> str:
    return "" if task.unit in ("", "%") else f" {task.unit}"
