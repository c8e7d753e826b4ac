"""Losses and layers against the golden tables, limits by hand, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.layers import DyT
from thalweg.losses import GradNorm, GradTail, soft_median

ENTRIES = json.loads((Path(__file__).parent / "goldens/optimizers.json").read_text())["entries"]


def golden(optimizer: str) -> dict[str, Any]:
    return next(e for e in ENTRIES if e["optimizer"] == optimizer)


def f64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("row", golden("soft_median")["table"], ids=lambda r: f"{r['losses']}-{r['temperature']}")
def test_soft_median_golden(row: dict[str, Any]) -> None:
    losses = f64(row["losses"]).requires_grad_()
    value = soft_median(losses, row["temperature"])
    value.backward()
    assert value.item() == pytest.approx(row["soft_median"], rel=1e-12)
    torch.testing.assert_close(losses.grad, f64(row["grad"]), rtol=1e-11, atol=1e-13)


def test_soft_median_limits() -> None:
    odd, even = f64([5.0, 1.0, 100.0]), f64([[4.0, 1.0], [2.0, 100.0]])
    assert soft_median(odd, 1e-3).item() == 5.0
    assert soft_median(even, 1e-3).item() == pytest.approx(3.0)
    assert soft_median(even, 1e9).item() == pytest.approx(even.mean().item())
    assert soft_median(torch.full((4,), 2.5)).item() == pytest.approx(2.5)
    assert soft_median(torch.tensor([1.0, 3.0], dtype=torch.bfloat16)).dtype == torch.float32
    assert soft_median(torch.tensor(0.5)).item() == 0.5


def test_soft_median_gradient_is_convex() -> None:
    """The default temperature follows the losses, but no gradient flows through it: weights are >= 0 and sum to 1."""
    losses = torch.rand(9, dtype=torch.float64, requires_grad=True)
    soft_median(losses * 7).backward()
    assert (losses.grad >= 0).all()
    assert losses.grad.sum().item() == pytest.approx(7.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_soft_median_refusals(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        soft_median(torch.ones(3), temperature)
    with pytest.raises(ValueError, match="at least one"):
        soft_median(torch.ones(0))


def test_gradnorm_golden() -> None:
    entry = golden("GradNorm")
    hyper = entry["hyperparameters"]
    weights = nn.Parameter(f64([[1, -2, 0.5], [0.25, 3, -1]]))
    x = f64([0.1, -0.2, 0.4])
    balance = GradNorm(2, hyper["alpha"], hyper["lr_weights"]).double()
    for t in range(1, 6):
        y = weights @ x
        losses = [0.5 * (y[0] - 1) ** 2 + 0.05 * y[1] ** 2, 2 * (y[1] + 1) ** 2 + 0.1 * y[0] ** 2]
        weights.grad = None
        balance(losses, weights).backward()
        with torch.no_grad():
            weights -= hyper["lr_model"] * weights.grad
        if str(t) in entry["steps"]:
            got = torch.cat([balance.weights, weights.detach().flatten()])
            torch.testing.assert_close(got, f64(entry["steps"][str(t)]), rtol=1e-11, atol=1e-12)


def test_gradnorm_favours_the_task_that_is_behind() -> None:
    shared = nn.Parameter(torch.ones(2))
    balance = GradNorm(2, initial=[1.0, 1.0])
    for _ in range(3):
        balance([shared.sum() * 0.5 + 1.0, (shared * shared.new_tensor([1.0, -1.0])).sum() * 0.5 + 0.1], [shared])
    assert balance.weights[0] > 1 > balance.weights[1] >= 1e-3
    assert balance.weights.sum().item() == pytest.approx(2.0)


def test_gradnorm_state_and_guards() -> None:
    shared = nn.Parameter(torch.ones(2))
    balance = GradNorm(2)
    losses = [shared.sum() * 0, torch.ones((), requires_grad=True) * 2]
    with torch.no_grad():
        assert balance(losses, shared).item() == 2.0
    assert balance.initial.isnan().all()
    balance(losses, shared).backward()
    assert balance.weights.isfinite().all()
    assert balance.initial.tolist() == [0.0, 2.0]
    twin = GradNorm(2)
    twin.load_state_dict(balance.state_dict())
    assert torch.equal(twin.weights, balance.weights)
    for bad in ({"tasks": 0}, {"tasks": 2, "alpha": -1.0}, {"tasks": 2, "lr": math.nan}, {"tasks": 2, "initial": [1]}):
        with pytest.raises(ValueError, match="legal"):
            GradNorm(**bad)
    with pytest.raises(ValueError, match="one a task"):
        balance([shared.sum()], shared)


def test_gradtail_by_hand() -> None:
    tail = GradTail(decay=0.5, w_max=3.0, width=0.5)
    gradients = f64([[[1.0, 0.0]], [[0.0, 2.0]]])
    losses = f64([1.0, 4.0]).requires_grad_()
    mean = f64([0.0, 0.0])
    for call in range(1, 5):
        mean = 0.5 * mean + 0.5 * gradients.flatten(1).mean(0)
        value = tail(losses, gradients)
        if call <= 2:  # the mean gradient has not seen enough
            assert value.item() == 2.5
    unit = gradients.flatten(1) / f64([[1.0], [2.0]])
    agreement = unit @ mean / mean.norm()
    w = 1 + 2 * torch.exp(-((agreement / 0.5) ** 2))
    w = w / w.mean()
    torch.testing.assert_close(tail.weights(gradients), w)
    assert value.item() == pytest.approx((w * losses).mean().item())
    value.backward()
    torch.testing.assert_close(losses.grad, w / 2)
    twin = GradTail(decay=0.5, w_max=3.0, width=0.5)
    twin.load_state_dict(tail.state_dict())
    assert torch.equal(twin.weights(gradients), tail.weights(gradients))
    assert tail.weights(torch.zeros(2, 2, dtype=torch.float64)).tolist() == [1.0, 1.0]


def test_gradtail_refusals() -> None:
    for bad in ({"decay": 1.0}, {"w_max": 0.5}, {"width": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GradTail(**bad)
    for losses, gradients in ((torch.ones(2), torch.ones(3, 2)), (torch.ones(2), torch.ones(2)), (torch.ones(0),) * 2):
        with pytest.raises(ValueError, match="legal are"):
            GradTail()(losses, gradients)


def test_dyt_golden_and_layouts() -> None:
    entry = golden("DyT")
    layer = DyT(4, alpha=entry["hyperparameters"]["alpha"]).double()
    torch.testing.assert_close(layer(f64([-2, 0, 0.5, 3])).detach(), f64(entry["table"]), rtol=1e-12, atol=0)
    first, last = DyT(3, channels_last=False), DyT(3)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(first(x), last(x.movedim(1, -1)).movedim(-1, 1))
    assert [p.shape for p in DyT((2, 3)).parameters()] == [(1,), (2, 3), (2, 3)]
    for channels, options in ((0, {}), ((2, 3), {"channels_last": False}), ((), {}), (True, {})):
        with pytest.raises(ValueError, match="channels"):
            DyT(channels, **options)
