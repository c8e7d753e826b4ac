"""What stands in place of the vector library's functions in compiled graphs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx

import thalweg
from thalweg.engine.functions import angle, expand, softplus


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


def test_a_graph_without_such_functions_stays_as_it_is() -> None:
    graph = fx.symbolic_trace(lambda a, b: a.sqrt().exp() + b.log1p()).graph
    before = str(graph)
    assert not expand(graph)
    assert str(graph) == before


@pytest.mark.parametrize("form", [lambda a, b: a.atan2(b) * 2, lambda a, b: torch.atan2(a, b) * 2])
def test_both_ways_to_write_an_angle(form: object) -> None:
    module = fx.symbolic_trace(form)
    assert expand(module.graph)
    module.recompile()
    assert "atan2" not in module.code
    a, b = torch.randn(2, 1000)
    torch.testing.assert_close(module(a, b), 2 * torch.atan2(a, b), rtol=3e-7, atol=0)


@pytest.mark.parametrize("name", ["adam_atan2", "sadam"])
def test_double_precision_keeps_its_own(name: str) -> None:
    """The polynomials are good for float32 only."""
    params = [torch.nn.Parameter(torch.randn(50, 3, dtype=torch.float64)) for _ in range(2)]
    params[1].data.copy_(params[0].data)
    grad = torch.randn_like(params[0])
    for p, engine in zip(params, ("reference", "compiled"), strict=True):
        opt = thalweg.create(name, [p], engine=engine)
        for _ in range(3):
            p.grad = grad
            opt.step()
    # Kernels may round products and sums as one: of numbers of size one, not of what is left where they cancel.
    torch.testing.assert_close(params[0], params[1], rtol=1e-14, atol=1e-15)


def test_softplus_to_two_units_in_the_last_place() -> None:
    z = torch.cat([torch.linspace(-80, 80, 200_001), _spread()]).clamp(-80, 80)
    exact = z.double().exp().log1p()
    assert ((softplus(z) - exact) / exact).abs().max() < 2 * torch.finfo(torch.float32).eps
    assert softplus(torch.tensor([1e30, -1e30, math.inf])).tolist() == [float(torch.tensor(1e30)), 0, math.inf]
    assert softplus(torch.full((1,), math.nan)).isnan()


def test_softplus_is_known_by_its_formula() -> None:
    module = fx.symbolic_trace(lambda z: z.clamp(max=20).exp().log1p() * 2)
    assert expand(module.graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    assert "log1p" not in module.code
    z = torch.randn(1000) * 10
    torch.testing.assert_close(module(z), 2 * z.clamp(max=20).exp().log1p(), rtol=3e-7, atol=0)
