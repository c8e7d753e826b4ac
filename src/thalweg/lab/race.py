"""The race itself: which runs there are, who makes them, and what is written when they are done."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from thalweg.lab import grid, machine
from thalweg.lab.contenders import Contender
from thalweg.lab.errors import LabError
from thalweg.lab.loading import load_task, source_digest
from thalweg.lab.pool import Outcome, Pool
from thalweg.lab.progress import Board, SilentBoard
from thalweg.lab.results import RaceDirectory
from thalweg.lab.summary import Record, Standing, as_json, cell_scores, standings
from thalweg.lab.tasks import Task
from thalweg.lab.trial import Job
from thalweg.lab.wording import findings, headline

GIVE_UP_AFTER = 4
"""So many failures with no success at all mean that the task is broken, not an optimizer."""


@dataclass(frozen=True)
class Settings:
    """What is raced; two races of equal settings make the same runs."""

    reference: str
    contenders: tuple[Contender, ...]
    seeds: int = 5
    points: int = 5
    steps: int | None = None

    def configuration(self, task: Task) -> dict[str, Any]:
        """Everything a resumed race must agree on."""
        return {
            "task": {
                "reference": self.reference,
                "name": task.name,
                "metric": task.metric,
                "direction": task.direction,
                "target": task.target,
                "steps": task.steps,
                "eval_every": task.interval,
                "source": source_digest(self.reference),
            },
            "optimizers": [contender.as_dict() for contender in self.contenders],
            "seeds": self.seeds,
            "grid": {"points": self.points, "decades_apart": grid.DECADES, "reach": grid.REACH},
            "versions": machine.versions(),
        }


@dataclass(frozen=True)
class Result:
    """A race that has come to its end, or to Ctrl-C."""

    task: Task
    rows: list[Standing]
    records: list[Record]
    summary: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every planned run was made."""
        return self.summary["complete"]


class Race:
    """Plans the runs, hands them to the pool, keeps the records."""

    def __init__(self, settings: Settings, task: Task, directory: Path, board: Board | None = None) -> None:
        self.settings = settings
        self.task = task
        self.directory = RaceDirectory(directory)
        self.board = board or SilentBoard()
        self.configuration = settings.configuration(self.task)
        self.records: dict[str, Record] = {}
        self._planned: dict[str, Job] = {}
        self._pending: deque[Job] = deque()
        self._attempts: dict[str, int] = {}
        self._initial = grid.initial_cells(settings.points)

    def open(self, mode: Literal["new", "resume", "fresh"]) -> None:
        """Claim the directory, or raise `LabError` before anything is touched."""
        if mode == "resume":
            self.records = {record["key"]: record for record in self.directory.open_resumed(self.configuration)}
        elif mode == "fresh":
            self.directory.open_fresh(self.configuration)
        else:
            self.directory.open_new(self.configuration)

    def run(self, workers: int, command: str) -> Result:
        """Make every run; after Ctrl-C, write what there is."""
        start = time.monotonic()
        before = self.directory.previous_seconds()
        interrupted = False
        self._plan_initial()
        try:
            with Pool(min(workers, max(1, len(self._pending))), self.settings.reference, self.settings.steps) as pool:
                self.board.begin(
                    [self.records[key] for key in self._planned if key in self.records], len(self._planned)
                )
                while self._pending or pool.busy:
                    while self._pending and pool.idle:
                        pool.submit(self._pending.popleft())
                    for outcome in pool.collect():
                        self._take(outcome)
        except KeyboardInterrupt:
            interrupted = True
        return self._finish(not interrupted, workers, command, before + time.monotonic() - start)

    def _plan_initial(self) -> None:
        """The centre of every grid first, so that a race stopped early has something to say about everyone."""
        for cell in sorted(self._initial, key=abs):
            for seed in range(self.settings.seeds):
                for contender in self.settings.contenders:
                    if contender.lr is not None or cell == 0:
                        self._plan(contender, cell, seed)
        for contender in self.settings.contenders:
            self._extend(contender)

    def _plan(self, contender: Contender, cell: int, seed: int) -> None:
        lr = None if contender.lr is None else grid.rate(contender.lr, cell)
        job = Job(contender.label, contender.name, dict(contender.hyper), cell, lr, seed, self.task.steps)
        self._planned[job.key] = job
        if job.key not in self.records:
            self._pending.append(job)

    def _extend(self, contender: Contender) -> None:
        """Add a point to a finished grid whose best one lies on its edge; repeats itself for points known already."""
        while contender.lr is not None:
            keys = [key for key, job in self._planned.items() if job.label == contender.label]
            if any(key not in self.records for key in keys):
                return
            scores = cell_scores(self.task, [self.records[key] for key in keys])
            cell = grid.next_cell(scores, self._initial)
            if cell is None:
                return
            for seed in range(self.settings.seeds):
                self._plan(contender, cell, seed)

    def _take(self, outcome: Outcome) -> None:
        job = outcome.job
        attempts = self._attempts[job.key] = self._attempts.get(job.key, 0) + 1
        record = outcome.record
        if record is None:
            if outcome.died and attempts == 1:
                self.board.note(f"{job.key}: {outcome.error}; trying once more")
                self._pending.appendleft(job)
                return
            record = job.heading() | {"status": "failed", "reason": outcome.error}
        record["attempts"] = attempts
        self.directory.append(record)
        self.records[job.key] = record
        self.board.ran(record, len(self._planned))
        if len(self.records) >= GIVE_UP_AFTER and all(one["status"] == "failed" for one in self.records.values()):
            raise LabError(
                f"every run so far has failed, so the race was stopped; the last one with {record['reason']}"
            )
        self._extend(next(one for one in self.settings.contenders if one.label == job.label))

    def _finish(self, complete: bool, workers: int, command: str, wall: float) -> Result:
        from thalweg.lab.report import render

        records = [self.records[key] for key in self._planned if key in self.records]
        rows = standings(self.task, self.settings.contenders, records)
        by_status = {
            status: sum(record["status"] == status for record in records)
            for status in ("finished", "diverged", "failed")
        }
        summary = {
            "schema": 1,
            "complete": complete,
            "headline": headline(self.task, rows, self.settings.seeds),
            "findings": findings(self.task, rows, self.settings.seeds),
            "runs": {"planned": len(self._planned), **by_status},
            "ranking": as_json(self.task, rows),
            "configuration": self.configuration,
            "machine": machine.describe(),
            "workers": workers,
            "command": command,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "wall_seconds": round(wall, 1),
        }
        result = Result(self.task, rows, records, summary)
        self.directory.write_summary(summary)
        self.directory.write_report(render(result))
        return result


def race(
    settings: Settings,
    directory: Path,
    *,
    mode: Literal["new", "resume", "fresh"] = "new",
    workers: int | None = None,
    board: Board | None = None,
    command: str = "",
) -> Result:
    """Race from a program, as the command line does."""
    one = Race(settings, load_task(settings.reference, settings.steps), directory, board)
    one.open(mode)
    return one.run(workers or machine.cores(), command)
