"""The statistics against scipy, enumeration, and cases worked by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.lab.statistics import (
    Direction,
    bootstrap_interval,
    expected_best,
    geometric_means,
    mean_ranks,
    performance_profile,
    regret,
    share_within,
)

RNG = np.random.default_rng(7)
SAMPLE = RNG.normal(0.9, 0.02, size=11).tolist()
COSTS: dict[str, dict[str, list[float]]] = {
    label: {f"task{t}": RNG.integers(50, 200, size=5).astype(float).tolist() for t in range(4)} for label in "abc"
}
BUDGETS = {f"task{t}": 1000.0 for t in range(4)}


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_interval_agrees_with_scipy(statistic: Any) -> None:
    theirs = stats.bootstrap(
        (SAMPLE,),
        getattr(np, statistic),
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = bootstrap_interval(SAMPLE, statistic, level=0.9, resamples=20_000)
    # Two independent sets of 20,000 resamples: ends differ by the noise of a quantile, far below the interval's width.
    width = theirs.high - theirs.low
    assert ours == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_interval_of_three_by_enumeration() -> None:
    # Of the 27 resamples of {1, 2, 3}, 7 have median 1, 13 have 2 and 7 have 3: cumulative 0.26, 0.74, 1.
    medians = [sorted(draw)[1] for draw in itertools.product((1.0, 2.0, 3.0), repeat=3)]
    assert [medians.count(value) for value in (1.0, 2.0, 3.0)] == [7, 13, 7]
    assert bootstrap_interval([3.0, 1.0, 2.0], level=0.4) == (2.0, 2.0)  # percentiles 0.3 and 0.7
    assert bootstrap_interval([3.0, 1.0, 2.0], level=0.6) == (1.0, 3.0)  # percentiles 0.2 and 0.8


def test_interval_with_diverged_runs_and_too_few() -> None:
    low, high = bootstrap_interval([-math.inf, 0.8, 0.9, 0.9, 0.9])
    assert (low, high) == (-math.inf, 0.9)  # three of five draws are the diverged run in 5.8 % of resamples
    assert bootstrap_interval([math.inf] * 3) == (math.inf, math.inf)
    assert bootstrap_interval([0.5] * 4) == (0.5, 0.5)
    for few in ([], [1.0]):
        assert all(math.isnan(end) for end in bootstrap_interval(few))
    with pytest.raises(ValueError, match="median, mean"):
        bootstrap_interval([1.0, 2.0], "mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_interval([1.0, 2.0], level=95)


def test_interval_is_reproducible_and_covers_the_truth_about_as_often_as_it_says() -> None:
    assert bootstrap_interval(SAMPLE) == bootstrap_interval(SAMPLE)
    draws = np.random.default_rng(0).normal(size=(300, 25))
    covered = np.mean([low <= 0 <= high for low, high in (bootstrap_interval(row, resamples=400) for row in draws)])
    assert 0.88 <= covered <= 0.99


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 8, 16])
def test_expected_best_by_enumeration(direction: Direction, k: int) -> None:
    values = [0.3, 0.9, 0.9, 0.1, 0.55, 0.2, 0.7]
    best = max if direction == "max" else min
    expected = np.mean([best(draw) for draw in itertools.combinations(values, min(k, 7))])
    assert expected_best(values, k, direction) == pytest.approx(expected, rel=1e-12)
    assert expected_best(values[::-1], k, direction) == expected_best(values, k, direction)


def test_expected_best_counts_diverged_trials_as_the_worst() -> None:
    # The diverged trial counts as 2.0: single draws average (1 + 2 + 2) / 3, pairs have best 1, 1, 2.
    assert expected_best([1.0, 2.0, math.inf], 1, "min") == pytest.approx(5 / 3)
    assert expected_best([1.0, 2.0, math.nan], 2, "min") == pytest.approx(4 / 3)
    assert expected_best([0.5, -math.inf], 16, "max") == 0.5
    assert math.isnan(expected_best([math.inf], 1, "min"))
    assert math.isnan(expected_best([], 1, "min"))
    with pytest.raises(ValueError, match="k is 0"):
        expected_best([1.0], 0, "max")


def test_expected_best_never_falls_with_more_trials() -> None:
    values = RNG.normal(size=12).tolist()
    curve = [expected_best(values, k, "max") for k in range(1, 14)]
    assert curve == sorted(curve)
    assert curve[0] == pytest.approx(np.mean(values))
    assert curve[-1] == pytest.approx(max(values))


def test_share_within_two_percent() -> None:
    assert share_within([0.95, 0.93, 0.9299, 0.2], "max") == 0.5  # 0.93 is two points below: still within
    assert share_within([2.0, 2.04, 2.05, math.inf], "min") == 0.5  # 2 % of 2.0 is 0.04
    assert share_within([-1.0, -0.985, 0.0], "min") == pytest.approx(2 / 3)  # losses may be negative
    assert share_within([0.0, 1e-9], "min") == 0.5
    assert share_within([0.5, math.nan, -math.inf, 0.5], "max") == 0.5
    assert math.isnan(share_within([math.inf, math.inf], "min"))


def test_regret_of_the_default() -> None:
    assert regret(0.90, 0.95, "max") == pytest.approx(0.05)
    assert regret(0.6, 0.5, "min") == pytest.approx(0.2)
    assert regret(-0.5, -1.0, "min") == pytest.approx(0.5)
    assert regret(0.95, 0.95, "max") == regret(0.96, 0.95, "max") == regret(0.0, 0.0, "min") == 0
    assert regret(math.inf, 0.5, "min") == regret(-math.inf, 0.5, "max") == regret(math.nan, 0.5, "max") == math.inf
    assert regret(0.1, 0.0, "min") == math.inf
    assert math.isnan(regret(math.inf, math.inf, "min"))
    with pytest.raises(ValueError, match="'up'"):
        regret(1.0, 2.0, "up")  # type: ignore[arg-type]


def test_profile_of_a_case_worked_by_hand() -> None:
    # Ratios to the quickest: t a 1, b 2, c 4; u a 3, b 1, c miss; v a miss, b 1.5, c 1; nobody solves w.
    steps = {
        "a": {"t": 100, "u": 300, "v": math.inf, "w": math.inf},
        "b": {"t": 200, "u": 100, "v": 150, "w": math.nan},
        "c": {"t": 400, "u": math.inf, "v": 100},
    }
    assert performance_profile(steps, [1, 1.5, 2, 3, 4, 100]) == {
        "a": [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3],
        "b": [1 / 3, 2 / 3, 1, 1, 1, 1],
        "c": [1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3],
    }


def test_profile_properties() -> None:
    rng = np.random.default_rng(3)
    steps = {
        label: {task: float(rng.integers(1, 500)) if rng.random() > 0.2 else math.inf for task in "stuvwxyz"}
        for label in "abcde"
    }
    ratios = [1, 1.1, 2, 5, 1000]
    profile = performance_profile(steps, ratios)
    assert all(curve == sorted(curve) for curve in profile.values())
    # On every task that anyone solves somebody is the quickest, so the shares at ratio 1 add up to at least one.
    assert sum(curve[0] for curve in profile.values()) >= 1
    backwards = {label: dict(reversed(steps[label].items())) for label in reversed(steps)}
    assert performance_profile(backwards, ratios) == profile
    scaled = {
        label: {task: cost * (3 if task == "s" else 1) for task, cost in row.items()} for label, row in steps.items()
    }
    assert performance_profile(scaled, ratios) == profile  # a task's unit does not matter


def test_profile_without_a_solved_task() -> None:
    profile = performance_profile({"a": {"t": math.inf}, "b": {}}, [1, 2])
    assert all(math.isnan(share) for curve in profile.values() for share in curve)
    assert performance_profile({}, [1]) == {}
    with pytest.raises(ValueError, match="above 0"):
        performance_profile({"a": {"t": 0}}, [1])


def test_geometric_means_of_a_case_worked_by_hand() -> None:
    # Medians on t: a 100, b 200; on u (budget 800): a 800 (one hit, two misses), b 400. Ratios a 1 and 2, b 2 and 1.
    steps = {
        "a": {"t": [90.0, 100.0, 300.0], "u": [50.0, math.inf, math.inf]},
        "b": {"t": [200.0, 100.0, 300.0], "u": [400.0, 400.0, 500.0]},
    }
    result = geometric_means(steps, {"t": 1000, "u": 800})
    assert [mean for mean, _, _ in result.values()] == pytest.approx([math.sqrt(2), math.sqrt(2)])
    assert all(low <= mean <= high for mean, low, high in result.values())


def test_geometric_means_agree_with_scipy() -> None:
    medians = {label: [float(np.median(row[task])) for task in BUDGETS] for label, row in COSTS.items()}
    least = np.min(list(medians.values()), axis=0)
    for label, (mean, _, _) in geometric_means(COSTS, BUDGETS, resamples=10).items():
        assert mean == pytest.approx(stats.gmean(np.array(medians[label]) / least))


def test_interval_of_the_geometric_mean_agrees_with_scipy_where_one_level_is_left() -> None:
    # Constant over seeds, and "best" the quickest throughout: only tasks are resampled, as scipy does it.
    ratios = [1.5, 2.0, 4.0, 1.2, 3.0, 2.5]
    steps = {
        "best": {f"task{i}": [10.0] * 3 for i in range(6)},
        "other": {f"task{i}": [10.0 * ratio] * 3 for i, ratio in enumerate(ratios)},
    }
    budgets = {f"task{i}": 1000.0 for i in range(6)}
    result = geometric_means(steps, budgets, resamples=20_000)
    theirs = stats.bootstrap((ratios,), stats.gmean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert result["best"] == (1, 1, 1)
    assert result["other"][1:] == pytest.approx(tuple(theirs), rel=0.02)
    # One task, so only seeds are resampled; the best's cost is the same on every seed.
    seeds = {"best": {"t": [10.0] * 11}, "other": {"t": [10 + 100 * value for value in SAMPLE]}}
    _, low, high = geometric_means(seeds, {"t": 1000}, resamples=20_000)["other"]
    theirs = stats.bootstrap(
        ([1 + 10 * value for value in SAMPLE],), np.median, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.03 * (theirs.high - theirs.low))


def test_pairing_is_kept() -> None:
    # "twice" needs twice the steps on every seed: however noisy the seeds, a paired ratio is exactly two.
    steps = {
        "once": COSTS["a"],
        "twice": {task: [2 * cost for cost in costs] for task, costs in COSTS["a"].items()},
    }
    assert geometric_means(steps, BUDGETS, resamples=200)["twice"] == pytest.approx((2, 2, 2))


def test_geometric_means_with_gaps() -> None:
    # The best label overall has ratio 1; a miss counts as the budget; NaN is left out of the median.
    steps: dict[str, dict[str, list[float]]] = {
        "a": {"t": [100.0] * 9 + [math.nan], "u": [50.0, 50.0]},
        "b": {"t": [math.inf] * 10},
        "c": {"u": [math.nan, math.nan]},
    }
    result = geometric_means(steps, {"t": 300, "u": 300})
    assert result["a"] == (1, 1, 1)
    assert result["b"] == pytest.approx((3, 3, 3))  # its own task alone
    assert all(math.isnan(number) for number in result["c"])
    assert all(math.isnan(number) for number in geometric_means({"a": {}}, {})["a"])
    for wrong, message in (
        ({"a": {"v": [1.0]}}, "no budget for v"),
        ({"a": {"t": [1.0, 2.0]}, "b": {"t": [1.0]}}, r"t: labels have \[1, 2\] seeds"),
        ({"a": {"t": []}}, "seeds"),
        ({"a": {"t": [0.0]}}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            geometric_means(wrong, {"t": 300})


def test_geometric_means_do_not_depend_on_the_order() -> None:
    backwards = {label: dict(reversed(COSTS[label].items())) for label in reversed(COSTS)}
    assert geometric_means(backwards, BUDGETS, resamples=50) == geometric_means(COSTS, BUDGETS, resamples=50)


def test_mean_ranks() -> None:
    # t (max): c 1, a and b share 2.5. u (min): b 1, a and c have no value and share 2.5.
    values = {"a": {"t": 0.8, "u": None}, "b": {"t": 0.8, "u": 0.1}, "c": {"t": 0.9, "u": math.inf}}
    assert mean_ranks(values, {"t": "max", "u": "min"}) == {"a": 2.5, "b": 1.75, "c": 1.75}
    assert mean_ranks({"a": {}, "b": {"t": 1.0}}, {"t": "min"}) == {"a": 2.0, "b": 1.0}
    assert math.isnan(mean_ranks({"a": {}}, {})["a"])


def test_mean_ranks_agree_with_scipy() -> None:
    table = RNG.integers(0, 4, size=(5, 8)).astype(float)  # few distinct numbers: many ties
    values = {f"label{i}": {str(task): value for task, value in enumerate(row)} for i, row in enumerate(table)}
    theirs = stats.rankdata(table, axis=0).mean(axis=1)
    assert list(mean_ranks(values, {str(task): "min" for task in range(8)}).values()) == pytest.approx(theirs)
    flipped = stats.rankdata(-table, axis=0).mean(axis=1)
    assert list(mean_ranks(values, {str(task): "max" for task in range(8)}).values()) == pytest.approx(flipped)
