"""Thalweg: deep-learning optimizers for PyTorch, each idea written once, composed freely, run in one fused pass."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg._version import __version__

if TYPE_CHECKING:
    from thalweg import accounting, amp, flows, layers, losses, schedules, slots
    from thalweg.accumulation import Accumulator
    from thalweg.batchnorm import averaged, recalibrate
    from thalweg.optimizer import Optimizer
    from thalweg.optimizers.adafactor import Adafactor
    from thalweg.optimizers.adam import Adam, AdamS, AdamW, NAdam, RAdam
    from thalweg.optimizers.adam_mini import AdamMini
    from thalweg.optimizers.adam_variants import AdamAtan2, Adamax, AdaMomentum, AdamWarmup, SAdam, diffGrad
    from thalweg.optimizers.adama import AdamA
    from thalweg.optimizers.adanorm import AdaBeliefNorm, AdamNorm, RAdamNorm, diffGradNorm
    from thalweg.optimizers.adaptive import Adagrad, RMSprop
    from thalweg.optimizers.adaptive_memory import AdaptiveMemoryAdamW, AdaptiveMemorySGD
    from thalweg.optimizers.adax import AdaX
    from thalweg.optimizers.classic import ASGD, Adadelta, RMSpropV2, Rprop, SparseAdam
    from thalweg.optimizers.constrained import AdamCPR, AdamW2
    from thalweg.optimizers.fractional import FCGD, AdaGL
    from thalweg.optimizers.layerwise import LAMB, LARC, LARS
    from thalweg.optimizers.lbfgs import LBFGS
    from thalweg.optimizers.mars import MARS
    from thalweg.optimizers.memory import SM3, SMMF, AdafactorBV, AdafactorTorch, Amos
    from thalweg.optimizers.moments import ADOPT, AdaBelief, AdEMAMix, StableAdamW
    from thalweg.optimizers.muon import Muon
    from thalweg.optimizers.pnm import PNM, AdaPNM
    from thalweg.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
    from thalweg.optimizers.sgd import SGD, SGDS
    from thalweg.optimizers.simple import AdaLo, Lion, nSGDA
    from thalweg.optimizers.soap import SOAP
    from thalweg.optimizers.tuning_free import DAdaptAdam, DoG, LDoG, MoMo, MoMoAdam, Prodigy
    from thalweg.recipe import Recipe
    from thalweg.recipes import ADAMW, MUON
    from thalweg.registry import create, define, get, list_optimizers
    from thalweg.release import GradientRelease
    from thalweg.routing import roles, route
    from thalweg.slots.adanorm import AdaNorm
    from thalweg.slots.averaging import EMA, PolynomialAverage
    from thalweg.slots.blocks import SecondPerRow, SecondPerTensor
    from thalweg.slots.cautious import Cautious, CautiousDecay
    from thalweg.slots.classic import Lazy
    from thalweg.slots.clipping import AGC, ClipNorm, ClipValue, LayerNormAdaptation, NormaliseGradient, SoftClip
    from thalweg.slots.compact import Cover, Factored
    from thalweg.slots.denominators import Atan2, EpsInside, Softplus
    from thalweg.slots.fractional import Fractional
    from thalweg.slots.gradient import Centralise
    from thalweg.slots.moments import VarianceReduced
    from thalweg.slots.outer import Lookahead, ScheduleFree
    from thalweg.slots.regularise import CPR, CoupledDecay, DecoupledDecay, FullyDecoupled, NormLoss, Stable
    from thalweg.slots.scale import ClipRMS, TrustRatio
    from thalweg.slots.square import Square
    from thalweg.slots.warmup import Warmup
    from thalweg.techniques import list_techniques

__all__ = [
    "ADAMW",
    "ADOPT",
    "AGC",
    "ASGD",
    "CPR",
    "EMA",
    "FCGD",
    "LAMB",
    "LARC",
    "LARS",
    "LBFGS",
    "MARS",
    "MUON",
    "PNM",
    "SGD",
    "SGDS",
    "SM3",
    "SMMF",
    "SOAP",
    "Accumulator",
    "AdEMAMix",
    "AdaBelief",
    "AdaBeliefNorm",
    "AdaGL",
    "AdaLo",
    "AdaMomentum",
    "AdaNorm",
    "AdaPNM",
    "AdaX",
    "Adadelta",
    "Adafactor",
    "AdafactorBV",
    "AdafactorTorch",
    "Adagrad",
    "Adam",
    "AdamA",
    "AdamAtan2",
    "AdamCPR",
    "AdamMini",
    "AdamNorm",
    "AdamS",
    "AdamW",
    "AdamW2",
    "AdamWarmup",
    "Adamax",
    "AdaptiveMemoryAdamW",
    "AdaptiveMemorySGD",
    "Amos",
    "Atan2",
    "Cautious",
    "CautiousDecay",
    "Centralise",
    "ClipNorm",
    "ClipRMS",
    "ClipValue",
    "CoupledDecay",
    "Cover",
    "DAdaptAdam",
    "DecoupledDecay",
    "DoG",
    "EpsInside",
    "Factored",
    "Fractional",
    "FullyDecoupled",
    "GradientRelease",
    "LDoG",
    "LayerNormAdaptation",
    "Lazy",
    "Lion",
    "Lookahead",
    "MoMo",
    "MoMoAdam",
    "Muon",
    "NAdam",
    "NormLoss",
    "NormaliseGradient",
    "Optimizer",
    "PolynomialAverage",
    "Prodigy",
    "RAdam",
    "RAdamNorm",
    "RMSprop",
    "RMSpropV2",
    "Recipe",
    "Rprop",
    "SAdam",
    "ScheduleFree",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "SecondPerRow",
    "SecondPerTensor",
    "SoftClip",
    "Softplus",
    "SparseAdam",
    "Square",
    "Stable",
    "StableAdamW",
    "TrustRatio",
    "VarianceReduced",
    "Warmup",
    "__version__",
    "accounting",
    "amp",
    "averaged",
    "create",
    "define",
    "diffGrad",
    "diffGradNorm",
    "flows",
    "get",
    "layers",
    "list_optimizers",
    "list_techniques",
    "losses",
    "nSGDA",
    "recalibrate",
    "roles",
    "route",
    "schedules",
    "slots",
]

#: Where the names above are found. A module is imported when one of its names is first used: importing everything
#: takes a fifth of a second, and most programs use one optimizer.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "accumulation": ("Accumulator",),
    "batchnorm": (
        "averaged",
        "recalibrate",
    ),
    "optimizer": ("Optimizer",),
    "optimizers.adafactor": ("Adafactor",),
    "optimizers.adam": (
        "Adam",
        "AdamS",
        "AdamW",
        "NAdam",
        "RAdam",
    ),
    "optimizers.adam_mini": ("AdamMini",),
    "optimizers.adam_variants": (
        "AdaMomentum",
        "AdamAtan2",
        "AdamWarmup",
        "Adamax",
        "SAdam",
        "diffGrad",
    ),
    "optimizers.adama": ("AdamA",),
    "optimizers.adanorm": (
        "AdaBeliefNorm",
        "AdamNorm",
        "RAdamNorm",
        "diffGradNorm",
    ),
    "optimizers.adaptive": (
        "Adagrad",
        "RMSprop",
    ),
    "optimizers.adaptive_memory": (
        "AdaptiveMemoryAdamW",
        "AdaptiveMemorySGD",
    ),
    "optimizers.adax": ("AdaX",),
    "optimizers.classic": (
        "ASGD",
        "Adadelta",
        "RMSpropV2",
        "Rprop",
        "SparseAdam",
    ),
    "optimizers.constrained": (
        "AdamCPR",
        "AdamW2",
    ),
    "optimizers.fractional": (
        "AdaGL",
        "FCGD",
    ),
    "optimizers.layerwise": (
        "LAMB",
        "LARC",
        "LARS",
    ),
    "optimizers.lbfgs": ("LBFGS",),
    "optimizers.mars": ("MARS",),
    "optimizers.memory": (
        "AdafactorBV",
        "AdafactorTorch",
        "Amos",
        "SM3",
        "SMMF",
    ),
    "optimizers.moments": (
        "ADOPT",
        "AdEMAMix",
        "AdaBelief",
        "StableAdamW",
    ),
    "optimizers.muon": ("Muon",),
    "optimizers.pnm": (
        "AdaPNM",
        "PNM",
    ),
    "optimizers.schedule_free": (
        "ScheduleFreeAdamW",
        "ScheduleFreeRAdam",
        "ScheduleFreeSGD",
    ),
    "optimizers.sgd": (
        "SGD",
        "SGDS",
    ),
    "optimizers.simple": (
        "AdaLo",
        "Lion",
        "nSGDA",
    ),
    "optimizers.soap": ("SOAP",),
    "optimizers.tuning_free": (
        "DAdaptAdam",
        "DoG",
        "LDoG",
        "MoMo",
        "MoMoAdam",
        "Prodigy",
    ),
    "recipe": ("Recipe",),
    "recipes": (
        "ADAMW",
        "MUON",
    ),
    "registry": (
        "create",
        "define",
        "get",
        "list_optimizers",
    ),
    "routing": (
        "roles",
        "route",
    ),
    "slots.adanorm": ("AdaNorm",),
    "slots.averaging": (
        "EMA",
        "PolynomialAverage",
    ),
    "slots.blocks": (
        "SecondPerRow",
        "SecondPerTensor",
    ),
    "slots.cautious": (
        "Cautious",
        "CautiousDecay",
    ),
    "slots.classic": ("Lazy",),
    "slots.clipping": (
        "AGC",
        "ClipNorm",
        "ClipValue",
        "LayerNormAdaptation",
        "NormaliseGradient",
        "SoftClip",
    ),
    "slots.compact": (
        "Cover",
        "Factored",
    ),
    "slots.denominators": (
        "Atan2",
        "EpsInside",
        "Softplus",
    ),
    "slots.fractional": ("Fractional",),
    "slots.gradient": ("Centralise",),
    "slots.moments": ("VarianceReduced",),
    "slots.outer": (
        "Lookahead",
        "ScheduleFree",
    ),
    "slots.regularise": (
        "CPR",
        "CoupledDecay",
        "DecoupledDecay",
        "FullyDecoupled",
        "NormLoss",
        "Stable",
    ),
    "slots.scale": (
        "ClipRMS",
        "TrustRatio",
    ),
    "slots.square": ("Square",),
    "slots.warmup": ("Warmup",),
    "techniques": ("list_techniques",),
    "release": ("GradientRelease",),
}
_MODULES = (
    "accounting",
    "amp",
    "engine",
    "flows",
    "hyper",
    "layers",
    "losses",
    "optimizers",
    "recipes",
    "registry",
    "routing",
    "schedules",
    "slots",
    "techniques",
)
_WHERE = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"thalweg.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    value = getattr(import_module(f"thalweg.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
