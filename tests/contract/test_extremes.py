"""Gradients and parameters at the ends of what floats can hold: everything stays finite, or the exception is listed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES, build

SHAPES: list[tuple[int, ...]] = [(), (5,), (4, 6), (3, 2, 3, 3)]
#: Optimizers whose parameters leave float32 under gradients of 1e30, and why; checked to be true.
HUGE: dict[str, str] = {
    "adafactor": "g^2 overflows float32, and R*C/mean(R) is infinity over infinity",
    "adafactor_torch": "g^2 overflows float32, and R*C/mean(R) is infinity over infinity",
    "amos": "g^2 overflows float32, and the step is its root over itself",
    "smmf": "g^2 overflows float32, and its factors are infinity over infinity",
}
#: Optimizers that leave float32 in ten thousand steps of one gradient, and why; checked to be true.
RELATIVE = {"adafactor_torch": "steps are a share of the parameter, which one gradient makes grow exponentially"}


def _params(fill: float | None = None) -> list[Parameter]:
    generator = torch.Generator().manual_seed(5)
    return [Parameter(torch.randn(s, generator=generator) if fill is None else torch.full(s, fill)) for s in SHAPES]


def _pattern(p: Tensor, size: float) -> Tensor:
    """Gradients of that size with both signs."""
    return size * (1 - 2 * (torch.arange(p.numel()) % 2)).to(p.dtype).reshape(p.shape)


def _steps(name: str, engine: str, params: list[Parameter], grads: list[Tensor], count: int) -> bool:
    """Whether every parameter is finite after ``count`` steps of the same gradients."""
    opt = build(name, {str(i): p for i, p in enumerate(params)}, engine)
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    for _ in range(count):
        opt.step(loss=1.0)
    return all(bool(p.isfinite().all()) for p in params)


@pytest.mark.parametrize("engine", ["reference", "foreach"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients(name: str, engine: str) -> None:
    params = _params()
    assert _steps(name, engine, params, [torch.zeros_like(p) for p in params], 12)


@pytest.mark.parametrize("engine", ["reference", "foreach"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_parameters(name: str, engine: str) -> None:
    params = _params(0.0)
    assert _steps(name, engine, params, [_pattern(p, 0.3) for p in params], 12)


@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_and_parameters(name: str) -> None:
    params = _params(0.0)
    assert _steps(name, "foreach", params, [torch.zeros_like(p) for p in params], 12)
    assert all(bool((p == 0).all()) for p in params), "nothing pushes, so nothing may move"


@pytest.mark.parametrize("engine", ["reference", "foreach"])
@pytest.mark.parametrize("name", NAMES)
def test_vanishing_gradients(name: str, engine: str) -> None:
    params = _params()
    assert _steps(name, engine, params, [_pattern(p, 1e-30) for p in params], 12)


@pytest.mark.parametrize("name", NAMES)
def test_huge_gradients(name: str) -> None:
    params = _params()
    finite = _steps(name, "foreach", params, [_pattern(p, 1e30) for p in params], 5)
    assert finite == (name not in HUGE), HUGE.get(name, "not finite: repair it, or list it with the reason")


@pytest.mark.study
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_steps_of_a_constant_gradient(name: str) -> None:
    """Counts, products and averages must not run out of range; gradient and decay are small so that SGD does not."""
    param = Parameter(torch.tensor([[0.5, -1.0], [2.0, 0.1]]))
    decay = {"weight_decay": 1e-4} if "weight_decay" in thalweg.get(name).defaults else {}
    opt = build(name, {"p": param}, "reference", **decay)
    param.grad = _pattern(param, 1e-3)
    for _ in range(10_000):
        opt.step(loss=1.0)
    tensors = [param, *(t for t in opt.state[param].values() if torch.is_tensor(t))]
    finite = all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())
    assert finite == (name not in RELATIVE), RELATIVE.get(name, "not finite: repair it, or list it with the reason")


def test_the_exceptions_are_registered() -> None:
    assert set(HUGE) | set(RELATIVE) <= set(thalweg.list_optimizers())
