"""A study: what small state costs in quality, on the character transformer and the digits network.

Test metric at the end of training at AdamW's tuned rate, ten seeds (a hundred of the small one), paired. Small state
passes where it is no worse than float32 state by more than the spread of seeds: the upper end of the 95 % interval of
the mean paired loss of quality lies below one standard deviation of float32's results over seeds.
"""

from __future__ import annotations

import statistics
from functools import cache

import pytest
import torch
from scipy import stats

import thalweg
from thalweg.lab.loading import load_task

SEEDS = {"chars": range(1000, 1010), "digits": range(1000, 1100)}
RATES = {"chars": 0.00316, "digits": 0.00316}


@cache
def results(name: str, state: str) -> list[float]:
    """The loss on the test split for every seed."""
    torch.set_num_threads(1)
    task = load_task(name, None)
    found = []
    for seed in SEEDS[name]:
        torch.manual_seed(seed)
        problem = task.build(seed)
        optimizer = thalweg.AdamW(problem.model.parameters(), lr=RATES[name], state=state)
        batches = iter(problem.batches())
        problem.model.train()
        for _ in range(task.steps):
            optimizer.zero_grad()
            problem.loss(next(batches)).backward()
            optimizer.step()
        kept = optimizer.memory()
        problem.model.eval()
        with torch.no_grad():
            found.append(problem.evaluate("test")["loss"])
    print(f"\n{name}, {state} ({kept.per_parameter:.2f} bytes of state a parameter): ", end="")
    print(f"{statistics.fmean(found):.4f} ± {statistics.stdev(found):.4f} over {len(found)} seeds")
    return found


@pytest.mark.study
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "state"),
    [(name, state) for state in ("bfloat16", "int8", "int4") for name in RATES],
)
def test_small_state_costs_less_than_a_seed(name: str, state: str) -> None:
    full, small = results(name, "float32"), results(name, state)
    lost = [s - f for s, f in zip(small, full, strict=True)]
    low, high = stats.t.interval(0.95, len(lost) - 1, statistics.fmean(lost), stats.sem(lost))
    spread = statistics.stdev(full)
    print(f"lost {statistics.fmean(lost):+.4f} ({low:+.4f} to {high:+.4f}); one standard deviation is {spread:.4f}")
    assert high < spread
