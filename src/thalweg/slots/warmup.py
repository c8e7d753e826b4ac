"""Learning rates that rise at the start of training, known on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import Hyper
from thalweg.scalars import cos, expm1, least, sqrt
from thalweg.slots.base import Slot
from thalweg.slots.ratio import rectification
from thalweg.techniques import technique

SHAPES = ("linear", "exponential", "cosine", "inverse_sqrt")


@technique("warmup", source="arXiv 1910.04209", needs="betas[1] of a second moment, unless steps is given")
@dataclass(frozen=True, repr=False)
class Warmup(Slot):
    """The learning rate rises over the first steps of each parameter; decoupled decay rises with it.

    ``lr <- lr*f`` with n = steps and f = min(1, t/n) (linear), 1 - exp(-t/n) (exponential), (1-cos(pi*min(1, t/n)))/2
    (cosine), or min(t/n, sqrt(n/t)) (inverse_sqrt, which falls again). Without steps the warm-up is the untuned one,
    set by Adam's memory: n = int(2/(1-betas[1])) linear, n = 1/(1-betas[1]) exponential. The first step is never empty.

    Args:
        steps: a whole number of at least 1, or None for the untuned length; or the name of a number in the parameter
            group, where 0 switches the warm-up off.
        shape: "linear", "exponential", "cosine" or "inverse_sqrt"; the last two need steps.
        added: >= 0, added to the rate in every step before the last of a linear warm-up (1e-8 in RAdam's code).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.4, techniques=[thalweg.Warmup(4)])
        >>> p.grad = torch.ones(2); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    place = "rate"
    steps: int | str | None = None
    shape: str = "linear"
    added: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"Invalid shape: {self.shape!r}; legal are {', '.join(map(repr, SHAPES))}")
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool) and self.steps >= 1
        if not (whole or self.steps is None or isinstance(self.steps, str)):
            raise ValueError(
                f"Invalid steps: {self.steps!r}; legal is a whole number of at least 1, or None for the untuned length"
            )
        if self.steps is None and self.shape in ("cosine", "inverse_sqrt"):
            raise ValueError(f"a warm-up of shape {self.shape!r} has no untuned length; give steps")
        Hyper(0.0).check("added", self.added)
        if self.added and self.shape != "linear":
            raise ValueError(f"added={self.added!r} belongs to the linear warm-up, not to {self.shape!r}; leave it 0")

    def into(self, recipe: Any) -> Any:
        if self.steps is None and (recipe.second is None or "betas.1" not in recipe.second.hypers()):
            raise ValueError(
                "the untuned Warmup takes its length from the second moment's betas[1], which this recipe does not"
                " have; give steps, as in Warmup(1000)"
            )
        return super().into(recipe)

    def hypers(self) -> dict[str, Hyper]:
        return {self.steps: Hyper(0.0)} if isinstance(self.steps, str) else {}

    def length(self, h: Mapping[str, Any]) -> float:
        """The number n of the formulas; 0 for no warm-up."""
        if self.steps is not None:
            return h[self.steps] if isinstance(self.steps, str) else self.steps
        rate = 1 - h["betas.1"]
        return int(2 / rate) if self.shape == "linear" else 1 / rate

    def factor(self, n: float, t: int) -> float:
        if self.shape == "exponential":
            return -expm1(-t / n)
        if self.shape == "inverse_sqrt":
            return least(t / n, sqrt(n / t))
        done = least(1.0, t / n)
        return done if self.shape == "linear" else (1 - cos(math.pi * done)) / 2

    def lr(self, h: Mapping[str, Any], t: int) -> float | None:
        lr, n = h.get("lr"), self.length(h)
        if lr is None or n == 0:
            return lr
        return lr * self.factor(n, t) + (self.added if t < n else 0.0)

    def equation(self, x: str = "g") -> str:
        n = self.steps
        if n is None:
            n = "int(2/(1-betas.1))" if self.shape == "linear" else "(1/(1-betas.1))"
        factor = {
            "linear": f"min(1, t/{n})",
            "exponential": f"(1 - exp(-t/{n}))",
            "cosine": f"(1 - cos(pi*min(1, t/{n})))/2",
            "inverse_sqrt": f"min(t/{n}, sqrt({n}/t))",
        }[self.shape]
        return f"lr <- lr*{factor}" + (f" (+ {self.added:g} while t < {n})" if self.added else "")


@dataclass(frozen=True, repr=False)
class UntilRectified(Slot):
    """RAdam without its momentum phase: nothing moves or decays until rho_t > threshold; the averages gather."""

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.1": Hyper(0.999, 0.0, 1.0), "threshold": Hyper(5.0, 4.0)}

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        return h["lr"] if rectification(h["betas.1"], t, h["threshold"]) is not None else 0.0

    def equation(self, x: str = "g") -> str:
        return "lr <- 0 until rho_t > threshold"
