"""How a layer's step is scaled."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.hyper import EPS, Hyper, Number, check, referred, value
from thalweg.slots.base import Request, Slot, mean, total
from thalweg.slots.direction import PARTS, each_shape


@dataclass(frozen=True, repr=False)
class UnitNorm(Slot):
    """The step has length one: over its own tensor, or over all tensors of the model together."""

    place = "scale"
    scope = "tensor"
    over: str = "tensor"
    eps: Number = "eps"

    @property
    def couples(self) -> str:  # type: ignore[override]
        return self.over.replace("tensor", "")

    def hypers(self) -> dict[str, Hyper]:
        return referred(self.eps, EPS)

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"eps": value(h, self.eps)}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        squares = yield total(u * u, self.over)
        return u / (squares.sqrt() + h.eps)

    def equation(self, x: str = "g") -> str:
        return f"{x} = {x}/(|{x}| + {self.eps}), |{x}| over the {self.over}"


@dataclass(frozen=True, repr=False)
class TrustRatio(Slot):
    """LAMB: each tensor moves by its own length, u <- u*phi(|p|)/|u|; unchanged where either norm is zero.

    ``bounds`` clamps |p| (the phi of the paper), ``clip`` clamps the ratio itself (the paper's first version): None, or
    (low, high) with 0 <= low <= high.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, techniques=["trust_ratio"])
        >>> p.grad = torch.tensor([5.0, 5.0]); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    place = "scale"
    scope = "tensor"
    bounds: tuple[float, float] | None = None
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, bounds in (("bounds", self.bounds), ("clip", self.clip)):
            if bounds is None:
                continue
            if not (isinstance(bounds, tuple) and len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                raise ValueError(f"Invalid {name}: {bounds!r}; legal is None or (low, high) with 0 <= low <= high")

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[tuple[Request, Request], Any, Any]:
        pp, uu = yield total(x.param * x.param), total(u * u)
        length = pp.sqrt() if self.bounds is None else pp.sqrt().clamp(*self.bounds)
        ratio = length / uu.sqrt()
        if self.clip is not None:
            ratio = ratio.clamp(*self.clip)
        return u * torch.where((pp > 0) & (uu > 0), ratio, 1.0)

    def equation(self, x: str = "g") -> str:
        phi = "|p|" if self.bounds is None else f"min(max(|p|, {self.bounds[0]:g}), {self.bounds[1]:g})"
        ratio = f"{phi}/|{x}|" if self.clip is None else f"min(max({phi}/|{x}|, {self.clip[0]:g}), {self.clip[1]:g})"
        return f"{x} = {x}*{ratio}, unchanged where |p| or |{x}| is 0"


@dataclass(frozen=True, repr=False)
class ClipRMS(Slot):
    """Adafactor's update clipping: a step whose root mean square exceeds ``threshold`` is brought back to it.

    ``u = u/max(1, rms(u)/threshold)``, per tensor. ``threshold`` > 0, or the name of the group's number.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> opt = thalweg.SGD([p], lr=0.1, techniques=["clip_rms"])
        >>> p.grad = torch.tensor([5.0, 5.0]); opt.step(); p.data
        tensor([-0.1000, -0.1000])
    """

    place = "scale"
    scope = "tensor"
    threshold: Number = "clip_threshold"

    def __post_init__(self) -> None:
        check("threshold", self.threshold, Hyper(1.0, open_low=True))

    def hypers(self) -> dict[str, Hyper]:
        return referred(self.threshold, Hyper(1.0, open_low=True))

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"threshold": value(h, self.threshold)}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        square = yield mean(u * u)
        return u / (square.sqrt() / h.threshold).clamp(min=1)

    def equation(self, x: str = "g") -> str:
        return f"u = u/max(1, rms(u)/{self.threshold})"


@dataclass(frozen=True, repr=False)
class ShapeScale(Slot):
    """Muon: one learning rate for matrices of every shape.

    ``rule``: "keller" sqrt(max(1, rows/columns)); "moonlight" 0.2*sqrt(max(rows, columns)), which gives the step the
    root mean square of AdamW's. Axes after the first count as columns; of ``parts`` stacked
    matrices each counts alone.
    """

    sized = True
    rule: str = "keller"

    def hypers(self) -> dict[str, Hyper]:
        return {"parts": PARTS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        rows, *others = each_shape(h["shape"], int(h["parts"]))
        columns = math.prod(others)
        return {"by": math.sqrt(max(1, rows / max(columns, 1)) if self.rule == "keller" else 0.04 * max(rows, columns))}

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        return u * h.by

    def equation(self, x: str = "g") -> str:
        return "u = u*" + ("sqrt(max(1, rows/columns))" if self.rule == "keller" else "0.2*sqrt(max(rows, columns))")
