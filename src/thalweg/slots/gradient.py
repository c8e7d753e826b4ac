"""How the gradient is treated before anything averages it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import DECAY, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Slot


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
