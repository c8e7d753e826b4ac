"""Closures, losses and gradient scalers together: unscaled losses, skipped steps, line searches."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg

Make = Callable[[nn.Module], torch.optim.Optimizer]


def _lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    cls: Any = getattr(thalweg, "LBFGS", torch.optim.LBFGS)
    return cls(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")  # type: ignore[no-any-return]


LOSS_DRIVEN: dict[str, Make] = {
    "adalo": lambda m: thalweg.create("adalo", m, lr=10.0),
    "adamw": lambda m: thalweg.create("adamw", m, lr=0.02),
    **({"momo": lambda m: thalweg.create("momo", m)} if "momo" in thalweg.list_optimizers() else {}),
    **({"momo_adam": lambda m: thalweg.create("momo_adam", m)} if "momo_adam" in thalweg.list_optimizers() else {}),
}
ALL: dict[str, Make] = {**LOSS_DRIVEN, "lbfgs": _lbfgs}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _data() -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    return x, (x[:, :1] * 0.5 - x[:, 1:2]).tanh()


class Bad:
    """Makes the gradient of the next evaluation infinite where told to, as an overflow would."""

    def __init__(self, model: nn.Module, at: set[int]) -> None:
        self.at = at
        self.step = 0
        self.evaluation = 0
        next(model.parameters()).register_hook(self.hook)

    def hook(self, grad: Tensor) -> Tensor | None:
        self.evaluation += 1
        return torch.full_like(grad, float("inf")) if self.evaluation == 1 and self.step in self.at else None


def _train(make: Make, half: bool, bad: set[int], steps: int = 30) -> tuple[nn.Module, list[float], list[float]]:
    """Losses and scales of training under a scaler; checks that nothing changes on skipped steps."""
    model = _model()
    x, y = _data()
    opt = make(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5, enabled=half)
    hook = Bad(model, bad)
    losses, scales = [], []

    def closure() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            out = model(x)
        return nn.functional.mse_loss(out.float(), y)

    for t in range(steps):
        hook.step, hook.evaluation = t, 0
        before = copy.deepcopy((list(model.parameters()), opt.state_dict()))
        scale = scaler.get_scale()
        losses.append(float(thalweg.amp.step(scaler, opt, closure)))
        scales.append(scaler.get_scale())
        if t in bad and half:
            assert scaler.get_scale() == scale / 2
            after = (list(model.parameters()), opt.state_dict())
            assert all(torch.equal(p, q) for p, q in zip(before[0], after[0], strict=True))
            assert _equal(before[1], after[1])
    return model, losses, scales


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", list(ALL))
def test_infinities_are_skipped_and_the_rest_is_as_in_full_precision(name: str) -> None:
    bad = set(random.Random(0).sample(range(30), 6))
    _, wide, _ = _train(ALL[name], False, set(), 24)
    _, narrow, scales = _train(ALL[name], True, bad, 30)
    taken = [loss for t, loss in enumerate(narrow) if t not in bad]
    assert max(scales) > min(scales)
    assert wide[-1] < 0.8 * wide[0]
    # bfloat16 has 8 bits: products are off by half a per cent, and errors add up along a trajectory.
    tolerance = 0.15 if name == "lbfgs" else 0.05
    assert max(abs(a - b) for a, b in zip(wide, taken, strict=True)) <= tolerance * wide[0]


@pytest.mark.parametrize("name", list(ALL))
def test_scaling_alone_changes_nothing(name: str) -> None:
    """Powers of two scale exactly: with and without a scaler, in full precision, step for step."""
    x, y = _data()
    results = []
    for enabled in (False, True):
        model = _model()
        opt = ALL[name](model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3, enabled=enabled)
        for _ in range(12):
            thalweg.amp.step(scaler, opt, lambda model=model: nn.functional.mse_loss(model(x), y))
        results.append([p.detach() for p in model.parameters()])
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_an_overflow_inside_a_line_search_is_evaluated_again_at_half_the_scale() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    overflows: list[float] = []

    def hook(grad: Tensor) -> Tensor | None:
        if grad.abs().max() > 500:  # a format that holds no more
            overflows.append(float(grad.abs().max()))
            return torch.full_like(grad, float("inf"))
        return None

    model.weight.register_hook(hook)
    opt = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=6, line_search_fn="strong_wolfe")
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    closure = lambda: (model.weight[0, 0] ** 4 - model.weight[0, 0]) ** 2 + (model.weight[0, 0] - 3) ** 2  # noqa: E731
    before = float(closure().detach())
    thalweg.amp.step(scaler, opt, closure)
    assert overflows
    assert bool(model.weight.isfinite().all())
    assert float(closure().detach()) < before


def test_the_loss_goes_through_the_scaler_to_the_optimizer() -> None:
    model = _model()
    x, y = _data()
    opt = thalweg.AdaLo(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    loss = nn.functional.mse_loss(model(x), y)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.step(opt, loss=loss.detach())
    scaler.update()
    group = opt.param_groups[0]
    assert group["loss_average"] == pytest.approx((1 - 0.999) / (2 + float(loss.detach())))


def test_mistakes_are_named() -> None:
    model = _model()
    x, y = _data()
    scaler = torch.amp.GradScaler("cpu")
    opt = thalweg.SGD(model.parameters(), lr=0.1)

    def backward() -> Tensor:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with pytest.raises(RuntimeError, match="must only compute the loss"):
        thalweg.amp.step(scaler, opt, backward)
    with pytest.raises(TypeError, match="one element"):
        thalweg.amp.step(scaler, opt, lambda: model(x))
