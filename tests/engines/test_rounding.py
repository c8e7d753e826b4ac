"""Stochastic rounding of bfloat16 parameters: unbiased, safe at the edges, equal on every engine (contract 6.9)."""

from __future__ import annotations

import warnings

import pytest
import torch

import thalweg
from thalweg.rounding import stochastic


def moved(dtype: torch.dtype, rounding: str, engine: str = "foreach", lr: float = 1e-4) -> torch.Tensor:
    """How far 4096 weights of about one travel along constant gradients in 200 steps."""
    p = torch.nn.Parameter(torch.linspace(0.5, 2.0, 4096).to(dtype))
    start = p.detach().float().clone()
    opt = thalweg.AdamW([p], lr=lr, weight_decay=0, engine=engine, rounding=rounding)
    for _ in range(200):
        p.grad = torch.ones_like(p)
        opt.step()
    return p.detach().float() - start


def test_moves_as_in_float32_where_nearest_stalls() -> None:
    full = moved(torch.float32, "nearest")
    with pytest.warns(RuntimeWarning, match="did not move") as caught:
        nearest = moved(torch.bfloat16, "nearest")
    assert len([w for w in caught if "did not move" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounded = moved(torch.bfloat16, "stochastic")
    assert nearest.mean() > 0.1 * full.mean()  # both negative: nearest got less than a tenth of the way
    # 4096 weights, each a sum of rounding errors of at most 2^-8: the mean is good to about 1e-3 of a weight's gap.
    assert rounded.mean().item() == pytest.approx(full.mean().item(), rel=0.05)


def test_no_warning_where_steps_are_large_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved(torch.bfloat16, "nearest", lr=0.05)


def test_engines_round_alike() -> None:
    reference, foreach, compiled = (
        moved(torch.bfloat16, "stochastic", e) for e in ("reference", "foreach", "compiled")
    )
    assert torch.equal(reference, foreach)
    assert torch.equal(reference, compiled)


def test_odds_are_the_distance_to_the_neighbours() -> None:
    low = torch.tensor(1.0)
    gap = 2.0**-7
    for share in (0.0, 0.25, 0.5, 0.9):
        rounded = torch.cat([stochastic(torch.full((4096,), (low + share * gap).item()), s) for s in range(16)])
        assert set(rounded.tolist()) <= {1.0, 1.0 + gap}
        assert (rounded > 1).float().mean().item() == pytest.approx(share, abs=0.01)


def test_edges() -> None:
    largest = torch.finfo(torch.bfloat16).max
    values = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, torch.finfo(torch.float32).max])
    for s in range(50):
        rounded = stochastic(values, s)
        assert torch.equal(rounded[:2], values[:2])
        assert rounded[2].isnan()
        assert rounded[3] == 0
        assert rounded[4] == 0
        assert rounded[5] == largest


def test_unknown_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="nearest, stochastic"):
        thalweg.AdamW([torch.nn.Parameter(torch.zeros(1))], rounding="up")
