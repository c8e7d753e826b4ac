"""What the tests of schedules share: one plan of every kind, and a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thalweg import schedules as s

#: One of everything, for tests that hold for all.
PLANS: dict[str, s.Schedule] = {
    "constant": s.Constant(0.5),
    "step": s.Step(3, 0.5),
    "multi_step": s.MultiStep((2, 5, 5), 0.5),
    "exponential": s.Exponential(0.9),
    "linear": s.Linear(0.1, 1.0, 7),
    "polynomial": s.Polynomial(9, 2.0).above(lr=0.01),
    "inverse_sqrt": s.InverseSqrt(4),
    "noam": s.Noam(64, 5),
    "lambda": s.Lambda(lambda k: 1 / (1 + k)),
    "multiplicative": s.Multiplicative(lambda k: 1 - 0.5 / k),
    "cosine": s.Cosine(8).above(0.1),
    "warm_restarts": s.WarmRestarts(2, 2),
    "hard_restarts": s.HardRestarts(12, 3),
    "decay": s.Decay(9, "1-sqrt"),
    "one_cycle": s.OneCycle(15),
    "one_cycle_absolute": s.OneCycle(15, max_lr=0.7, three_phase=True),
    "cyclic": s.Cyclic(0.01, 0.1, 3, mode="triangular2"),
    "untuned_linear": s.UntunedLinear(0.9),
    "untuned_exponential": s.UntunedExponential(0.9),
    "radam": s.RAdamWarmup(0.9),
    "wsd": s.wsd(3, 4, 5, warmup_shape="cosine", decay_shape="1-sqrt", minimum=0.1),
    "minicpm": s.minicpm_wsd(2, 6, 2.0),
    "then": s.OneCycle(6).then(s.Exponential(0.9), at=6).warmup(3),
    "product": s.Cosine(9) * s.UntunedLinear(0.9) * 0.5,
}
every_plan = pytest.mark.parametrize("name", PLANS)


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def rates(opt: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


def go(opt: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append([*rates(opt), *[g["momentum"] for g in opt.param_groups if "momentum" in g]])
        opt.step()
        scheduler.step()
    return seen
