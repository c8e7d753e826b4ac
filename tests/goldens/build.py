"""From the names and hyper-parameters of the golden file to the library, by rule.

``build(optimizer, hyperparameters, params)`` returns the optimizer. It holds no numbers and nothing about single
entries: an optimizer's name chooses a class and the fixed options that the name stands for, and hyper-parameters are
renamed where another library calls them otherwise. A parameter list of any shapes and any hyper-parameters will do.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import thalweg
from thalweg import schedules
from thalweg.slots import Debiased, OverSqrt, Plain
from thalweg.slots.average import adam_moments
from thalweg.slots.cautious import CautiousDecay

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
    known = {"phi_bounds": _bounds(options.get("phi", "identity")), "ratio_bounds": options.get("ratio_clip")}
    if known["ratio_bounds"] is not None:
        known["ratio_bounds"] = tuple(known["ratio_bounds"])
    names = {"eps_inside_sqrt": "eps_inside", "global_clip": "max_grad_norm"}
    return {**_renamed(_without(options, "phi", "ratio_clip"), **names), **known}


def _timm_lamb(options: Options) -> Options:
    bounds = (0.0, 1.0) if options.get("trust_clip") else None
    return {"always_adapt": False, **_without(options, "trust_clip"), "ratio_bounds": bounds}


def _paper_lars(options: Options) -> Options:
    return {"eps": 0.0, "always_adapt": True, "lr_inside": True, **_renamed(options, eta="trust_coeff")}


def _with(technique: Callable[..., Any], **names: str) -> Callable[[Options], Options]:
    """Options of the technique by the names they have in the golden file; all others are the optimizer's."""

    def rename(options: Options) -> Options:
        own = {names[k]: v for k, v in options.items() if k in names}
        return {**_without(options, *names), "techniques": [technique(**own)]}

    return rename


def _norm_loss(options: Options) -> Options:
    """``form``: "decoupled" (the default) or "coupled"."""
    base = options.get("base", "SGD without momentum")
    if base != "SGD without momentum":
        raise ValueError(f"the only base of the golden norm loss is SGD without momentum, not {base!r}")
    coupled = {"decoupled": False, "coupled": True}[options.get("form", "decoupled")]
    technique = thalweg.NormLoss(coupled=coupled, vectors=True, eps=0.0 if coupled else options["eps"])
    kept = _without(options, "base", "form", "eps", "lam")
    return {**kept, "weight_decay": options["lam"], "techniques": [technique]}


def _cautious_adamw(options: Options) -> Options:
    """The authors add eps to the root of the uncorrected average; ``scaling`` is "mean", "paper" or "none"."""
    corrected = options.get("correct_bias", True)
    laws = (Debiased, Debiased) if corrected else (Plain, Plain)
    first, second = laws[0]("betas.0", 0.9), laws[1]("betas.1", 0.999)
    recipe = thalweg.ADAMW.but(**adam_moments(first, second), ratio=OverSqrt(raw=second if corrected else None))
    technique = thalweg.Cautious(options.get("scaling", "mean"))
    return {**_without(options, "correct_bias", "scaling"), "recipe": recipe, "techniques": [technique]}


def _cautious_lion(options: Options) -> Options:
    technique = thalweg.Cautious(options.get("scaling", "paper"))
    return {**_without(options, "scaling"), "techniques": [technique]}


def _bounded_adamw(options: Options) -> Options:
    exact = options.get("sigma", "svd") == "svd"
    start = options.get("power_init")
    if not exact and start is not None and not re.match(r"ones/sqrt\(rows\), warm-started", start):
        raise ValueError(f"power iterations start from ones/sqrt(rows) and are warm-started, not {start!r}")
    sigma = "svd" if exact else ("power", options["power_iters"])
    return {**_without(options, "sigma", "power_iters", "power_init"), "sigma": sigma}


def _clamped_lamb(options: Options) -> Options:
    """cybertronai's port clamps the norm of the parameter."""
    return {**_without(options, "clamp"), "phi_bounds": tuple(options["clamp"])}


def _paper_adafactor(options: Options) -> Options:
    names = {"d": "clip_threshold", "c": "decay_rate"}
    kept = _renamed(_without(options, "eps1", "eps2", "rho"), **names)
    return {**kept, "decay_rate": -kept["decay_rate"], "eps": (options["eps1"], options["eps2"])}


def _torch_adafactor(options: Options) -> Options:
    """torch's names; entries that list transformers' options beside them say by torch's which rule they mean."""
    other = {"clip_threshold", "decay_rate", "beta1", "scale_parameter", "relative_step", "warmup_init"}
    if options.get("foreach") or options.get("beta1") is not None:
        raise ValueError("torch.optim.Adafactor has no momentum, and its foreach is not an option of the rule")
    return _without(options, *other, "foreach")


def _big_vision_adafactor(options: Options) -> Options:
    if options.get("momentum_dtype", "torch.float64") not in (None, "torch.float64", "torch.float32"):
        raise ValueError(f"momentum is not kept in {options['momentum_dtype']} but as precisely as the parameter")
    if options.get("caution") or options.get("corrected_weight_decay"):
        raise ValueError("caution is techniques=['cautious'], and corrected_weight_decay is not part of the library")
    kept = _without(options, "momentum_dtype", "caution", "corrected_weight_decay", "foreach")
    return {**kept, "eps": 1e-30 if kept.get("eps") is None else kept["eps"]}


def _palm_adafactor(options: Options) -> Options:
    """The words of lr are those of the built-in rate; wd "lr**2" is a decay by its square."""
    if not re.match(r"1e-2 for k<=10000 then 1/sqrt\(k\)", options["lr"]) or options["wd"] != "lr**2":
        raise ValueError(f"unknown schedule lr={options['lr']!r}, wd={options['wd']!r}")
    kept = _paper_adafactor(_renamed(_without(options, "lr", "wd"), clip="d"))
    return {**kept, "weight_decay": 1.0, "decay_by": "lr_squared"}


def _amos(options: Options) -> Options:
    """``slot_shape`` is a word, or the shape of a slot, with ones for the axes that it averages over."""
    kept = dict(options)
    shape = kept.pop("slot_shape", "tensor")
    if isinstance(shape, (list, tuple)) or re.fullmatch(r"\([\d, ]*\)", str(shape)):
        sizes = [int(n) for n in re.findall(r"\d+", str(shape))]
        kinds = {"tensor": [], "full": [0] * len(sizes)}
        kinds |= {"row": [0, *[1] * (len(sizes) - 1)], "col": [1, *[0] * (len(sizes) - 1)]}
        ones = [int(n == 1) for n in sizes]
        found = [kind for kind, pattern in kinds.items() if pattern == ones or (kind == "tensor" and all(ones))]
        if not found:
            raise ValueError(f"slots of shape {shape!r} are none of tensor, row, col, full")
        shape = found[0]
    kept["slots"] = {"same as p": "full"}.get(shape, shape)
    if isinstance(kept.get("epsilon"), str):
        base, _, power = kept["epsilon"].partition("**")
        kept["epsilon"] = float(base) ** float(power or 1)
    return kept


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
    lists = {"paper list": "polar_express", "modded-nanogpt list": "modded_nanogpt"}
    named = [lists[words] for words in lists if words in options["coefficients"]]
    norm = re.search(r"\|\|_F\*?([\d.]+|\([^)]*\))?\+([\de.-]+)", options["norm"])
    if not named or norm is None:
        raise ValueError(
            f"coefficients {options['coefficients']!r} with norm {options['norm']!r} are not in the library"
        )
    safety = math.fsum(map(float, (norm[1] or "1").strip("()").split("+")))
    return {**_muon(options), "ns_coefficients": named[0], "ns_safety": safety, "eps": float(norm[2])}


def _soap(options: Options) -> Options:
    if options.get("data_format", "channels_first") != "channels_first":
        raise ValueError("SOAP merges the axes of convolutions in torch's own order, channels first")
    return _without(options, "data_format")


def _lookahead(optimizer: str, options: Options) -> tuple[str, Options]:
    """``base`` is a call of the inner optimizer with its options, which win over the ones listed beside it.

    Without it the inner optimizer is the first word in brackets of the golden name.
    """
    outer = ("la_steps", "la_alpha", "pullback_momentum", "base")
    base, inner = options.get("base") or "", _without(options, *outer)
    name = (base or optimizer.removeprefix("Lookahead(")).partition("(")[0].strip(" )").split()[0]
    if "(" in base:
        for keyword in ast.parse(base, mode="eval").body.keywords:  # type: ignore[attr-defined]
            inner[{"wd": "weight_decay"}.get(keyword.arg, keyword.arg)] = ast.literal_eval(keyword.value)
    words = {"none": "keep", "pullback": "pullback", "reset": "reset"}
    momentum = words[options.get("pullback_momentum") or "none"]
    return name, {**inner, "outer": thalweg.Lookahead(options["la_steps"], options["la_alpha"], momentum)}


def _formula(value: Any) -> float:
    """A number, or one written as a quotient with pi in it ("4/pi")."""
    if not isinstance(value, str):
        return float(value)
    parts = [math.pi if part.strip() == "pi" else float(part) for part in value.split("/")]
    return parts[0] / math.prod(parts[1:])


def _atan2(options: Options) -> Options:
    """``convention`` and ``lam`` win over a and b, which such entries list as defaults of another convention."""
    names = ("a", "b", "lam", "convention", "cautious_wd")
    kept, rule = _without(options, *names), options.get("convention", "")
    a, b = _formula(options.get("a", 1.27)), _formula(options.get("b", 1.0))
    if "m_raw" in rule:
        a = b = 1.0
        kept["raw_momentum"] = True
    elif options.get("lam") is not None:
        a = b = _formula(options["lam"])
    elif rule:
        raise ValueError(f"unknown convention {rule!r} of Adam-atan2")
    if options.get("cautious_wd"):
        kept["techniques"] = [CautiousDecay(strict=True)]
    return {**kept, "a": a, "b": b}


def _untuned(options: Options) -> Options:
    """Adam with the untuned warm-up of a kind; the words of ``factor`` do not say more."""
    shapes = {"lin": "linear", "exp": "exponential"}
    if options.get("kind") not in shapes:
        raise ValueError(f"kind {options.get('kind')!r} of untuned warm-up is not in {sorted(shapes)}")
    return {**_without(options, "kind", "factor"), "techniques": [thalweg.Warmup(shape=shapes[options["kind"]])]}


def _softplus(options: Options) -> Options:
    """The authors list an eps that softplus leaves without effect."""
    return _without(options, "eps")


def _seed(**names: str) -> Callable[[Options], Options]:
    """The bare rules: other names for the same numbers, and L2 decay called l2."""
    return lambda options: _renamed(options, l2="weight_decay", **names)


def _tensorflow(options: Options) -> Options:
    """timm's RMSpropTF: TensorFlow's rule, with switches of its own."""
    if options.get("corrected_weight_decay"):
        raise ValueError("timm's corrected_weight_decay is not an option of RMSprop")
    names = {"square_avg_init": "initial_square_avg", "decoupled_decay": "decoupled_weight_decay"}
    kept = _renamed(_without(options, "corrected_weight_decay", "caution", "lr_in_momentum"), **names)
    kept["lr_inside"] = bool(options.get("lr_in_momentum", True) and options.get("momentum"))
    if options.get("caution") and options.get("momentum"):  # it acts on the buffer alone
        if options.get("weight_decay") and not options.get("decoupled_decay"):
            raise ValueError("timm's caution looks at the gradient with its L2 decay, the technique at the gradient")
        kept["techniques"] = ["cautious"]
    return {"alpha": 0.9, "eps": 1e-10, "initial_square_avg": 1.0, **kept}


def _inside(options: Options, **names: str) -> Options:
    """The rate inside the momentum buffer; without momentum there is none."""
    kept = _renamed(options, l2="weight_decay", **names)
    return {**kept, "lr_inside": kept["momentum"] != 0}


def _monolith(options: Options) -> Options:
    return _renamed(options, beta1="momentum", beta2="alpha")


def _monolith_v1(options: Options) -> Options:
    return _inside(_monolith(options))


def _monolith_table(options: Options) -> Options:
    return _renamed(options, momentum="alpha", weight_decay_factor="weight_decay")


def _decoupled(options: Options) -> Options:
    """Other spellings of decoupled_weight_decay."""
    names = ("decouple", "decoupled", "weight_decouple")
    return _renamed(options, **dict.fromkeys(names, "decoupled_weight_decay"))


def _adopt(options: Options) -> Options:
    """The bound of the quotient is a power of the number of steps after the first, or None."""
    bound = options.get("clip_lambda", "step**0.25")
    rest = _decoupled(_without(options, "clip_lambda"))
    if bound is None:
        return {**rest, "clip": False}
    found = re.fullmatch(r"step\*\*\(?([\d./]+)\)?", str(bound).replace(" ", ""))
    if found is None:
        raise ValueError(f"clip_lambda {bound!r} is neither None nor a power of the step, 'step**x'")
    top, _, below = found[1].partition("/")
    return {**rest, "clip_power": float(top) / float(below or 1)}


def _stable_adamw(options: Options) -> Options:
    return _renamed(options, clip_thresh="clip_threshold")


def _mars(options: Options) -> Options:
    if not options.get("is_approx", True):
        raise ValueError("only MARS's approximate form is part of the library: is_approx=True")
    if options.get("mars_type", "mars-adamw") != "mars-adamw":
        raise ValueError(f"mars_type {options['mars_type']!r} is not in the library; its correction is a technique")
    names = {"lr_1d": "lr", "betas_1d": "betas", "weight_decay_1d": "weight_decay", "eps": "eps"}
    rest = {ours: options[theirs] for theirs, ours in names.items() if theirs in options}
    rest = {k: tuple(v) if k == "betas" else v for k, v in rest.items()}
    return {**_without(options, "is_approx", "mars_type", *(k for k in names if k != "eps")), "rest": rest}


def _adam_mini(options: Options) -> Options:
    if options.get("block") is None:
        raise ValueError("Adam-mini's parameters have no names here: give block, 'row', 'tensor', 'full' or 'head'")
    kept = _without(options, "parameter_name", "dim", "model_sharding", "verbose")
    return _renamed(kept, n_heads="heads", n_kv_heads="kv_heads")


def _adanorm(options: Options) -> Options:
    for name in ("rectify", "fixed_decay"):
        if options.get(name):
            raise ValueError(f"the AdaNorm family's {name}=True is not part of the library")
    kept = _without(options, "rectify", "fixed_decay", "version")
    return _renamed(_decoupled(kept), n_sma_threshold="threshold")


def _adama(options: Options) -> Options:
    """The micro-batches, N a step, are the caller's: N-1 times ``accumulate()``, then ``step()``."""
    return _without(options, "N", "micro_gradient")


def _fractional(options: Options) -> Options:
    if options.get("K", 10) != 10:
        raise ValueError(f"FCGD and AdaGL keep 10 gradients, not {options['K']}; Fractional takes any number")
    if options.get("disturbance"):
        raise ValueError("which term the disturbance leaves out is random in the reference; it cannot be reproduced")
    if options.get("g_0", "zeros") != "zeros":
        raise ValueError(f"gradients before the first are zeros in the library, not {options['g_0']!r}")
    kept = _without(options, "K", "disturbance", "g_0")
    if "weights" in kept:
        found = re.search(r"1-(alpha/j|\(alpha\+1\)/\(j\+1\))\)", kept["weights"].replace(" ", ""))
        if found is None:
            raise ValueError(f"the library has no weights {kept['weights']!r}")
        kept["weights"] = "gl" if found[1] == "alpha/j" else "paper"
    return kept


def _same(options: Options) -> Options:
    return options


def _unlimited(options: Options) -> Options:
    """``growth_rate`` is recorded as the word "inf"; ``fsdp_in_use`` is not an option of the arithmetic."""
    if options.get("fsdp_in_use"):
        raise ValueError("sharded sums (fsdp_in_use) are not part of the library")
    kept = _without(options, "fsdp_in_use", "log_every")
    return {**kept, "growth_rate": float(kept["growth_rate"])} if "growth_rate" in kept else kept


def _polynomial_average(options: Options) -> Options:
    average = thalweg.PolynomialAverage(options["gamma"]) if "gamma" in options else thalweg.PolynomialAverage()
    return {**_without(options, "gamma"), "outer": average}


def _adaptive_memory(options: Options) -> Options:
    """The largest momentum and the second moment's beta stand apart."""
    if "beta1_max" not in options and "beta2" not in options:
        return options
    betas = options.get("beta1_max", 0.9 - 0.1 * options.get("lam", 0.1)), options.get("beta2", 0.999)
    return {**_without(options, "beta1_max", "beta2"), "betas": betas}


_Rule = tuple[type[Any], Callable[[Options], Options], Options]

#: Golden name -> class, how its hyper-parameters are renamed, and the options that the name stands for.
RULES: dict[str, _Rule] = {
    "torch.SGD": (thalweg.SGD, _same, {}),
    "momentum (lr inside)": (thalweg.SGD, lambda o: _inside(o, gamma="momentum"), {}),
    "Nesterov (lr inside)": (thalweg.SGD, lambda o: _inside(o, mu="momentum"), {"nesterov": True}),
    "Adagrad (seed, eps inside)": (thalweg.Adagrad, _seed(), {"eps_inside": True}),
    "RMSProp (seed, eps inside)": (
        thalweg.RMSprop,
        _seed(beta="alpha", v0="initial_square_avg"),
        {"eps_inside": True},
    ),
    "timm.RMSpropTF": (thalweg.RMSprop, _tensorflow, {"eps_inside": True}),
    "RMSPropV2 (seed)": (thalweg.RMSpropV2, _seed(beta="alpha"), {}),
    "monolith RMSprop v1 dense": (thalweg.RMSprop, _monolith_v1, {"eps_inside": True}),
    "monolith RMSpropV2 dense": (thalweg.RMSpropV2, _monolith, {"eps_inside": False}),
    "monolith RMSpropV2 hash table": (thalweg.RMSpropV2, _monolith_table, {"eps": 1.0, "eps_inside": False}),
    "torch.Adadelta": (thalweg.Adadelta, _same, {}),
    "torch.SparseAdam": (thalweg.SparseAdam, _same, {}),
    "torch.ASGD": (thalweg.ASGD, _same, {}),
    "torch.Rprop": (thalweg.Rprop, _same, {}),
    "torch.LBFGS": (thalweg.LBFGS, _same, {}),
    "torch.Adagrad": (thalweg.Adagrad, _same, {}),
    "torch.RMSprop": (thalweg.RMSprop, _same, {}),
    "torch.Adam": (thalweg.Adam, _same, {}),
    "torch.AdamW": (thalweg.AdamW, _same, {}),
    "AdamW": (thalweg.AdamW, _same, {}),
    "AdamW (paper form)": (thalweg.AdamW, _paper_adamw, {}),
    "NEGATIVE_adamw_seed_as_printed": (thalweg.AdamW, _paper_adamw, {}),
    "AMSGrad (optax style)": (thalweg.Adam, _same, {"amsgrad": True, "amsgrad_convention": "optax"}),
    "AMSGrad (paper)": (thalweg.Adam, _same, {"amsgrad": True, "amsgrad_convention": "paper"}),
    "Adam (epsilon hat)": (thalweg.Adam, lambda o: _renamed(o, eps_hat="eps"), {"epsilon_hat": True}),
    "Adam + untuned warm-up": (thalweg.Adam, _untuned, {}),
    "AdamWarmup (RAdam author code)": (thalweg.AdamWarmup, _same, {}),
    "torch.Adamax": (thalweg.Adamax, _same, {}),
    "Adam-atan2": (thalweg.AdamAtan2, _atan2, {}),
    "SAdam (softplus)": (thalweg.SAdam, _softplus, {}),
    "diffGrad": (thalweg.diffGrad, _same, {}),
    "AdaMomentum / AdaM3": (thalweg.AdaMomentum, _same, {}),
    "torch.NAdam": (thalweg.NAdam, _same, {}),
    "NAdam": (thalweg.NAdam, _same, {}),
    "torch.RAdam": (thalweg.RAdam, _same, {}),
    "RAdam": (thalweg.RAdam, _same, {}),
    "RAdam (author code)": (thalweg.RAdam, _same, {"decoupled_weight_decay": True}),
    "RAdam (paper)": (thalweg.RAdam, _same, {}),
    "Lion": (thalweg.Lion, _same, {}),
    "LAMB": (thalweg.LAMB, _lamb, {}),
    "LAMB (cybertronai, v3)": (thalweg.LAMB, _clamped_lamb, {}),
    "timm.Lamb": (thalweg.LAMB, _timm_lamb, {}),
    "timm.Lars": (thalweg.LARS, _same, {}),
    "LARS (paper)": (thalweg.LARS, _paper_lars, {}),
    "apex.LARC(torch.SGD)": (thalweg.LARC, _same, {}),
    "AGC + SGD": (thalweg.SGD, _with(thalweg.AGC, clip_factor="clip", eps="eps"), {}),
    "gradient_normalization + SGD": (thalweg.SGD, _with(thalweg.NormaliseGradient, eps="eps"), {}),
    "layer_norm_adaptation + SGD": (thalweg.SGD, _with(thalweg.LayerNormAdaptation), {}),
    "soft_clip + SGD": (thalweg.SGD, _with(thalweg.SoftClip, epsilon="eps"), {}),
    "gradient centralization + SGD": (thalweg.SGD, _with(thalweg.Centralise, gc_conv_only="conv_only"), {}),
    "Norm loss": (thalweg.SGD, _norm_loss, {}),
    "AdamCPR": (thalweg.AdamCPR, _same, {}),
    "AdamW + cautious weight decay (CWD)": (thalweg.AdamW, _with(thalweg.CautiousDecay), {}),
    "Cautious AdamW (C-AdamW)": (thalweg.Optimizer, _cautious_adamw, {}),
    "Cautious Lion (C-Lion)": (thalweg.Lion, _cautious_lion, {}),
    "AdamW^2 (warm-up-free transformer)": (thalweg.AdamW2, _bounded_adamw, {}),
    "Adafactor": (thalweg.Adafactor, _same, {}),
    "torch.Adafactor": (thalweg.AdafactorTorch, _torch_adafactor, {}),
    "timm.AdafactorBigVision": (thalweg.AdafactorBV, _big_vision_adafactor, {}),
    "Adafactor (PaLM)": (thalweg.Adafactor, _palm_adafactor, {}),
    "SM3-I": (thalweg.SM3, _same, {"variant": "I"}),
    "SM3-II": (thalweg.SM3, _same, {"variant": "II"}),
    "SMMF": (thalweg.SMMF, _same, {}),
    "Amos": (thalweg.Amos, _amos, {}),
    "jestimator.amos": (thalweg.Amos, _amos, {}),
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
    "SOAP": (thalweg.SOAP, _soap, {}),
    "Schedule-Free SGD": (thalweg.ScheduleFreeSGD, _same, {}),
    "Schedule-Free AdamW": (thalweg.ScheduleFreeAdamW, _same, {}),
    "Schedule-Free RAdam": (thalweg.ScheduleFreeRAdam, _same, {}),
    "Prodigy": (thalweg.Prodigy, _unlimited, {}),
    "D-Adapt Adam": (thalweg.DAdaptAdam, _unlimited, {}),
    "DoG": (thalweg.DoG, _same, {}),
    "LDoG": (thalweg.LDoG, _same, {}),
    "DoG + polynomial decay averaging": (thalweg.DoG, _polynomial_average, {}),
    "MoMo": (thalweg.MoMo, _same, {}),
    "MoMo-Adam": (thalweg.MoMoAdam, _same, {}),
    "AM-MSGD (adaptive memory SGD)": (thalweg.AdaptiveMemorySGD, _same, {}),
    "AM-AdamW": (thalweg.AdaptiveMemoryAdamW, _adaptive_memory, {}),
    "StableAdamW": (thalweg.StableAdamW, _stable_adamw, {}),
    "ADOPT": (thalweg.ADOPT, _adopt, {}),
    "AdEMAMix": (thalweg.AdEMAMix, _same, {}),
    "MARS-AdamW": (thalweg.MARS, _mars, {}),
    "Adam-mini": (thalweg.AdamMini, _adam_mini, {}),
    "AdaNorm: AdamNorm": (thalweg.AdamNorm, _adanorm, {}),
    "AdaNorm: AdaBeliefNorm": (thalweg.AdaBeliefNorm, _adanorm, {}),
    "AdaNorm: RAdamNorm": (thalweg.RAdamNorm, _adanorm, {}),
    "AdaNorm: diffGradNorm": (thalweg.diffGradNorm, _adanorm, {}),
    "PNM": (thalweg.PNM, _decoupled, {}),
    "AdaPNM": (thalweg.AdaPNM, _decoupled, {}),
    "AdamA (moment accumulation)": (thalweg.AdamA, _adama, {}),
    "FCGD_G-L": (thalweg.FCGD, _fractional, {}),
    "AdaGL": (thalweg.AdaGL, _fractional, {}),
}


def build(optimizer: str, hyperparameters: Options, params: Iterable[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The library's optimizer for a golden name and its complete hyper-parameters; KeyError for an unknown name.

    Hyper-parameters that the entry does not list are off where a library's default would switch them on
    (``weight_decay``). ``options`` such as ``engine`` are passed on; the default is the reference engine.
    """
    options = {"engine": "reference", **options}
    tuples = ("betas", "eps", "etas", "step_sizes", "ns_coefficients")
    given = {k: tuple(v) if k in tuples and isinstance(v, list) else v for k, v in hyperparameters.items()}
    if re.fullmatch(r"Lookahead\(.*\)", optimizer):
        name, given = _lookahead(optimizer, given)
        return build(f"torch.{name}", given, params, **options)
    if optimizer == "Adafactor" and "beta2_decay" in given:
        optimizer = "torch.Adafactor"  # its names, beside the options of the common one
    if optimizer not in RULES:
        raise KeyError(f"no rule for the golden optimizer {optimizer!r}; known: {', '.join(sorted(RULES))}")
    cls, rename, fixed = RULES[optimizer]
    off = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(cls.__init__).parameters else {}
    if not issubclass(cls, thalweg.Optimizer):
        options.pop("engine")
    return cls(params, **{**off, **rename(given), **fixed}, **options)


def _function(given: Any) -> Callable[[float], float]:
    """A function of the step from its text, such as ``0.95**epoch``, or as it is."""
    if callable(given):
        return given
    names = {"__builtins__": {}, "math": math, "min": min, "max": max, "abs": abs}
    named = re.match(r"\s*lambda\s+(\w+)\s*:", str(given))
    code = str(given)[named.end() :] if named else str(given)
    return lambda k: float(eval(code.strip(), names, dict.fromkeys(("epoch", "step", named[1] if named else "k"), k)))


def _torch_options(name: str, places: Iterable[Any], named: Options) -> Options:
    """The arguments of torch's scheduler of that name, with its defaults."""
    call = inspect.signature(getattr(torch.optim.lr_scheduler, name)).bind("optimizer", *places, **named)
    call.apply_defaults()
    return _without(call.arguments, "optimizer", "last_epoch")


def _torch_call(text: str) -> schedules.Schedule:
    """A schedule from the call that makes torch's: ``LinearLR(0.1,1,3)``, arguments by place or name."""
    name, _, inside = text.strip().partition("(")
    split = [part.strip() for part in re.split(r",(?![^\[]*\])", inside.removesuffix(")"))]
    named = [re.split(r"\s*=\s*", part, maxsplit=1) for part in split if "=" in part]
    places = [part for part in split if part and "=" not in part]
    read = str if "Lambda" in name or "Multiplicative" in name else ast.literal_eval
    return SCHEDULES[name](_torch_options(name, map(read, places), {k: read(v) for k, v in named}), 1.0)


def _sequence(o: Options, lr: float) -> schedules.Schedule:
    plans = [_torch_call(part) for part in o["schedulers"].split("->")]
    plan = plans.pop()
    for start, end in reversed(list(zip([0, *o["milestones"]], o["milestones"], strict=False))):
        plan = plans.pop().then(plan, at=end - start)
    return plan


def _chain(o: Options, lr: float) -> schedules.Schedule:
    first, *others = (_torch_call(part) for part in re.split(r"\s+x\s+", o["schedulers"]))
    return functools.reduce(operator.mul, others, first)


def _one_cycle(o: Options, lr: float) -> schedules.Schedule:
    total = o["total_steps"] or o["epochs"] * o["steps_per_epoch"]
    kept = _without(o, "total_steps", "epochs", "steps_per_epoch")
    return schedules.OneCycle(total, **_renamed(kept, anneal_strategy="anneal"))


def _hf(plan: Callable[..., schedules.Schedule], **rates: str) -> Callable[[Options, float], schedules.Schedule]:
    """transformers' names; its absolute ``rates`` are fractions of the optimizer's default rate."""
    names = {"num_warmup_steps": "warmup_steps", "num_training_steps": "total_steps", "num_cycles": "cycles"}

    def build(o: Options, lr: float) -> schedules.Schedule:
        given = {rates.get(k, names.get(k, k)): v / lr if k in rates else v for k, v in o.items() if v is not None}
        return plan(**_renamed(given, min_lr_rate="minimum"))

    return build


def _hf_polynomial(o: Options, lr: float) -> schedules.Schedule:
    plan = schedules.polynomial_with_warmup
    lowest = inspect.signature(plan).parameters["end_lr"].default
    return _hf(plan, lr_end="end")({"lr_end": lowest, **o}, lr)


def _hf_wsd(o: Options, lr: float) -> schedules.Schedule:
    warmup, stable, decay = o["num_warmup_steps"], o.get("num_stable_steps"), o["num_decay_steps"]
    names = {"warmup_type": "warmup_shape", "decay_type": "decay_shape", "min_lr_ratio": "minimum"}
    kept = _without(o, "num_warmup_steps", "num_stable_steps", "num_decay_steps", "num_training_steps")
    stable = o["num_training_steps"] - warmup - decay if stable is None else stable
    return schedules.wsd(warmup, stable, decay, **_renamed(kept, num_cycles="cycles", **names))


def _untuned_exact(o: Options, lr: float) -> schedules.Schedule:
    """The entry has both shapes; a label or ``shape`` says which, linear if none does."""
    cls = schedules.UntunedExponential if str(o.get("shape", "")).startswith("exp") else schedules.UntunedLinear
    return cls(o["beta2"])


#: Golden name -> the schedule, from its complete hyper-parameters and the optimizer's default rate. torch's names take
#: torch's arguments, hf_ those of transformers, warmup_ are pytorch_warmup's, with its rounding.
SCHEDULES: dict[str, Callable[[Options, float], schedules.Schedule]] = {
    "StepLR": lambda o, lr: schedules.Step(**_renamed(o, step_size="every")),
    "MultiStepLR": lambda o, lr: schedules.MultiStep(**o),
    "ExponentialLR": lambda o, lr: schedules.Exponential(**o),
    "CosineAnnealingLR": lambda o, lr: schedules.Cosine(o["T_max"]).above(lr=o["eta_min"]),
    "CosineAnnealingWarmRestarts": lambda o, lr: schedules.WarmRestarts(o["T_0"], o["T_mult"]).above(lr=o["eta_min"]),
    "LambdaLR": lambda o, lr: schedules.Lambda(_function(o["lr_lambda"])),
    "MultiplicativeLR": lambda o, lr: schedules.Multiplicative(_function(o["lr_lambda"])),
    "ConstantLR": lambda o, lr: schedules.Constant(o["factor"]).then(schedules.Constant(), at=o["total_iters"]),
    "LinearLR": lambda o, lr: schedules.Linear(
        **_renamed(o, start_factor="start", end_factor="end", total_iters="steps")
    ),
    "PolynomialLR": lambda o, lr: schedules.Polynomial(**_renamed(o, total_iters="steps")),
    "SequentialLR": _sequence,
    "ChainedScheduler": _chain,
    "OneCycleLR": _one_cycle,
    "CyclicLR": lambda o, lr: schedules.Cyclic(**o),
    "hf_constant": lambda o, lr: schedules.Constant(),
    "hf_constant_with_warmup": _hf(schedules.constant_with_warmup),
    "hf_linear": _hf(schedules.linear_with_warmup),
    "hf_cosine": _hf(schedules.cosine_with_warmup, min_lr="minimum"),
    "hf_cosine_hard_restarts": _hf(schedules.cosine_hard_restarts_with_warmup),
    "hf_polynomial": _hf_polynomial,
    "hf_inverse_sqrt": _hf(schedules.inverse_sqrt_with_warmup),
    "hf_wsd": _hf_wsd,
    "wsd_minicpm": lambda o, lr: schedules.minicpm_wsd(o["W"], o["T"], o["half_life"]),
    "fairseq_inverse_sqrt": lambda o, lr: schedules.fairseq_inverse_sqrt(
        **_renamed(o, warmup="warmup_steps", warmup_updates="warmup_steps", init="init_lr", warmup_init_lr="init_lr")
    ),
    "noam": lambda o, lr: schedules.Noam(**_renamed(o, warmup="warmup_steps", factor="multiplier")),
    "warmup_untuned_linear": lambda o, lr: schedules.UntunedLinear(**o, truncate=True),
    "warmup_untuned_exponential": lambda o, lr: schedules.UntunedExponential(**o, truncate=True),
    "warmup_radam_warmup": lambda o, lr: schedules.RAdamWarmup(**o),
    "untuned_exact_formula": _untuned_exact,
    "untuned_exact_formula_exponential": lambda o, lr: schedules.UntunedExponential(o["beta2"]),
}


def build_schedule(name: str, hyperparameters: Options, optimizer: torch.optim.Optimizer) -> Any:
    """The library's scheduler for a golden name and its complete hyper-parameters, attached to the optimizer.

    What follows a known name after ``_`` is a label. KeyError for an unknown name. ``ReduceLROnPlateau`` compares as
    torch does; momentum is cycled where the optimizer has one, unless the hyper-parameters say otherwise.
    """
    known = [k for k in (*SCHEDULES, "ReduceLROnPlateau") if name == k or name.startswith(f"{k}_")]
    if not known:
        raise KeyError(f"no rule for the golden schedule {name!r}; known: {', '.join(sorted(SCHEDULES))}")
    rule = max(known, key=len)
    given = dict(hyperparameters)
    if rule == "ReduceLROnPlateau":
        return schedules.Plateau(optimizer, **given, published=True)
    if rule in ("OneCycleLR", "CyclicLR"):
        has = all(group.keys() & {"momentum", "betas"} for group in optimizer.param_groups)
        given = {"cycle_momentum": has, **_renamed(given, anneal="anneal_strategy")}
    if hasattr(torch.optim.lr_scheduler, rule) and "schedulers" not in given:
        given = _torch_options(rule, (), given)
    return SCHEDULES[rule](given, float(optimizer.defaults["lr"])).attach(optimizer)
