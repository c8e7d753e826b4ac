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
from references import REFERENCES, Array, MomentumLookahead

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
ATAN2 = {"lr": 0.03, "betas": (0.8, 0.97), "weight_decay": 0.07}
SGD = {"lr": 0.02, "weight_decay": 0.07}
FACTORED = {"eps": (1e-12, 1e-2), "clip_threshold": 0.7, "decay_rate": -0.6, "weight_decay": 0.07}
MUON = {"lr": 0.02, "weight_decay": 0.07, "momentum": 0.9, "eps": 1e-5}
FREE = {"weight_decay": 0.03, "warmup_steps": 7, "r": 0.5, "weight_lr_power": 1.5}
LARS = {"lr": 0.3, "weight_decay": 0.07, "momentum": 0.8, "eps": 1e-3}
CPR = {"lr": 0.03, "weight_decay": 0.07, "betas": (0.8, 0.97), "eps": 1e-4, "kappa_update": 0.3}
BOUNDED = {**ADAM, "tau": 0.02}
RECTIFIED = {"weight_decay": 0.03, "r": 0.5, "weight_lr_power": 1.5}
LOSS = {"betas": (0.8, 0.97), "weight_decay": 0.07, "kappa": 0.5, "eps": 1e-3}
DISTANCE = {"betas": (0.8, 0.97), "eps": 1e-3, "weight_decay": 0.07, "d0": 0.01}
DOG = {"lr": 0.7, "weight_decay": 0.07, "reps_rel": 0.01, "eps": 1e-3}
MOMO = {"lr": 0.5, "weight_decay": 0.07, "lb": 0.2}

AMOS = {"lr": 0.05, "beta": 0.95, "extra_l2": 1e-3, "weight_decay": 0.01}

CASES = [
    Case("sgd", SGD),
    Case("sgd", {**SGD, "momentum": 0.8, "dampening": 0.3}),
    Case("sgd", {**SGD, "momentum": 0.8, "nesterov": True}),
    Case("sgd", {**SGD, "momentum": 0.8, "outer": thalweg.Lookahead(4, 0.3)}),
    Case("sgd", {**SGD, "momentum": 0.8, "outer": thalweg.Lookahead(4, 0.3, "pullback")}),
    Case("adamw", {**ADAM, "outer": thalweg.Lookahead(3, 0.6, "pullback")}),
    Case("adamw", {**ADAM, "outer": thalweg.Lookahead(3, 0.6, "reset")}),
    Case("adagrad", {**SGD, "lr_decay": 0.02, "initial_accumulator_value": 0.3, "eps": 1e-4}),
    Case("rmsprop", {**SGD, "alpha": 0.95, "eps": 1e-3}),
    Case("sgd", {**SGD, "momentum": 0.8, "dampening": 0.3, "lr_inside": True}),
    Case("sgd", {**SGD, "momentum": 0.8, "nesterov": True, "lr_inside": True}),
    Case("adagrad", {**SGD, "initial_accumulator_value": 0.3, "eps": 1e-2, "lr_decay": 0.02, "eps_inside": True}),
    Case("rmsprop", {**SGD, "alpha": 0.95, "eps": 1e-2, "eps_inside": True, "centered": True}),
    Case(
        "rmsprop",
        {
            **SGD,
            "alpha": 0.95,
            "eps": 1e-2,
            "eps_inside": True,
            "lr_inside": True,
            "momentum": 0.8,
            "initial_square_avg": 1.0,
            "decoupled_weight_decay": True,
        },
    ),
    Case("rmspropv2", {**SGD, "alpha": 0.95, "eps": 1e-2}),
    Case("rmspropv2", {**SGD, "alpha": 0.95, "eps": 1e-2, "momentum": 0.8, "eps_inside": False, "maximize": True}),
    Case("adadelta", {"lr": 0.8, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.07}),
    Case("sparseadam", ADAM),
    Case("asgd", {**SGD, "lambd": 0.05, "alpha": 0.6, "t0": 30}),
    Case("rprop", {**SGD, "lr": 0.03, "etas": (0.4, 1.3), "step_sizes": (1e-4, 0.3)}),
    Case("rmsprop", {**SGD, "alpha": 0.95, "eps": 1e-3, "momentum": 0.8, "centered": True}),
    Case("adam", {**ADAM, "amsgrad": True}),
    Case("adam", {**ADAM, "decoupled_weight_decay": True}),
    Case("adam", {**ADAM, "epsilon_hat": True}),
    Case("adam", {**ADAM, "amsgrad": True, "epsilon_hat": True}),
    Case("adam", {**ADAM, "amsgrad": True, "amsgrad_convention": "optax"}),
    Case("adam", {**ADAM, "amsgrad": True, "amsgrad_convention": "paper", "decoupled_weight_decay": True}),
    Case("adamw", ADAM),
    Case("adamw", {**ADAM, "amsgrad": True, "maximize": True}),
    Case("adamw", {**ADAM, "outer": thalweg.Lookahead(3, 0.6)}),
    Case("nadam", {**ADAM, "momentum_decay": 0.02}),
    Case("nadam", {**ADAM, "momentum_decay": 0.02, "decoupled_weight_decay": True}),
    Case("nadam", {**ADAM, "convention": "constant"}),
    Case("nadam", {**ADAM, "convention": "simple", "decoupled_weight_decay": True}),
    Case("nadam", {**ADAM, "convention": "raw"}),
    Case("adamax", ADAM),
    Case("adam_atan2", {**ATAN2, "a": 1.1, "b": 0.7}),
    Case("adam_atan2", {**ATAN2, "a": 2.0, "b": 3.0, "raw_momentum": True}),
    Case("sadam", {**ATAN2, "smooth": 3.0}),
    Case("sadam", {**ATAN2, "smooth": 30.0, "amsgrad": False}),
    Case("sadam", {**ATAN2, "smooth": 8.0, "bias_correct_inside": True}),
    Case("adamwarmup", {**ADAM, "warmup": 30}),
    Case("adamwarmup", ADAM),
    Case("diffgrad", ADAM),
    Case("diffgrad", {**ADAM, "legacy": True}),
    Case("adamomentum", ADAM),
    Case("adamomentum", {**ADAM, "decoupled_weight_decay": True}),
    Case("adamomentum", {**ADAM, "debias_momentum": True}),
    Case("radam", ADAM),
    Case("radam", {**ADAM, "decoupled_weight_decay": True}),
    Case("radam", {**ADAM, "threshold": 4.0, "degenerated_to_sgd": False, "decoupled_weight_decay": True}),
    Case("radam", {**ADAM, "threshold": 7.5, "degenerated_to_sgd": False}),
    Case("adams", ADAM),
    Case("adams", {**ADAM, "amsgrad": True}),
    Case("lion", {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.07}),
    Case("lamb", ADAM),
    Case("lamb", {**ADAM, "bias_correction": False}),
    Case("lamb", {**ADAM, "max_grad_norm": 2.0, "always_adapt": False, "grad_averaging": False}),
    Case("lamb", {**ADAM, "weight_decay": 0.0, "always_adapt": False, "eps_inside": True}),
    Case("lamb", {**ADAM, "grad_averaging": False, "bias_correction": False, "ratio_bounds": (0.3, 1.0)}),
    Case("lamb", {**ADAM, "phi_bounds": (0.5, 2.0), "maximize": True}),
    Case("lamb", {**ADAM, "adapt": False}),
    Case("lars", {**LARS, "trust_coeff": 0.05}),
    Case("lars", {**LARS, "trust_coeff": 0.2, "trust_clip": True, "dampening": 0.3, "maximize": True}),
    Case("lars", {**LARS, "trust_coeff": 0.05, "weight_decay": 0.0, "momentum": 0}),
    Case("lars", {**LARS, "trust_coeff": 0.05, "weight_decay": 0.0, "always_adapt": True, "nesterov": True}),
    Case("lars", {**LARS, "trust_coeff": 0.05, "lr_inside": True}),
    Case("lars", {**LARS, "trust_coeff": 0.05, "lr_inside": True, "nesterov": True}),
    Case("larc", {**LARS, "trust_coefficient": 0.1}),
    Case("larc", {**LARS, "trust_coefficient": 0.05, "clip": False, "dampening": 0.3}),
    Case("larc", {**LARS, "trust_coefficient": 0.1, "nesterov": True}),
    Case("larc", {**LARS, "trust_coefficient": 0.1, "momentum": 0}),
    Case("adamcpr", CPR),
    Case("adamcpr", {**CPR, "kappa_init_method": "uniform", "kappa_init_param": 0.5, "kappa_update": 0.01}),
    Case("adamcpr", {**CPR, "kappa_init_method": "dependent", "kappa_init_param": 0.9, "reg_by_lr": True}),
    Case("adamcpr", {**CPR, "kappa_init_method": "warm_start", "kappa_init_param": 9, "reg_function": "huber"}),
    Case("adamcpr", {**CPR, "kappa_init_method": "dependent", "kappa_init_param": 0.9, "reg_function": "l1"}),
    Case("adamcpr", {**CPR, "kappa_init_method": "dependent", "kappa_init_param": 0.9, "reg_function": "std"}),
    Case("adamw2", BOUNDED),
    Case("adamw2", {**BOUNDED, "sigma": ("power", 3)}, {"sigma": "power", "power_iters": 3}),
    Case("adafactor", FACTORED),
    Case("adafactor", {**FACTORED, "beta1": 0.8, "warmup_init": True}),
    Case("adafactor", {**FACTORED, "lr": 0.03, "relative_step": False, "scale_parameter": False, "beta1": 0.8}),
    Case("adafactor", {**FACTORED, "flatten_conv": True, "decay_by": "lr"}),
    Case("adafactor", {**FACTORED, "factored": False, "beta1": 0.8, "decay_by": "lr_squared"}),
    Case("adafactor_torch", {**SGD, "beta2_decay": -0.6, "eps": (None, 1e-2), "d": 0.7}),
    Case("adafactor_torch", {**SGD, "eps": (0.6, 1e-2), "maximize": True}),
    Case("adafactor_bv", {**SGD, "min_dim_size_to_factor": 2, "decay_offset": 5, "clipping_threshold": 0.7}),
    Case("adafactor_bv", {**SGD, "min_dim_size_to_factor": 4, "beta2_cap": 0.8, "decay_rate": 0.6, "eps": 1e-5}),
    Case("adafactor_bv", {**SGD, "momentum": None, "unscaled_wd": True}),
    Case("sm3", {**SGD, "eps": 1e-4}),
    Case("sm3", {**SGD, "momentum": 0.7, "variant": "I"}),
    Case("sm3", {**SGD, "momentum": 0.0}),
    Case("smmf", {**SGD, "beta": 0.8, "growth_rate": 0.99, "eps": 1e-4}),
    Case("smmf", {**SGD, "beta": None, "vector_reshape": False, "weight_decay_mode": "adam", "eps": 1e-4}),
    Case("smmf", {**SGD, "decay_rate": -0.8, "vector_reshape": False, "packed": False, "eps": 1e-4}),
    Case("smmf", {**SGD, "weight_decay_mode": "none", "eps": 1e-4}),
    Case("amos", {**AMOS, "eta": 0.5}),
    Case("amos", {**AMOS, "slots": "row", "momentum": 0.8, "clip_value": 0.8}),
    Case("amos", {**AMOS, "slots": "col", "eta": 2.0, "c_coef": 0.5, "d_coef": 1.0}),
    Case("amos", {**AMOS, "slots": "full", "momentum": 0.8, "maximize": True}),
    Case("nsgda", {**SGD, "momentum": 0.8, "eps": 1e-4}),
    Case("nsgda", {**SGD, "momentum": 0.8, "eps": 1e-4, "scope": "global", "maximize": True}),
    Case("adax", {**ADAM, "betas": (0.8, 0.01)}),
    Case("adax", {**ADAM, "betas": (0.8, 0.01), "decoupled_weight_decay": True}),
    Case("adalo", LOSS),
    Case("adalo", {**LOSS, "mode": "compliant"}),
    Case("muon", MUON, {"adjust_lr": "keller"}),
    Case("muon", {**MUON, "nesterov": False, "adjust_lr": "moonlight"}),
    Case("muon", {**MUON, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "adjust_lr": "none"}),
    Case("soap", {**ADAM, "precondition_frequency": 3}),
    Case("soap", {**ADAM, "precondition_frequency": 1, "shampoo_beta": 0.9, "normalize_grads": True, "maximize": True}),
    Case("soap", {**ADAM, "max_precond_dim": 6, "merge_dims": True, "correct_bias": False}),
    Case(
        "soap", {**ADAM, "max_precond_dim": 3, "precondition_1d": True, "normalize_grads": True, "correct_bias": False}
    ),
    Case("sgds", {**SGD, "momentum": 0.8, "dampening": 0.3}),
    Case("sgds", {**SGD, "momentum": 0.8, "nesterov": True}),
    Case("schedulefree_sgd", {**FREE, "lr": 0.05, "momentum": 0.85}),
    Case("schedulefree_adamw", {**FREE, "lr": 0.05, "betas": (0.85, 0.97), "eps": 1e-4}),
    Case("schedulefree_adamw", {**FREE, "lr": 0.05, "betas": (0.85, 0.97), "eps": 1e-4, "paper": True}),
    Case("schedulefree_adamw", {**FREE, "lr": 0.05, "betas": (0.85, 0.97), "eps": 1e-4, "inner_momentum": 0.7}),
    Case("schedulefree_radam", {**RECTIFIED, "lr": 0.05, "betas": (0.85, 0.97), "eps": 1e-4}),
    Case("schedulefree_radam", {**RECTIFIED, "lr": 0.05, "betas": (0.85, 0.9), "silent_sgd_phase": False}),
    Case("prodigy", {**DISTANCE, "lr": 0.8}),
    Case("prodigy", {**DISTANCE, "lr": 0.8, "decouple": False, "use_bias_correction": True, "growth_rate": 1.02}),
    Case("prodigy", {**DISTANCE, "lr": 0.8, "safeguard_warmup": True, "slice_p": 3, "beta3": 0.9, "d_coef": 0.5}),
    Case("prodigy", {**DISTANCE, "lr": 0.8, "betas": (0.0, 0.97)}),
    Case("dadapt_adam", {**DISTANCE, "lr": 0.8}),
    Case("dadapt_adam", {**DISTANCE, "lr": 0.8, "decouple": True, "use_bias_correction": True, "growth_rate": 1.02}),
    Case("dadapt_adam", {**DISTANCE, "lr": 0.8, "layer_scale": 1.7, "maximize": True}),
    Case("dog", DOG),
    Case("dog", {**DOG, "init_eta": 0.02, "maximize": True}),
    Case("ldog", DOG),
    Case("ldog", {**DOG, "init_eta": 0.02}),
    Case("momo", {**MOMO, "beta": 0.8}),
    Case("momo", {**MOMO, "beta": 0.8, "bias_correction": True, "use_fstar": True}),
    Case("momo", {**MOMO, "beta": 0.8, "use_fstar": True, "lb": -1.0, "maximize": True}),
    Case("momo_adam", {**MOMO, "betas": (0.8, 0.97), "eps": 1e-3}),
    Case("momo_adam", {**MOMO, "betas": (0.8, 0.97), "eps": 1e-3, "divide": False, "use_fstar": True}),
    Case("am_msgd", {**SGD, "lam": 0.3, "beta_max": 0.8}),
    Case("am_msgd", {**SGD, "lam": 0.0, "beta_max": 1.0, "maximize": True}),
    Case("am_adamw", {**ADAM, "lam": 0.3}),
    Case("am_adamw", {**ADAM, "lam": 0.0, "outer": thalweg.Lookahead(3, 0.6)}),
    Case("stableadamw", {**ADAM, "clip_threshold": 0.8}),
    Case("adopt", ADAM),
    Case("adopt", {**ADAM, "decoupled_weight_decay": True, "clip_power": 0.1}),
    Case("adopt", {**ADAM, "clip": False}),
    Case("ademamix", {**ADAM, "betas": (0.8, 0.97, 0.99), "alpha": 5.0}),
    Case("ademamix", {**ADAM, "betas": (0.8, 0.97, 0.99), "alpha_warmup": 30, "beta3_warmup": 50}),
    Case("ademamix", {**ADAM, "betas": (0.0, 0.97, 0.99)}),
    Case("adabelief", {**ADAM, "eps": 1e-6}),
    Case("adabelief", {**ADAM, "eps": 1e-6, "amsgrad": True, "decoupled_weight_decay": False}),
    Case("adabelief", {**ADAM, "rectify": True}),
    Case("mars", {**ADAM, "gamma": 0.3, "rest": {"lr": 0.02, "weight_decay": 0.05}}),
    Case("mars", {**ADAM, "gamma": 0.3, "amsgrad": True, "optimize_1d": True}),
    Case("adammini", ADAM),
    *[Case("adammini", {**ADAM, "block": block}) for block in ("row", "tensor", "full")],
    Case("adamnorm", {**ADAM, "gamma": 0.8}),
    Case("adamnorm", {**ADAM, "gamma": 0.8, "accumulate_eps": True, "amsgrad": True, "decoupled_weight_decay": True}),
    Case("adabeliefnorm", {**ADAM, "gamma": 0.8, "eps": 1e-6}),
    Case("adabeliefnorm", {**ADAM, "gamma": 0.8, "amsgrad": True, "decoupled_weight_decay": True}),
    Case("radamnorm", {**ADAM, "gamma": 0.8}),
    Case("radamnorm", {**ADAM, "gamma": 0.8, "threshold": 4.5, "decoupled_weight_decay": False}),
    Case("radamnorm", {**ADAM, "gamma": 0.8, "degenerated_to_sgd": False}),
    Case("diffgradnorm", {**ADAM, "gamma": 0.8}),
    Case("pnm", {**SGD, "betas": (0.8, 0.6)}),
    Case("pnm", {**SGD, "decoupled_weight_decay": False}),
    Case("adapnm", {**ADAM, "betas": (0.8, 0.97, 0.6)}),
    Case("adapnm", {**ADAM, "betas": (0.8, 0.97, 1.5), "amsgrad": False, "decoupled_weight_decay": False}),
    Case("adama", ADAM),
    Case("fcgd", {**SGD, "alpha": 0.7}),
    Case("fcgd", {**SGD, "alpha": 0.7, "weights": "gl"}),
    Case("adagl", {**ADAM, "alpha": 0.4}),
    Case("adagl", {**ADAM, "alpha": 1.3}),
]


def test_every_optimizer_has_a_case() -> None:
    assert {case.name for case in CASES} == set(NAMES) & set(REFERENCES) == set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_has_a_reference(name: str) -> None:
    assert name in REFERENCES, "write its plain NumPy form in tests/references"


def _shapes(random: np.random.Generator, name: str) -> list[tuple[int, ...]]:
    sizes = lambda n: tuple(int(k) for k in random.integers(2, 7, n))  # noqa: E731
    if name == "soap":  # a first gradient of nearly full rank along each axis: else its eigenvectors are arbitrary
        return [(), (2,), (4, 4), (3, 4), (3, 2, 2, 3)]
    if name == "muon":
        return [sizes(2), sizes(4), (7, 3), (3, 7)]
    return [(), sizes(1), sizes(2), sizes(4), (1, 5), sizes(3)]


def _reference(case: Case, start: list[Array]) -> Any:
    options = {**case.options, **case.theirs}
    outer = options.pop("outer", None)
    made = REFERENCES[case.name](start, **options)
    return made if outer is None else MomentumLookahead(made, outer.k, outer.alpha, outer.momentum)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_hundred_steps(case: Case, seed: int, record_property: Any) -> None:
    """Random shapes, random missing gradients, gradients that follow the parameters, and a changing lr."""
    random = np.random.default_rng(seed)
    start = [np.asarray(random.normal(size=shape)) for shape in _shapes(random, case.name)]
    params = [Parameter(torch.tensor(value)) for value in start]
    opt = thalweg.get(case.name).cls(params, engine="reference", **case.options)
    reference = _reference(case, start)
    base = case.options.get("lr")
    tuned = [group for group in opt.param_groups if group["lr"] == base]
    worst = 0.0
    for t in range(1, STEPS + 1):
        noise = [np.asarray(random.normal(size=value.shape)) for value in start]
        grads = [n + 0.1 * p for n, p in zip(noise, reference.params, strict=True)]
        present = random.random(len(start)) < 0.8
        loss = float(random.random() + 0.1)
        if base is not None:
            lr = base * (1 + 0.5 * math.sin(t))
            reference.hyper["lr"] = lr
            for group in tuned:
                group["lr"] = lr
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


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("schedulefree")])
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
