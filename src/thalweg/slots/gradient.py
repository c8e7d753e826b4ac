"""How the gradient is treated before anything averages it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.hyper import DECAY, EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, mean, total
from thalweg.techniques import technique


@dataclass(frozen=True, repr=False)
class L2(Slot):
    """Coupled weight decay: the gradient of weight_decay/2*|p|^2 joins the gradient and so enters every average."""

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"]}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return h["weight_decay"] == 0

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return mix(1, g, h.weight_decay, x.param)

    def equation(self, x: str = "g") -> str:
        return "g = g + weight_decay*p"


def units(ndim: int, axis: int = 0) -> tuple[int, ...]:
    """The axes inside an output unit: all but ``axis``, which counts the outputs; 0 in Linear and ConvNd."""
    if not 0 <= axis < ndim:
        raise ValueError(f"unit_axis {axis} does not exist in a parameter of {ndim} axes; give it a group of its own")
    return tuple(i for i in range(ndim) if i != axis)


def check_axis(axis: int) -> None:
    """Raise if ``unit_axis`` is not a whole number of at least 0."""
    if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
        raise ValueError(f"Invalid unit_axis: {axis!r}; legal is a whole number of at least 0 (ConvTranspose has 1)")


@technique("centralise", source="arXiv 2004.01461")
@dataclass(frozen=True, repr=False)
class Centralise(Slot):
    """Gradient centralisation: each output unit's gradient less its mean; 0-d and 1-d tensors are left alone.

    ``g = g - mean(g over the axes of a unit)``, behind coupled weight decay where there is any, as in the authors'
    SGD. A unit of a single element, whose gradient the authors' code makes zero, is left alone too.

    ``conv_only``: only tensors of four axes or more. ``unit_axis``: the axis that counts the units, >= 0; 1 for
    ConvTranspose.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(1, 2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.Centralise()])
        >>> p.grad = torch.tensor([[1.0, 3.0]]); opt.step(); p.data
        tensor([[ 1., -1.]])
    """

    place = "gradient"
    scope = "row"
    conv_only: bool = False
    unit_axis: int = 0

    def __post_init__(self) -> None:
        check_axis(self.unit_axis)

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[tuple[Request, ...], Any, Any]:
        if x.ndim < (4 if self.conv_only else 2):
            return g
        axes = units(x.ndim, self.unit_axis)
        middle, count = yield mean(g, axes), total(torch.ones_like(g), axes)
        return g - torch.where(count > 1, middle, 0.0)

    def equation(self, x: str = "g") -> str:
        return f"{x} = {x} - mean({x}) over each output unit"


@dataclass(frozen=True, repr=False)
class LayerRate(Slot):
    """LARS: gradient and weight decay together, scaled to ``trust_coeff`` of the tensor's length.

    ``clip`` (LARC): the ratio never raises the rate above lr. ``whole``: where a norm is zero nothing is done at all,
    decay included, as in apex; otherwise the ratio is 1 there. ``adapts=False`` leaves everything as it is, for groups
    that are not to be scaled.
    """

    clip: bool = False
    whole: bool = False
    trust: str = "trust_coeff"
    adapts: bool = True

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "tensor" if self.adapts else "element"

    def idle(self, h: Mapping[str, Any]) -> bool:
        return not self.adapts

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY, self.trust: Hyper(1e-3), "eps": EPS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        # A rate of 0 moves nothing; the ratio only has to stay finite.
        found = {"weight_decay": h["weight_decay"], "trust": h[self.trust], "eps": h["eps"]}
        return {**found, "per_lr": 1 / max(h["lr"], 1e-30)} if self.clip else found

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[tuple[Request, ...], Any, Any]:
        if not self.adapts:
            return g
        pp, gg = yield total(x.param * x.param), total(g * g)
        length = pp.sqrt()
        decayed = g + x.param * h.weight_decay
        ratio = length * h.trust / (gg.sqrt() + length * h.weight_decay + h.eps)
        there = (pp > 0) & (gg > 0)
        if self.whole:
            ratio = (ratio * h.per_lr).clamp(max=1) if self.clip else ratio
            return torch.where(there, decayed * ratio, g)
        ratio = torch.where(there, ratio, 1.0)
        return decayed * ((ratio * h.per_lr).clamp(max=1) if self.clip else ratio)

    def equation(self, x: str = "g") -> str:
        if not self.adapts:
            return f"{x} = {x}   (not scaled)"
        least = f"min(q, lr)/lr*({x} + weight_decay*p)" if self.clip else f"q*({x} + weight_decay*p)"
        zero = f"{x} alone" if self.whole else "q = 1"
        ratio = f"q = {self.trust}*|p|/(|{x}| + weight_decay*|p| + eps)"
        return f"{ratio} ; {x} = {least}   (where |p| or |{x}| is 0: {zero})"
