"""What to try next: for every search a pure function of what has been tried.

A search is asked again whenever a configuration has been tried with all its seeds, and names every trial that it
wants by then. So it does not matter who made the runs, in which order, or after which interruption.
"""

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thalweg.lab import grid
from thalweg.lab.contenders import Contender
from thalweg.lab.errors import LabError, unknown
from thalweg.lab.grid import HOPELESS, Score
from thalweg.lab.trial import Point

SEARCHES = ("grid", "tpe", "halving", "random")
HALVING_FACTOR = 3
"""Successive halving keeps one of so many configurations, and trains those so many times as long."""


@dataclass(frozen=True)
class Trial:
    """A configuration to train, on every tuning seed, for a share of the task's steps."""

    point: Point
    share: float = 1.0


Scores = Mapping[Trial, Score]


@dataclass(frozen=True)
class Range:
    """Values that `thalweg sweep` searches: numbers from low to high, or a list of choices.

    >>> Range.parse("lr=1e-4:1e-1:log")
    Range(name='lr', low=0.0001, high=0.1, log=True, choices=())
    >>> Range.parse("nesterov=True,False").choices
    (True, False)
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``name=low:high``, ``name=low:high:log`` or ``name=a,b,c``."""
        from thalweg.lab.contenders import parse_value

        name, equals, values = text.partition("=")
        parts = values.split(":")
        if equals and len(parts) == 1 and "," in values:
            return cls(name, choices=tuple(parse_value(value) for value in values.split(",")))
        try:
            low, high = float(parts[0]), float(parts[1])
        except (IndexError, ValueError):
            low, high = math.nan, math.nan
        log = parts[2:] == ["log"]
        if not equals or not low < high or (parts[2:] and not log) or (log and low <= 0):
            raise LabError(
                f"{text!r} is no space to search; write name=low:high, name=low:high:log (low above 0) or name=a,b,c"
            )
        return cls(name, low, high, log)

    def levels(self, count: int) -> list[Any]:
        """So many values for a grid, evenly spaced on the range's scale."""
        if self.choices:
            return list(self.choices)
        shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        if self.log:
            return [float(f"{self.low * (self.high / self.low) ** share:.3g}") for share in shares]
        return [float(f"{self.low + (self.high - self.low) * share:.4g}") for share in shares]

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        return FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the space contains a value."""
        return value in self.choices if self.choices else self.low <= value <= self.high


@dataclass(frozen=True)
class Search:
    """How one contender's configurations are chosen.

    `points` and `decays` are the grid's learning rates to begin with, and its weight decays. A `space` replaces both,
    and `trials` is then how many of its configurations are tried.
    """

    kind: str = "grid"
    points: int = 5
    decays: tuple[float, ...] = ()
    space: tuple[Range, ...] = ()
    trials: int = 0
    _memory: dict[Any, Point] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in SEARCHES:
            raise unknown("search", self.kind, SEARCHES)

    def trials_wanted(self, contender: Contender, scores: Scores) -> list[Trial]:
        """Every trial that the search wants, given those made so far; it is over when all of them are made."""
        if self.kind == "halving":
            return self._halve(self._product(contender), scores)
        if self.kind == "grid":
            return [Trial(p) for p in (self._product(contender) if self.space else self._grid(contender, scores))]
        return self._sample(contender, scores)

    def expected(self, contender: Contender) -> int:
        """How many trials there will be, before any is made."""
        if self.space:
            return self.trials
        lines = self.points if contender.lr is not None else 1
        return lines + max(0, len(self._decays(contender)) - 1)

    def more(self, contender: Contender, scores: Scores, count: int) -> list[Trial]:
        """A baseline's further trials, until it has been tuned `count` times: around its best, at half the spacing."""
        best = best_point(contender, scores)
        if best is None or contender.lr is None or self.space or self.kind != "grid":
            return []
        at = dict(best)
        decays = sorted(self._decays(contender), key=lambda decay: decay != at.get("weight_decay"))
        offsets = sorted((sign * i / 2 for i in range(1, count + 1) for sign in (1, -1)), key=abs)
        around = [Trial(_point(grid.rate(at["lr"], offset), decay)) for offset in offsets for decay in decays]
        known = {_rounded(trial.point) for trial in scores}
        fresh = [trial for trial in around if _rounded(trial.point) not in known]
        return fresh[: max(0, count - len(scores))]

    def _decays(self, contender: Contender) -> list[float | None]:
        if contender.decay is None:
            return [None]
        return [contender.decay, *(decay for decay in self.decays if decay != contender.decay)]

    def _grid(self, contender: Contender, scores: Scores) -> list[Point]:
        """Learning rates at the default decay; other decays at the best; learning rates again at a decay that won."""
        default, *others = self._decays(contender)
        if contender.lr is None:
            return [_point(None, decay) for decay in (default, *others)]
        wanted, centre = self._line(contender, default, grid.initial_cells(self.points), scores)
        if centre is None:
            return wanted
        at = grid.rate(contender.lr, centre)
        column = [_point(at, decay) for decay in (default, *others)]
        wanted += column[1:]
        if any(Trial(point) not in scores for point in column):
            return wanted
        best = max(column, key=lambda point: (scores[Trial(point)], -column.index(point)))
        if best != column[0]:
            wanted += self._line(contender, dict(best)["weight_decay"], range(centre - 1, centre + 2), scores)[0]
        return list(dict.fromkeys(wanted))

    def _line(
        self, contender: Contender, decay: float | None, initial: Sequence[int], scores: Scores
    ) -> tuple[list[Point], int | None]:
        """A line of learning rates, extended until its best is inside; and its best, once that is known."""
        assert contender.lr is not None
        cells = sorted(initial, key=lambda cell: (abs(cell), cell))
        points = {cell: _point(grid.rate(contender.lr, cell), decay) for cell in cells}
        while all(Trial(point) in scores for point in points.values()):
            known = {cell: scores[Trial(point)] for cell, point in points.items()}
            cell = grid.next_cell(known, initial)
            if cell is None:
                return list(points.values()), grid.best_cell(known)
            points[cell] = _point(grid.rate(contender.lr, cell), decay)
        return list(points.values()), None

    def _product(self, contender: Contender) -> list[Point]:
        """All combinations: of the space's levels, as many as make at most `trials`; or of the grid's two axes."""
        if self.space:
            ranges = [one for one in self.space if not one.choices]
            room = self.trials / math.prod(len(one.choices) for one in self.space if one.choices)
            levels = max(1, math.floor(room ** (1 / max(1, len(ranges))) + 1e-9))
            axes = [[(one.name, value) for value in one.levels(levels)] for one in self.space]
            return [tuple(sorted(values)) for values in itertools.product(*axes)]
        cells: list[float | None] = [None]
        if contender.lr is not None:
            cells = [grid.rate(contender.lr, c) for c in sorted(grid.initial_cells(self.points), key=abs)]
        return [_point(lr, decay) for decay in self._decays(contender) for lr in cells]

    def _halve(self, points: list[Point], scores: Scores) -> list[Trial]:
        """Successive halving: all for a share of the steps, then the best third for three times as many, and so on."""
        rounds = min(2, math.floor(math.log(max(1, len(points)), HALVING_FACTOR) + 1e-9))
        wanted: list[Trial] = []
        for left in range(rounds, -1, -1):
            stage = [Trial(point, HALVING_FACTOR**-left) for point in points]
            wanted += stage
            if any(trial not in scores for trial in stage):
                break
            stage.sort(key=lambda trial: scores[trial], reverse=True)
            points = [trial.point for trial in stage[: math.ceil(len(stage) / HALVING_FACTOR)]]
        return wanted

    def _sample(self, contender: Contender, scores: Scores) -> list[Trial]:
        """The default, then what Optuna's sampler asks for; the i-th depends on the ones before it and nothing else."""
        space = self.space or self._box(contender)
        count = self.trials if self.space else self.expected(contender)
        wanted: list[Trial] = []
        while space and len(wanted) < count:
            made = [(trial.point, scores.get(trial)) for trial in wanted]
            if self.kind == "tpe" and any(score is None for _, score in made):
                break
            wanted.append(Trial(self._ask(contender, space, made)))
        return wanted or [Trial(())]

    def _box(self, contender: Contender) -> tuple[Range, ...]:
        """The learning rates and decays that a grid covers, and two points more at either end."""
        found = []
        if contender.lr is not None:
            cells = grid.initial_cells(self.points)
            found.append(
                Range("lr", grid.rate(contender.lr, cells[0] - 2), grid.rate(contender.lr, cells[-1] + 2), log=True)
            )
        decays = self._decays(contender)
        if decays[0] is not None:
            found.append(Range("weight_decay", choices=tuple(decays)))
        return tuple(found)

    def _ask(self, contender: Contender, space: Sequence[Range], made: list[tuple[Point, Score | None]]) -> Point:
        import optuna
        from optuna.trial import TrialState, create_trial

        memory = (contender.label, contender.lr, tuple(made))
        if memory in self._memory:
            return self._memory[memory]
        defaults = contender.values([one.name for one in space])
        if not made and all(one.name in defaults and one.holds(defaults[one.name]) for one in space):
            return tuple(sorted(defaults.items()))
        seed = zlib.crc32(f"{contender.label} {len(made)}".encode())
        sampler: Any = optuna.samplers.RandomSampler(seed)
        if self.kind == "tpe":
            count = self.trials if self.space else self.expected(contender)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, count // 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=sampler, direction="maximize")
            distributions = {one.name: one.distribution() for one in space}
            for point, score in made if self.kind == "tpe" else ():
                told = {"state": TrialState.PRUNED} if score in (None, HOPELESS) else {"value": score[0]}
                study.add_trial(create_trial(params=dict(point), distributions=distributions, **told))
            asked = study.ask(distributions).params
        point = tuple(sorted((n, float(f"{v:.4g}") if isinstance(v, float) else v) for n, v in asked.items()))
        self._memory[memory] = point
        return point


def best_point(contender: Contender, scores: Scores) -> Point | None:
    """The best configuration trained to the end; among equals the one nearest the default, then the first."""
    full = [trial.point for trial, score in scores.items() if trial.share == 1 and score > HOPELESS]
    return max(
        full, key=lambda point: (scores[Trial(point)], -contender.distance(point), -full.index(point)), default=None
    )


def edge(search: Search, point: Point | None, scores: Scores) -> str | None:
    """``"lowest"`` or ``"highest"`` where the best learning rate is the last one tried on that side, at its decay."""
    if point is None or search.kind not in ("grid", "halving") or "lr" not in dict(point):
        return None
    rest = [pair for pair in point if pair[0] != "lr"]
    line = [dict(t.point)["lr"] for t in scores if [pair for pair in t.point if pair[0] != "lr"] == rest]
    lr = dict(point)["lr"]
    if min(line) == max(line):
        return None
    return "lowest" if lr == min(line) else "highest" if lr == max(line) else None


def _point(lr: float | None, decay: float | None) -> Point:
    return tuple((name, value) for name, value in (("lr", lr), ("weight_decay", decay)) if value is not None)


def _rounded(point: Point) -> Point:
    """Rates that differ in the third digit only are one: they were reached by different roots of ten."""
    return tuple((name, float(f"{value:.2g}") if name == "lr" else value) for name, value in point)
