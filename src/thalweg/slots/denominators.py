"""Other denominators: techniques that change how Adam and its relatives divide by the root of the second moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from thalweg.hyper import Hyper
from thalweg.scalars import sqrt
from thalweg.slots.base import Slot
from thalweg.slots.law import Law
from thalweg.slots.ratio import OverSqrt
from thalweg.techniques import technique

ROOT = "a recipe that divides by the root of a second moment"
BARE = OverSqrt(eps=None)
POSITIVE = Hyper(1.0, open_low=True)


def _root(recipe: Any, slot: Slot) -> OverSqrt:
    """The recipe's division by a root, which is to be replaced."""
    if type(recipe.ratio) is not OverSqrt:
        there = "it divides by nothing" if recipe.ratio is None else f"its ratio is {recipe.ratio!r}"
        raise ValueError(
            f"{type(slot).__name__} needs {ROOT} (ratio=OverSqrt(...)): {there}; leave the technique out, or use it"
            " with Adam, AdamW, NAdam, Adagrad, RMSprop or another recipe with such a ratio"
        )
    return recipe.ratio


def _number(h: Mapping[str, Any], value: float | str) -> float:
    """A field that is a number, or names one of the parameter group."""
    return h[value] if isinstance(value, str) else value


def _hypers(**fields: float | str) -> dict[str, Hyper]:
    return {value: Hyper(default, open_low=True) for value, default in _DEFAULTS.items() if value in fields.values()}


_DEFAULTS = {"smooth": 50.0, "a": 1.27, "b": 1.0}


@technique("softplus", source="arXiv 1908.00700", needs=ROOT)
@dataclass(frozen=True, repr=False)
class Softplus(Slot):
    """A denominator with a smooth floor: softplus of the recipe's own, log(1 + exp(smooth*d))/smooth.

    ``u = m/softplus(d), d = sqrt(v) + eps``; where smooth*d > 20 it is d itself, at d = 0 it is log(2)/smooth. v is
    the corrected one, as in Ranger21; where the recipe has its eps beside the un-normalised v (``OverSqrt(raw=...)``),
    so has softplus its argument (SAdam's published code). The floor is absolute: the step depends on the loss's scale.

    Args:
        smooth: > 0, the sharpness of the bend; or the name of a number in the parameter group.
        below: what it is taken of; the recipe's own denominator when it is switched on as a technique.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, techniques=[thalweg.Softplus(smooth=2.0)])
        >>> p.grad = torch.tensor([0.0, 100.0]); opt.step(); p.data
        tensor([1.0000, 0.9000])
    """

    place = "ratio"
    smooth: float | str = 50.0
    below: OverSqrt = BARE

    def __post_init__(self) -> None:
        if not isinstance(self.smooth, str):
            POSITIVE.check("smooth", self.smooth)

    def into(self, recipe: Any) -> Any:
        return recipe.but(ratio=replace(self, below=_root(recipe, self)))

    def hypers(self) -> dict[str, Hyper]:
        return {**self.below.hypers(), **_hypers(smooth=self.smooth)}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return True

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        raw = self.below.raw
        # softplus(c*d)/c bends at smooth*c; a weight that has overflowed leaves nothing of the bend.
        sharp = _number(h, self.smooth) * (sqrt(raw.raw(h, t)) if raw else 1.0)
        return {**self.below.scalars(h, t, numbers), "sharp": min(sharp, 1e30)}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        d = self.below.denominator(h, v)
        z = d * h.sharp
        return m / torch.where(z > 20, d, z.clamp(max=20).exp().log1p() / h.sharp)

    def equation(self, x: str = "g") -> str:
        root = self.below.equation(x).removeprefix(f"u = {x}/")
        smooth = self.smooth if isinstance(self.smooth, str) else f"{self.smooth:g}"
        s = f"{smooth}*sqrt(weight of the un-normalised v)" if self.below.raw else smooth
        return f"d = {root} ; s = {s} ; u = {x}/(log(1 + exp(s*d))/s)"


@technique("atan2", source="arXiv 2407.05872", needs=ROOT)
@dataclass(frozen=True, repr=False)
class Atan2(Slot):
    """The quotient's arc tangent in place of the quotient, which is bounded and needs no eps.

    ``u = a*atan2(m, b*sqrt(v))``, between -a*pi/2 and a*pi/2, 0 for 0/0. A step at full agreement (|m| = sqrt(v)) has
    length a*atan(1/b)*lr: 0.9975*lr by default, lr with a = 4/pi; a = b large approaches the quotient without eps.

    Args:
        a: > 0, the scale; or the name of a number in the parameter group.
        b: > 0, how much of the tangent's straight part is used; or such a name.
        raw: the first moment's law, to take the arc tangent of the uncorrected momentum and correct the angle.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, techniques=["atan2"])
        >>> p.grad = torch.tensor([0.0, 1e-12]); opt.step(); p.data
        tensor([1.0000, 0.9003])
    """

    place = "ratio"
    a: float | str = 1.27
    b: float | str = 1.0
    raw: Law | None = None

    def __post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b)):
            if not isinstance(value, str):
                POSITIVE.check(name, value)

    def into(self, recipe: Any) -> Any:
        _root(recipe, self)
        return recipe.but(ratio=self)

    def hypers(self) -> dict[str, Hyper]:
        return _hypers(a=self.a, b=self.b)

    def idle(self, h: Mapping[str, Any]) -> bool:
        return True

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        # atan2(c*m, b*s)/c with the corrected m is (1/c)*atan2(m, (b/c)*s): the angle does not see a common factor.
        weight = self.raw.raw(h, t) if self.raw else 1.0
        return {"times": _number(h, self.a) / weight, "over": _number(h, self.b) / weight}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        return m.atan2(v.sqrt() * h.over) * h.times

    def equation(self, x: str = "g") -> str:
        a, b = (value if isinstance(value, str) else f"{value:g}" for value in (self.a, self.b))
        c = "/c, c = weight of the un-normalised m" if self.raw else ""
        return f"u = {a}*atan2({'c*' if self.raw else ''}{x}, {b}*sqrt(v)){c}"


@technique("eps_inside", source="arXiv 1412.6980, as placed by LAMB's first code", needs=f"{ROOT} plus eps")
@dataclass(frozen=True, repr=False)
class EpsInside(Slot):
    """eps under the root of the denominator instead of beside it.

    ``u = m/sqrt(v + eps)``. The same eps counts far more there: 1e-8 under the root is a floor of 1e-4.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, eps=1e-8, techniques=["eps_inside"])
        >>> p.grad = torch.tensor([1e-4, 1.0]); opt.step(); p.data
        tensor([0.9293, 0.9000])
    """

    place = "ratio"

    def into(self, recipe: Any) -> Any:
        there = _root(recipe, self)
        if there.eps is None or there.inside:
            why = "has no eps" if there.eps is None else "has its eps under the root already"
            raise ValueError(f"EpsInside moves eps under the root, and this recipe {why}; leave the technique out")
        return recipe.but(ratio=replace(there, inside=True))

    def equation(self, x: str = "g") -> str:
        return f"u = {x}/sqrt(v + eps)"
