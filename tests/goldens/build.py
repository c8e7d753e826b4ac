"""From the names and hyper-parameters of the golden file to the library, by rule.

``build(optimizer, hyperparameters, params)`` returns the optimizer. It holds no numbers and nothing about single
entries: an optimizer's name chooses a class and the fixed options that the name stands for, and hyper-parameters are
renamed where another library calls them otherwise. A parameter list of any shapes and any hyper-parameters will do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import thalweg

Options = dict[str, Any]


def _renamed(options: Options, **names: str) -> Options:
    return {names.get(k, k): v for k, v in options.items()}


def _without(options: Options, *names: str) -> Options:
    return {k: v for k, v in options.items() if k not in names}


def _paper_adamw(options: Options) -> Options:
    """The paper's lambda acts apart from the rate: torch's weight_decay is lambda over the base rate alpha."""
    alpha = options["alpha"]
    rest = _without(options, "alpha", "lam", "eta", "eta_per_step")
    return {"lr": options.get("eta", 1.0) * alpha, "weight_decay": options["lam"] / alpha, **rest}


def _bounds(text: str) -> tuple[float, float] | None:
    """``identity``, or the bounds in ``min(max(z,low),high)``."""
    if text == "identity":
        return None
    found = re.fullmatch(r"min\(max\(z,\s*([\d.e+-]+)\),\s*([\d.e+-]+)\)", text)
    if found is None:
        raise ValueError(f"phi {text!r} is neither 'identity' nor 'min(max(z,low),high)'")
    return float(found[1]), float(found[2])


def _lamb(options: Options) -> Options:
    if options.get("global_clip") is not None:
        raise ValueError("LAMB's global gradient clipping is torch.nn.utils.clip_grad_norm_, not part of the optimizer")
    known = {"phi_bounds": _bounds(options.get("phi", "identity")), "ratio_bounds": options.get("ratio_clip")}
    if known["ratio_bounds"] is not None:
        known["ratio_bounds"] = tuple(known["ratio_bounds"])
    kept = _renamed(_without(options, "phi", "ratio_clip", "global_clip"), eps_inside_sqrt="eps_inside")
    return {**kept, **known}


def _clamped_lamb(options: Options) -> Options:
    """cybertronai's port clamps the norm of the parameter."""
    return {**_without(options, "clamp"), "phi_bounds": tuple(options["clamp"])}


def _paper_adafactor(options: Options) -> Options:
    names = {"d": "clip_threshold", "c": "decay_rate"}
    kept = _renamed(_without(options, "eps1", "eps2", "rho"), **names)
    return {**kept, "decay_rate": -kept["decay_rate"], "eps": (options["eps1"], options["eps2"])}


def _muon(options: Options) -> Options:
    words = ("adjust_lr_fn", "scale", "orthogonaliser", "ns_dtype", "dtype", "steps", "norm", "coefficients")
    kept = _without(options, *words)
    scale = options.get("scale", "sqrt(max(1,rows/cols))")
    rule = "moonlight" if scale.startswith("0.2*") else "none" if scale == "none" else "keller"
    if options.get("adjust_lr_fn") == "match_rms_adamw":
        rule = "moonlight"
    kept["adjust_lr"] = rule
    kept["exact"] = "SVD" in options.get("orthogonaliser", "")
    kept["ns_dtype"] = options.get("ns_dtype", options.get("dtype", "auto"))
    if "steps" in options:
        kept["ns_steps"] = options["steps"]
    return kept


def _polar_express(options: Options) -> Options:
    if "paper list" not in options["coefficients"]:
        raise ValueError(f"only the paper's coefficients are part of the library, not {options['coefficients']!r}")
    safety, eps = re.search(r"\|\|_F\*([\d.]+)\+([\de.-]+)", options["norm"]).groups()  # type: ignore[union-attr]
    return {**_muon(options), "ns_coefficients": "polar_express", "ns_safety": float(safety), "eps": float(eps)}


def _averaged(options: Options) -> Options:
    if options.get("inner_momentum"):
        raise ValueError("inner_momentum is not part of ScheduleFreeAdamW: give AdamW an outer=ScheduleFree()")
    return _without(options, "inner_momentum")


def _lookahead(options: Options) -> tuple[str, Options]:
    """``base`` names the inner optimizer and its options, which win over the ones listed beside it."""
    base = options.get("base", "")
    name, _, inside = base.partition("(")
    inner = _without(options, "la_steps", "la_alpha", "pullback_momentum", "base")
    for pair in filter(None, inside.rstrip(")").split(",")):
        key, value = pair.split("=")
        inner[{"wd": "weight_decay"}.get(key.strip(), key.strip())] = float(value)
    if options.get("pullback_momentum", "none") != "none":
        raise ValueError("Lookahead's pull-back of momentum is not part of the library")
    return name, {**inner, "outer": thalweg.Lookahead(options["la_steps"], options["la_alpha"])}


def _same(options: Options) -> Options:
    return options


_Rule = tuple[type[Any], Callable[[Options], Options], Options]

#: Golden name -> class, how its hyper-parameters are renamed, and the options that the name stands for.
RULES: dict[str, _Rule] = {
    "torch.SGD": (thalweg.SGD, _same, {}),
    "torch.Adagrad": (thalweg.Adagrad, _same, {}),
    "torch.RMSprop": (thalweg.RMSprop, _same, {}),
    "torch.Adam": (thalweg.Adam, _same, {}),
    "torch.AdamW": (thalweg.AdamW, _same, {}),
    "AdamW": (thalweg.AdamW, _same, {}),
    "AdamW (paper form)": (thalweg.AdamW, _paper_adamw, {}),
    "torch.NAdam": (thalweg.NAdam, _same, {}),
    "NAdam": (thalweg.NAdam, _same, {}),
    "torch.RAdam": (thalweg.RAdam, _same, {}),
    "RAdam": (thalweg.RAdam, _same, {}),
    "Lion": (thalweg.Lion, _same, {}),
    "LAMB": (thalweg.LAMB, _lamb, {}),
    "LAMB (cybertronai, v3)": (thalweg.LAMB, _clamped_lamb, {}),
    "Adafactor": (thalweg.Adafactor, _same, {}),
    "transformers.Adafactor": (thalweg.Adafactor, _same, {}),
    "Adafactor (paper)": (thalweg.Adafactor, _paper_adafactor, {}),
    "nSGDA": (thalweg.nSGDA, _same, {}),
    "AdaX": (thalweg.AdaX, _same, {}),
    "AdaX-W": (thalweg.AdaX, _same, {"decoupled_weight_decay": True}),
    "AdaX (normalised recursion)": (thalweg.AdaX, _same, {"normalised_eps": True}),
    "AdaLo": (thalweg.AdaLo, _same, {}),
    "AdamS (stable weight decay)": (thalweg.AdamS, _same, {}),
    "SGDS (stable weight decay)": (thalweg.SGDS, _same, {}),
    "Muon": (thalweg.Muon, _muon, {}),
    "Muon (Polar Express)": (thalweg.Muon, _polar_express, {}),
    "Schedule-Free SGD": (thalweg.ScheduleFreeSGD, _same, {}),
    "Schedule-Free AdamW": (thalweg.ScheduleFreeAdamW, _averaged, {}),
}


def build(optimizer: str, hyperparameters: Options, params: Iterable[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The library's optimizer for a golden name and its complete hyper-parameters; KeyError for an unknown name.

    Hyper-parameters that the entry does not list are off where a library's default would switch them on
    (``weight_decay``). ``options`` such as ``engine`` are passed on; the default is the reference engine.
    """
    options = {"engine": "reference", **options}
    tuples = ("betas", "eps", "ns_coefficients")
    given = {k: tuple(v) if k in tuples and isinstance(v, list) else v for k, v in hyperparameters.items()}
    if re.fullmatch(r"Lookahead\(.*\)", optimizer):
        name, given = _lookahead(given)
        return build(f"torch.{name}", given, params, **options)
    if optimizer not in RULES:
        raise KeyError(f"no rule for the golden optimizer {optimizer!r}; known: {', '.join(sorted(RULES))}")
    cls, rename, fixed = RULES[optimizer]
    return cls(params, **{"weight_decay": 0.0, **rename(given), **fixed}, **options)
