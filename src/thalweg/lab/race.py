"""The race itself: who makes which run, and what is written when all are made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from thalweg.lab import grid, machine
from thalweg.lab.contenders import Contender
from thalweg.lab.errors import LabError
from thalweg.lab.ledger import Ledger, local_url
from thalweg.lab.loading import load_task, source_digest
from thalweg.lab.planning import Course, Field, Record
from thalweg.lab.pool import Outcome, Pool
from thalweg.lab.progress import Board, SilentBoard
from thalweg.lab.protocol import Protocol
from thalweg.lab.results import RaceDirectory, check_same
from thalweg.lab.search import Search
from thalweg.lab.summary import summarise
from thalweg.lab.trial import Job

POLL_SECONDS = 0.2
"""How often a process that has nothing to do asks for the runs that others make."""

Mode = Literal["new", "resume", "fresh"]


@dataclass(frozen=True)
class Settings:
    """What is raced; two races of equal settings make the same runs.

    `search` replaces the protocol's own search, for `thalweg sweep`; `steps` replaces the tasks' own steps.
    """

    references: tuple[str, ...]
    contenders: tuple[Contender, ...]
    protocol: Protocol
    steps: int | None = None
    search: Search | None = None

    def courses(self) -> list[Course]:
        """The tasks, loaded; `LabError` says which cannot be."""
        found = []
        for reference in self.references:
            task = load_task(reference)
            steps = task.steps
            if task.kind == "race":  # a check asks its question with its own steps
                steps = self.steps or max(1, round(steps * self.protocol.factor))
            found.append(Course(reference, load_task(reference, steps), steps))
        names = [course.task.name for course in found]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise LabError(f"two tasks are called {', '.join(repeated)}; their runs could not be told apart")
        return found

    def configuration(self, courses: Iterable[Course]) -> dict[str, Any]:
        """Everything a resumed race must agree on, as the storage will give it back."""
        found = {
            "tasks": {
                course.task.name: {
                    "reference": course.reference,
                    "metric": course.task.metric,
                    "direction": course.task.direction,
                    "target": course.task.target,
                    "steps": course.steps,
                    "eval_every": course.task.interval,
                    "source": source_digest(course.reference),
                }
                for course in courses
            },
            "optimizers": [contender.as_dict() for contender in self.contenders],
            "protocol": self.protocol.as_dict(),
            "grid": {"decades_apart": grid.DECADES, "reach": grid.REACH},
            "space": [repr(one) for one in self.search.space] if self.search else [],
            "trials": self.search.trials if self.search else None,
            "versions": machine.versions(),
        }
        return json.loads(json.dumps(found))


@dataclass(frozen=True)
class Result:
    """A race that has come to its end, or to Ctrl-C."""

    records: list[Record]
    summary: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every run was made."""
        return self.summary["complete"]


class Race:
    """Plans runs, claims them in the ledger, hands them to workers, and keeps the records."""

    def __init__(
        self, settings: Settings, directory: Path, storage: str | None = None, board: Board | None = None
    ) -> None:
        self.settings = settings
        self.directory = RaceDirectory(directory)
        self.board = board or SilentBoard()
        self.courses = settings.courses()
        search = settings.search or settings.protocol.as_search()
        self.fields = [Field(course, settings.contenders, settings.protocol, search) for course in self.courses]
        self._storage = storage
        self._claims: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._studies_read: set[str] = set()
        self._pending: dict[str, tuple[tuple[int, int, int], Job]] = {}
        self._elsewhere: dict[str, tuple[tuple[int, int, int], Job]] = {}

    def open(self, mode: Mode = "new") -> None:
        """Take part in the race, or raise `LabError` before anything is touched.

        With a storage that several machines share, the same command joins a race that has begun.
        """
        path, configuration = self.directory.path, self.settings.configuration(self.courses)
        if self._storage is None:
            if mode == "new":
                self.directory.check_new()
            if mode == "resume" and not self.directory.study.exists():
                raise LabError(f"there is no race to resume in {path}; leave --resume out to start one")
            if mode == "fresh":
                if self.directory.study.exists():
                    ledger = Ledger(local_url(path), path.name)
                    ledger.check_idle()
                    ledger.close()
                self.directory.clear()
            path.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self._storage or local_url(path), path.name)
        if self._storage is not None and mode == "fresh":
            self.ledger.clear()
            self.directory.clear()
        begun = self.ledger.configuration()
        if begun is None and mode == "resume":
            raise LabError(f"there is no race named {path.name!r} to resume; leave --resume out to start one")
        check_same(begun or configuration, configuration, path)
        self.ledger.join(configuration)
        try:
            check_same(self.ledger.configuration() or configuration, configuration, path)
        except LabError:  # of processes that began together, another was first
            self.ledger.leave()
            raise
        self.directory.begin(configuration)

    def run(self, workers: int | None = None, command: str = "") -> Result:
        """Make every run that others do not make; after Ctrl-C, write what there is."""
        workers = workers or machine.cores()
        complete = False
        try:
            for number in range(len(self.fields)):
                self._plan(number)
            self.board.begin(list(self._records()), self._expected())
            with Pool(workers) as pool:
                while self._pending or self._elsewhere or pool.busy:
                    while pool.idle and (job := self._claim()):
                        pool.submit(job)
                    for outcome in pool.collect() if pool.busy else ():
                        self._take(outcome)
                    if self.ledger.beat() or not pool.busy:
                        self._look_elsewhere()
                    if not pool.busy and not self._pending and self._elsewhere:
                        time.sleep(POLL_SECONDS)
            complete = True
        except KeyboardInterrupt:
            pass
        finally:
            for trial in self._claims.values():
                self.ledger.release(trial)
            self.ledger.leave()
            self._seconds = self.ledger.seconds()
            self.ledger.close()
        return self._finish(complete, workers, command)

    def _plan(self, number: int) -> None:
        """Find out which runs a task needs now, reading the studies that it needs for the first time."""
        field = self.fields[number]
        while True:
            wanted = [] if field.broken else field.jobs()
            unread = {job.study for _, job in wanted} - self._studies_read
            if not unread:
                break
            self._studies_read |= unread
            for study in sorted(unread):
                self._count(number, self.ledger.read(study))
        keys = {job.key for _, job in wanted}
        for waiting in (self._pending, self._elsewhere):  # what an optimizer that refuses the task still had to do
            for key in [key for key, (turn, _) in waiting.items() if turn[0] == number and key not in keys]:
                del waiting[key]
        for turn, job in wanted:
            known = job.key in field.entries[job.label].records or job.key in self._claims
            if not known and job.key not in self._pending and job.key not in self._elsewhere:
                self._pending[job.key] = (number, turn, job.seed), job
        if all(one.broken for one in self.fields):
            raise LabError(f"every run so far has failed, so the race was stopped; the last one with {field.broken}")

    def _count(self, number: int, known: dict[str, Record | None]) -> bool:
        """Count the records among what is known of a study; returns whether any is new."""
        fresh = [record for record in known.values() if record is not None]
        touched = set()
        for record in fresh:
            entry = self.fields[number].entries[record["label"]]
            if record["key"] not in entry.records:
                entry.take(record)
                touched.add(record["label"])
                if self._pending.pop(record["key"], None) or self._elsewhere.pop(record["key"], None):
                    self.board.ran(record, self._expected())
        for label in touched:
            self.fields[number].entries[label].replan()
        return bool(touched)

    def _claim(self) -> Job | None:
        """The next run that nobody has; what others have is put aside."""
        while self._pending:
            key = min(self._pending, key=lambda one: self._pending[one][0])
            (number, *_), job = self._pending[key]
            if key in self._claims:  # a second attempt
                del self._pending[key]
                return job
            known = self.ledger.read(job.study)
            trial = None if key in known else self.ledger.claim(job.study, key)
            if trial is not None:
                del self._pending[key]
                self._claims[key] = trial
                return job
            if self._count(number, known):
                self._plan(number)
            if key in self._pending:
                self._elsewhere[key] = self._pending.pop(key)
        return None

    def _look_elsewhere(self) -> None:
        """See what became of the runs that others make; those of processes that are gone are to be made again."""
        for study, number in {job.study: turn[0] for turn, job in self._elsewhere.values()}.items():
            known = self.ledger.read(study)
            if self._count(number, known):
                self._plan(number)
            for key in [key for key, (_, job) in self._elsewhere.items() if job.study == study and key not in known]:
                self._pending[key] = self._elsewhere.pop(key)

    def _take(self, outcome: Outcome) -> None:
        job = outcome.job
        attempts = self._attempts[job.key] = self._attempts.get(job.key, 0) + 1
        number = next(i for i, field in enumerate(self.fields) if field.course.task.name == job.task)
        record = outcome.record
        if record is None:
            if outcome.died and attempts == 1:
                self.board.note(f"{job.key}: {outcome.error}; trying once more")
                self._pending[job.key] = (number, -1, job.seed), job
                return
            record = job.heading() | {"status": "failed", "reason": outcome.error, "validation": None, "test": None}
        record["attempts"] = attempts
        value = (record["validation"] or {}).get(self.fields[number].course.task.metric)
        if not self.ledger.finish(self._claims.pop(job.key), record, value):
            self._plan(number)  # others took this process for dead, and make the run again
            return
        self.fields[number].entries[job.label].take(record)
        self.fields[number].entries[job.label].replan()
        self.board.ran(record, self._expected())
        self._plan(number)

    def _expected(self) -> int:
        return sum(entry.expected() for field in self.fields for entry in field.entries.values())

    def _records(self) -> Iterable[Record]:
        """All records in the order of the plan, which is not that in which the runs ended."""
        for field in self.fields:
            for entry in field.entries.values():
                keys = [job.key for job in entry.tuning_jobs() + entry.report_jobs()]
                yield from (entry.records[key] for key in keys or sorted(entry.records) if key in entry.records)

    def _finish(self, complete: bool, workers: int, command: str) -> Result:
        from thalweg.lab.report import write_report

        summary = summarise(self.fields, self.settings.protocol, self.directory.path.name, complete) | {
            "command": command,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "wall_seconds": round(self._seconds, 1),
            "workers": workers,
            "machine": machine.describe(),
            "versions": machine.versions(),
        }
        result = Result(list(self._records()), summary)
        self.directory.write_records(result.records)
        self.directory.write_summary(summary)
        write_report(self.directory.path, summary)
        return result


def race(
    settings: Settings,
    directory: Path,
    *,
    mode: Mode = "new",
    storage: str | None = None,
    workers: int | None = None,
    board: Board | None = None,
    command: str = "",
) -> Result:
    """Race from a program, as the command line does."""
    one = Race(settings, directory, storage, board)
    one.open(mode)
    return one.run(workers, command)
