"""Decays and regularisers as techniques: which place they take, what they do there, on every engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from thalweg import CPR, CautiousDecay, CoupledDecay, DecoupledDecay, FullyDecoupled, NormLoss, Recipe, Stable
from thalweg.engine import inductor
from thalweg.recipes import ADAM, ADAMW, LAMB, SGD
from thalweg.slots import Decoupled, DecoupledByStep, StableDecay
from thalweg.slots.regularise import inflected, without_decay

ENGINES = ("reference", "foreach", "compiled")
SHAPES: dict[str, tuple[int, ...]] = {"matrix": (4, 6), "vector": (5,), "scalar": (), "conv": (3, 2, 2, 2)}
GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "optimizers.json").read_text())["entries"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of two tensors compile faster than the library's own, and differ from them in length only."""
    monkeypatch.setattr(inductor, "CHUNK", 2)


def values(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in SHAPES.items()}


def units(p: Tensor) -> Tensor:
    axes = tuple(range(1, p.ndim))
    return p.square().sum(dim=axes, keepdim=True).sqrt() if axes else p.square().sum().sqrt()


def norm_loss(p: Tensor, eps: float = 1e-8) -> Tensor:
    return 1 - 1 / (units(p) + eps)


LR, WD = 0.1, 0.3
#: A technique on SGD, and the step p -> p it makes with the gradient g.
STEPS: list[tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = [
    (DecoupledDecay(), lambda p, g: p * (1 - LR * WD) - LR * g),
    (DecoupledDecay(power=2), lambda p, g: p * (1 - LR**2 * WD) - LR * g),
    (CoupledDecay(), lambda p, g: p - LR * (g + WD * p)),
    (FullyDecoupled(), lambda p, g: p * (1 - WD) - LR * g),
    (CautiousDecay(), lambda p, g: p - LR * (g + WD * p * (g * p >= 0))),
    (CautiousDecay(strict=True), lambda p, g: p - LR * (g + WD * p * (g * p > 0))),
    (NormLoss(), lambda p, g: p * (1 - (2 * LR * WD * norm_loss(p) if p.ndim > 1 else 0)) - LR * g),
    (NormLoss(vectors=True), lambda p, g: p * (1 - 2 * LR * WD * norm_loss(p)) - LR * g),
    (NormLoss(vectors=True, coupled=True), lambda p, g: p - LR * (g + 2 * WD * (p - p / units(p)))),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("technique", "step"), STEPS, ids=[repr(t) for t, _ in STEPS])
def test_formula(technique: Any, step: Any, engine: str, few: None) -> None:
    params = {k: Parameter(v) for k, v in values().items()}
    opt = thalweg.SGD(list(params.values()), lr=LR, weight_decay=WD, techniques=[technique], engine=engine)
    expected = values()
    for t in range(1, 6):
        for (k, p), n in zip(params.items(), values(t).values(), strict=True):
            p.grad = n
            expected[k] = step(expected[k], n)
        opt.step()
    for k, p in params.items():
        torch.testing.assert_close(p.data, expected[k], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_stable_decay_in_adamw_is_adams(engine: str, few: None) -> None:
    ours, theirs = ([Parameter(v) for v in values().values()] for _ in range(2))
    hyper: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-4}
    a = thalweg.AdamW(ours, techniques=["stable"], engine=engine, **hyper)
    b = thalweg.AdamS(theirs, engine="reference", **hyper)
    for t in range(1, 5):
        for p, q, n in zip(ours, theirs, values(t).values(), strict=True):
            p.grad = q.grad = n
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.data, q.data, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "name", ["sgd", "adam", "adamw", "lamb", "lion", "rmsprop", "nsgda", "adax", "adagrad", "adams"]
)
@pytest.mark.parametrize("technique", ["decoupled", "coupled", "fully_decoupled", "norm_loss", "cautious_decay"])
def test_exactly_one_decay_is_left(name: str, technique: str) -> None:
    recipe = thalweg.techniques.get(technique).slot().into(thalweg.get(name).recipe)
    readers = [slot for _, slot in recipe.slots() if "weight_decay" in slot.hypers()]
    assert len(readers) == 1
    assert "weight_decay" in recipe.hypers()
    p = Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = thalweg.create(name, [p], weight_decay=0.1, techniques=[technique], engine="foreach")
    opt.step()
    assert p.isfinite().all()
    assert (p != 1).all()


def test_the_resulting_recipes_are_the_ordinary_ones() -> None:
    assert DecoupledDecay().into(ADAM) == ADAMW
    assert CoupledDecay().into(ADAMW) == ADAM
    assert Stable().into(ADAM) == ADAMW.but(decay=StableDecay())
    assert DecoupledDecay().into(LAMB) == LAMB.but(coupled=None, decay=Decoupled())
    assert without_decay(CPR().into(ADAMW)) == without_decay(NormLoss(coupled=True).into(ADAM)) == without_decay(ADAM)
    assert CautiousDecay().into(NormLoss(coupled=True).into(SGD)) == Recipe(decay=CautiousDecay())


def test_decay_by_a_rate_that_only_the_device_knows() -> None:
    adafactor = thalweg.get("adafactor").recipe
    assert DecoupledDecay().into(adafactor).decay == DecoupledByStep()
    for technique, match in ((Stable(), "rate"), (FullyDecoupled(), "lr"), (DecoupledDecay(2), "power")):
        with pytest.raises(ValueError, match=match):
            technique.into(adafactor)


def test_stable_decay_needs_a_second_moment() -> None:
    with pytest.raises(ValueError, match="second moment"):
        thalweg.SGD([Parameter(torch.ones(2))], techniques=["stable"])


@pytest.mark.parametrize("name", ["lars", "adamw2"])
def test_a_decay_that_is_part_of_something_else_cannot_be_replaced(name: str) -> None:
    with pytest.raises(ValueError, match="weight decay is part of"):
        thalweg.create(name, [Parameter(torch.ones(2, 2))], techniques=["decoupled"])


# ---------------------------------------------------------------------------------------------------- fully decoupled


def test_fully_decoupled_follows_the_schedule_and_not_the_rate() -> None:
    found = []
    for lr in (0.1, 0.003):
        p = Parameter(torch.ones(3))
        opt = thalweg.AdamW([p], lr=lr, weight_decay=0.01, techniques=["fully_decoupled"], engine="foreach")
        schedule = torch.optim.lr_scheduler.LinearLR(opt, 0.25, 1.0, total_iters=3)
        p.grad = torch.zeros(3)
        kept = []
        for _ in range(4):
            before = p[0].item()
            opt.step()
            schedule.step()
            kept.append(1 - p[0].item() / before)
        found.append(kept)
    assert found[0] == pytest.approx([0.0025, 0.005, 0.0075, 0.01], rel=1e-4)
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_fully_decoupled_without_a_scheduler_remembers_the_first_rate() -> None:
    def steps(opt: Any, p: Tensor, rates: list[float]) -> None:
        for rate in rates:
            opt.param_groups[0]["lr"] = rate
            p.grad = torch.zeros_like(p)
            opt.step()

    def made(p: Tensor) -> Any:
        return thalweg.SGD([p], lr=0.1, weight_decay=0.1, techniques=["fully_decoupled"], engine="foreach")

    p = Parameter(torch.ones(2, dtype=torch.float64))
    opt = made(p)
    steps(opt, p, [0.0, 0.5, 0.25])
    assert p[0].item() == pytest.approx(0.9 * 0.95)
    q = Parameter(p.detach().clone())
    other = made(q)
    other.load_state_dict(opt.state_dict())
    steps(other, q, [0.1])
    assert q[0].item() == pytest.approx(0.9 * 0.95 * 0.98)


# ---------------------------------------------------------------------------------------------------- cautious decay


@pytest.mark.parametrize("strict", [False, True])
def test_cautious_decay_where_nothing_pushes(strict: bool) -> None:
    p = Parameter(torch.ones(2))
    p.grad = torch.zeros(2)
    thalweg.SGD([p], lr=0.1, weight_decay=0.5, techniques=[CautiousDecay(strict)], engine="foreach").step()
    assert p.tolist() == pytest.approx([1.0 if strict else 0.95] * 2)


# ---------------------------------------------------------------------------------------------------------- norm loss


def test_norm_loss_of_short_units_does_not_explode() -> None:
    p = Parameter(torch.full((2, 2), 1e-10))
    p.grad = torch.zeros(2, 2)
    thalweg.SGD([p], lr=0.1, weight_decay=0.01, techniques=["norm_loss"], engine="foreach").step()
    assert (p.abs() < 1e-9).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_norm_loss_draws_units_to_length_one(engine: str, few: None) -> None:
    p = Parameter(torch.tensor([[3.0, 4.0], [0.03, 0.04]]))
    opt = thalweg.SGD([p], lr=0.1, weight_decay=0.5, techniques=["norm_loss"], engine=engine)
    for _ in range(200):
        p.grad = torch.zeros(2, 2)
        opt.step()
    assert units(p.detach()).flatten().tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------- CPR


def golden_of_the_detector() -> Any:
    (entry,) = (e for e in GOLDENS if e["optimizer"] == "CPR inflection")
    return entry["table"]


@pytest.mark.parametrize(("key", "smoothing"), [("no_ema", 0.0), ("ema_0p9_zero_init", 0.9)])
def test_detector_on_a_logistic_curve(key: str, smoothing: float) -> None:
    average, change = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for k in range(1, 40):
        size = torch.tensor(100 / (1 + math.exp(-(k - 8) / 2)), dtype=torch.float64)
        average, change, slower = inflected(size, average, change, smoothing)
        # Around the inflection of the bare curve two differences are equal but for their last bits.
        if k >= 4 and bool(slower) and not (smoothing == 0 and k == 9):
            break
    expected = golden_of_the_detector()[key]
    assert (k, size.item()) == (expected["k"], pytest.approx(expected["kappa"], rel=1e-9))


@pytest.mark.parametrize("engine", ENGINES)
def test_inflection_in_training(engine: str, few: None) -> None:
    """A weight grows along a logistic curve; kappa is taken where its growth slows down, and holds from then on."""
    period = 2
    p = Parameter(torch.zeros(4, dtype=torch.float64))
    technique = CPR(period=period, smoothing=0.5)
    opt = thalweg.SGD([p], lr=1.0, techniques=[technique], engine=engine)
    average = change = kappa = lam = 0.0
    q, known, looks = torch.zeros(4, dtype=torch.float64), 0, []
    for t in range(1, 41):
        target = torch.full((4,), 2 / (1 + math.exp(-(t - 16) / 3)), dtype=torch.float64)
        p.grad = (p.detach() - target) * 0.5
        q = q - (q - target) * 0.5
        opt.step()
        size = q.square().sum().item()
        if known:
            lam = max(0.0, lam + (size - kappa) / 4)
            q = q - lam * 2 * q
        elif t % period == 0:
            new = 0.5 * average + 0.5 * size
            slower = new - average < change
            average, change = new, new - average
            looks.append(size)
            if len(looks) >= 4 and slower:
                kappa, known = size, t
        torch.testing.assert_close(p.data, q, rtol=1e-11, atol=1e-12)
    assert known
    assert opt.state[p]["kappa"].item() == pytest.approx(kappa, rel=1e-12)
    assert q.square().sum().item() < 1.1 * kappa


METHODS = [
    CPR("uniform", kappa=3.0),
    CPR("uniform", kappa=3.0, by_lr=True, update=4.0),
    CPR("dependent", kappa=0.9),
    CPR("dependent", kappa=0.9, measure="l1"),
    CPR("dependent", kappa=0.9, measure="std"),
    CPR("dependent", kappa=0.9, measure="huber"),
    CPR("warm_start", kappa=3),
    CPR(period=1),
]


@pytest.mark.parametrize("technique", METHODS, ids=repr)
def test_engines_agree(technique: CPR, few: None) -> None:
    found = []
    for engine in ENGINES:
        params = {k: Parameter(v) for k, v in values().items()}
        opt = thalweg.AdamW(list(params.values()), lr=0.02, techniques=[technique], engine=engine)
        for t in range(1, 9):
            for p, n in zip(params.values(), values(t).values(), strict=True):
                p.grad = n
            opt.step()
        found.append(params)
    for other in found[1:]:
        for k, p in found[0].items():
            torch.testing.assert_close(other[k].data, p.data, rtol=1e-9, atol=1e-10)


def test_cpr_holds_the_size_at_kappa() -> None:
    p = Parameter(torch.ones(100))
    opt = thalweg.SGD([p], lr=0.01, techniques=[CPR("uniform", kappa=150.0)], engine="foreach")
    for _ in range(300):
        p.grad = -torch.ones(100)
        opt.step()
    assert 130 < p.square().sum().item() < 165  # it swings around kappa


def test_cpr_of_one_element_by_its_deviation_does_nothing() -> None:
    p = Parameter(torch.ones(()))
    p.grad = torch.zeros(())
    thalweg.SGD([p], lr=0.1, techniques=[CPR("uniform", kappa=0.1, measure="std")], engine="foreach").step()
    assert p.item() == 1.0


def test_groups_that_are_not_regularised() -> None:
    a, b = Parameter(torch.ones(4)), Parameter(torch.ones(4))
    groups = [{"params": [a]}, {"params": [b], "regularise": False}]
    opt = thalweg.AdamCPR(groups, lr=0.0, kappa_init_method="uniform", kappa_init_param=2.0, engine="foreach")
    a.grad, b.grad = torch.ones(4), torch.ones(4)
    opt.step()
    assert (a < 1).all()
    assert (b == 1).all()
    assert "lagmul" not in opt.state[b]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CPR("later"), "method"),
        (lambda: CPR(measure="l3"), "measure"),
        (lambda: CPR(kappa=0.0), "kappa"),
        (lambda: CPR(update=-1.0), "update"),
        (lambda: CPR(period=0), "period"),
        (lambda: CPR(smoothing=1.0), "smoothing"),
        (lambda: NormLoss(eps=-1.0), "eps"),
        (lambda: NormLoss(floor=0.0), "floor"),
        (lambda: NormLoss(unit_axis=-1), "unit_axis"),
        (lambda: DecoupledDecay(-1), "power"),
    ],
)
def test_refusals(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("name", thalweg.list_techniques())
def test_every_technique_prints_its_equation(name: str) -> None:
    slot = thalweg.techniques.get(name).slot()
    assert slot.equation("u")
    assert thalweg.techniques.get(name).source
    assert thalweg.techniques.get(name).title
