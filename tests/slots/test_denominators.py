"""The denominators: softplus, atan2 and eps under the root, on any recipe that divides by a root."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg import Atan2, EpsInside, Softplus
from thalweg.slots import Debiased, OverSqrt

LR, B1, B2, EPS, DECAY = 0.03, 0.8, 0.97, 1e-2, 0.1
ADAMW = {"lr": LR, "betas": (B1, B2), "weight_decay": DECAY}

FORMULAS: dict[str, tuple[Any, Any]] = {
    "softplus": (Softplus(3.0), lambda m, v: m / (np.logaddexp(0, 3 * (np.sqrt(v) + EPS)) / 3)),
    "sharp softplus": (Softplus(5000.0), lambda m, v: m / (np.sqrt(v) + EPS)),
    "atan2": (Atan2(), lambda m, v: 1.27 * np.arctan2(m, np.sqrt(v))),
    "atan2, a and b": (Atan2(2.0, 0.3), lambda m, v: 2 * np.arctan2(m, 0.3 * np.sqrt(v))),
    "eps_inside": (EpsInside(), lambda m, v: m / np.sqrt(v + EPS)),
}


def train(opt: Any, params: list[Parameter], steps: int = 12, scale: float = 1.0) -> list[list[np.ndarray]]:
    """Steps on random gradients, which are returned."""
    random = np.random.default_rng(4)
    seen = []
    for _ in range(steps):
        seen.append([scale * np.asarray(random.normal(size=tuple(p.shape))) for p in params])
        for p, g in zip(params, seen[-1], strict=True):
            p.grad = torch.tensor(g, dtype=p.dtype)
        opt.step(loss=1.0)
    return seen


def parameters() -> list[Parameter]:
    random = np.random.default_rng(3)
    return [Parameter(torch.tensor(random.normal(size=shape))) for shape in ((), (5,), (3, 4))]


@pytest.mark.parametrize(
    ("case", "engine"),
    [
        *[(case, engine) for case in FORMULAS for engine in ("reference", "foreach")],
        *[(case, "compiled") for case in thalweg.list_techniques() if case in FORMULAS],
    ],
)
def test_formula_in_adamw(case: str, engine: str) -> None:
    technique, formula = FORMULAS[case]
    params = parameters()
    values = [p.detach().numpy().copy() for p in params]
    eps = {} if case.startswith("atan2") else {"eps": EPS}
    opt = thalweg.AdamW(params, engine=engine, techniques=[technique], **ADAMW, **eps)
    m = [np.zeros_like(p) for p in values]
    v = [np.zeros_like(p) for p in values]
    for t, grads in enumerate(train(opt, params), 1):
        for i, g in enumerate(grads):
            m[i] = B1 * m[i] + (1 - B1) * g
            v[i] = B2 * v[i] + (1 - B2) * g * g
            u = formula(m[i] / (1 - B1**t), v[i] / (1 - B2**t))
            values[i] = values[i] * (1 - LR * DECAY) - LR * u
    for p, want in zip(params, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-12)
    assert opt.words_per_element() == 7


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "nadam", "adax", "adafactor", "lamb", "adams", "adamwarmup"])
@pytest.mark.parametrize("technique", ["softplus", "atan2"])
def test_other_recipes(name: str, technique: str) -> None:
    """The foreach engine agrees with the reference, and the denominator makes a difference."""
    results = []
    for engine, techniques in (("reference", [technique]), ("foreach", [technique]), ("reference", [])):
        params = parameters()
        train(thalweg.get(name).cls(params, engine=engine, techniques=techniques), params)
        results.append(torch.cat([p.detach().reshape(-1) for p in params]))
    assert (results[0] - results[1]).abs().max() <= 1e-12 * results[0].abs().max()
    assert (results[0] - results[2]).abs().max() > 1e-9
    assert results[0].isfinite().all()


def _same(a: Any, b: Any, steps: int = 8) -> None:
    first, second = parameters(), parameters()
    train(a(first), first, steps)
    train(b(second), second, steps)
    for p, q in zip(first, second, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def test_the_named_optimizers_are_these_techniques() -> None:
    shared: dict[str, Any] = {"lr": LR, "betas": (B1, B2), "engine": "reference"}
    _same(
        lambda p: thalweg.AdamAtan2(p, a=1.1, b=0.7, weight_decay=DECAY, **shared),
        lambda p: thalweg.AdamW(p, techniques=[Atan2(1.1, 0.7)], weight_decay=DECAY, **shared),
    )
    _same(
        lambda p: thalweg.SAdam(p, smooth=5.0, amsgrad=False, bias_correct_inside=True, **shared),
        lambda p: thalweg.Adam(p, eps=0.0, techniques=[Softplus(5.0)], **shared),
    )
    # Beside the un-normalised v, softplus bends there too, which is SAdam's published form.
    _same(
        lambda p: thalweg.SAdam(p, smooth=5.0, amsgrad=False, **shared),
        lambda p: thalweg.Adam(p, eps=0.0, epsilon_hat=True, techniques=[Softplus(5.0)], **shared),
    )


def test_eps_inside_is_lambs_option() -> None:
    _same(
        lambda p: thalweg.LAMB(p, eps=EPS, eps_inside=True, engine="reference"),
        lambda p: thalweg.LAMB(p, eps=EPS, techniques=["eps_inside"], engine="reference"),
    )


def test_eps_inside_beside_the_uncorrected_moment() -> None:
    """sqrt(v_raw + eps) with v_raw = v*(1 - b2^t): eps is divided by the weight itself."""
    p = Parameter(torch.tensor([1.0], dtype=torch.float64))
    opt = thalweg.Adam([p], lr=1.0, eps=EPS, epsilon_hat=True, techniques=["eps_inside"], engine="reference")
    p.grad = torch.tensor([0.5], dtype=torch.float64)
    opt.step()
    assert p.item() == pytest.approx(1 - 0.5 * math.sqrt(1e-3) / math.sqrt(1e-3 * 0.25 + EPS), rel=1e-12)


def test_atan2_of_the_raw_momentum() -> None:
    """The angle of c*m is taken before it is divided by c."""
    p = Parameter(torch.tensor([1.0], dtype=torch.float64))
    opt = thalweg.Adam([p], lr=1.0, techniques=[Atan2(1.0, 1.0, Debiased("betas.0", 0.9))], engine="reference")
    p.grad = torch.tensor([0.5], dtype=torch.float64)
    opt.step()
    assert p.item() == pytest.approx(1 - math.atan(0.1) / 0.1, rel=1e-12)


def test_bounds() -> None:
    """An arc tangent is bounded whatever comes after a calm; softplus has a floor."""
    calm = torch.full((3,), 1e-6)
    storm = torch.tensor([1e6, -1e6, 0.0])
    largest = {}
    for name in ("atan2", "none"):
        p = Parameter(torch.zeros(3))
        opt = thalweg.AdamW(
            [p], lr=1.0, betas=(0.0, 0.9999), weight_decay=0, techniques=[name] if name != "none" else []
        )
        for g in [calm] * 20 + [storm]:
            before = p.detach().clone()
            p.grad = g.clone()
            opt.step()
        largest[name] = (p.detach() - before).abs().max().item()
    assert largest["atan2"] <= 1.27 * math.pi / 2 < largest["none"]
    p = Parameter(torch.zeros(3))
    opt = thalweg.AdamW([p], lr=1.0, weight_decay=0, techniques=[Softplus(50.0)])
    p.grad = torch.tensor([1e-9, -1e-9, 0.0])
    opt.step()
    assert p.tolist() == pytest.approx([-1e-9 * 50 / math.log(2), 1e-9 * 50 / math.log(2), 0.0], rel=1e-5)


def test_softplus_survives_a_weight_that_overflows() -> None:
    """AdaX's published sum has grown past any float; nothing of the bend is left, and 0/0 is still 0."""
    p = Parameter(torch.ones(2))
    opt = thalweg.AdaX([p], lr=0.1, weight_decay=0, techniques=["softplus"], engine="foreach")
    p.grad = torch.tensor([1.0, 0.0])
    opt.step()
    opt.state[p]["step"].fill_(8_000_000)
    opt.step()
    assert p.isfinite().all()
    assert p[1] == 1


@pytest.mark.parametrize("technique", ["softplus", "atan2", "eps_inside"])
@pytest.mark.parametrize("name", ["sgd", "lion", "radam", "adamax", "sadam", "adam_atan2"])
def test_refused_without_a_root(name: str, technique: str) -> None:
    with pytest.raises(ValueError, match="needs a recipe that divides by the root"):
        thalweg.create(name, [Parameter(torch.ones(2))], techniques=[technique])


def test_refused_where_there_is_no_eps_to_move() -> None:
    with pytest.raises(ValueError, match="has no eps"):
        thalweg.Adafactor([Parameter(torch.ones(2))], techniques=["eps_inside"])
    with pytest.raises(ValueError, match="under the root already"):
        thalweg.Adam([Parameter(torch.ones(2))], techniques=["eps_inside", "eps_inside"])


@pytest.mark.parametrize("make", [lambda x: Softplus(x), lambda x: Atan2(a=x), lambda x: Atan2(b=x)])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_ranges(make: Any, value: float) -> None:
    with pytest.raises(ValueError, match=r"legal is a finite number with 0 < x"):
        make(value)


def test_printed_and_pickled() -> None:
    p = [Parameter(torch.ones(2))]
    for technique, text in (
        ("softplus", "d = (sqrt(v) + eps) ; s = 50 ; u = m/(log(1 + exp(s*d))/s)"),
        ("atan2", "u = 1.27*atan2(m, 1*sqrt(v))"),
        ("eps_inside", "u = m/sqrt(v + eps)"),
    ):
        recipe = thalweg.AdamW(p, techniques=[technique]).recipe
        assert text in str(recipe)
        assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert thalweg.AdamW(p, techniques=["eps_inside"]).recipe.ratio == OverSqrt(inside=True)
