"""How the gradient is treated before anything averages it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import DECAY, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, mean
from thalweg.techniques import technique


@dataclass(frozen=True, repr=False)
class L2(Slot):
    """Coupled weight decay: the gradient of weight_decay/2*|p|^2 joins the gradient and so enters every average."""

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return mix(1, g, h.weight_decay, x.param)

    def equation(self, x: str = "g") -> str:
        return "g = g + weight_decay*p"


def units(ndim: int) -> tuple[int, ...]:
    """The axes inside an output unit: all but the first, which counts the outputs in Linear and ConvNd."""
    return tuple(range(1, ndim))


@technique("centralise", source="arXiv 2004.01461")
@dataclass(frozen=True, repr=False)
class Centralise(Slot):
    """Gradient centralisation: each output unit's gradient less its mean; 0-d and 1-d tensors are left alone."""

    place = "gradient"
    scope = "row"

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        if x.ndim < 2:
            return g
        middle = yield mean(g, units(x.ndim))
        return g - middle

    def equation(self, x: str = "g") -> str:
        return f"{x} = {x} - mean({x}) over each output unit"
