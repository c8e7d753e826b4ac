"""The references against the golden numbers, and the rules that all of them share."""

import ast
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from references import PROBLEMS, REFERENCES, Array, Lookahead, Reference, golden_gradient, half_square_loss, trajectory

HERE = Path(__file__).parent
ENTRIES: dict[str, dict[str, Any]] = {
    entry["name"]: entry for entry in json.loads((HERE.parent / "goldens/optimizers.json").read_text())["entries"]
}

# Golden optimizer -> public name, golden hyper-parameters renamed (to None: dropped, the reference has one meaning).
COVERED: dict[str, tuple[str, dict[str, str | None]]] = {
    "torch.SGD": ("sgd", {}),
    "torch.Adagrad": ("adagrad", {}),
    "torch.RMSprop": ("rmsprop", {}),
    "momentum (lr inside)": ("sgd", {"gamma": "momentum"}),
    "Nesterov (lr inside)": ("sgd", {"mu": "momentum"}),
    "Adagrad (seed, eps inside)": ("adagrad", {"l2": "weight_decay"}),
    "RMSProp (seed, eps inside)": (
        "rmsprop",
        {"l2": "weight_decay", "beta": "alpha", "v0": "initial_square_avg"},
    ),
    "timm.RMSpropTF": (
        "rmsprop",
        {
            "decoupled_decay": "decoupled_weight_decay",
            "lr_in_momentum": "lr_inside",
            "square_avg_init": "initial_square_avg",
            "corrected_weight_decay": None,
            "caution": None,
        },
    ),
    "RMSPropV2 (seed)": ("rmspropv2", {"l2": "weight_decay", "beta": "alpha"}),
    "monolith RMSprop v1 dense": ("rmsprop", {"beta1": "momentum", "beta2": "alpha"}),
    "monolith RMSpropV2 dense": ("rmspropv2", {"beta1": "momentum", "beta2": "alpha"}),
    "monolith RMSpropV2 hash table": ("rmspropv2", {"momentum": "alpha", "weight_decay_factor": "weight_decay"}),
    "torch.Adadelta": ("adadelta", {}),
    "torch.ASGD": ("asgd", {}),
    "torch.Rprop": ("rprop", {}),
    "torch.Adam": ("adam", {}),
    "torch.AdamW": ("adamw", {}),
    "AdamW": ("adamw", {}),
    "torch.NAdam": ("nadam", {}),
    "NAdam": ("nadam", {}),
    "torch.RAdam": ("radam", {}),
    "RAdam": ("radam", {}),
    "RAdam (author code)": ("radam", {}),
    "RAdam (paper)": ("radam", {}),
    "AMSGrad (optax style)": ("adam", {}),
    "AMSGrad (paper)": ("adam", {}),
    "Adam (epsilon hat)": ("adam", {"eps_hat": "eps"}),
    "torch.Adamax": ("adamax", {}),
    "AdamWarmup (RAdam author code)": ("adamwarmup", {}),
    "Adam-atan2": ("adam_atan2", {"cautious_wd": "cautious_weight_decay", "convention": None, "lam": None}),
    "SAdam (softplus)": ("sadam", {}),
    "diffGrad": ("diffgrad", {}),
    "AdaMomentum / AdaM3": ("adamomentum", {}),
    "Lion": ("lion", {}),
    "LAMB": ("lamb", {"phi": None, "global_clip": None, "adapt": None, "eps_inside_sqrt": None, "ratio_clip": None}),
    "timm.Lamb": ("lamb", {"trust_clip": None}),
    "timm.Lars": ("lars", {}),
    "LARS (paper)": ("lars", {"eta": "trust_coeff"}),
    "apex.LARC(torch.SGD)": ("larc", {}),
    "AdamCPR": ("adamcpr", {}),
    "AdamW^2 (warm-up-free transformer)": ("adamw2", {"power_init": None}),
    "transformers.Adafactor": ("adafactor", {}),
    "Adafactor": ("adafactor", {"beta2_decay": None, "d": None}),
    "torch.Adafactor": ("adafactor_torch", {}),
    "timm.AdafactorBigVision": ("adafactor_bv", {"momentum_dtype": None}),
    "SM3-II": ("sm3", {}),
    "SM3-I": ("sm3", {}),
    "SMMF": ("smmf", {}),
    "Amos": ("amos", {"slot_shape": None, "epsilon": None}),
    "jestimator.amos": ("amos", {"slot_shape": None, "epsilon": None}),
    "nSGDA": ("nsgda", {}),
    "AdaX": ("adax", {}),
    "AdaX-W": ("adax", {}),
    "AdaX (normalised recursion)": ("adax", {}),
    "AdaLo": ("adalo", {}),
    "Muon": (
        "muon",
        {"adjust_lr_fn": None, "ns_dtype": None, "scale": None, "orthogonaliser": None},
    ),
    "AdamS (stable weight decay)": ("adams", {}),
    "SGDS (stable weight decay)": ("sgds", {}),
    "Schedule-Free SGD": ("schedulefree_sgd", {}),
    "Schedule-Free AdamW": ("schedulefree_adamw", {}),
    "Schedule-Free RAdam": ("schedulefree_radam", {}),
    "SOAP": ("soap", {}),
    "Prodigy": ("prodigy", {}),
    "D-Adapt Adam": ("dadapt_adam", {}),
    "DoG": ("dog", {}),
    "LDoG": ("ldog", {}),
    "DoG + polynomial decay averaging": ("dog", {"gamma": None}),
    "MoMo": ("momo", {}),
    "MoMo-Adam": ("momo_adam", {}),
    "AM-MSGD (adaptive memory SGD)": ("am_msgd", {}),
    "AM-AdamW": ("am_adamw", {"beta1_max": None, "beta2": None}),
    "Lookahead(SGD momentum)": ("sgd", {"la_steps": None, "la_alpha": None, "pullback_momentum": None, "base": None}),
    "Lookahead(AdamW)": ("adamw", {"la_steps": None, "la_alpha": None, "pullback_momentum": None, "base": None}),
    "StableAdamW": ("stableadamw", {"clip_thresh": "clip_threshold"}),
    "ADOPT": ("adopt", {"decouple": "decoupled_weight_decay", "clip_lambda": None}),
    "AdEMAMix": ("ademamix", {}),
    "Adam-mini": ("adammini", {"parameter_name": None}),
    "AdaNorm: AdamNorm": ("adamnorm", {}),
    "AdaNorm: AdaBeliefNorm": ("adabeliefnorm", {"weight_decouple": "decoupled_weight_decay", "rectify": None}),
    "AdaNorm: RAdamNorm": ("radamnorm", {"n_sma_threshold": "threshold"}),
    "AdaNorm: diffGradNorm": ("diffgradnorm", {}),
    "PNM": ("pnm", {"decoupled": "decoupled_weight_decay"}),
    "AdaPNM": ("adapnm", {"decoupled": "decoupled_weight_decay"}),
    "AdaGL": ("adagl", {"K": None, "g_0": None}),
    "FCGD_G-L": ("fcgd", {"K": None, "disturbance": None}),
}

# What the recorded hyper-parameters leave out, express in words, or state wrongly.
CORRECTED: dict[str, dict[str, Any]] = {
    # Conventions that the golden optimizer's name stands for.
    "radam_author_no_sgd": {"decoupled_weight_decay": True},
    "radam_author_degenerated_to_sgd": {"decoupled_weight_decay": True},
    "radam_author_beta2_0.9": {"decoupled_weight_decay": True},
    "adam_amsgrad_optax_style": {"amsgrad": True, "amsgrad_convention": "optax"},
    "adam_amsgrad_paper_no_bias_correction": {"amsgrad": True, "amsgrad_convention": "paper"},
    "adam_eps_hat_0.1_tf_style": {"epsilon_hat": True},
    # The rules of other names, recorded like the torch entry.
    "NAdam / seed simplification, raw / matrix23": {"convention": "raw"},
    "NAdam / seed simplification, debiased b1^(t+1) / matrix23": {"convention": "simple"},
    "NAdam / constant-mu Dozat / matrix23": {"convention": "constant"},
    # Conventions and numbers given in words.
    "Adam-atan2 / CUDA package convention (m not debiased inside atan2) / matrix23": {
        "a": 1.0,
        "b": 1.0,
        "raw_momentum": True,
    },
    "Adam-atan2 / lambda form, lam=8 / matrix23": {"a": 8.0, "b": 8.0},
    # The option of one class that is two golden optimizers.
    "adaxw": {"decoupled_weight_decay": True},
    "adaxw_mat": {"decoupled_weight_decay": True},
    # weight_decay is not recorded; the numbers are those without decay, the default of the public name is 5e-4.
    "adax_normalized_recursion": {"weight_decay": 0.0},
    "adax_bojone_eps1e-6": {"weight_decay": 0.0},
    # The paper's form of timm's class.
    "lars_paper_const_lr": {"eps": 0.0, "lr_inside": True},
    "lars_paper_lr_change": {"eps": 0.0, "lr_inside": True},
    # timm's trust_clip is a bound on the ratio.
    "lamb_timm_trust_clip": {"ratio_bounds": (0.0, 1.0)},
    # Recorded as scope "layer"; the numbers are those of the global norm.
    "nSGDA / global / matrix23+vector3": {"scope": "global"},
    # Recorded with weight_decay 0.01; the numbers are those without decay.
    "nSGDA / edge case zero23 / zero23": {"weight_decay": 0.0},
    "nSGDA / edge case scalar / scalar": {"weight_decay": 0.0},
    # The authors' class for the paper, recorded like the current one.
    "Schedule-Free AdamW / paper version; params = y / matrix23": {"paper": True},
    # The scale is given as a formula.
    "Muon / Moonlight scaling, NS5 in float64 / matrix23": {"adjust_lr": "moonlight"},
    # The two betas are recorded apart; the other entries have the defaults.
    "AM-AdamW / cap 0.7, lambda 1 (unclipped beta at steps 3 and 11) / matrix23": {"betas": (0.7, 0.999)},
    # The recorded lr is a default of the wrapper's file; the string "base" has the value that was used.
    "Lookahead(SGD momentum) / k=2, alpha=0.5 / matrix23": {"lr": 0.1},
    "Lookahead(SGD momentum) / k=5, alpha=0.8 / matrix23": {"lr": 0.1},
    "Lookahead(AdamW) /  / matrix23": {"lr": 0.01},
    # The entry's name says that eps accumulates; its hyper-parameters are those of the paper's form.
    "AdaNorm: AdamNorm / authors' code (eps accumulated in v) / matrix23": {"accumulate_eps": True},
}

# What the names of these golden optimizers say.
NAMED: dict[str, dict[str, Any]] = {
    "momentum (lr inside)": {"lr_inside": True},
    "Nesterov (lr inside)": {"lr_inside": True, "nesterov": True},
    "Adagrad (seed, eps inside)": {"eps_inside": True},
    "RMSProp (seed, eps inside)": {"eps_inside": True},
    "timm.RMSpropTF": {"eps_inside": True},
    "monolith RMSprop v1 dense": {"eps_inside": True, "lr_inside": True},
    "monolith RMSpropV2 dense": {"eps_inside": False},
    "monolith RMSpropV2 hash table": {"eps_inside": False, "eps": 1.0},
}

# Options that a golden name stands for, and shapes of slots that are written as words.
CORRECTED.update({f"SM3-I / momentum 0.9 / {problem}": {"variant": "I"} for problem in ("matrix23", "conv2122")})
CORRECTED.update({f"Amos / slots per {kind} / matrix23": {"slots": kind} for kind in ("row", "col")})
CORRECTED["Amos / slots per full / vector3"] = CORRECTED["amos_full_slots"] = {"slots": "full"}
CORRECTED["amos_reduced_axis0_momentum"] = CORRECTED["amos_extra_l2_coefs"] = {"slots": "col"}
CORRECTED["amos_reduced_axis1_clip"] = {"slots": "row"}

# Entries of a covered optimizer that belong to another rule, which their hyper-parameters do not always tell.
OTHER_RULE: dict[str, str] = {
    "lamb_phi_clamp": "phi clips the norm of the weights to [0.5, 2]",
    "lamb_v1_gluon": "eps inside the root and a clipped trust ratio",
    "lamb_excluded_tensor": "no trust ratio for an excluded tensor",
    "adax_bojone_eps1e-6": "eps added to the root of the normalised average; recorded like adax_normalized_recursion",
    "Adafactor / torch.optim.Adafactor flavour / matrix23": "torch's rule: lr caps the relative step, other decay",
    "Muon / exact polar factor / matrix23": "singular value decomposition in place of Newton-Schulz",
    "AdaNorm: RAdamNorm / authors' code (norm EMA reset bug; float32 inside) / matrix23": "the defect makes it RAdam",
}

# Entries of other optimizers that must give the numbers of a reference with these hyper-parameters.
LAMB_1E2 = {"lr": 0.01, "weight_decay": 0.01}
SAME_NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum_seed_const_lr": ("sgd", {"lr": 0.1, "momentum": 0.9}),
    "adamw_paper_form": ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
    "lamb_v3_cybertron": ("lamb", {**LAMB_1E2, "bias_correction": False}),
    "lamb_v3_cybertron_vec": ("lamb", {**LAMB_1E2, "bias_correction": False}),
    "lamb_timm_no_gradclip": ("lamb", LAMB_1E2),
    "lamb_timm_no_bias_corr": ("lamb", {**LAMB_1E2, "bias_correction": False}),
    "lamb_timm_nowd_always_adapt": ("lamb", {"lr": 0.01, "weight_decay": 0.0}),
    "lamb_excluded_tensor": ("adam", {"lr": 0.01, "eps": 1e-6}),
    "adafactor_paper_mat": ("adafactor", {}),
    "adafactor_paper_vec": ("adafactor", {}),
    "adafactor_torch_mat": ("adafactor", {}),
    "adafactor_torch_vec": ("adafactor", {}),
    "adafactor_torch_mat_decay0.5": ("adafactor", {"decay_rate": -0.5}),
    "adafactor_palm": (
        "adafactor",
        {"factored": False, "beta1": 0.9, "weight_decay": 1.0, "decay_by": "lr_squared"},
    ),
    "Adafactor / torch.optim.Adafactor flavour / matrix23": ("adafactor_torch", {"weight_decay": 0.01}),
}

# Relative tolerance where 1e-11 cannot hold.
LOOSER: dict[str, float] = {
    "Adam-atan2 / wd=0.1, cautious wd (mask >0) / matrix23": 1e-7,  # its mask makes float32 numbers of float64 ones
    "asgd_default_dtype_f32": 1e-6,  # eta and mu are float32 scalars in this run of torch
    "nadam_default_dtype_f32": 1e-6,  # mu_product is a float32 scalar in this run of torch
    "Muon / Keller, NS5 in bfloat16 / matrix23": 1e-2,  # Newton-Schulz in bfloat16: about 1e-3 absolute on |p| >= 0.25
    "Muon / torch.optim.Muon, bfloat16 / matrix23": 1e-2,  # likewise
}

GOLDENS = [e for e in ENTRIES.values() if e["optimizer"] in COVERED and e["steps"]]


def build(entry: dict[str, Any], corrected: bool = True) -> Reference | Lookahead:
    """The reference of a golden entry, on the initial parameters of its problem."""
    name, renamed = COVERED[entry["optimizer"]]
    given = entry["hyperparameters"].items()
    hyper = {renamed.get(key, key): 4 / math.pi if value == "4/pi" else value for key, value in given}
    hyper.pop(None, None)
    hyper.update(NAMED.get(entry["optimizer"], {}))
    if corrected:
        hyper.update(CORRECTED.get(entry["name"], {}))
    problem = "mat2x3" if entry["problem"] == "as sparse_adam" else entry["problem"]
    inner = REFERENCES[name](PROBLEMS[problem], **hyper)
    if entry["optimizer"].startswith("Lookahead"):
        return Lookahead(inner, k=entry["hyperparameters"]["la_steps"], alpha=entry["hyperparameters"]["la_alpha"])
    return inner


def one_row_gradient(t: int, params: list[Array]) -> list[Array]:
    """The sparse problem: only row t mod 2 is present. For Adagrad a row of zeros is the same as an absent one."""
    (gradient,) = golden_gradient(t, params)
    return [gradient * (np.arange(2) == t % 2)[:, None]]


def relative_error(entry: dict[str, Any], optimizer: Reference | Lookahead) -> float:
    """Largest relative error of any printed parameter of the entry."""
    rates = entry.get("lr_per_step")
    if entry["name"] == "adamw_paper_form":
        rates = [eta * entry["hyperparameters"]["alpha"] for eta in entry["hyperparameters"]["eta_per_step"]]
    gradient = one_row_gradient if entry["problem"] == "as sparse_adam" else golden_gradient
    states = trajectory(optimizer, max(map(int, entry["steps"])), gradient, lr_per_step=rates)
    if read := re.search(r"state (\w+) after step", entry["provenance"]):
        ((_, values),) = entry["steps"].items()
        return distance([slot.state[read[1]] for slot in optimizer.slots], values)
    return max(distance(states[int(step)], values) for step, values in entry["steps"].items())


def distance(params: list[Array], golden: Any) -> float:
    """Largest relative error of any entry of the parameters."""
    actual = np.concatenate([p.ravel() for p in params])
    return float(np.max(np.abs(actual - np.ravel(golden)) / np.abs(np.ravel(golden))))


def grads_of(optimizer: Reference | Lookahead, t: int) -> list[Array]:
    return golden_gradient(t, optimizer.params)


def make(name: str, problem: str = "matrix23+vector3", **hyper: Any) -> Reference:
    """The reference on a problem with its default hyper-parameters; Muon, which has no vectors, on its matrices."""
    params = PROBLEMS[problem]
    if name == "muon":
        params = [p for p in params if np.ndim(p) > 1] or [np.reshape(params[0], (1, -1))]
    return REFERENCES[name](params, **hyper)


@pytest.mark.parametrize("entry", [e for e in GOLDENS if e["name"] not in OTHER_RULE], ids=lambda e: e["name"])
def test_golden(entry: dict[str, Any]) -> None:
    assert relative_error(entry, build(entry)) <= LOOSER.get(entry["name"], 1e-11)


@pytest.mark.parametrize("name", SAME_NUMBERS)
def test_other_source_gives_the_same_numbers(name: str) -> None:
    reference, hyper = SAME_NUMBERS[name]
    entry = ENTRIES[name]
    assert relative_error(entry, REFERENCES[reference](PROBLEMS[entry["problem"]], **hyper)) <= 1e-11


@pytest.mark.parametrize("name", OTHER_RULE)
def test_other_rule_gives_other_numbers(name: str) -> None:
    """The listed entries are really out of reach, so the list hides no mistake of a reference."""
    try:
        optimizer = build(ENTRIES[name])
    except ValueError:  # torch's Adafactor has lr and relative_step together
        return
    assert relative_error(ENTRIES[name], optimizer) > 1e-8


@pytest.mark.parametrize("name", [name for name in CORRECTED if name not in OTHER_RULE])
def test_correction_is_needed(name: str) -> None:
    assert relative_error(ENTRIES[name], build(ENTRIES[name], corrected=False)) > 1e-11


@pytest.mark.parametrize(
    "entry",
    [e for e in GOLDENS if e["optimizer"].startswith("Schedule-Free ") and e["name"] not in OTHER_RULE],
    ids=lambda e: e["name"],
)
def test_golden_average_and_base_iterate(entry: dict[str, Any]) -> None:
    optimizer = build(entry)
    for t in range(1, 6):
        optimizer.step(grads_of(optimizer, t))
        if str(t) in entry["extra"]:
            y = [p.copy() for p in optimizer.params]
            optimizer.eval()
            assert distance(optimizer.params, entry["extra"][str(t)]["x_eval"]) <= 1e-11
            assert distance([slot.state["z"] for slot in optimizer.slots], entry["extra"][str(t)]["z"]) <= 1e-11
            with pytest.raises(RuntimeError, match="train"):
                optimizer.step(y)
            optimizer.train()
            np.testing.assert_array_equal(optimizer.params[0], y[0])


def test_golden_rate_of_adalo() -> None:
    entry = ENTRIES["AdaLo scalar map / loss -> s = 1/(2+L) / function values"]
    for row in entry["table"]:
        late = {mode: REFERENCES["adalo"]([1.0], mode=mode, betas=(0.9, 0.0)) for mode in ("adversarial", "compliant")}
        for mode, optimizer in late.items():
            optimizer.step([1.0], loss=row["L"])
            assert optimizer.rate == pytest.approx(row[f"lr_{mode}_at_convergence"], rel=1e-12)
        first = REFERENCES["adalo"]([1.0], mode="compliant")
        first.step([1.0], loss=row["L"])
        assert first.rate == pytest.approx(row["lr_compliant_first_step"], rel=1e-12)


def test_golden_rows_of_sparse_adam() -> None:
    entry = ENTRIES["sparse_adam"]
    optimizer = REFERENCES["sparseadam"](PROBLEMS["mat2x3"], **entry["hyperparameters"])
    for t in range(1, 6):
        optimizer.rows = [[t % 2]]
        optimizer.step(one_row_gradient(t, optimizer.params))
        if str(t) in entry["steps"]:
            assert distance(optimizer.params, entry["steps"][str(t)]) <= 1e-11


def test_independence() -> None:
    """The references import NumPy, the standard library and each other; this file adds pytest."""
    allowed = {"numpy", "references", "pytest", *sys.stdlib_module_names}
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed


@pytest.mark.parametrize("name", REFERENCES)
def test_source_is_named_and_unknown_hyper_parameters_are_refused(name: str) -> None:
    cls = REFERENCES[name]
    assert re.search(r"\d{4}", cls.__doc__), "the source, by arXiv number or year"
    with pytest.raises(TypeError, match="no hyper-parameter typo"):
        cls([[[1.0]]], typo=1)


@pytest.mark.parametrize("name", REFERENCES)
def test_no_gradient_is_no_step(name: str) -> None:
    optimizer = make(name)
    optimizer.step(grads_of(optimizer, 1), loss=1.0)
    before = [p.copy() for p in optimizer.params]
    last = len(before) - 1
    gradients = [None if i == last else g for i, g in enumerate(grads_of(optimizer, 2))]
    optimizer.step(gradients, loss=1.0)
    np.testing.assert_array_equal(optimizer.params[last], before[last])
    assert optimizer.slots[last].t == 1
    assert optimizer.slots[0].t == (2 if last else 1)
    model = {key: value for key, value in vars(optimizer).items() if isinstance(value, int | float)}
    optimizer.step([None] * (last + 1), loss=7.0)
    assert model == {key: value for key, value in vars(optimizer).items() if isinstance(value, int | float)}


#: Methods with a number of the whole model that moves whichever tensors have a gradient.
COUPLED = {"adams", "adalo", "schedulefree_sgd", "schedulefree_adamw", "schedulefree_radam"}
COUPLED |= {"prodigy", "dadapt_adam", "dog", "momo", "momo_adam", "am_msgd"}


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - COUPLED))
def test_counts_are_per_tensor(name: str) -> None:
    """A tensor that joins late moves as it would alone. The methods left out have whole-model quantities."""
    params = [PROBLEMS["matrix23"][0], PROBLEMS["conv2122"][0]]
    together, alone = REFERENCES[name](params), REFERENCES[name](params[1:])
    for t in range(1, 9):
        gradients: list[Array | None] = list(grads_of(together, t))
        if t in (1, 2, 5):
            gradients[1] = None
        else:
            alone.step([gradients[1]])
        together.step(gradients)
        np.testing.assert_array_equal(together.params[1], alone.params[0])


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("problem", ["scalar", "vector3", "zero23", "matrix23+vector3", "conv2122"])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_shapes_and_zeros(name: str, problem: str, scale: float) -> None:
    optimizer = make(name, problem)
    shapes = [p.shape for p in optimizer.params]
    states = trajectory(optimizer, 7, lambda t, params: [scale * g for g in golden_gradient(t, params)])
    assert all(isinstance(p, np.ndarray) and p.dtype == np.float64 for params in states for p in params)
    assert all([p.shape for p in params] == shapes for params in states)
    assert all(np.isfinite(p).all() for params in states for p in params)
    if problem == "zero23" and scale == 0:
        assert all(not p.any() for params in states for p in params)


@pytest.mark.parametrize("name", REFERENCES)
def test_maximize_negates_the_gradient_only(name: str) -> None:
    descent, ascent = make(name), make(name, maximize=True)
    for t in range(1, 5):
        gradients = grads_of(descent, t)
        copies = [g.copy() for g in gradients]
        loss = half_square_loss(descent.params)
        descent.step(gradients, loss)
        ascent.step([-g for g in gradients], loss)
        for p, q, g, copy in zip(descent.params, ascent.params, gradients, copies, strict=True):
            np.testing.assert_array_equal(p, q)
            np.testing.assert_array_equal(g, copy)


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - {"adalo", "adafactor", "rprop"}))
def test_zero_lr_moves_nothing_but_counts(name: str) -> None:
    optimizer = make(name, lr=0.0)
    states = trajectory(optimizer, 3)
    for p, q in zip(states[0], states[-1], strict=True):
        np.testing.assert_array_equal(p, q)
    assert all(slot.t == 3 for slot in optimizer.slots)


@pytest.mark.parametrize("name", REFERENCES)
def test_lookahead_wraps_every_reference(name: str) -> None:
    plain, same, pulled = make(name), Lookahead(make(name), k=1, alpha=1.0), Lookahead(make(name), k=3, alpha=0.25)
    expected = trajectory(plain, 3)
    for p, q in zip(expected[-1], trajectory(same, 3)[-1], strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-13)
    for start, end, slow in zip(expected[0], expected[-1], trajectory(pulled, 3)[-1], strict=True):
        np.testing.assert_allclose(slow, start + 0.25 * (end - start), rtol=1e-13)


def test_lookahead_counts_per_tensor() -> None:
    optimizer = Lookahead(make("sgd", lr=1.0), k=2, alpha=0.5)
    matrix, vector = (p.copy() for p in optimizer.params)
    optimizer.step([np.ones((2, 3)), None])
    optimizer.step([np.ones((2, 3)), np.ones(3)])
    np.testing.assert_allclose(optimizer.params[0], matrix - 1)  # two updates, pulled half way back
    np.testing.assert_allclose(optimizer.params[1], vector - 1)  # one update, not yet pulled


def test_schedule_free_counts_steps_of_the_model() -> None:
    optimizer = make("schedulefree_adamw", warmup_steps=4, r=1.0)
    for t in range(1, 5):
        gradients: list[Array | None] = list(grads_of(optimizer, t))
        gradients[t % 2] = None
        optimizer.step(gradients)
    assert optimizer.k == 4
    assert [slot.t for slot in optimizer.slots] == [2, 2]
    assert optimizer.gam == optimizer.hyper["lr"]


def test_centred_variance_is_never_negative() -> None:
    optimizer = REFERENCES["rmsprop"]([np.linspace(0.1, 3.0, 300)], alpha=0.9, centered=True)
    states = trajectory(optimizer, 300, lambda t, params: [np.linspace(0.1, 3.0, 300)])
    assert np.isfinite(states[-1][0]).all()


def test_adax_does_not_overflow() -> None:
    optimizer = make("adax", "scalar")
    trajectory(optimizer, 1)
    optimizer.slots[0].t = 20_000_000
    assert np.isfinite(trajectory(optimizer, 2)[-1][0])


def test_adams_with_amsgrad_uses_the_maximum_in_both_places() -> None:
    """Two steps of one number, by hand: v = 1e-3 then 0.999e-3, so the maximum and its correction differ from v."""
    optimizer = REFERENCES["adams"]([1.0], lr=0.1, weight_decay=0.5, amsgrad=True)
    optimizer.step([1.0])
    p = optimizer.params[0]
    optimizer.step([0.0])
    v_hat = 1e-3 / (1 - 0.999**2)
    m_hat = 0.09 / (1 - 0.9**2)
    expected = p * (1 - 0.1 * 0.5 / np.sqrt(v_hat)) - 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(optimizer.params[0], expected, rtol=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="relative_step"):
        make("adafactor", lr=0.1)
    with pytest.raises(ValueError, match="relative_step"):
        make("adafactor", relative_step=False)
    with pytest.raises(ValueError, match="two or more axes"):
        REFERENCES["muon"]([[1.0, 2.0]])
    adalo = make("adalo", "scalar")
    for loss, reason in ((None, "first step"), (-1.0, "not defined")):
        with pytest.raises(ValueError, match=reason):
            adalo.step([1.0], loss)
    assert adalo.slots[0].t == 0
