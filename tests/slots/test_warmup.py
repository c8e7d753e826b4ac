"""Warm-up as a technique, and RAdam's wait."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg import Lookahead, Warmup

T = 8


def factors(technique: Any, steps: int, cls: Any = thalweg.SGD, **options: Any) -> list[float]:
    """The rate of every step over lr, seen by a gradient of one."""
    p = Parameter(torch.zeros(1, dtype=torch.float64))
    options = {"lr": 0.5, "engine": "reference", **options}
    opt = cls([p], techniques=[technique], **options)
    found = []
    for _ in range(steps):
        before = p.item()
        p.grad = torch.ones_like(p)
        opt.step()
        found.append((before - p.item()) / options["lr"])
    return found


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", lambda t: min(1, t / T)),
        ("exponential", lambda t: 1 - math.exp(-t / T)),
        ("cosine", lambda t: (1 - math.cos(math.pi * min(1, t / T))) / 2),
        ("inverse_sqrt", lambda t: min(t**-0.5, t * T**-1.5) * math.sqrt(T)),
    ],
)
def test_shapes(shape: str, expected: Any) -> None:
    want = [expected(t) for t in range(1, 21)]
    assert factors(Warmup(T, shape), 20) == pytest.approx(want, rel=1e-12)
    assert want[0] > 0


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.999])
def test_untuned(beta: float) -> None:
    """The lengths of the authors' package; with b1 = 0 and a gradient of one Adam's direction is one."""
    n = int(2 / (1 - beta))
    shared: dict[str, Any] = {"cls": thalweg.Adam, "betas": (0.0, beta), "eps": 0.0}
    assert factors("warmup", 12, **shared) == pytest.approx([min(1, t / n) for t in range(1, 13)], rel=1e-9)
    exponential = [1 - math.exp(-(1 - beta) * t) for t in range(1, 13)]
    assert factors(Warmup(shape="exponential"), 12, **shared) == pytest.approx(exponential, rel=1e-9)


def test_untuned_follows_a_changed_beta() -> None:
    p = Parameter(torch.zeros(1, dtype=torch.float64))
    opt = thalweg.Adam([p], lr=1.0, betas=(0.0, 0.9), eps=0.0, techniques=["warmup"], engine="reference")
    opt.param_groups[0]["betas"] = (0.0, 0.75)
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.item() == pytest.approx(-1 / 8)


def test_decay_warms_up_too() -> None:
    p = Parameter(torch.ones(1, dtype=torch.float64))
    opt = thalweg.AdamW([p], lr=0.4, weight_decay=0.5, techniques=[Warmup(4)], engine="reference")
    p.grad = torch.zeros_like(p)
    opt.step()
    assert p.item() == pytest.approx(1 - 0.1 * 0.5)


def test_each_parameter_warms_up_by_its_own_steps() -> None:
    early, late = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    opt = thalweg.SGD([early, late], lr=1.0, techniques=[Warmup(4)])
    for t in range(4):
        early.grad = torch.ones(1)
        late.grad = torch.ones(1) if t == 3 else None
        opt.step()
    assert (early.item(), late.item()) == (pytest.approx(-2.5), pytest.approx(-0.25))


@pytest.mark.parametrize("name", ["adagrad", "adalo", "adafactor", "adamwarmup", "radam"])
def test_behind_another_rate(name: str) -> None:
    """The first step is a T-th of what it is without a warm-up, whatever sets the rate."""
    moved = []
    for techniques in ([], [Warmup(T)]):
        p = Parameter(torch.ones(3, 2, dtype=torch.float64))
        opt = thalweg.create(name, [p], techniques=techniques, engine="reference", weight_decay=0.0)
        p.grad = torch.full_like(p, 0.3)
        opt.step(loss=1.0)
        moved.append(p.detach() - 1)
    torch.testing.assert_close(moved[1] * T, moved[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("engine", ["foreach", "compiled"])
def test_engines_and_outer(engine: str) -> None:
    """No graph is compiled for the warm-up: it is a number."""
    results = []
    for e in ("reference", engine):
        p = Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        opt = thalweg.AdamW([p], lr=0.1, techniques=[Warmup(5, "cosine")], outer=Lookahead(2, 0.5), engine=e)
        for t in range(8):
            p.grad = torch.sin(p.detach() + t)
            opt.step()
        results.append(p.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_resumes_where_it_stopped() -> None:
    def fresh() -> tuple[Parameter, Any]:
        p = Parameter(torch.zeros(1))
        return p, thalweg.SGD([p], lr=1.0, techniques=[Warmup(4)])

    p, opt = fresh()
    p.grad = torch.ones(1)
    opt.step()
    q, again = fresh()
    again.load_state_dict(opt.state_dict())
    q.grad = torch.ones(1)
    again.step()
    assert q.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_invalid_steps(steps: Any) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1"):
        Warmup(steps)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="legal are 'linear'"):
        Warmup(5, "quadratic")
    with pytest.raises(ValueError, match="no untuned length"):
        Warmup(shape="cosine")
    with pytest.raises(ValueError, match="belongs to the linear"):
        Warmup(5, "cosine", added=1e-8)
    with pytest.raises(ValueError, match="Invalid added"):
        Warmup(5, added=-1.0)
    for name in ("sgd", "lion"):
        with pytest.raises(ValueError, match=r"give steps, as in Warmup\(1000\)"):
            thalweg.create(name, [Parameter(torch.ones(2))], techniques=["warmup"])


def test_printed() -> None:
    p = [Parameter(torch.ones(2))]
    assert "lr <- lr*min(1, t/int(2/(1-betas.1)))" in str(thalweg.AdamW(p, techniques=["warmup"]).recipe)
    assert "lr <- lr*(1 - cos(pi*min(1, t/9)))/2" in str(thalweg.SGD(p, techniques=[Warmup(9, "cosine")]).recipe)


# ------------------------------------------------------------------------------------------- conventions of Adam's kin


def test_radam_leaves_parameters_alone_until_it_is_adaptive() -> None:
    p = Parameter(torch.ones(2))
    opt = thalweg.RAdam([p], weight_decay=0.1, decoupled_weight_decay=True, degenerated_to_sgd=False)
    for t in range(1, 7):
        p.grad = torch.ones(2)
        opt.step()
        assert (p == 1).all() == (t < 6)
    assert opt.state[p]["exp_avg"].any()


def test_radams_threshold() -> None:
    with pytest.raises(ValueError, match="threshold"):
        thalweg.RAdam([Parameter(torch.ones(2))], threshold=3.9)


def test_conventions_that_would_do_nothing_are_refused() -> None:
    p = [Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match="without amsgrad=True"):
        thalweg.Adam(p, amsgrad_convention="paper")
    with pytest.raises(ValueError, match="leave it at 'torch'"):
        thalweg.Adam(p, amsgrad=True, epsilon_hat=True, amsgrad_convention="optax")
    with pytest.raises(ValueError, match="legal are 'torch', 'optax', 'paper'"):
        thalweg.Adam(p, amsgrad=True, amsgrad_convention="keras")
    with pytest.raises(ValueError, match="legal are 'torch', 'constant', 'simple', 'raw'"):
        thalweg.NAdam(p, convention="dozat")
    with pytest.raises(ValueError, match="momentum_decay"):
        thalweg.NAdam(p, convention="simple", momentum_decay=0.1)


def test_first_steps_of_nadams_conventions() -> None:
    """Over lr, with a gradient of one: 1.47 with a constant momentum, 1 corrected, 6 not corrected at all."""
    found = {}
    for convention in ("constant", "simple", "raw"):
        p = Parameter(torch.zeros(1, dtype=torch.float64))
        opt = thalweg.NAdam([p], lr=1.0, eps=0.0, convention=convention, engine="reference")
        p.grad = torch.ones_like(p)
        opt.step()
        found[convention] = -p.item()
    assert found["constant"] == pytest.approx(0.9 * 0.1 / 0.19 + 1)
    assert found["simple"] == pytest.approx(1)
    assert found["raw"] == pytest.approx(0.19 / math.sqrt(1e-3))
