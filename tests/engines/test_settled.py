"""Totals that a slot settles on the host: every engine, several groups, missing gradients, numbers kept in groups."""

from __future__ import annotations

import io
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg import flows
from thalweg.recipe import Recipe
from thalweg.slots.base import Slot, settled, total

ENGINES = ("reference", "foreach", "compiled")


@dataclass(frozen=True, repr=False)
class Travelled(Slot):
    """The rate is the sum of |g| so far, less the tensor's own share of it now: a number settled beside a total."""

    scope: ClassVar[str] = "tensor"
    group_numbers: ClassVar[dict[str, float]] = {"travelled": 0.0}
    over: str = "model"

    @property
    def couples(self) -> str:  # type: ignore[override]
        return self.over

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Any, Any, Any]:
        count, own, far = yield (*settled(self, g * 0 + 1), total(g.abs()), *settled(self, g.abs()))
        return far - own + count * 0

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        h["travelled"] += totals[1]
        return totals[0], h["travelled"]


def _recipe(over: str) -> Recipe:
    return Recipe(rate=Travelled(over), flow=flows.rate_first)


def _build(engine: str, over: str) -> tuple[list[Parameter], thalweg.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,), (), (2, 2), (7,))
    params = [Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    return params, thalweg.Optimizer([{"params": params[:3]}, {"params": params[3:]}], _recipe(over), engine=engine)


def _gradients(params: list[Parameter], t: int) -> None:
    """The first group has none in every third step, the second in every fourth, its first tensor in every other."""
    for k, p in enumerate(params):
        gone = t % 3 == 0 if k < 3 else t % 4 == 0 or (k == 3 and t % 2 == 1)
        g = torch.sin(t + k + torch.arange(p.numel(), dtype=torch.float64)).reshape(p.shape) / 100
        p.grad = None if gone else g


@pytest.mark.parametrize("over", ["model", "group"])
@pytest.mark.parametrize("engine", ENGINES)
def test_settled_by_hand(engine: str, over: str, few: None) -> None:
    params, opt = _build(engine, over)
    expected = [p.detach().clone() for p in params]
    travelled = [0.0, 0.0]
    for t in range(1, 14):
        _gradients(params, t)
        sums = [sum(float(p.grad.abs().sum()) for p in ps if p.grad is not None) for ps in (params[:3], params[3:])]
        opt.step()
        if over == "model":
            travelled = [travelled[0] + sum(sums)] * 2
        else:
            travelled = [a + b for a, b in zip(travelled, sums, strict=True)]
        for k, p in enumerate(params):
            if p.grad is not None:
                expected[k] -= (travelled[k >= 3] - p.grad.abs().sum()) * p.grad
        assert [g["travelled"] for g in opt.param_groups] == pytest.approx(travelled, rel=1e-13)
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_newcomers_and_checkpoints_share_the_number(engine: str, few: None) -> None:
    params, opt = _build(engine, "model")
    for t in range(1, 4):
        _gradients(params, t)
        opt.step()
    late = Parameter(torch.ones(2, dtype=torch.float64))
    opt.add_param_group({"params": [late]})
    assert opt.param_groups[2]["travelled"] == opt.param_groups[0]["travelled"] > 0
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    copies, fresh = _build(engine, "model")
    twin = Parameter(late.detach().clone())
    fresh.add_param_group({"params": [twin]})
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for p, q in zip(params, copies, strict=True):
        q.data.copy_(p.data)
    for t in range(4, 9):
        for o, own, extra in ((opt, params, late), (fresh, copies, twin)):
            _gradients(own, t)
            extra.grad = torch.full((2,), 0.01 * t, dtype=torch.float64)
            o.step()
    assert all(torch.equal(p, q) for p, q in zip([*params, late], [*copies, twin], strict=True))
    assert [g["travelled"] for g in opt.param_groups] == [g["travelled"] for g in fresh.param_groups]


def test_a_step_that_fails_moves_no_number() -> None:
    params, opt = _build("reference", "model")
    _gradients(params, 1)
    opt.step()
    before = [g["travelled"] for g in opt.param_groups]
    params[0].grad = torch.ones(3, 4, dtype=torch.float64)

    @dataclass(frozen=True, repr=False)
    class Broken(Travelled):
        def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
            super().settle(h, totals)
            raise RuntimeError("settled badly")

    broken = thalweg.Optimizer(params, Recipe(rate=Broken(), flow=flows.rate_first), engine="reference")
    with pytest.raises(RuntimeError, match="settled badly"):
        broken.step()
    assert broken.param_groups[0]["travelled"] == 0.0
    assert [g["travelled"] for g in opt.param_groups] == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["prodigy", "dadapt_adam", "momo", "am_msgd"])
def test_one_number_for_all_groups(name: str, engine: str, few: None) -> None:
    """The groups keep equal numbers though their gradients come and go, and equal those of one group."""
    options = {"d0": 0.1} if "d0" in thalweg.get(name).defaults else {}
    key = {"momo": "loss_average", "am_msgd": "beta"}.get(name, "d")
    params, single = _build(engine, "model")[0], _build(engine, "model")[0]
    cls = thalweg.get(name).cls
    split = cls([{"params": params[:3]}, {"params": params[3:]}], engine=engine, **options)
    one = cls(single, engine=engine, **options)
    for t in range(1, 14):
        for o, own in ((split, params), (one, single)):
            _gradients(own, t)
            o.step(loss=1.0 + 1 / t)
        numbers = [g[key] for g in (*split.param_groups, *one.param_groups)]
        assert numbers == pytest.approx([numbers[0]] * 3, rel=1e-12)
    torch.testing.assert_close([p.detach() for p in params], [p.detach() for p in single], rtol=1e-10, atol=1e-12)
