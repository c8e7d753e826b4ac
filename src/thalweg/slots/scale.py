"""How a layer's step is scaled."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.hyper import EPS, Hyper
from thalweg.slots.base import Request, Slot, mean, total


@dataclass(frozen=True, repr=False)
class UnitNorm(Slot):
    """The step has length one: over its own tensor, or over all tensors of the model together."""

    scope = "tensor"
    over: str = "tensor"

    @property
    def couples(self) -> str:  # type: ignore[override]
        return self.over.replace("tensor", "")

    def hypers(self) -> dict[str, Hyper]:
        return {"eps": EPS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"eps": h["eps"]}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        squares = yield total(u * u, self.over)
        return u / (squares.sqrt() + h.eps)

    def equation(self, x: str = "g") -> str:
        return f"u = u/(|u| + eps), |u| over the {self.over}"


@dataclass(frozen=True, repr=False)
class TrustRatio(Slot):
    """LAMB: each tensor moves by its own length, u <- u*phi(|p|)/|u|; unchanged where either norm is zero.

    ``bounds`` clamps |p| (the phi of the paper), ``clip`` clamps the ratio itself (the paper's first version).
    """

    scope = "tensor"
    bounds: tuple[float, float] | None = None
    clip: tuple[float, float] | None = None

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[tuple[Request, Request], Any, Any]:
        pp, uu = yield total(x.param * x.param), total(u * u)
        length = pp.sqrt() if self.bounds is None else pp.sqrt().clamp(*self.bounds)
        ratio = length / uu.sqrt()
        if self.clip is not None:
            ratio = ratio.clamp(*self.clip)
        return u * torch.where((pp > 0) & (uu > 0), ratio, 1.0)

    def equation(self, x: str = "g") -> str:
        phi = "|p|" if self.bounds is None else f"min(max(|p|, {self.bounds[0]:g}), {self.bounds[1]:g})"
        ratio = f"{phi}/|u|" if self.clip is None else f"min(max({phi}/|u|, {self.clip[0]:g}), {self.clip[1]:g})"
        return f"u = u*{ratio}, unchanged where |p| or |u| is 0"


@dataclass(frozen=True, repr=False)
class ClipRMS(Slot):
    """Adafactor's update clipping: a step whose root mean square exceeds clip_threshold is brought back to it."""

    scope = "tensor"

    def hypers(self) -> dict[str, Hyper]:
        return {"clip_threshold": Hyper(1.0, open_low=True)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"threshold": h["clip_threshold"]}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        square = yield mean(u * u)
        return u / (square.sqrt() / h.threshold).clamp(min=1)

    def equation(self, x: str = "g") -> str:
        return "u = u/max(1, rms(u)/clip_threshold)"


@dataclass(frozen=True, repr=False)
class ShapeScale(Slot):
    """Muon: one learning rate for matrices of every shape.

    ``rule``: "keller" sqrt(max(1, rows/columns)); "moonlight" 0.2*sqrt(max(rows, columns)), which gives the step the
    root mean square of AdamW's. Axes after the first count as columns.
    """

    scope = "matrix"
    rule: str = "keller"

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        rows, columns = x.shape[0], math.prod(x.shape[1:])
        return u * (math.sqrt(max(1, rows / columns)) if self.rule == "keller" else 0.2 * math.sqrt(max(rows, columns)))

    def equation(self, x: str = "g") -> str:
        return "u = u*" + ("sqrt(max(1, rows/columns))" if self.rule == "keller" else "0.2*sqrt(max(rows, columns))")
