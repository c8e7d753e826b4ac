"""Techniques that bound or normalise a gradient or a step by a length: its own, its parameter's, or the model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.hyper import DECAY, Hyper, Number, check, referred, value
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, State, matrices, mean, total
from thalweg.slots.chain import Chain
from thalweg.slots.gradient import check_axis, units
from thalweg.slots.scale import ClipRMS, TrustRatio, UnitNorm
from thalweg.slots.symmetric import OfGram
from thalweg.techniques import technique

POSITIVE = Hyper(1.0, open_low=True)


class OfGradient(Slot):
    """Base of techniques that act on the gradient alone: they come before coupled weight decay."""

    place = "gradient"

    def into(self, recipe: Any) -> Any:
        there = recipe.gradient
        slots = () if there is None else there.links
        at = next((i for i, slot in enumerate(slots) if "weight_decay" in slot.hypers()), len(slots))
        return recipe.but(gradient=Chain((*slots[:at], self, *slots[at:])) if slots else self)


@technique("agc", source="arXiv 2102.06171")
@dataclass(frozen=True, repr=False)
class AGC(OfGradient):
    """Adaptive gradient clipping: an output unit's gradient is at most ``clip`` times as long as its weights.

    ``g = g*min(1, clip*max(|p|, eps)/|g|)`` over each output unit; 0-d and 1-d tensors are one unit. It comes before
    weight decay. The paper leaves out the last layer: give that a group of its own. Weights of zero pass gradients of
    length ``clip*eps`` only.

    ``clip`` > 0, ``eps`` >= 0, ``unit_axis``: the axis that counts the units, >= 0; 1 for ConvTranspose.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.AGC(0.1)])
        >>> p.grad = torch.tensor([5.0, 5.0]); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    scope = "row"
    clip: float = 0.01
    eps: float = 1e-3
    unit_axis: int = 0
    how: ClassVar[Callable[..., Request]] = staticmethod(total)
    least: ClassVar[float] = 1e-6

    def __post_init__(self) -> None:
        POSITIVE.check("clip", self.clip)
        Hyper(1e-3).check("eps", self.eps)
        check_axis(self.unit_axis)

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[tuple[Request, ...], Any, Any]:
        over = ("tensor",) if x.ndim < 2 else (units(x.ndim, self.unit_axis),)
        pp, gg = yield self.how(x.param * x.param, *over), self.how(g * g, *over)
        most, size = pp.sqrt().clamp(min=self.eps) * self.clip, gg.sqrt()
        return g * torch.where(size < most, 1.0, most / size.clamp(min=self.least))

    def equation(self, x: str = "g") -> str:
        size = "|{}|" if self.least == AGC.least else "rms({})"
        p, g = size.format("p"), size.format(x)
        return f"{x} = {x}*min(1, {self.clip:g}*max({p}, {self.eps:g})/{g}) over each output unit"


@technique("soft_clip", source="the post-Adam survey that names it")
@dataclass(frozen=True, repr=False)
class SoftClip(AGC):
    """Soft clipping: an output unit's gradient is at most as large as its weights, by root mean square.

    ``g = g*min(1, clip*max(rms(p), eps)/rms(g))`` over each output unit: AGC by the root mean square. The published
    floor ``eps`` = 1e-12 keeps weights of zero at zero for ever; the default lets them grow.

    ``clip`` > 0, ``eps`` >= 0, ``unit_axis`` >= 0 as in ``AGC``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, techniques=[thalweg.SoftClip()])
        >>> p.grad = torch.tensor([5.0, 5.0]); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    clip: float = 1.0
    how: ClassVar[Callable[..., Request]] = staticmethod(mean)
    least: ClassVar[float] = 1e-12


@technique("clip_value", source="torch.nn.utils.clip_grad_value_")
@dataclass(frozen=True, repr=False)
class ClipValue(OfGradient):
    """Every coordinate of the gradient is held between -``limit`` and ``limit``.

    ``g = min(max(g, -limit), limit)``, before weight decay; ``p.grad`` itself is left as it is. ``limit`` > 0, or the
    name of the group's number that holds it.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.ClipValue(1.0)])
        >>> p.grad = torch.tensor([5.0, -0.5]); opt.step(); p.data
        tensor([-1.0000,  0.5000])
    """

    limit: Number = 1.0

    def __post_init__(self) -> None:
        check("limit", self.limit, POSITIVE)

    def hypers(self) -> dict[str, Hyper]:
        return referred(self.limit, POSITIVE)

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"limit": value(h, self.limit)}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return True

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return g.clamp(-h.limit, h.limit)

    def equation(self, x: str = "g") -> str:
        return f"{x} = min(max({x}, -{self.limit}), {self.limit})"


@technique("clip_norm", source="Pascanu et al. 2013, arXiv 1211.5063")
@dataclass(frozen=True, repr=False)
class ClipNorm(OfGradient):
    """The gradient of the whole model is at most ``max_norm`` long.

    ``g = g/max(1, |g|/max_norm)``, ``|g|`` over every parameter of all groups with this technique that has a
    gradient. torch.nn.utils.clip_grad_norm_ divides by ``|g| + 1e-6``; here a gradient is only ever shortened, and
    ``p.grad`` is left as it is. ``max_norm`` > 0, or the name of the group's number that holds it.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.ClipNorm(1.0)])
        >>> p.grad = torch.tensor([3.0, -4.0]); opt.step(); p.data
        tensor([-0.6000,  0.8000])
    """

    scope = "tensor"
    couples = "model"
    max_norm: Number = 1.0

    def __post_init__(self) -> None:
        check("max_norm", self.max_norm, POSITIVE)

    def hypers(self) -> dict[str, Hyper]:
        return referred(self.max_norm, POSITIVE)

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"most": value(h, self.max_norm)}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        squares = yield total(g * g, "model")
        return g / (squares.sqrt() / h.most).clamp(min=1)

    def equation(self, x: str = "g") -> str:
        return f"{x} = {x}/max(1, |{x}|/{self.max_norm}), |{x}| over the model"


@technique("normalise_gradient", source="the post-Adam survey; compare arXiv 2210.04319")
@dataclass(frozen=True, repr=False)
class NormaliseGradient(OfGradient, UnitNorm):
    """Every tensor's gradient gets length one.

    ``g = g/(|g| + eps)`` over the tensor, before weight decay; a 0-d gradient becomes its sign. ``eps`` >= 0.
    ``over``: "tensor", or "model" for one length of all tensors together.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.NormaliseGradient()])
        >>> p.grad = torch.tensor([3.0, -4.0]); opt.step(); p.data
        tensor([-0.6000,  0.8000])
    """

    eps: Number = 1e-8

    def __post_init__(self) -> None:
        check("eps", self.eps, Hyper(1e-8))
        if self.over not in ("tensor", "model"):
            raise ValueError(f"Invalid over: {self.over!r}; legal are 'tensor' and 'model'")


@technique("layer_norm_adaptation", source="the post-Adam survey; compare arXiv 1708.03888")
@dataclass(frozen=True, repr=False)
class LayerNormAdaptation(OfGradient, TrustRatio):
    """Every tensor's gradient gets the tensor's own length: LARS without its coefficient and decay.

    ``g = g*|p|/|g|``, unchanged where either length is 0, so weights of zero take the raw gradient. ``bounds``: None,
    or (low, high) for ``|p|``; ``clip``: None, or (low, high) for the ratio.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, techniques=[thalweg.LayerNormAdaptation()])
        >>> p.grad = torch.tensor([5.0, 5.0]); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """


technique("trust_ratio", source="arXiv 1904.00962")(TrustRatio)
technique("clip_rms", source="arXiv 1804.04235")(ClipRMS)


def _largest_singular(gram: Tensor) -> Tensor:
    """The root of the largest eigenvalue: for that one it is as exact as a singular value decomposition of the matrix,
    which takes tens of times as long on a long one.
    """
    return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()


#: The largest singular value of each matrix of a stack.
_SIGMA = OfGram(_largest_singular)


@dataclass(frozen=True, repr=False)
class SpectralBound(Slot):
    """AdamW^2: a matrix moves by no more than ``tau`` of its own largest singular value; weight decay moves with it.

    ``iterations``: None for exact singular values, or the number of power iterations, which start from where the
    last step's ended. Tensors of fewer than two axes, and matrices of zeros, are not bounded.
    """

    scope = "matrix"
    iterations: int | None = None

    @property
    def asks(self) -> bool:  # type: ignore[override]
        return self.iterations is None

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY, "tau": Hyper(0.01, open_low=True)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if self.iterations is None or len(shape) < 2:
            return {}
        start = State(1 / math.sqrt(max(shape[0], 1)), shape[:1])
        return {"param_vector": start, "step_vector": start}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"], "room": h["tau"] / max(h["lr"], 1e-30)}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        moved = mix(1, u, h.weight_decay, x.param)
        if x.ndim < 2:
            return moved
        if self.iterations is None:
            own = yield matrices(_SIGMA, x.param, lone=True)
            step = yield matrices(_SIGMA, u, lone=True)  # one after the other, so that one is in memory at a time
        else:
            own, step = self._power(x, "param_vector", x.param), self._power(x, "step_vector", u)
        least = (own * h.room / step).clamp(max=1)
        return moved * torch.where((own > 0) & (step > 0), least, 1.0)

    def _power(self, x: Any, role: str, matrix: Any) -> Any:
        """The largest singular value by power iterations from the vector in ``role``, which moves on."""
        matrix = matrix.flatten(1)
        across = matrix.transpose(0, 1)
        start = along = x[role]
        size: Any = None
        for _ in range(self.iterations or 0):
            other = torch.mv(across, along)
            other = other / (other * other).sum().sqrt()
            along = torch.mv(matrix, other)
            size = (along * along).sum().sqrt()
            along = along / size
        x[role] = torch.where(size > 0, along, start)
        return size

    def equation(self, x: str = "g") -> str:
        how = "" if self.iterations is None else f"   (s by {self.iterations} power iterations)"
        return f"{x} = min(1, tau*s(p)/(lr*s({x})))*({x} + weight_decay*p), s the largest singular value{how}"
