"""Moments of Adam's variants: the peak of Adamax, diffGrad's friction, AdaMomentum's twofold average."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from inspect import isgenerator
from typing import Any

import torch

from thalweg.hyper import EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.average import Average
from thalweg.slots.base import Slot, State
from thalweg.slots.law import Debiased, Law


@dataclass(frozen=True, repr=False)
class Peak(Slot):
    """Adamax: the largest gradient so far, forgotten by betas.1 a step; eps joins each gradient, as in torch."""

    role: str = "exp_inf"

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.1": Hyper(0.999, 0.0, 1.0), "eps": EPS}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": h["betas.1"], "eps": h["eps"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        x[self.role] = peak = torch.maximum(x[self.role] * h.keep, g.abs() + h.eps)
        return peak

    def equation(self, x: str = "g") -> str:
        return f"v <- max(betas.1*v, |{x}| + eps)"


@dataclass(frozen=True, repr=False)
class Friction(Slot):
    """diffGrad: momentum is read through sigmoid(|change of the gradient|), between 1/2 and 1.

    ``stuck`` is the authors' first version, whose kept gradient was the present one, so that the factor was always 1/2.
    """

    inner: Slot
    role: str = "previous_grad"
    stuck: bool = False

    @property
    def scope(self) -> str:  # type: ignore[override]
        return self.inner.scope

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.inner.alike(shape)

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers()

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return self.inner.state(shape) if self.stuck else {**self.inner.state(shape), self.role: State()}

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.inner.numbers

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.inner.scalars(h, t, numbers)

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Any, Any, Any]:
        m = self.inner(x, h, g)
        if isgenerator(m):
            m = yield from m
        if self.stuck:
            return m * 0.5
        friction = (x[self.role] - g).abs().sigmoid()
        x[self.role] = g
        return m * friction

    def equation(self, x: str = "g") -> str:
        if self.stuck:
            return f"{self.inner.equation(x)} ; m = m/2"
        return f"{self.inner.equation(x)} ; m = m*sigmoid(|{x}_previous - {x}|) ; {x}_previous <- {x}"


@dataclass(frozen=True, repr=False)
class Twofold(Average):
    """AdaMomentum: the average of the squared momentum, with eps added to it in every step; follows the first moment.

    ``debias``: the first moment's law, to square the corrected momentum instead of the one that grows from zero.
    """

    role: str = "exp_avg_sq"
    law: Law = Debiased("betas.1", 0.999)
    power: int = 2
    momentum: str = "exp_avg"
    debias: Law | None = None

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "eps": EPS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        weights = self.law.weights(h, t, numbers)
        gain = weights.gain / (1.0 if self.debias is None else self.debias.raw(h, t) ** 2)
        return {**weights._replace(gain=gain)._asdict(), "eps": h["eps"]}

    def accumulate(self, x: Any, h: Any, g: Any) -> Any:
        m = x[self.momentum]
        x[self.role] = v = mix(h.keep, x[self.role], h.gain, m, m) + h.eps
        return v

    def equation(self, x: str = "g") -> str:
        return self.law.text("v", "m^2" if self.debias is None else "m_hat^2").replace(" ;", " + eps ;", 1)
