"""Schedules as functions: values, combinations, what is refused, what is documented."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from schedules.plans import PLANS, every_plan, optimizer
from thalweg import schedules as s


@every_plan
def test_values_are_calls_in_any_order(name: str) -> None:
    plan = PLANS[name]
    assert plan.values(12) == [plan(k) for k in range(12)]
    assert [plan(k) for k in reversed(range(12))] == plan.values(12)[::-1]
    assert all(
        math.isfinite(f) and f >= 0 for f in [*plan.values(200), plan(10**7 if name != "multiplicative" else 500)]
    )
    assert repr(plan)


def test_pure_plans_are_values() -> None:
    """Frozen, equal by content, and pickled, unless they hold a function."""
    plan = s.Cosine(8).above(0.1).warmup(3)
    assert pickle.loads(pickle.dumps(plan)) == plan == s.Cosine(8).above(0.1).warmup(3)
    assert plan != s.Cosine(9).above(0.1).warmup(3)
    with pytest.raises(AttributeError):
        plan.steps = 4  # type: ignore[attr-defined,misc]


def test_then_restarts_the_second() -> None:
    plan = s.Constant(0.5).then(s.Linear(1.0, 0.0, 2), at=3)
    assert plan.values(6) == [0.5, 0.5, 0.5, 1.0, 0.5, 0.0]
    assert s.Constant().then(s.Constant(0.5), 2).then(s.Constant(0.1), 4).values(5) == [1, 1, 0.5, 0.5, 0.1]


def test_product_and_scale() -> None:
    one, other = s.Cosine(7), s.Linear(0.1, 1.0, 5)
    assert (one * other).values(9) == [a * b for a, b in zip(one.values(9), other.values(9), strict=True)]
    assert (
        (0.5 * one).values(9) == (one * 0.5).values(9) == one.scale(0.5).values(9) == [f * 0.5 for f in one.values(9)]
    )


def test_products_with_rates_of_their_own() -> None:
    cyclic, warm = s.Cyclic(0.01, 0.1, 3), s.Warmup(4)
    for plan in (cyclic * warm, warm * cyclic):
        assert plan.absolute
        assert [plan.rate(k, 123.0) for k in range(6)] == [cyclic(k) * warm(k) for k in range(6)]
        assert plan.momentum(3) == cyclic.momentum(3)
    with pytest.raises(ValueError, match="both state rates of their own"):
        cyclic * s.Noam(8)
    with pytest.raises(ValueError, match="only a factor can be squeezed"):
        cyclic.above(0.1)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_warmup_rises_to_the_first_rate(shape: str) -> None:
    plan = s.Constant(0.5).warmup(4, shape)
    assert plan(0) == 0
    assert plan(4) == plan(100) == 0.5
    assert plan.values(5) == sorted(plan.values(5))
    assert s.Constant(0.5).warmup(4, shape, from_zero=False).values(4) == pytest.approx(plan.values(5)[1:], abs=1e-15)
    assert s.Constant(0.5).warmup(4, shape, start=0.2)(0) == pytest.approx(0.1)
    assert s.Constant(0.5).warmup(4, shape, lr=0.03).rate(0, 0.1) == pytest.approx(0.03)
    assert s.Cosine(9).warmup(0) == s.Cosine(9)
    absolute = s.OneCycle(10, max_lr=0.5).warmup(4, shape)
    assert absolute.rate(4, 9.0) == pytest.approx(0.02)
    assert 0 < absolute.rate(2, 9.0) < 0.02


def test_warmup_and_cool_down_shapes_mirror_each_other() -> None:
    for shape in ("linear", "cosine", "1-sqrt"):
        assert s.Warmup(8, shape).values(9) == pytest.approx(s.Decay(8, shape).values(9)[::-1], abs=1e-15)


def test_momentum_of_a_part_is_held_through_the_rest() -> None:
    cycle = s.OneCycle(6)
    plan = cycle.then(s.Constant(), at=4)
    assert plan.momentum(10) == plan.momentum(4) == cycle.momentum(3)
    assert s.Constant().then(cycle, at=4).momentum(1) == cycle.momentum(0)
    assert cycle.warmup(3).momentum(1) == cycle.momentum(0)
    assert cycle.warmup(3).momentum(4) == cycle.momentum(1)
    assert (s.Constant(0.5) * cycle).momentum(2) == cycle.momentum(2)
    assert s.Constant().then(s.Constant(), 1).momentum(0) is None


def test_closed_forms_of_the_same_thing_agree() -> None:
    assert s.Cosine(20).values(20) == pytest.approx(s.Decay(20, "cosine").values(20), abs=1e-15)
    assert s.Cosine(20).values(20) == pytest.approx(s.WarmRestarts(20).values(20), abs=1e-15)
    assert s.HardRestarts(20, 4).values(20) == pytest.approx(s.WarmRestarts(5).values(20), abs=1e-15)
    assert s.Polynomial(20).values(30) == pytest.approx(s.Linear(1.0, 0.0, 20).values(30), abs=1e-15)
    assert s.Multiplicative(lambda k: 0.9).values(30) == pytest.approx(s.Exponential(0.9).values(30), rel=1e-14)
    assert s.fairseq_inverse_sqrt(9).values(30) == pytest.approx(s.inverse_sqrt_with_warmup(9).values(30), rel=1e-15)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: s.Step(0), "every: 0; legal is a whole number of at least 1"),
    (lambda: s.Step(2, -0.5), "gamma: -0.5"),
    (lambda: s.MultiStep([3, -1]), "milestones: -1"),
    (lambda: s.Exponential(math.nan), "gamma: nan"),
    (lambda: s.Linear(-0.1, 1.0, 5), "start: -0.1"),
    (lambda: s.Linear(0.1, 1.0, 2.5), "steps: 2.5"),  # type: ignore[arg-type]
    (lambda: s.Polynomial(5, 0.0), "power: 0.0"),
    (lambda: s.InverseSqrt(0), "timescale: 0.0"),
    (lambda: s.Noam(0), "d_model: 0.0"),
    (lambda: s.Lambda(3), "function: 3"),  # type: ignore[arg-type]
    (lambda: s.Multiplicative(0.9), "function: 0.9"),  # type: ignore[arg-type]
    (lambda: s.Cosine(True), "steps: True"),
    (lambda: s.WarmRestarts(4, 0), "grow: 0"),
    (lambda: s.HardRestarts(4, 0), "cycles: 0.0"),
    (lambda: s.Warmup(4, "log"), "shape: 'log'; legal are 'linear', 'cosine', '1-sqrt'"),
    (lambda: s.Decay(4, "exponential"), "shape: 'exponential'"),
    (lambda: s.UntunedLinear(1.0), "beta2: 1.0"),
    (lambda: s.RAdamWarmup(0.6), "beta2: 0.6; legal is a finite number with 0.6 < x < 1"),
    (lambda: s.OneCycle(1), "total_steps: 1"),
    (lambda: s.OneCycle(9, pct_start=1.5), "pct_start: 1.5"),
    (lambda: s.OneCycle(9, anneal="cosine"), "anneal: 'cosine'"),
    (lambda: s.OneCycle(9, div_factor=0), "div_factor: 0.0"),
    (lambda: s.Cyclic(0.1, 0.2, 0), "step_size_up: 0.0"),
    (lambda: s.Cyclic(0.1, 0.2, mode="saw"), "mode: 'saw'"),
    (lambda: s.Cosine(4).above(1.5), "minimum: 1.5; legal is a finite number with 0 <= x <= 1"),
    (lambda: s.Cosine(4).above(0.1, lr=0.1), "exclude each other"),
    (lambda: s.Cosine(4).scale(-1), "value: -1"),
    (lambda: s.Cosine(4).then(s.Cosine(4), at=0), "at: 0"),
    (lambda: s.Cosine(4).warmup(-1), "steps: -1"),
    (lambda: s.Cosine(4)(-1), "step: -1"),
    (lambda: s.Cosine(4)(math.inf), "step: inf"),
    (lambda: s.linear_with_warmup(5, 5), "total_steps: 5; legal is more than warmup_steps=5"),
    (lambda: s.Cosine(4).attach(optimizer()).step(-1), "epoch: -1"),
    (lambda: s.OneCycle(4).attach(torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))])), "cycle_momentum=False"),
    (lambda: s.Plateau(optimizer(), factor=1.0), "factor: 1.0; legal is a finite number with 0 <= x < 1"),
    (lambda: s.Plateau(optimizer(), patience=-1), "patience: -1"),
    (lambda: s.Plateau(optimizer(), mode="lowest"), "mode: 'lowest'"),
    (lambda: s.Plateau(optimizer(), min_lr=[0.1, 0.2]), "expected 1 min_lrs, got 2"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert message in str(caught.value)


def test_refused_at_attaching_leaves_the_optimizer_alone() -> None:
    opt = thalweg.Adafactor([torch.nn.Parameter(torch.ones(2, 2))])
    before = {k: v for k, v in opt.param_groups[0].items() if k != "params"}
    for make in (s.Cosine(4).attach, s.Plateau):
        with pytest.raises(ValueError, match=r"no learning rate \(lr=None\)"):
            make(opt)
    assert {k: v for k, v in opt.param_groups[0].items() if k != "params"} == before
    with pytest.raises(TypeError, match="attached to a torch optimizer"):
        s.Cosine(4).attach("adam")  # type: ignore[arg-type]


def test_every_schedule_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
    for name, made in s.list_schedules().items():
        doc = inspect.getdoc(made) or ""
        assert f"| `{name}" in text, name
        assert "Example:" in doc, name
        for argument in inspect.signature(made).parameters:
            assert argument in doc, f"{name}: {argument}"
