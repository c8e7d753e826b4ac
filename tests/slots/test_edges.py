"""Edges of single formulas that published code gets wrong."""

from __future__ import annotations

import pytest
import torch

import thalweg


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_adafactor_where_a_row_and_a_column_have_no_gradient(engine: str) -> None:
    """Their product of 1e-60 underflows in float32; 0/0 would spread through the clipping to the whole tensor."""
    p = torch.nn.Parameter(torch.ones(8, 4))
    p.grad = torch.ones(8, 4)
    p.grad[3] = 0
    p.grad[:, 2] = 0
    opt = thalweg.Adafactor([p], engine=engine)
    for _ in range(3):
        opt.step()
    assert p.isfinite().all()
    assert (p[3] == 1).all()
    assert (p[:, 2] == 1).all()
    assert (p[:3, :2] < 1).all()


def test_centred_rmsprop_with_constant_gradients_stays_finite() -> None:
    """v - a^2 rounds to below zero here; torch's result is NaN."""
    gradients = torch.linspace(0.01, 3, 300)
    ours, theirs = (torch.nn.Parameter(torch.ones(300)) for _ in range(2))
    a = thalweg.RMSprop([ours], lr=1e-3, alpha=0.9, centered=True, engine="foreach")
    b = torch.optim.RMSprop([theirs], lr=1e-3, alpha=0.9, centered=True)
    for _ in range(200):
        ours.grad, theirs.grad = gradients.clone(), gradients.clone()
        a.step()
        b.step()
    assert ours.isfinite().all()
    assert theirs.isnan().any(), "torch has mended it: say so in docs/deviations.md"


@pytest.mark.parametrize("name", list(thalweg.list_optimizers()))
def test_zero_gradients_do_no_harm(name: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(()))]
    opt = thalweg.create(name, params, engine="foreach")
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        opt.step(loss=1.0)
    assert all(p.isfinite().all() for p in params)


def test_adax_survives_where_the_published_sum_overflows() -> None:
    """(1+1e-4)^t passes float32 near step 887 000; a float64 power overflows near 7.1 million."""
    p = torch.nn.Parameter(torch.ones(2))
    opt = thalweg.AdaX([p], lr=0.1, weight_decay=0, engine="foreach")
    p.grad = torch.ones(2)
    opt.step()
    opt.state[p]["step"].fill_(8_000_000)
    opt.step()
    assert p.isfinite().all()


def test_radam_never_becomes_adaptive_with_a_short_memory() -> None:
    """At betas[1] = 0.6 the rectification would divide by zero; torch's threshold keeps it away."""
    p = torch.nn.Parameter(torch.ones(2))
    opt = thalweg.RAdam([p], lr=0.1, betas=(0.9, 0.6), engine="foreach")
    for _ in range(20):
        p.grad = torch.full((2,), 1e-3)
        opt.step()
    assert p.tolist() == pytest.approx([1 - 20 * 1e-4] * 2, rel=1e-6)
