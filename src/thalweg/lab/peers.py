"""Other libraries' optimizers that this one has too: what they are called there, and how each is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from thalweg.lab.parameter_sets import is_hidden

Named = Sequence[tuple[str, Parameter]]
Options = Mapping[str, Any]

#: An optimizer's name there, or that and the options that make it the same rule as ours.
Theirs = str | tuple[str, Options]

#: By library, the module its optimizers are in and the distribution it is installed from.
LIBRARIES = {
    "torch.optim": ("torch.optim", "torch"),
    "pytorch_optimizer": ("pytorch_optimizer", "pytorch_optimizer"),
    "heavyball": ("heavyball", "heavyball"),
    "torch-optimi": ("optimi", "torch-optimi"),
    "torchao": ("torchao.optim", "torchao"),
    "bitsandbytes": ("bitsandbytes.optim", "bitsandbytes"),
    "timm": ("timm.optim", "timm"),
}


@dataclass(frozen=True)
class Family:
    """Optimizers of a library, run in one way, by the names of ours that they are."""

    library: str
    variant: str
    classes: Mapping[str, Theirs]
    options: Options = field(default_factory=dict)
    """What theirs are built with, all of them."""
    ours: Options = field(default_factory=dict)
    """What ours are built with to be the like of them."""
    build: Callable[[str, Named, Options], Optimizer] | None = None
    """How one is built, where it is not ``class(params, **options)``."""


class Holder(nn.Module):
    """A model of nothing but parameters, for libraries that want one."""

    def __init__(self, named: Named) -> None:
        super().__init__()
        for name, param in named:
            self.register_parameter(name.replace(".", "_"), param)


def _pytorch_optimizer(name: str, named: Named, options: Options) -> Optimizer:
    library: Any = import_module("pytorch_optimizer")
    if name == "Muon":  # its factory routes by module type, which a list of parameters does not have
        return library.Muon([{"params": [p for _, p in named], "use_muon": True}])
    return library.create_optimizer(Holder(named), name.lower(), **options)


_TORCH: dict[str, Theirs] = {
    "adadelta": "Adadelta", "adafactor_torch": "Adafactor", "adagrad": "Adagrad", "adam": "Adam", "adamax": "Adamax",
    "adamw": "AdamW", "asgd": "ASGD", "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "rprop": "Rprop",
    "sgd": "SGD",
}  # fmt: skip
_PYTORCH_OPTIMIZER: dict[str, Theirs] = {
    "adabelief": "AdaBelief", "adabeliefnorm": ("AdaBelief", {"adanorm": True}), "adadelta": "AdaDelta",
    "adafactor": ("AdaFactor", {"betas": (None, 0.999)}), "adam": "Adam", "adamax": "AdaMax", "adammini": "AdamMini",
    "adamnorm": "AdaNorm", "adams": "AdamS", "adamw": "AdamW", "adapnm": "AdaPNM", "ademamix": "AdEMAMix",
    "adopt": "ADOPT", "amos": "Amos", "dadapt_adam": "DAdaptAdam", "diffgrad": "DiffGrad",
    "diffgradnorm": ("DiffGrad", {"adanorm": True}), "lamb": "Lamb", "lars": "LARS", "lion": "Lion", "mars": "MARS",
    "nadam": "NAdam", "pnm": "PNM", "prodigy": "Prodigy", "radam": "RAdam",
    "radamnorm": ("RAdam", {"adanorm": True}), "rmsprop": "RMSprop", "schedulefree_adamw": "ScheduleFreeAdamW",
    "schedulefree_radam": "ScheduleFreeRAdam", "schedulefree_sgd": "ScheduleFreeSGD", "sgd": "SGD",
    "sm3": ("SM3", {"momentum": 0.9}), "soap": "SOAP", "stableadamw": "StableAdamW",
}  # fmt: skip

_HEAVYBALL: dict[str, Theirs] = {
    "adamw": "AdamW", "ademamix": "AdEMAMix", "adopt": "ADOPT", "muon": "Muon", "nadam": "NAdam", "rmsprop": "RMSprop",
    "schedulefree_adamw": "SFAdamW", "soap": "SOAP",
}  # fmt: skip
_BITSANDBYTES = {"adagrad": "Adagrad", "adam": "Adam", "adamw": "AdamW", "lamb": "LAMB", "lion": "Lion"}
_TIMM: dict[str, Theirs] = {
    "adabelief": "AdaBelief", "adafactor": "Adafactor", "adafactor_bv": "AdafactorBigVision", "adopt": "Adopt",
    "lamb": "Lamb", "lars": "Lars", "lion": "Lion", "mars": "Mars", "muon": "Muon",
}  # fmt: skip
_MUON = {"muon": "Muon"}

FAMILIES = (
    Family("torch.optim", "fused", {n: _TORCH[n] for n in ("adagrad", "adam", "adamw", "sgd")}, {"fused": True}),
    Family("torch.optim", "foreach", _TORCH, {"foreach": True}),
    Family("torch.optim", "loop", _TORCH, {"foreach": False}),
    Family("torch.optim", "default", _MUON),
    Family("pytorch_optimizer", "default", {**_PYTORCH_OPTIMIZER, **_MUON}, build=_pytorch_optimizer),
    Family("pytorch_optimizer", "compile", _PYTORCH_OPTIMIZER, {"compile": True}, build=_pytorch_optimizer),
    Family("heavyball", "default", _HEAVYBALL),
    Family(
        "torch-optimi",
        "default",
        {name.lower(): name for name in ("Adam", "AdamW", "Lion", "RAdam", "SGD", "StableAdamW")},
        {"lr": 1e-3},
    ),
    Family("torchao", "8 bits", {"adam": "Adam8bit", "adamw": "AdamW8bit"}, ours={"state": "int8"}),
    Family("torchao", "4 bits", {"adam": "Adam4bit", "adamw": "AdamW4bit"}, ours={"state": "int4"}),
    Family("bitsandbytes", "32 bits", {name: f"{theirs}32bit" for name, theirs in _BITSANDBYTES.items()}),
    Family(
        "bitsandbytes",
        "8 bits",
        {name: f"{theirs}8bit" for name, theirs in _BITSANDBYTES.items()},
        ours={"state": "int8"},
    ),
    Family("timm", "default", _TIMM),
)

#: Options of ours that make it what the peers of that name are: they iterate in bfloat16 on every device.
LIKE_PEERS: dict[str, Options] = {"muon": {"ns_dtype": "bfloat16"}}


@dataclass(frozen=True)
class Pair:
    """One optimizer of ours beside one of theirs."""

    name: str
    library: str
    variant: str

    @property
    def family(self) -> Family:
        """What theirs belongs to."""
        return next(f for f in FAMILIES if (f.library, f.variant) == (self.library, self.variant))

    @property
    def theirs(self) -> tuple[str, dict[str, Any]]:
        """Their class and the options it is built with."""
        found = self.family.classes[self.name]
        name, options = (found, {}) if isinstance(found, str) else found
        return name, {**options, **self.family.options}

    @property
    def our_options(self) -> dict[str, Any]:
        """Options of ours beyond its defaults."""
        return {**LIKE_PEERS.get(self.name, {}), **self.family.ours}

    def parameters(self, named: list[tuple[str, Parameter]]) -> list[tuple[str, Parameter]]:
        """Those both are given: for Muon the hidden matrices of two axes, as some peers take nothing else."""
        return [(n, p) for n, p in named if is_hidden(n, p.shape) and p.ndim == 2] if self.name == "muon" else named

    def build(self, named: Named) -> Optimizer:
        """Theirs, over these parameters."""
        name, options = self.theirs
        if self.family.build is not None:
            return self.family.build(name, named, options)
        module = import_module(LIBRARIES[self.library][0])
        return getattr(module, name)([p for _, p in named], **options)


def pairs(names: Sequence[str] | None, libraries: Sequence[str]) -> list[Pair]:
    """Every pair of one of our names (``None`` for all) with a family of these libraries."""
    return [
        Pair(name, family.library, family.variant)
        for family in FAMILIES
        for name in family.classes
        if family.library in libraries and (names is None or name in names)
    ]
