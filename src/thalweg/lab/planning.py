"""Which runs a race needs: for one contender on one task, and for a task; functions of the records alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.lab.contenders import Contender
from thalweg.lab.grid import HOPELESS, Score
from thalweg.lab.protocol import Protocol
from thalweg.lab.search import Search, Trial, best_point
from thalweg.lab.tasks import Task
from thalweg.lab.trial import Job, Point

Record = dict[str, Any]
GIVE_UP_AFTER = 4
"""So many failures with no success at all mean that the task is broken, not an optimizer."""


def median(values: Iterable[float]) -> float | None:
    """The median, None when it is not finite or there are no values."""
    values = list(values)
    if not values:
        return None
    middle = statistics.median(values)
    return middle if math.isfinite(middle) else None


@dataclass(frozen=True)
class Course:
    """A task as it is raced."""

    reference: str
    task: Task
    steps: int

    @property
    def sign(self) -> int:
        """Turns the metric so that larger is better."""
        return 1 if self.task.direction == "max" else -1

    def value(self, record: Record, split: str = "validation") -> float:
        """A run's metric; a run that diverged counts as worse than any that did not."""
        found = record[split]
        return found[self.task.metric] if found else -self.sign * math.inf

    def score(self, records: Iterable[Record]) -> Score:
        """How good a configuration is by its runs; failed ones count as not made."""
        made = [record for record in records if record["status"] != "failed"]
        metric = median(self.value(record) for record in made)
        loss = median((record["validation"] or {}).get("loss", math.inf) for record in made)
        return HOPELESS if metric is None else (self.sign * metric, -math.inf if loss is None else -loss)


class Entry:
    """One contender on one task: its records, and the runs that it needs given them."""

    def __init__(self, course: Course, contender: Contender, protocol: Protocol, search: Search) -> None:
        self.course = course
        self.contender = contender
        self.protocol = protocol
        self.search = search
        self.records: dict[str, Record] = {}
        self.scores: dict[Trial, Score] = {}
        self.trials: list[Trial] = []
        self.extra: list[Trial] = []
        self.replan()

    def take(self, record: Record) -> None:
        """Count a run that has ended."""
        self.records[record["key"]] = record

    @property
    def refused(self) -> str | None:
        """Why the optimizer cannot train this task, where it has said so in every run; a sweep tries every value."""
        made = list(self.records.values())
        if not made or any(record["status"] != "refused" for record in made):
            return None
        if self.search.space and not all(trial in self.scores for trial in self.trials):
            return None
        return made[0]["reason"]

    def replan(self) -> None:
        """Ask the search what it wants, given what has been made."""
        self.trials = self.search.trials_wanted(self.contender, self.scores)
        while ready := [
            trial for trial in self.trials + self.extra if trial not in self.scores and self._is_made(trial)
        ]:
            self.scores |= {trial: self.course.score(self.tuned(trial)) for trial in ready}
            searched = {trial: score for trial, score in self.scores.items() if trial not in self.extra}
            self.trials = self.search.trials_wanted(self.contender, searched)

    def tuned(self, trial: Trial) -> list[Record]:
        """The runs of a trial that have been made."""
        keys = [job.key for job in self._tune_jobs(trial)]
        return [self.records[key] for key in keys if key in self.records]

    @property
    def settled(self) -> bool:
        """Whether the contender's own search is over."""
        return self.refused is not None or all(trial in self.scores for trial in self.trials)

    @property
    def chosen(self) -> Point | None:
        """The configuration to report, by what has been tried so far."""
        return best_point(self.contender, self.scores)

    @property
    def default(self) -> Point:
        """The configuration without any search: what is searched, at its defaults."""
        if self.search.space:
            return tuple(sorted(self.contender.values([one.name for one in self.search.space]).items()))
        pairs = (("lr", self.contender.lr), ("weight_decay", self.contender.decay))
        return tuple((name, value) for name, value in pairs if value is not None)

    def tune_at_least(self, count: int) -> None:
        """Add trials until there are so many; for baselines, whose search is over."""
        if not self.extra and self.refused is None:
            self.extra = self.search.more(self.contender, self.scores, count)
            self.replan()

    def tuning_jobs(self) -> list[Job]:
        """The runs to tune with, in the order of their use: the default first."""
        trials = [] if self.refused is not None else [*self.trials, *self.extra]
        return [job for trial in trials for job in self._tune_jobs(trial)]

    def report_jobs(self) -> list[Job]:
        """The runs to report, once the configuration is chosen; none where no configuration trains."""
        if self.refused is not None or self.chosen is None:
            return []
        return [self._job("report", self.chosen, seed, 1.0) for seed in self.protocol.reported_on]

    def reported(self) -> list[Record]:
        """The runs that results are taken from, by seed."""
        return [self.records[job.key] for job in self.report_jobs() if job.key in self.records]

    def expected(self) -> int:
        """How many runs there will be, as far as that is known."""
        tuning = max(len(self.trials) + len(self.extra), self.search.expected(self.contender))
        if self.refused is not None:
            return len(self.records)
        return tuning * self.protocol.tune_seeds + self.protocol.report_seeds

    def _is_made(self, trial: Trial) -> bool:
        return all(job.key in self.records for job in self._tune_jobs(trial))

    def _tune_jobs(self, trial: Trial) -> list[Job]:
        return [self._job("tune", trial.point, seed, trial.share) for seed in self.protocol.tuned_on]

    def _job(self, phase: Any, point: Point, seed: int, share: float) -> Job:
        contender, course = self.contender, self.course
        stop = max(1, round(course.steps * share))
        return Job(
            course.reference, course.task.name, phase, contender.label, contender.name, dict(contender.hyper), point,
            seed, course.steps, stop,
        )  # fmt: skip


class Field:
    """All contenders on one task."""

    def __init__(self, course: Course, contenders: Sequence[Contender], protocol: Protocol, search: Search) -> None:
        self.course = course
        self.entries = {one.label: Entry(course, one, protocol, search) for one in contenders}

    @property
    def broken(self) -> str | None:
        """Why nothing more is run here: every run failed, the last one so."""
        records = [record for entry in self.entries.values() for record in entry.records.values()]
        if len(records) < GIVE_UP_AFTER or any(record["status"] != "failed" for record in records):
            return None
        return records[-1]["reason"]

    def jobs(self) -> list[tuple[int, Job]]:
        """Every run that is needed as far as is known, with its turn: the default configurations of all come first.

        Results are not reported before all that could change what is reported is known: a baseline waits for the
        others, to be tuned as much as the one that was tuned most.
        """
        everyone = all(entry.settled for entry in self.entries.values())
        most = max(len(entry.scores) for entry in self.entries.values())
        found: list[tuple[int, Job]] = []
        for entry in self.entries.values():
            waits = entry.contender.baseline
            if waits and everyone:
                entry.tune_at_least(most)
            tuning = entry.tuning_jobs()
            found += enumerate(tuning)
            if entry.settled and (everyone or not waits) and all(trial in entry.scores for trial in entry.extra):
                found += enumerate(entry.report_jobs(), start=len(tuning))
        return found
