"""A hundred float64 steps of the reference engine against the plain NumPy references of ``tests/references``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES
from references import REFERENCES, Array, Lookahead

STEPS = 100
TOLERANCE = 1e-9
Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Options that both sides take, and where a name or a spelling differs, what the reference takes."""

    name: str
    options: Options
    theirs: Options = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name and what is switched on."""
        flags = [k if v is True else f"{k}={v}" for k, v in self.options.items() if isinstance(v, (bool, str))]
        return "-".join([self.name, *flags, *(["lookahead"] if "outer" in self.options else [])])


ADAM = {"lr": 0.03, "betas": (0.8, 0.97), "eps": 1e-4, "weight_decay": 0.07}
SGD = {"lr": 0.02, "weight_decay": 0.07}
FACTORED = {"eps": (1e-12, 1e-2), "clip_threshold": 0.7, "decay_rate": -0.6, "weight_decay": 0.07}
MUON = {"lr": 0.02, "weight_decay": 0.07, "momentum": 0.9, "eps": 1e-5}
FREE = {"weight_decay": 0.03, "warmup_steps": 7, "r": 0.5, "weight_lr_power": 1.5}
LOSS = {"betas": (0.8, 0.97), "weight_decay": 0.07, "kappa": 0.5, "eps": 1e-3}

CASES = [
    Case("sgd", SGD),
    Case("sgd", {**SGD, "momentum": 0.8, "dampening": 0.3}),
    Case("sgd", {**SGD, "momentum": 0.8, "nesterov": True}),
    Case("sgd", {**SGD, "momentum": 0.8, "outer": thalweg.Lookahead(4, 0.3)}),
    Case("adagrad", {**SGD, "lr_decay": 0.02, "initial_accumulator_value": 0.3, "eps": 1e-4}),
    Case("rmsprop", {**SGD, "alpha": 0.95, "eps": 1e-3}),
    Case("rmsprop", {**SGD, "alpha": 0.95, "eps": 1e-3, "momentum": 0.8, "centered": True}),
    Case("adam", {**ADAM, "amsgrad": True}),
    Case("adam", {**ADAM, "decoupled_weight_decay": True}),
    Case("adamw", ADAM),
    Case("adamw", {**ADAM, "amsgrad": True, "maximize": True}),
    Case("adamw", {**ADAM, "outer": thalweg.Lookahead(3, 0.6)}),
    Case("nadam", {**ADAM, "momentum_decay": 0.02}),
    Case("nadam", {**ADAM, "momentum_decay": 0.02, "decoupled_weight_decay": True}),
    Case("radam", ADAM),
    Case("radam", {**ADAM, "decoupled_weight_decay": True}),
    Case("adams", ADAM),
    Case("adams", {**ADAM, "amsgrad": True}),
    Case("lion", {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.07}),
    Case("lamb", ADAM),
    Case("lamb", {**ADAM, "bias_correction": False}),
    Case("adafactor", FACTORED),
    Case("adafactor", {**FACTORED, "beta1": 0.8, "warmup_init": True}),
    Case("adafactor", {**FACTORED, "lr": 0.03, "relative_step": False, "scale_parameter": False, "beta1": 0.8}),
    Case("nsgda", {**SGD, "momentum": 0.8, "eps": 1e-4}),
    Case("nsgda", {**SGD, "momentum": 0.8, "eps": 1e-4, "scope": "global", "maximize": True}),
    Case("adax", {**ADAM, "betas": (0.8, 0.01)}),
    Case("adax", {**ADAM, "betas": (0.8, 0.01), "decoupled_weight_decay": True}),
    Case("adalo", LOSS),
    Case("adalo", {**LOSS, "mode": "compliant"}),
    Case("muon", MUON, {"adjust_lr": "keller"}),
    Case("muon", {**MUON, "nesterov": False, "adjust_lr": "moonlight"}),
    Case("muon", {**MUON, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "adjust_lr": "none"}),
    Case("sgds", {**SGD, "momentum": 0.8, "dampening": 0.3}),
    Case("sgds", {**SGD, "momentum": 0.8, "nesterov": True}),
    Case("schedulefree_sgd", {**FREE, "lr": 0.05, "momentum": 0.85}),
    Case("schedulefree_adamw", {**FREE, "lr": 0.05, "betas": (0.85, 0.97), "eps": 1e-4}),
]


def test_every_optimizer_has_a_case() -> None:
    assert {case.name for case in CASES} == set(NAMES) & set(REFERENCES) == set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_has_a_reference(name: str) -> None:
    assert name in REFERENCES, "write its plain NumPy form in tests/references"


def _shapes(random: np.random.Generator, matrices: bool) -> list[tuple[int, ...]]:
    sizes = lambda n: tuple(int(k) for k in random.integers(2, 7, n))  # noqa: E731
    if matrices:
        return [sizes(2), sizes(4), (7, 3), (3, 7)]
    return [(), sizes(1), sizes(2), sizes(4), (1, 5), sizes(3)]


def _reference(case: Case, start: list[Array]) -> Any:
    options = {**case.options, **case.theirs}
    outer = options.pop("outer", None)
    made = REFERENCES[case.name](start, **options)
    return made if outer is None else Lookahead(made, outer.k, outer.alpha)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_hundred_steps(case: Case, seed: int, record_property: Any) -> None:
    """Random shapes, random missing gradients, gradients that follow the parameters, and a changing lr."""
    random = np.random.default_rng(seed)
    start = [np.asarray(random.normal(size=shape)) for shape in _shapes(random, case.name == "muon")]
    params = [Parameter(torch.tensor(value)) for value in start]
    opt = thalweg.get(case.name).cls(params, engine="reference", **case.options)
    reference = _reference(case, start)
    base = case.options.get("lr")
    worst = 0.0
    for t in range(1, STEPS + 1):
        noise = [np.asarray(random.normal(size=value.shape)) for value in start]
        grads = [n + 0.1 * p for n, p in zip(noise, reference.params, strict=True)]
        present = random.random(len(start)) < 0.8
        loss = float(random.random() + 0.1)
        if base is not None:
            lr = base * (1 + 0.5 * math.sin(t))
            opt.param_groups[0]["lr"] = reference.hyper["lr"] = lr
        for p, g, has in zip(params, grads, present, strict=True):
            p.grad = torch.tensor(g) if has else None
        opt.step(loss=loss)
        reference.step([g if has else None for g, has in zip(grads, present, strict=True)], loss)
        for p, want in zip(params, reference.params, strict=True):
            worst = max(worst, float(np.abs(p.detach().numpy() - want).max() / np.abs(want).max()))
    for p, value in zip(params, start, strict=True):
        assert np.abs(p.detach().numpy() - value).max() > 1e-6
    record_property("error", worst)
    assert worst <= TOLERANCE


@pytest.mark.parametrize("name", ["schedulefree_sgd", "schedulefree_adamw"])
def test_modes(name: str) -> None:
    """``eval`` puts the reference's average into the parameters, ``train`` puts the iterate back."""
    case = next(c for c in CASES if c.name == name)
    random = np.random.default_rng(3)
    start = [random.normal(size=(3, 4)), random.normal(size=5)]
    params = [Parameter(torch.tensor(value)) for value in start]
    opt = thalweg.get(name).cls(params, engine="reference", **case.options)
    reference = _reference(case, start)
    for t in range(30):
        grads = [random.normal(size=value.shape) for value in start]
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step()
        reference.step(grads)
        if t % 10 == 9:
            for mode in ("eval", "train"):
                getattr(opt, mode)()
                getattr(reference, mode)()
                for p, want in zip(params, reference.params, strict=True):
                    np.testing.assert_allclose(p.detach().numpy(), want, rtol=0, atol=TOLERANCE * np.abs(want).max())
