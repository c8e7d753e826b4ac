"""Learning-rate schedules: pure functions of the step that combine, and attach to any torch optimizer.

``plan = Cosine(900).above(0.1).warmup(100)``; ``plan(k)`` is the factor at step k, ``plan.values(n)`` a plot, and
``scheduler = plan.attach(optimizer)`` a torch scheduler. `Plateau` alone has a state of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from thalweg.schedules.attached import Attached
from thalweg.schedules.base import Above, Constant, Product, Schedule, Then, WarmedUp
from thalweg.schedules.cosine import Cosine, HardRestarts, WarmRestarts
from thalweg.schedules.cycle import Cyclic, OneCycle
from thalweg.schedules.decay import (
    Exponential,
    InverseSqrt,
    Lambda,
    Linear,
    Multiplicative,
    MultiStep,
    Noam,
    Polynomial,
    Step,
)
from thalweg.schedules.plateau import Plateau
from thalweg.schedules.published import (
    constant_with_warmup,
    cosine_hard_restarts_with_warmup,
    cosine_with_warmup,
    fairseq_inverse_sqrt,
    inverse_sqrt_with_warmup,
    linear_with_warmup,
    minicpm_wsd,
    polynomial_with_warmup,
    wsd,
)
from thalweg.schedules.warmup import Decay, RAdamWarmup, UntunedExponential, UntunedLinear, Warmup

__all__ = [
    "Above",
    "Attached",
    "Constant",
    "Cosine",
    "Cyclic",
    "Decay",
    "Exponential",
    "HardRestarts",
    "InverseSqrt",
    "Lambda",
    "Linear",
    "MultiStep",
    "Multiplicative",
    "Noam",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Product",
    "RAdamWarmup",
    "Schedule",
    "Step",
    "Then",
    "UntunedExponential",
    "UntunedLinear",
    "WarmRestarts",
    "WarmedUp",
    "Warmup",
    "constant_with_warmup",
    "cosine_hard_restarts_with_warmup",
    "cosine_with_warmup",
    "fairseq_inverse_sqrt",
    "inverse_sqrt_with_warmup",
    "linear_with_warmup",
    "list_schedules",
    "minicpm_wsd",
    "polynomial_with_warmup",
    "wsd",
]

_PARTS = frozenset(("Above", "Attached", "Product", "Schedule", "Then", "WarmedUp", "list_schedules"))


def list_schedules() -> dict[str, Callable[..., Any]]:
    """Name -> class or function of every schedule; the methods of `Schedule` make the combinations.

    Example:
        >>> from thalweg.schedules import list_schedules
        >>> list_schedules()["Cosine"]
        <class 'thalweg.schedules.cosine.Cosine'>
    """
    return {name: globals()[name] for name in __all__ if name not in _PARTS}


def formula(name: str) -> str:
    """What a schedule of ``list_schedules()`` computes: the first sentence of its docstring."""
    return (
        (inspect.getdoc(list_schedules()[name]) or "").splitlines()[0].partition(". ")[0].rstrip(".").replace("``", "")
    )
