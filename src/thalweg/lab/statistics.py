"""The statistics of a race: what a grid of trials and a handful of seeds say about an optimizer, and how surely.

Pure functions of numbers; nothing here knows what a race is. A direction is ``"max"`` (accuracies, as fractions) or
``"min"`` (losses). A run that diverged is an infinity or NaN, and worse than every run that did not. Resampling draws
from a generator seeded with `seed`, so the same numbers give the same interval.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Direction = Literal["max", "min"]
Array = NDArray[np.float64]

STATISTICS: dict[str, Callable[..., Array]] = {"median": np.median, "mean": np.mean}


def bootstrap_interval(
    values: Sequence[float],
    statistic: Literal["median", "mean"] = "median",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic over seeds; (NaN, NaN) for fewer than two values.

    Its ends are statistics of resamples, never a value between two of them, so that diverged runs may be among the
    values as infinities of one sign: an infinite end says that the statistic itself may be of a diverged run.

    >>> bootstrap_interval([0.91, 0.93, 0.92, 0.95, 0.94])
    (0.91, 0.95)
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}; it must be one of {', '.join(STATISTICS)}")
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return math.nan, math.nan
    chosen = np.random.default_rng(seed).integers(len(data), size=(resamples, len(data)))
    low, high = np.quantile(STATISTICS[statistic](data[chosen], axis=1), _tails(level), method="inverted_cdf")
    return float(low), float(high)


def expected_best(values: Sequence[float], k: int, direction: Direction) -> float:
    """The expected best of k trials drawn from the grid without replacement, exactly; NaN where all diverged.

    With the n values in order from worst to best, the i-th is the best of the k in C(i-1, k-1) of the C(n, k) draws.
    A trial that diverged counts as the worst that did not: an infinity would make every expectation infinite. A k
    above n is n, which gives the best of the grid.

    >>> expected_best([0.1, 0.9, 0.5], k=2, direction="max")  # best of pairs: 0.9, 0.9, 0.5
    0.7666666666666666
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least one trial must be drawn")
    scores = _scores(values, direction)
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return math.nan
    ordered = np.sort(np.where(np.isfinite(scores), scores, finite.min())).tolist()
    n, k = len(ordered), min(k, len(ordered))
    weighted = math.fsum(math.comb(i, k - 1) * score for i, score in enumerate(ordered))
    return _sign(direction) * weighted / math.comb(n, k)


def share_within(values: Sequence[float], direction: Direction, tolerance: float = 0.02) -> float:
    """The share of the grid that is within `tolerance` of its best, the best included; NaN where all diverged.

    Two percent are two percentage points of an accuracy ("max"), and two percent of the best loss ("min"): the same
    measure as `regret`. Diverged trials count as outside.

    >>> share_within([0.95, 0.94, 0.90, -math.inf], "max")
    0.5
    """
    scores = _scores(values, direction)
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return math.nan
    best = finite.max()
    allowed = tolerance if direction == "max" else tolerance * abs(best)
    # Decimal figures are not exact in binary: 0.95 - 0.93 must not count as more than 0.02.
    return float(np.mean(best - scores <= allowed * (1 + 1e-9)))


def regret(default: float, best: float, direction: Direction) -> float:
    """What the default settings cost against the best ones found, at least 0.

    For an accuracy ("max") the difference, best - default; for a loss ("min") it is relative to the best,
    (default - best) / |best|, and infinite where the best is zero and the default is not. Infinite where the default
    diverged, NaN where the best did, and 0 where the default is better than all that the search found.

    >>> regret(default=0.25, best=0.2, direction="min")
    0.24999999999999994
    """
    ours, tuned = _scores([default, best], direction).tolist()
    if not math.isfinite(tuned):
        return math.nan
    lost = max(0.0, tuned - ours)
    if direction == "max" or lost in (0.0, math.inf):
        return lost
    return lost / abs(tuned) if tuned else math.inf


def performance_profile(steps: Mapping[str, Mapping[str, float]], ratios: Sequence[float]) -> dict[str, list[float]]:
    """The performance profile of Dolan and More (arXiv cs/0102001): for each label, its share of tasks at each ratio.

    ``steps[label][task]`` is the cost of reaching the task's target; an infinity, NaN or a missing task is a miss. A
    label's ratio on a task is its cost over the least cost of any label there, and its profile at r is the share of
    tasks whose ratio is at most r: at 1 the share of tasks where none was quicker, far right the share it solves at
    all. Tasks that no label solves say nothing about the labels and are left out; where none is left, shares are NaN.

    >>> performance_profile({"a": {"t": 100, "u": 300}, "b": {"t": 200, "u": math.inf}}, [1, 2])
    {'a': [1.0, 1.0], 'b': [0.0, 0.5]}
    """
    tasks = sorted({task for row in steps.values() for task in row})
    costs = np.array([[row.get(task, math.inf) for task in tasks] for row in steps.values()], dtype=float)
    costs = np.where(np.isnan(costs), math.inf, costs).reshape(len(steps), len(tasks))
    _check_positive(costs)
    least = costs.min(axis=0, initial=math.inf)
    solved = np.isfinite(least)
    if not solved.any():
        return {label: [math.nan] * len(ratios) for label in steps}
    ratio = costs[:, solved] / least[solved]
    shares = [np.mean(ratio <= r * (1 + 1e-9), axis=1) for r in ratios]
    return {label: [float(share[i]) for share in shares] for i, label in enumerate(steps)}


def geometric_means(
    steps: Mapping[str, Mapping[str, Sequence[float]]],
    budgets: Mapping[str, float],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Each label's geometric mean over tasks of its cost over the best label's, with a bootstrap interval.

    ``steps[label][task]`` holds the cost of every seed, the seeds in the same order for all labels: an infinity is a
    miss and counts as the task's budget, NaN is a run that was not made. On a task a label's cost is its median over
    seeds, and its ratio is that over the least median of any label. A task that a label does not have is left out of
    that label's mean; one that it was refused is a miss on every seed, and the caller's to give.

    The interval (percentiles) is of a hierarchical bootstrap: tasks are drawn with replacement, then seeds within
    each drawn task, the same for all labels, so that pairing is kept. With one task it is of the seeds alone.

    Returns (mean, low, high) by label.
    """
    tasks = sorted({task for row in steps.values() for task in row})
    if unknown := [task for task in tasks if task not in budgets]:
        raise ValueError(f"no budget for {', '.join(unknown)}; misses are counted at the task's budget")
    if not tasks:
        return dict.fromkeys(steps, (math.nan, math.nan, math.nan))
    costs = [_task_costs(steps, task, budgets[task]) for task in tasks]
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(tasks), size=(resamples, len(tasks)))
    ratios = np.empty((len(steps), *drawn.shape))
    for number, cost in enumerate(costs):
        here = drawn == number
        seeds = generator.integers(cost.shape[1], size=(int(here.sum()), cost.shape[1]))
        ratios[:, here] = _log_ratios(cost[:, seeds])
    with warnings.catch_warnings():  # a label without runs has no mean: NaN, not a warning
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.exp(np.nanmean([_log_ratios(cost) for cost in costs], axis=0))
        low, high = np.nanquantile(np.exp(np.nanmean(ratios, axis=2)), _tails(level), axis=1)
    return {label: (float(means[i]), float(low[i]), float(high[i])) for i, label in enumerate(steps)}


def mean_ranks(
    values: Mapping[str, Mapping[str, float | None]], directions: Mapping[str, Direction]
) -> dict[str, float]:
    """Each label's rank by ``values[label][task]``, 1 the best, averaged over the tasks in `directions`.

    Equal values share the average of their ranks. A label that has no finite value on a task (None, NaN, diverged,
    missing) comes last there, level with every other such label.

    >>> mean_ranks({"a": {"t": 0.9}, "b": {"t": 0.8}, "c": {"t": 0.9}}, {"t": "max"})
    {'a': 1.5, 'b': 3.0, 'c': 1.5}
    """
    ranks = []
    for task, direction in directions.items():
        found = [row.get(task) for row in values.values()]
        ranks.append(rankdata(-_scores([math.nan if value is None else value for value in found], direction)))
    means = np.mean(ranks, axis=0) if ranks else np.full(len(values), math.nan)
    return dict(zip(values, means.tolist(), strict=True))


def _sign(direction: Direction) -> int:
    if direction not in ("max", "min"):
        raise ValueError(f'direction is {direction!r}; it must be "max" or "min"')
    return 1 if direction == "max" else -1


def _scores(values: Sequence[float], direction: Direction) -> Array:
    """The values turned so that larger is better, diverged ones at minus infinity."""
    scores = _sign(direction) * np.asarray(values, dtype=float)
    return np.where(np.isfinite(scores), scores, -math.inf)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1, 0.95 for a 95 % interval")
    return (1 - level) / 2, (1 + level) / 2


def _check_positive(costs: Array) -> None:
    if (costs <= 0).any():
        raise ValueError("a cost is zero or less; ratios need steps or seconds above 0")


def _task_costs(steps: Mapping[str, Mapping[str, Sequence[float]]], task: str, budget: float) -> Array:
    """One task's costs, label by seed, misses at the budget; NaN where a label has no run."""
    lengths = {len(row[task]) for row in steps.values() if task in row}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"{task}: labels have {sorted(lengths)} seeds; give all the same seeds, NaN for a missing run")
    missing = [math.nan] * lengths.pop()
    costs = np.minimum(np.array([row.get(task, missing) for row in steps.values()], dtype=float), budget)
    _check_positive(costs)
    return costs


def _log_ratios(costs: Array) -> Any:
    """Logarithms of each label's median over seeds (the last axis) over the least of any label (the first)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        medians = np.log(np.nanmedian(costs, axis=-1))
        return medians - np.nanmin(medians, axis=0)
