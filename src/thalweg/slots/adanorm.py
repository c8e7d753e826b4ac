"""AdaNorm: gradients that have become short are stretched to their usual length before they enter the momentum."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from inspect import isgenerator
from typing import Any

import torch

from thalweg.flows import first_then_second, moment_first
from thalweg.hyper import BETA, Hyper, Number, check, referred
from thalweg.hyper import value as number
from thalweg.ops import mix
from thalweg.slots.adam_moments import Friction
from thalweg.slots.base import Request, Slot, State, total
from thalweg.techniques import technique

GAMMA = Hyper(0.95, BETA.low, BETA.high)


@technique("adanorm", source="arXiv 2210.06364", needs="a first moment that takes the gradient")
@dataclass(frozen=True, repr=False)
class AdaNorm(Slot):
    """The first moment takes a gradient no shorter than gradients have lately been: h = g*max(1, e/|g|).

    ``e <- gamma*e + (1-gamma)*|g|``, |g| over the tensor; h = g where g = 0. The second moment keeps the gradient
    itself. Where the second moment measures how far the first one is off (AdaBelief), h stands for g in both. e starts
    at 0, so nothing changes in about the first 1/(1-gamma) steps. Small gradients are blown up to their former length,
    which can unsettle late training: lower the rate there.

    Args:
        gamma: 0 <= x < 1, or the name of a number in the parameter group.
        inner: the first moment; the recipe's own when switched on as a technique.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, techniques=[thalweg.AdaNorm(gamma=0.5)])
        >>> for size in (1.0, 0.1):
        ...     p.grad = torch.full((2,), size); opt.step()
        >>> opt.state[p]["exp_grad_norm"]
        tensor(0.4243)
    """

    place = "first"
    gamma: Number = 0.95
    inner: Slot | None = None

    def __post_init__(self) -> None:
        check("gamma", self.gamma, GAMMA)

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "tensor" if self.inner is None or self.inner.scope == "element" else self.inner.scope

    @property
    def couples(self) -> str:  # type: ignore[override]
        return "" if self.inner is None else self.inner.couples

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return super().alike(shape) if self.inner is None else self.inner.alike(shape)

    def into(self, recipe: Any) -> Any:
        if recipe.flow is first_then_second:
            return recipe.plus("gradient", self)
        first = recipe.first
        if recipe.flow is not moment_first or first is None:
            why = "it has none" if first is None else "it averages something else"
            raise ValueError(f"AdaNorm needs a recipe whose first moment averages the gradient: {why}")
        if isinstance(first, Friction):  # which compares gradients as they are
            return recipe.but(first=replace(first, inner=replace(self, inner=first.inner)))
        return recipe.but(first=replace(self, inner=first))

    def hypers(self) -> dict[str, Hyper]:
        return {**({} if self.inner is None else self.inner.hypers()), **referred(self.gamma, GAMMA)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {**({} if self.inner is None else self.inner.state(shape)), "exp_grad_norm": State(shape=())}

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return {} if self.inner is None else self.inner.numbers

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        gamma = number(h, self.gamma)
        own: dict[str, float | bool] = {"norm_keep": gamma, "norm_gain": 1 - gamma}
        return own if self.inner is None else {**self.inner.scalars(h, t, numbers), **own}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        square = yield total(g * g)
        norm = square.sqrt()
        x["exp_grad_norm"] = e = mix(h.norm_keep, x["exp_grad_norm"], h.norm_gain, norm)
        stretched = g * torch.where((e > norm) & (norm > 0), e / norm, 1.0)
        if self.inner is None:
            return stretched
        m = self.inner(x, h, stretched)
        if isgenerator(m):
            m = yield from m
        return m

    def equation(self, x: str = "g") -> str:
        gamma = self.gamma if isinstance(self.gamma, str) else f"{self.gamma:g}"
        line = f"e <- {gamma}*e + (1-{gamma})*|{x}| ; h = {x}*max(1, e/|{x}|)"
        if self.inner is None:
            return line.replace("h =", f"{x} =")
        return f"{line} ; {self.inner.equation('h')}"
