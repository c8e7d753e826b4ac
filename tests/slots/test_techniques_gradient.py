"""Techniques on the gradient and the direction: each formula against plain torch, on every engine, in any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from thalweg import (
    AGC,
    Cautious,
    Centralise,
    ClipNorm,
    ClipRMS,
    ClipValue,
    LayerNormAdaptation,
    NormaliseGradient,
    SoftClip,
    TrustRatio,
)
from thalweg.engine import inductor
from thalweg.slots import L2, PlusDecay, UnitNorm
from thalweg.slots.chain import Chain

ENGINES = ("reference", "foreach", "compiled")
SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (4, 6),
    "vector": (5,),
    "scalar": (),
    "conv": (3, 2, 2, 2),
    "thin": (5, 1),
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of two tensors compile faster than the library's own, and differ from them in length only."""
    monkeypatch.setattr(inductor, "CHUNK", 2)


def values(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for k, s in SHAPES.items()}


def over_units(x: Tensor, how: Callable[..., Tensor], axis: int = 0) -> Tensor:
    """A reduction over each output unit, or over all of a vector."""
    if x.ndim < 2:
        return how(x)
    return how(x, dim=tuple(i for i in range(x.ndim) if i != axis), keepdim=True)


def norm(x: Tensor, **over: Any) -> Tensor:
    return x.square().sum(**over).sqrt()


def rms(x: Tensor, **over: Any) -> Tensor:
    return x.square().mean(**over).sqrt()


def agc(p: Tensor, g: Tensor, clip: float, eps: float, axis: int = 0, how: Callable[..., Tensor] = norm) -> Tensor:
    most = over_units(p, how, axis).clamp(min=eps) * clip
    return g * (most / over_units(g, how, axis)).clamp(max=1)


def centralised(g: Tensor, conv_only: bool = False) -> Tensor:
    if g.ndim < (4 if conv_only else 2) or g[0].numel() == 1:
        return g
    return g - over_units(g, torch.mean)


#: A technique, and what it makes of a gradient; the step is the gradient's.
FORMULAS: list[tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = [
    (Centralise(), lambda p, g: centralised(g)),
    (Centralise(conv_only=True), lambda p, g: centralised(g, True)),
    (AGC(), lambda p, g: agc(p, g, 0.01, 1e-3)),
    (AGC(0.5, 0.3), lambda p, g: agc(p, g, 0.5, 0.3)),
    (SoftClip(), lambda p, g: agc(p, g, 1.0, 1e-3, how=rms)),
    (SoftClip(0.3, 0.5), lambda p, g: agc(p, g, 0.3, 0.5, how=rms)),
    (ClipValue(0.4), lambda p, g: g.clamp(-0.4, 0.4)),
    (NormaliseGradient(eps=0.2), lambda p, g: g / (norm(g) + 0.2)),
    (LayerNormAdaptation(), lambda p, g: g * norm(p) / norm(g)),
    (LayerNormAdaptation(bounds=(0.1, 1.0), clip=(0.5, 2.0)),
     lambda p, g: g * (norm(p).clamp(0.1, 1) / norm(g)).clamp(0.5, 2)),
    (TrustRatio(), lambda p, g: g * norm(p) / norm(g)),
    (ClipRMS(0.4), lambda p, g: g / (rms(g) / 0.4).clamp(min=1)),
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("technique", "formula"), FORMULAS, ids=[repr(t) for t, _ in FORMULAS])
def test_formula(technique: Any, formula: Any, engine: str, few: None) -> None:
    params = {k: Parameter(v) for k, v in values().items()}
    opt = thalweg.SGD(list(params.values()), lr=0.1, techniques=[technique], engine=engine)
    expected = values()
    for t in range(1, 6):
        for (k, p), n in zip(params.items(), values(t).values(), strict=True):
            p.grad = n + 0.1 * expected[k]
            expected[k] = expected[k] - 0.1 * formula(expected[k], p.grad)
        opt.step()
    for k, p in params.items():
        torch.testing.assert_close(p.data, expected[k], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("technique", [AGC(0.1, unit_axis=1), SoftClip(0.1, unit_axis=1), Centralise(unit_axis=1)])
def test_another_unit_axis(technique: Any, shape: tuple[int, ...], engine: str, few: None) -> None:
    """As with the axes exchanged: ConvTranspose counts its outputs along axis 1."""
    start, g = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    p, q = Parameter(start.clone()), Parameter(start.transpose(0, 1).contiguous())
    p.grad, q.grad = g, g.transpose(0, 1).contiguous()
    plain = type(technique)() if isinstance(technique, Centralise) else type(technique)(0.1)
    thalweg.SGD([p], lr=1.0, techniques=[technique], engine=engine).step()
    thalweg.SGD([q], lr=1.0, techniques=[plain], engine="reference").step()
    torch.testing.assert_close(p.data, q.data.transpose(0, 1), rtol=1e-12, atol=1e-13)


def test_a_unit_axis_that_does_not_exist() -> None:
    p = Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = thalweg.SGD([p], techniques=[AGC(unit_axis=2)], engine="reference")
    with pytest.raises(ValueError, match="unit_axis 2"):
        opt.step()
    assert (p == 1).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("most", [0.5, 100.0])
def test_clip_norm_is_over_all_groups(most: float, engine: str, few: None) -> None:
    """Also over groups of different recipes, whatever else stands in the gradient's place."""
    params = {k: Parameter(v) for k, v in values().items()}
    a, b, c, *rest = params.values()
    groups = [
        {"params": [a, b], "recipe": "sgd", "weight_decay": 0.1},
        {"params": [c], "recipe": thalweg.Recipe()},
        {"params": rest, "recipe": "sgd"},
    ]
    opt = thalweg.Optimizer(groups, lr=0.1, techniques=[ClipNorm(most)], engine=engine)
    grads = values(1)
    for k, p in params.items():
        p.grad = grads[k].clone()
    opt.step()
    whole = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    for i, (k, start) in enumerate(values().items()):
        step = grads[k] / (whole / most).clamp(min=1) + (0.1 * start if i < 2 else 0.0)
        torch.testing.assert_close(params[k].data, start - 0.1 * step, rtol=1e-12, atol=1e-13)
        assert torch.equal(params[k].grad, grads[k])


def test_gradient_techniques_come_before_coupled_decay() -> None:
    opt = thalweg.SGD([Parameter(torch.ones(2))], techniques=["agc", ClipNorm(2.0), "centralise"])
    assert opt.recipe.gradient == Chain((AGC(), ClipNorm(2.0), L2(), Centralise()))


def test_model_wide_length() -> None:
    p, q = Parameter(torch.zeros(2)), Parameter(torch.zeros(1))
    p.grad, q.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    thalweg.SGD([p, q], lr=1.0, techniques=[NormaliseGradient("model")], engine="foreach").step()
    torch.testing.assert_close(p.data, torch.tensor([-0.6, 0.0]))
    torch.testing.assert_close(q.data, torch.tensor([-0.8]))


# ----------------------------------------------------------------------------------------------------------- cautious


def cautious_lion(p: Tensor, g: Tensor, state: dict[str, Tensor], scaling: str) -> Tensor:
    m = state.setdefault("m", torch.zeros_like(p))
    u = (0.8 * m + 0.2 * g).sign()
    state["m"] = 0.9 * m + 0.1 * g
    mask = (u * g > 0).double()
    gain: Any = 1.0
    if scaling == "mean":
        gain = 1 / mask.mean().clamp(min=1e-3)
    elif scaling == "paper":
        gain = mask.numel() / (mask.sum() + 1)
    return p * (1 - 0.01) - 0.1 * u * mask * gain


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scaling", ["mean", "paper", "none"])
def test_cautious_lion(scaling: str, engine: str, few: None) -> None:
    """The mask comes after the sign, is taken per tensor, and leaves decay alone."""
    params = {k: Parameter(v) for k, v in values().items()}
    techniques = [Cautious(scaling)]
    opt = thalweg.Lion(
        list(params.values()), lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, techniques=techniques, engine=engine
    )
    expected: dict[str, Tensor] = values()
    states: dict[str, dict[str, Tensor]] = {k: {} for k in SHAPES}
    for t in range(1, 9):
        for (k, p), n in zip(params.items(), values(t).values(), strict=True):
            p.grad = n
            expected[k] = cautious_lion(expected[k], n, states[k], scaling)
        opt.step()
    for k, p in params.items():
        torch.testing.assert_close(p.data, expected[k], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "adafactor", "lion", "nsgda", "lamb", "muon", "adabelief"])
def test_nothing_moves_against_its_gradient(name: str) -> None:
    """Also in flows that average quotients or whole steps."""
    options: dict[str, Any] = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    options |= {"beta1": 0.9} if name == "adafactor" else {"lr": 0.1}
    params = {k: Parameter(v) for k, v in values().items() if name != "muon" or k == "matrix"}
    opt = thalweg.get(name).cls(
        list(params.values()), weight_decay=0.0, techniques=["cautious"], engine="foreach", **options
    )
    for t in range(1, 6):
        before = {k: p.detach().clone() for k, p in params.items()}
        for k, p in params.items():
            p.grad = values(t)[k]
        opt.step()
        moved = 0
        for k, p in params.items():
            assert ((p - before[k]) * p.grad <= 0).all(), k
            moved += int((p != before[k]).sum())
        assert moved


def test_cautious_survives_gradients_whose_product_underflows() -> None:
    p = Parameter(torch.zeros(4))
    opt = thalweg.SGD([p], lr=1e20, momentum=0.9, techniques=["cautious"], engine="foreach")
    p.grad = torch.full((4,), 1e-30)
    opt.step()
    assert (p < 0).all()


def test_cautious_with_no_agreement_does_not_move() -> None:
    p = Parameter(torch.zeros(2))
    opt = thalweg.SGD([p], lr=1.0, momentum=0.9, techniques=["cautious"], engine="foreach")
    p.grad = torch.ones(2)
    opt.step()
    before = p.detach().clone()
    p.grad = -0.1 * torch.ones(2)
    opt.step()
    assert torch.equal(p.data, before)


# ------------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: AGC(0.0), "clip"),
        (lambda: AGC(eps=-1.0), "eps"),
        (lambda: AGC(unit_axis=-1), "unit_axis"),
        (lambda: Centralise(unit_axis=0.5), "unit_axis"),  # type: ignore[arg-type]
        (lambda: ClipValue(-1.0), "limit"),
        (lambda: ClipNorm(0.0), "max_norm"),
        (lambda: ClipRMS(0.0), "threshold"),
        (lambda: NormaliseGradient(eps=-1e-8), "eps"),
        (lambda: NormaliseGradient("group"), "over"),
        (lambda: LayerNormAdaptation(bounds=(2.0, 1.0)), "bounds"),
        (lambda: TrustRatio(clip=(1.0,)), "clip"),  # type: ignore[arg-type]
        (lambda: Cautious("median"), "scaling"),
        (lambda: Cautious(floor=0.0), "floor"),
    ],
)
def test_refusals(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("technique", [t for t, _ in FORMULAS] + [Cautious(), ClipNorm()], ids=repr)
def test_zero_gradients_and_zero_weights_are_finite(technique: Any, dtype: torch.dtype) -> None:
    params = {k: Parameter(torch.zeros(s, dtype=dtype)) for k, s in SHAPES.items()}
    opt = thalweg.AdamW(list(params.values()), lr=0.1, techniques=[technique], engine="foreach")
    for scale in (0.0, 1.0, 0.0):
        for k, p in params.items():
            p.grad = scale * values(1, dtype)[k]
        opt.step()
    assert all(p.isfinite().all() for p in params.values())


def test_untouched_defaults_of_the_slots_they_share() -> None:
    """Techniques that are slots of named optimizers leave those as they were."""
    assert thalweg.get("lamb").recipe.scale == TrustRatio()
    assert thalweg.get("lamb").recipe.coupled == PlusDecay()
    assert thalweg.get("nsgda").recipe.scale == UnitNorm()
    assert thalweg.get("adafactor").recipe.scale == ClipRMS()
