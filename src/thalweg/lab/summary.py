"""From the runs' records to a ranking, and to what may honestly be said about it.

The learning rate is chosen on validation; the ranking is by the test metric at that rate, which nothing was
chosen on. Runs that diverged count as worse than every run that did not; failed runs count as not made.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thalweg.lab import grid
from thalweg.lab.contenders import Contender
from thalweg.lab.tasks import Task

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One point of a contender's grid over all seeds."""

    cell: int
    lr: float | None
    validation: float | None
    """Median over seeds; None when the median run diverged, or no run was made."""
    low: float | None
    high: float | None
    finished: int
    diverged: int
    failed: int
    runs: list[Record] = field(repr=False)


@dataclass
class Standing:
    """One line of the ranking."""

    contender: Contender
    cells: list[Cell]
    best: Cell | None
    edge: str | None
    test: float | None
    test_low: float | None
    test_high: float | None
    target_hits: int
    target_steps: float | None
    target_seconds: float | None
    step_ms: float | None
    bytes_per_parameter: float | None
    rank: int = 0
    paired: int = 0
    """How many seeds the contender and the leader have in common."""
    leader_ahead: int = 0
    """On how many seeds the leader's test metric is strictly better."""
    separated: bool = False
    """Whether the leader is ahead on every seed (of at least three); if not, the lead is within the seed spread."""

    @property
    def label(self) -> str:
        """The contender's label."""
        return self.contender.label

    @property
    def runs(self) -> list[Record]:
        """The runs at the best learning rate, by seed."""
        return self.best.runs if self.best else []


def worse(task: Task) -> float:
    """What a diverged run counts as."""
    return -math.inf if task.direction == "max" else math.inf


def median(values: Iterable[float]) -> float | None:
    """The median, None when it is not finite or there are no values."""
    values = list(values)
    if not values:
        return None
    middle = statistics.median(values)
    return middle if math.isfinite(middle) else None


def cell_scores(task: Task, records: Sequence[Record]) -> dict[int, grid.Score]:
    """How good each point of one contender's grid is, for choosing among them."""
    scores = {}
    for cell in sorted({record["cell"] for record in records}):
        runs = [record for record in records if record["cell"] == cell and record["status"] != "failed"]
        sign = 1 if task.direction == "max" else -1
        metric = median(_metric(task, run, "validation") for run in runs)
        loss = median((run["validation"] or {}).get("loss", math.inf) for run in runs)
        scores[cell] = grid.HOPELESS if metric is None else (sign * metric, -math.inf if loss is None else -loss)
    return scores


def standings(task: Task, contenders: Sequence[Contender], records: Sequence[Record]) -> list[Standing]:
    """The ranking, best first; contenders without any result come last."""
    rows = [_standing(task, contender, records) for contender in contenders]
    sign = -1 if task.direction == "max" else 1
    rows.sort(
        key=lambda row: (
            math.inf if row.test is None else sign * row.test,
            math.inf if row.target_steps is None else row.target_steps,
        )
    )
    leader = rows[0]
    for rank, row in enumerate(rows, 1):
        row.rank = rank
        shared = _paired(task, leader, row)
        row.paired = len(shared)
        row.leader_ahead = sum(sign * ours < sign * theirs for ours, theirs in shared)
        row.separated = len(shared) >= 3 and row.leader_ahead == len(shared)
    return rows


def _paired(task: Task, leader: Standing, row: Standing) -> list[tuple[float, float]]:
    ours = {run["seed"]: _metric(task, run, "test") for run in leader.runs if run["status"] != "failed"}
    theirs = {run["seed"]: _metric(task, run, "test") for run in row.runs if run["status"] != "failed"}
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def _metric(task: Task, run: Record, split: str) -> float:
    return run[split][task.metric] if run[split] else worse(task)


def _cell(task: Task, cell: int, runs: list[Record]) -> Cell:
    made = [run for run in runs if run["status"] != "failed"]
    finite = [run["validation"][task.metric] for run in made if run["validation"]]
    return Cell(
        cell=cell,
        lr=runs[0]["lr"],
        validation=median(_metric(task, run, "validation") for run in made),
        low=min(finite, default=None),
        high=max(finite, default=None),
        finished=len(finite),
        diverged=len(made) - len(finite),
        failed=len(runs) - len(made),
        runs=sorted(runs, key=lambda run: run["seed"]),
    )


def _standing(task: Task, contender: Contender, records: Sequence[Record]) -> Standing:
    mine = [record for record in records if record["label"] == contender.label]
    scores = cell_scores(task, mine)
    cells = [_cell(task, cell, [run for run in mine if run["cell"] == cell]) for cell in scores]
    chosen = grid.best_cell(scores) if scores else None
    best = next((cell for cell in cells if cell.cell == chosen), None)
    made = [run for run in best.runs if run["status"] != "failed"] if best else []
    tests = [run["test"][task.metric] for run in made if run["test"]]
    missed = math.inf
    return Standing(
        contender=contender,
        cells=cells,
        best=best,
        edge=grid.edge(scores) if scores else None,
        test=median(_metric(task, run, "test") for run in made),
        test_low=min(tests, default=None),
        test_high=max(tests, default=None),
        target_hits=sum(run["target_step"] is not None for run in made),
        target_steps=median(missed if run["target_step"] is None else run["target_step"] for run in made),
        target_seconds=median(missed if run["target_step"] is None else run["target_seconds"] for run in made),
        step_ms=median(run["step_ms"] for run in made if run["step_ms"] is not None),
        bytes_per_parameter=median(run["state_bytes"] / run["parameters"] for run in made),
    )


def as_json(task: Task, rows: Sequence[Standing]) -> list[dict[str, Any]]:
    """The ranking for programs; curves stay in results.jsonl."""
    return [
        {
            "rank": row.rank,
            "label": row.label,
            "optimizer": row.contender.name,
            "hyper": dict(row.contender.hyper),
            "lr": row.best.lr if row.best else None,
            "lr_on_edge": row.edge,
            "test": {"median": row.test, "low": row.test_low, "high": row.test_high},
            "validation": row.best.validation if row.best else None,
            "seeds": [
                {
                    "seed": run["seed"],
                    "status": run["status"],
                    "validation": (run.get("validation") or {}).get(task.metric),
                    "test": (run.get("test") or {}).get(task.metric),
                    "target_step": run.get("target_step"),
                }
                for run in row.runs
            ],
            "target": {"hits": row.target_hits, "steps": row.target_steps, "seconds": row.target_seconds},
            "paired_seeds": row.paired,
            "leader_ahead_on_seeds": row.leader_ahead,
            "separated_from_leader": row.separated,
            "step_ms": row.step_ms,
            "state_bytes_per_parameter": row.bytes_per_parameter,
            "grid": [
                {
                    "lr": cell.lr,
                    "validation": {"median": cell.validation, "low": cell.low, "high": cell.high},
                    "finished": cell.finished,
                    "diverged": cell.diverged,
                    "failed": cell.failed,
                }
                for cell in row.cells
            ],
        }
        for row in rows
    ]
