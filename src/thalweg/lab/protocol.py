"""How a race is run: how much is tried, on which seeds, for how many steps. docs/protocol.md states the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thalweg.lab.errors import unknown
from thalweg.lab.search import Search
from thalweg.lab.wording import count

REPORT_SEEDS_START = 1000
"""Seeds that results are reported on begin here, far from those that anything was tuned on."""
LEAST_TUNE_SEEDS = 3
LEAST_REPORT_SEEDS = 10
"""With fewer seeds a race says less than the protocol asks for, and carries a warning."""


@dataclass(frozen=True)
class Protocol:
    """What every contender of a race gets."""

    budget: str
    tune_seeds: int
    report_seeds: int
    points: int
    decays: tuple[float, ...] = ()
    factor: float = 1.0
    """A run's steps over the task's own."""
    search: str = "grid"

    @property
    def tuned_on(self) -> range:
        """The seeds that configurations are chosen on."""
        return range(self.tune_seeds)

    @property
    def reported_on(self) -> range:
        """The seeds that results are reported on."""
        return range(REPORT_SEEDS_START, REPORT_SEEDS_START + self.report_seeds)

    def as_search(self) -> Search:
        """How configurations are chosen."""
        return Search(self.search, self.points, self.decays)

    def as_dict(self) -> dict[str, Any]:
        """For the summary, and for the configuration that a resumed race must agree with."""
        return {
            "budget": self.budget,
            "search": self.search,
            "tune_seeds": self.tune_seeds,
            "report_seeds": self.report_seeds,
            "points": self.points,
            "decays": list(self.decays),
            "steps_factor": self.factor,
        }

    def shortfalls(self) -> list[str]:
        """Where this is less than the protocol asks for, a sentence each."""
        found = []
        if self.tune_seeds < LEAST_TUNE_SEEDS:
            found.append(f"Tuned on {count(self.tune_seeds, 'seed')}; the protocol asks for {LEAST_TUNE_SEEDS}.")
        if self.report_seeds < LEAST_REPORT_SEEDS:
            found.append(f"Reported on {count(self.report_seeds, 'seed')}; the protocol asks for {LEAST_REPORT_SEEDS}.")
        if not self.decays:
            found.append("Weight decay was not tuned: every optimizer kept its default.")
        if self.factor < 1:
            found.append(f"Runs were cut to {self.factor:g} of the tasks' own steps.")
        return found


DECAYS = (0.0, 0.01, 0.1)

BUDGETS = {
    one.budget: one
    for one in (
        Protocol("tiny", tune_seeds=3, report_seeds=10, points=3, factor=0.5),
        Protocol("small", tune_seeds=3, report_seeds=10, points=5, decays=DECAYS),
        Protocol("standard", tune_seeds=3, report_seeds=20, points=7, decays=DECAYS),
        Protocol("full", tune_seeds=5, report_seeds=30, points=9, decays=DECAYS, factor=3.0),
    )
}


def budget(name: str) -> Protocol:
    """A budget by its name."""
    if name not in BUDGETS:
        raise unknown("budget", name, BUDGETS)
    return BUDGETS[name]
