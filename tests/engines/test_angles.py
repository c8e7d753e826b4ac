"""The arc tangent of compiled graphs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx

import thalweg
from thalweg.engine.angles import angle, expand


def _spread() -> Tensor:
    """Both signs and thirty orders of magnitude, so that no quotient is subnormal."""
    return torch.randn(100_000) * 10 ** (torch.rand(100_000) * 30 - 15)


def test_every_quadrant_to_two_units_in_the_last_place() -> None:
    y, x = _spread(), _spread()
    exact = torch.atan2(y.double(), x.double())
    assert len(set(zip((y > 0).tolist(), (x > 0).tolist(), strict=True))) == 4
    assert ((angle(y, x) - exact) / exact).abs().max() < 2 * torch.finfo(torch.float32).eps


def test_edges() -> None:
    inf, tiny = math.inf, 1e-45
    ends = [(inf, 1), (-inf, 1), (1, inf), (1, -inf), (tiny, tiny), (tiny, 0)]
    cases = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), *ends]
    y, x = torch.tensor(cases).T
    torch.testing.assert_close(angle(y, x), torch.atan2(y, x), rtol=2.4e-7, atol=0)
    one, nan = torch.ones(1), torch.full((1,), math.nan)
    assert angle(one, nan).isnan()
    assert angle(nan, one).isnan()


def test_a_graph_without_angles_stays_as_it_is() -> None:
    graph = fx.symbolic_trace(lambda a, b: a.sqrt() + b).graph
    before = str(graph)
    assert not expand(graph)
    assert str(graph) == before


@pytest.mark.parametrize("form", [lambda a, b: a.atan2(b) * 2, lambda a, b: torch.atan2(a, b) * 2])
def test_both_ways_to_write_it(form: object) -> None:
    module = fx.symbolic_trace(form)
    assert expand(module.graph)
    module.recompile()
    assert "atan2" not in module.code
    a, b = torch.randn(2, 1000)
    torch.testing.assert_close(module(a, b), 2 * torch.atan2(a, b), rtol=3e-7, atol=0)


def test_double_precision_keeps_its_own() -> None:
    """The polynomial is good for float32 only."""
    params = [torch.nn.Parameter(torch.randn(50, 3, dtype=torch.float64)) for _ in range(2)]
    params[1].data.copy_(params[0].data)
    grad = torch.randn_like(params[0])
    for p, engine in zip(params, ("reference", "compiled"), strict=True):
        opt = thalweg.create("adam_atan2", [p], engine=engine)
        for _ in range(3):
            p.grad = grad
            opt.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-14, atol=0)
