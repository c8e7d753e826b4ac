"""Side by side with torch's schedulers, transformers' and pytorch_warmup's, 500 steps, by the same arguments."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from goldens.build import build_schedule
from thalweg import schedules

STEPS = 500


def two_groups() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.3)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def course(scheduler: Any, steps: int = STEPS, metrics: Any = None) -> list[list[float]]:
    """The rates and momenta of every group at every step."""
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(steps):
            groups = scheduler.optimizer.param_groups
            seen.append([float(g[key]) for g in groups for key in ("lr", "momentum")])
            scheduler.optimizer.step()
            scheduler.step(*([] if metrics is None else [metrics[k]]))
    return seen


def worst(one: list[list[float]], other: list[list[float]]) -> float:
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


TORCH: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 37, "gamma": 0.7}),
    ("MultiStepLR", {"milestones": [300, 10, 40, 40], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.99}),
    ("CosineAnnealingLR", {"T_max": 70, "eta_min": 0.003}),
    ("CosineAnnealingLR", {"T_max": 500}),
    ("CosineAnnealingWarmRestarts", {"T_0": 30, "eta_min": 0.001}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 3}),
    ("LambdaLR", {"lr_lambda": lambda k: 0.98**k}),
    ("MultiplicativeLR", {"lr_lambda": lambda k: 1 - 0.5 / (k + 1)}),
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.2, "total_iters": 300}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.9, "end_factor": 0.1, "total_iters": 400}),
    ("PolynomialLR", {"total_iters": 450, "power": 0.9}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS}),
    (
        "OneCycleLR",
        {"max_lr": 0.5, "epochs": 50, "steps_per_epoch": 10, "pct_start": 0.21, "anneal_strategy": "linear"},
    ),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.37, "three_phase": True, "div_factor": 7.0}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.0, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.7, "three_phase": True}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 30, "step_size_down": 11}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 7, "mode": "triangular2"}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 13, "mode": "exp_range", "gamma": 0.995}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 9, "scale_fn": lambda c: 1 / c}),
    (
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 9, "scale_fn": lambda k: 0.9**k, "scale_mode": "iterations"},
    ),
]


@pytest.mark.parametrize(("name", "options"), TORCH, ids=lambda v: v if isinstance(v, str) else "")
def test_torch(name: str, options: dict[str, Any]) -> None:
    theirs = getattr(lr_scheduler, name)(two_groups(), **options)
    ours = build_schedule(name, options, two_groups())
    steps = options.get("total_steps", STEPS)
    assert worst(course(ours, steps), course(theirs, steps)) <= 1e-12


def test_torch_sequence() -> None:
    opt = two_groups()
    parts = [lr_scheduler.LinearLR(opt, 0.1, 1.0, 20), lr_scheduler.CosineAnnealingLR(opt, 400, 0.01)]
    theirs = lr_scheduler.SequentialLR(opt, [*parts, lr_scheduler.ExponentialLR(opt, 0.9)], [20, 300])
    plan = schedules.Linear(0.1, 1.0, 20).then(
        schedules.Cosine(400).above(lr=0.01).then(schedules.Exponential(0.9), at=280), at=20
    )
    expected = course(theirs)
    assert worst(course(plan.attach(two_groups())), expected) <= 1e-12
    opt = two_groups()
    parts = [schedules.Linear(0.1, 1.0, 20).attach(opt), schedules.Cosine(400).above(lr=0.01).attach(opt)]
    ours = lr_scheduler.SequentialLR(opt, [*parts, schedules.Exponential(0.9).attach(opt)], [20, 300])
    assert worst(course(ours), expected) <= 1e-12


@pytest.mark.parametrize("kinds", [("ours", "ours"), ("ours", "torch"), ("torch", "ours")], ids="-".join)
def test_torch_chain(kinds: tuple[str, str]) -> None:
    """Chained by torch, closed forms multiply, with one another and with torch's recursive ones."""

    def chain(first: str, second: str) -> Any:
        opt = two_groups()
        one = (
            lr_scheduler.LinearLR(opt, 0.1, 1.0, 30) if first == "torch" else schedules.Linear(0.1, 1.0, 30).attach(opt)
        )
        other = lr_scheduler.StepLR(opt, 50, 0.5) if second == "torch" else schedules.Step(50, 0.5).attach(opt)
        return lr_scheduler.ChainedScheduler([one, other], opt)

    expected = course(chain("torch", "torch"))
    assert worst(course(chain(*kinds)), expected) <= 1e-12
    assert (
        worst(course((schedules.Linear(0.1, 1.0, 30) * schedules.Step(50, 0.5)).attach(two_groups())), expected)
        <= 1e-12
    )


def test_torch_plateau() -> None:
    metrics = [math.sin(0.1 * k) * math.exp(-0.01 * k) + 0.3 for k in range(STEPS)]
    for options in (
        {"patience": 3},
        {"mode": "max", "factor": 0.5, "patience": 2, "cooldown": 4, "min_lr": [0.01, 0.0]},
        {"threshold_mode": "abs", "threshold": 0.05, "eps": 0.01},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.0},
    ):
        theirs = lr_scheduler.ReduceLROnPlateau(two_groups(), **options)  # type: ignore[arg-type]
        for ours in (
            build_schedule("ReduceLROnPlateau", options, two_groups()),
            schedules.Plateau(two_groups(), **options),  # type: ignore[arg-type]
        ):
            positive = [m + 1 for m in metrics]
            assert course(ours, metrics=positive) == course(
                lr_scheduler.ReduceLROnPlateau(two_groups(), **options),
                metrics=positive,  # type: ignore[arg-type]
            )
        published = build_schedule("ReduceLROnPlateau", options, two_groups())
        negative = [m - 2 for m in metrics]
        assert course(published, metrics=negative) == course(theirs, metrics=negative)


def test_one_cycle_past_the_end_holds() -> None:
    """torch computes one step more, turning up again, and then raises; here the last values are held."""
    plan = schedules.OneCycle(10, max_lr=0.5)
    assert plan(9) == plan(10) == plan(10**6)
    assert plan.momentum(9) == plan.momentum(50)


def test_restarts_where_torch_misplaces_them() -> None:
    """The 121st step restarts a cycle of 243; torch's step(121) takes the logarithm 4.999... for it."""
    plan = schedules.WarmRestarts(1, 3)
    assert [k for k in range(400) if plan(k) == 1.0] == [0, 1, 4, 13, 40, 121, 364]
    theirs = lr_scheduler.CosineAnnealingWarmRestarts(two_groups(), 1, 3)
    theirs.step(121)
    assert theirs.get_last_lr()[0] != pytest.approx(0.1)


def test_hard_restarts_lose_none() -> None:
    plan = schedules.HardRestarts(22, 22)
    assert plan.values(22) == [1.0] * 22


HF: list[tuple[str, str, dict[str, Any]]] = [
    ("hf_constant", "constant", {}),
    ("hf_constant_with_warmup", "constant_with_warmup", {"num_warmup_steps": 30}),
    ("hf_linear", "linear", {"num_warmup_steps": 30, "num_training_steps": 400}),
    ("hf_linear", "linear", {"num_warmup_steps": 0, "num_training_steps": 400}),
    ("hf_cosine", "cosine", {"num_warmup_steps": 17, "num_training_steps": 300}),
    ("hf_cosine", "cosine", {"num_warmup_steps": 0, "num_training_steps": 300, "num_cycles": 1.7}),
    (
        "hf_cosine_hard_restarts",
        "cosine_with_restarts",
        {"num_warmup_steps": 9, "num_training_steps": 409, "num_cycles": 5},
    ),
    ("hf_polynomial", "polynomial", {"num_warmup_steps": 9, "num_training_steps": 409}),
    ("hf_polynomial", "polynomial", {"num_warmup_steps": 9, "num_training_steps": 409, "lr_end": 0.02, "power": 3.0}),
    ("hf_inverse_sqrt", "inverse_sqrt", {"num_warmup_steps": 40}),
    ("hf_inverse_sqrt", "inverse_sqrt", {"num_warmup_steps": 0}),
    ("hf_inverse_sqrt", "inverse_sqrt", {"num_warmup_steps": 40, "timescale": 90}),
    ("hf_cosine_min_lr", "cosine_with_min_lr", {"num_warmup_steps": 9, "num_training_steps": 409, "min_lr": 0.02}),
    ("hf_cosine_min_lr", "cosine_with_min_lr", {"num_warmup_steps": 9, "num_training_steps": 409, "min_lr_rate": 0.2}),
    *[
        (
            "hf_wsd",
            "warmup_stable_decay",
            {
                "num_warmup_steps": 40,
                "num_training_steps": 450,
                "num_decay_steps": 101,
                "warmup_type": one,
                "decay_type": other,
                "min_lr_ratio": 0.05,
            },
        )
        for one in ("linear", "cosine", "1-sqrt")
        for other in ("linear", "cosine", "1-sqrt")
    ],
    (
        "hf_wsd",
        "warmup_stable_decay",
        {"num_warmup_steps": 0, "num_stable_steps": 7, "num_decay_steps": 100, "num_cycles": 1.5},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), HF, ids=lambda v: v if isinstance(v, str) else "")
def test_transformers(ours: str, theirs: str, options: dict[str, Any]) -> None:
    optimization = pytest.importorskip("transformers.optimization", reason="transformers is not installed")
    make = optimization.TYPE_TO_SCHEDULER_FUNCTION[optimization.SchedulerType(theirs)]
    assert worst(course(build_schedule(ours, options, two_groups())), course(make(two_groups(), **options))) <= 1e-12


@pytest.mark.parametrize("beta2", [0.9, 0.95, 0.98, 0.99, 0.999])
@pytest.mark.parametrize("kind", ["UntunedLinear", "UntunedExponential", "RAdam"])
def test_pytorch_warmup(kind: str, beta2: float) -> None:
    module = pytest.importorskip("pytorch_warmup", reason="pytorch_warmup is not installed")
    names = {"UntunedLinear": "untuned_linear", "UntunedExponential": "untuned_exponential", "RAdam": "radam_warmup"}
    warm = getattr(module, f"{kind}Warmup")
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.9, beta2))
    theirs = warm(adam)
    ours = build_schedule(
        f"warmup_{names[kind]}", {"beta2": beta2}, torch.optim.Adam(adam.param_groups[0]["params"], 0.1)
    )
    for _ in range(STEPS):
        assert ours.get_last_lr()[0] == pytest.approx(adam.param_groups[0]["lr"], rel=0, abs=1e-12)
        with theirs.dampening():
            pass
        ours.step(ours.last_epoch + 1)


def test_exact_untuned_warmup_is_not_truncated() -> None:
    assert schedules.UntunedLinear(0.99)(198) == pytest.approx(0.995)
    assert schedules.UntunedLinear(0.99, truncate=True)(198) == 1.0
    assert schedules.UntunedExponential(0.99)(9) == pytest.approx(1 - math.exp(-0.1))


def test_fairseq() -> None:
    """fairseq's code, transcribed: a fixed increment until w, then lr*sqrt(w)/sqrt(k)."""
    base, w, init = 0.3, 40, 0.01
    plan = schedules.fairseq_inverse_sqrt(w, init_lr=init)
    for k in range(STEPS):
        expected = init + k * (base - init) / w if k < w else base * w**0.5 * k**-0.5
        assert plan.rate(k, base) == pytest.approx(expected, rel=1e-13)
