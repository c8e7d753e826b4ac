"""Averages of the weights: what they hold, what eval() and train() exchange, and checkpoints in either mode."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from goldens.build import build

ENGINES = ("reference", "foreach", "compiled")
AVERAGES = [thalweg.EMA(0.8), thalweg.PolynomialAverage(2.0)]


def _params(dtype: torch.dtype = torch.float64) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in ((3, 4), (5,), ())]


def _step(opt: Any, params: list[Parameter], t: int) -> None:
    for k, p in enumerate(params):
        g = torch.sin(1.3 * t + k + torch.arange(p.numel(), dtype=torch.float64)).reshape(p.shape)
        p.grad = None if k == 1 and t % 3 == 0 else g.to(p.dtype)
    opt.step()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("average", AVERAGES, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("how", ["outer", "technique"])
def test_average_of_the_iterates(average: Any, how: str, engine: str) -> None:
    """Training is as without; each parameter's average follows its own steps."""
    params, plain = _params(), _params()
    given = {"outer": average} if how == "outer" else {"techniques": [average]}
    opt = thalweg.AdamW(params, lr=0.1, engine=engine, **given)
    without = thalweg.AdamW(plain, lr=0.1, engine=engine)
    expected = [p.detach().clone() for p in params]
    counts = [0] * len(params)
    for t in range(1, 9):
        _step(opt, params, t)
        _step(without, plain, t)
        for i, p in enumerate(plain):
            if p.grad is not None:
                counts[i] += 1
                a = 0.2 if isinstance(average, thalweg.EMA) else 3.0 / (counts[i] + 2.0)
                expected[i] = (1 - a) * expected[i] + a * p.detach()
    trained = [p.detach().clone() for p in params]
    torch.testing.assert_close(trained, [p.detach() for p in plain], rtol=1e-12, atol=1e-13)
    opt.eval()
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=1e-12, atol=1e-13)
    with pytest.raises(RuntimeError, match="train"):
        opt.step()
    opt.eval()
    opt.train()
    assert all(torch.equal(p, was) for p, was in zip(params, trained, strict=True))


def test_golden_average_of_dog() -> None:
    file = Path(__file__).parents[1] / "goldens/optimizers.json"
    entry = next(e for e in json.loads(file.read_text())["entries"] if e["optimizer"].startswith("DoG + poly"))
    start = [[[1, -2, 0.5], [0.25, 3, -1]], [1, -2, 0.5]]
    params = [Parameter(torch.tensor(v, dtype=torch.float64)) for v in start]
    opt = build(entry["optimizer"], entry["hyperparameters"], params)
    for t in range(1, 6):
        for p in params:
            i = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
            p.grad = torch.sin(1.3 * t + 0.7 * i) + 0.1 * p.detach()
        opt.step()
        if str(t) in entry["extra"]:
            opt.eval()  # type: ignore[attr-defined]
            for p, want in zip(params, entry["extra"][str(t)]["averaged"], strict=True):
                torch.testing.assert_close(p.detach(), torch.tensor(want, dtype=torch.float64), rtol=1e-11, atol=1e-12)
            opt.train()  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("evaluating", [False, True])
def test_checkpoint_in_either_mode(evaluating: bool, dtype: torch.dtype) -> None:
    params = _params(dtype)
    opt = thalweg.SGD(params, lr=0.1, momentum=0.9, outer=thalweg.EMA(0.5))
    for t in range(1, 5):
        _step(opt, params, t)
    if evaluating:
        opt.eval()
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    copies = [Parameter(p.detach().clone()) for p in params]
    fresh = thalweg.SGD(copies, lr=0.1, momentum=0.9, outer=thalweg.EMA(0.5))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for o, own in ((opt, params), (fresh, copies)):
        o.train()
        for t in range(5, 8):
            _step(o, own, t)
        o.eval()
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))


def test_refusals() -> None:
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            thalweg.EMA(bad)
    with pytest.raises(ValueError, match="gamma"):
        thalweg.PolynomialAverage(-1.0)
    with pytest.raises(ValueError, match="outer method"):
        thalweg.SGD(_params(), techniques=["ema", "polynomial_average"])
    with pytest.raises(ValueError, match="outer method"):
        thalweg.SGD(_params(), techniques=["ema"], outer=thalweg.Lookahead())
