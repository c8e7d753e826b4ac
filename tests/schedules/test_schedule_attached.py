"""Schedules on optimizers: stepping, jumping, resuming, groups that come later, torch's combinations, plateau."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import thalweg
from schedules.plans import PLANS, every_plan, go, optimizer, rates
from thalweg import schedules as s


@every_plan
def test_stepping_is_the_function(name: str) -> None:
    """The attached scheduler's rates are the plan's, exactly, for every group's own rate, and any step can be met."""
    plan, opt = PLANS[name], optimizer(0.1, 0.3)
    scheduler = plan.attach(opt)
    stepped = go(opt, scheduler, 20)
    for k, row in enumerate(stepped):
        assert row[:2] == [plan.rate(k, 0.1), plan.rate(k, 0.3)]
        assert row[2:] == [plan.momentum(k) or 0.9] * 2
    for k in (13, 0, 19, 4):
        scheduler.step(k)
        assert [*rates(opt), *[g["momentum"] for g in opt.param_groups]] == stepped[k]
        assert scheduler.last_epoch == k
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
        scheduler.step()
    assert rates(opt) == stepped[5][:2]


TORCH_OPTIMIZERS: list[Callable[[list[Any]], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.1),
    lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), capturable=False, foreach=False),
    lambda p: torch.optim.Adafactor(p, lr=0.1),
    lambda p: torch.optim.LBFGS(p, lr=0.1),
    lambda p: thalweg.AdamW(p, lr=0.1, engine="reference"),
    lambda p: thalweg.SGD(p, lr=0.1, engine="reference"),
]


@pytest.mark.parametrize("make", TORCH_OPTIMIZERS, ids=map(str, range(len(TORCH_OPTIMIZERS))))
def test_any_optimizer(make: Callable[[list[Any]], torch.optim.Optimizer]) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = make([p])
    scheduler = s.linear_with_warmup(2, 6).attach(opt)
    for k in range(8):
        p.grad = torch.ones(2)
        assert rates(opt)[0] == pytest.approx(0.1 * [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0][k], rel=1e-6)
        opt.step(lambda: 1.0)  # type: ignore[arg-type]
        scheduler.step()
    assert scheduler.get_last_lr() == [opt.param_groups[0]["lr"]]
    assert p.isfinite().all()


def test_betas_are_cycled() -> None:
    opt = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.5, 0.77))
    scheduler = s.OneCycle(10).attach(opt)
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["betas"] == (s.OneCycle(10).momentum(1), 0.77)


def test_tensor_rates_stay_the_same_tensor() -> None:
    opt = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.5))
    lr = opt.param_groups[0]["lr"]
    scheduler = s.Linear(1.0, 0.0, 4).attach(opt)
    for k in range(3):
        assert opt.param_groups[0]["lr"] is lr
        assert float(lr) == 0.5 * (1 - k / 4)
        opt.step()
        scheduler.step()
    assert all(type(v) is float for v in scheduler.state_dict()["_last_lr"])


def test_groups_added_later_follow_with_their_own_rate() -> None:
    for plan in (s.Cosine(10), s.OneCycle(10), s.Cyclic(0.1, 0.2, 3), s.Noam(8, 4)):
        opt = optimizer(0.1)
        scheduler = plan.attach(opt)
        go(opt, scheduler, 3)
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.7})
        assert rates(opt)[1] == 0.7
        opt.step()
        scheduler.step()
        assert rates(opt) == [plan.rate(4, 0.1), plan.rate(4, 0.7)]
        assert opt.param_groups[1]["momentum"] == (plan.momentum(4) or 0.9)
        scheduler.step(6)
        assert rates(opt) == [plan.rate(6, 0.1), plan.rate(6, 0.7)]
        fresh = optimizer(0.1, 0.7)
        resumed = plan.attach(fresh)
        resumed.load_state_dict(scheduler.state_dict())
        assert go(fresh, resumed, 4) == go(opt, scheduler, 4)


def test_one_schedule_for_each_group() -> None:
    opt = optimizer(0.1, 0.2)
    scheduler = s.Attached(opt, [s.Step(1, 0.5), s.Constant(0.3)])
    go(opt, scheduler, 2)
    assert rates(opt) == pytest.approx([0.025, 0.06])
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0})
    scheduler.step()
    assert rates(opt)[2] == 0.3
    with pytest.raises(ValueError, match="3 schedules for 2 groups"):
        s.Attached(optimizer(0.1, 0.2), [s.Constant()] * 3)


@every_plan
@pytest.mark.parametrize("order", ["optimizer, schedule", "schedule, optimizer", "schedule alone"])
def test_resume_is_exact(name: str, order: str) -> None:
    plan = PLANS[name]
    for at in (0, 1, 2, 5, 11):
        opt = optimizer(0.1, 0.3)
        scheduler = plan.attach(opt)
        go(opt, scheduler, at)
        file = io.BytesIO()
        torch.save({"schedule": scheduler.state_dict(), "optimizer": opt.state_dict()}, file)
        expected = go(opt, scheduler, 15)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        fresh = optimizer(0.1, 0.3)
        resumed = plan.attach(fresh)
        if order == "optimizer, schedule":
            fresh.load_state_dict(saved["optimizer"])
        resumed.load_state_dict(saved["schedule"])
        if order == "schedule, optimizer":
            fresh.load_state_dict(saved["optimizer"])
        assert go(fresh, resumed, 15) == expected
        assert resumed.state_dict() == scheduler.state_dict()


def test_resume_by_last_epoch() -> None:
    plan, opt = s.Cosine(9), optimizer(0.1)
    go(opt, plan.attach(opt), 4)
    again = plan.attach(opt, last_epoch=3)
    assert again.last_epoch == 4
    assert rates(opt) == [plan.rate(4, 0.1)]
    with pytest.raises(KeyError, match="initial_lr"):
        plan.attach(optimizer(0.1), last_epoch=3)


def test_resume_from_a_torch_scheduler() -> None:
    opt, plan = optimizer(0.1), s.linear_with_warmup(2, 9)
    theirs = lr_scheduler.LambdaLR(opt, plan)
    go(opt, theirs, 4)
    ours = plan.attach(optimizer(0.1))
    ours.load_state_dict(theirs.state_dict())
    assert go(ours.optimizer, ours, 5) == go(opt, theirs, 5)
    with pytest.raises(ValueError, match="it has no _last_lr, base_lrs, last_epoch"):
        ours.load_state_dict({"state": {}})


def test_resume_inside_torchs_sequence_and_chain() -> None:
    def sequence(opt: torch.optim.Optimizer) -> Any:
        parts = [s.Linear(0.1, 1.0, 3).attach(opt), s.Cosine(9).above(lr=0.01).attach(opt), s.Step(2).attach(opt)]
        return lr_scheduler.SequentialLR(opt, parts, [3, 8])

    def chain(opt: torch.optim.Optimizer) -> Any:
        return lr_scheduler.ChainedScheduler([s.Linear(0.1, 1.0, 3).attach(opt), s.Step(2).attach(opt)], opt)

    for make in (sequence, chain):
        for at in (0, 2, 3, 5, 9):
            opt = optimizer(0.1, 0.3)
            scheduler = make(opt)
            go(opt, scheduler, at)
            saved, saved_opt = scheduler.state_dict(), opt.state_dict()
            fresh = optimizer(0.1, 0.3)
            resumed = make(fresh)
            fresh.load_state_dict(saved_opt)
            resumed.load_state_dict(saved)
            assert rates(fresh) == rates(opt)
            assert go(fresh, resumed, 8) == go(opt, scheduler, 8)


def test_a_change_from_outside_stays_as_a_factor() -> None:
    plan, opt = s.Cosine(20), optimizer(0.1)
    scheduler = plan.attach(opt)
    go(opt, scheduler, 3)
    opt.param_groups[0]["lr"] *= 0.5
    opt.step()
    scheduler.step()
    assert rates(opt)[0] == pytest.approx(0.5 * plan.rate(4, 0.1), rel=1e-15)
    resumed = plan.attach(optimizer(0.1))
    resumed.load_state_dict(scheduler.state_dict())
    assert go(resumed.optimizer, resumed, 5) == go(opt, scheduler, 5)
    scheduler.step(12)
    assert rates(opt) == [plan.rate(12, 0.1)]


def test_plateau_beside_a_schedule() -> None:
    opt = optimizer(0.1)
    scheduler, plateau = s.Cosine(20).attach(opt), s.Plateau(opt, factor=0.5, patience=1)
    for k in range(6):
        assert rates(opt)[0] == pytest.approx(
            0.1 * s.Cosine(20)(k) * (1 if k < 3 else 0.5 if k < 5 else 0.25), rel=1e-14
        )
        opt.step()
        scheduler.step()
        plateau.step(1.0)


def test_attaching_again_before_a_step_does_not_freeze_a_warmup() -> None:
    """A notebook's cell run twice: the first scheduler, at rate 0, is never stepped."""
    opt = optimizer(0.1)
    plan = s.Constant().warmup(4)
    plan.attach(opt)
    assert [row[0] for row in go(opt, plan.attach(opt), 6)] == [plan.rate(k, 0.1) for k in range(6)]


def test_a_second_stage_starts_from_the_groups_own_rate() -> None:
    opt = optimizer(0.1)
    go(opt, s.Linear(1.0, 0.0, 4).attach(opt), 6)
    assert rates(opt) == [0.0]
    plan = s.Cosine(9)
    assert [row[0] for row in go(opt, plan.attach(opt), 9)] == [plan.rate(k, 0.1) for k in range(9)]


def test_torchs_warning_for_the_wrong_order_is_kept() -> None:
    scheduler = s.Cosine(9).attach(optimizer())
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_repr_says_where_it_stands() -> None:
    assert repr(s.Step(2, 0.5).attach(optimizer())) == "Attached(Step(every=2, gamma=0.5), last_epoch=0, lr=[0.1])"


def reductions(metrics: list[float], **options: Any) -> list[float]:
    opt = optimizer(1.0)
    scheduler = s.Plateau(opt, factor=0.5, **options)
    for metric in metrics:
        scheduler.step(metric)
    return rates(opt)


def test_plateau_with_negative_metrics() -> None:
    """-9.5 is no improvement on -10 with a threshold of a tenth; torch's comparison takes it for one."""
    falling = [-10.0, -9.5, -9.5, -9.5]
    assert reductions(falling, patience=1, threshold=0.1) == [0.5]
    assert reductions(falling, patience=1, threshold=0.04, published=True) == [0.5]
    assert reductions(falling[:3], patience=1, threshold=0.1, published=True) == [1.0]
    assert reductions([-10.0, -11.5, -13.5, -15.5], patience=0, threshold=0.1) == [1.0]
    assert reductions([-10.0, -9.5, -9.5], mode="max", patience=1, threshold=0.1) == [0.5]
    assert reductions([-10.0, -8.5, -7.5], mode="max", patience=0, threshold=0.1) == [1.0]
    assert reductions([0.0, 0.0, 0.0], patience=1) == [0.5]
    assert reductions([1.0, -1.0, -3.0], patience=0) == [1.0]


def test_plateau_counts_nan_as_bad_and_infinity_as_a_start() -> None:
    assert reductions([1.0, math.nan, math.nan], patience=1) == [0.5]
    assert reductions([math.inf, 1.0, math.inf], patience=1) == [1.0]


def test_plateau_is_torchs_to_loops_and_checkpoints() -> None:
    opt = optimizer(1.0)
    scheduler = s.Plateau(opt, patience=1)
    assert isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    scheduler.step(torch.tensor(1.0))
    scheduler.step(2)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer(1.0), patience=1)
    theirs.load_state_dict(scheduler.state_dict())
    again = s.Plateau(optimizer(1.0), patience=1)
    again.load_state_dict(theirs.state_dict())
    for one in (scheduler, again, theirs):
        one.step(2.0)
        assert rates(one.optimizer) == [0.1]


def test_plateau_resumes_exactly_and_takes_new_groups() -> None:
    metrics = [math.sin(k) for k in range(40)]
    opt = optimizer(1.0, 2.0)
    scheduler = s.Plateau(opt, patience=1, factor=0.7, min_lr=[0.0, 0.5])
    for metric in metrics[:20]:
        scheduler.step(metric)
    fresh = optimizer(1.0, 2.0)
    resumed = s.Plateau(fresh, patience=1, factor=0.7, min_lr=[0.0, 0.5])
    fresh.load_state_dict(opt.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for one in (opt, fresh):
        one.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 3.0})
    for metric in metrics[20:]:
        scheduler.step(metric)
        resumed.step(metric)
    assert rates(opt) == rates(fresh)
    assert rates(opt)[2] >= 0.5
    assert scheduler.get_last_lr() == rates(opt)
