"""Averages of the gradient (first moments) and of its square (second moments)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.hyper import Hyper
from thalweg.ops import mix
from thalweg.slots.base import Slot, State
from thalweg.slots.law import Debiased, Law


@dataclass(frozen=True, repr=False)
class Average(Slot):
    """A running average of x^power, kept in the state tensor ``role``; ``law`` says how it forgets."""

    role: str
    law: Law = Debiased("betas.0", 0.9)
    power: int = 1
    start: str | None = None

    def hypers(self) -> dict[str, Hyper]:
        return {**self.law.hypers(), **({self.start: Hyper(0.0)} if self.start else {})}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State(self.start or 0.0, signed=self.power != 2)}

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.law.numbers

    def idle(self, h: Mapping[str, Any]) -> bool:
        return self.law.idle

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.law.weights(h, t, numbers)._asdict()

    def accumulate(self, x: Any, h: Any, g: Any) -> Any:
        x[self.role] = s = mix(h.keep, x[self.role], h.gain, g, g if self.power == 2 else None)
        return s

    def read(self, h: Any, s: Any, g: Any) -> Any:
        if self.law.mixes:
            return mix(h.fix, s, h.mix, g)
        return s * h.fix if self.law.corrects else s

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return self.read(h, self.accumulate(x, h, g), g)

    def equation(self, x: str = "g") -> str:
        return self.law.text(*(("v", f"{x}^2") if self.power == 2 else ("m", x)))


@dataclass(frozen=True, repr=False)
class Interpolate(Slot):
    """Lion's two-speed momentum: read with betas.0 before the average moves with betas.1."""

    role: str = "exp_avg"

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.0": Hyper(0.9, 0.0, 1.0), "betas.1": Hyper(0.99, 0.0, 1.0)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"b1": h["betas.0"], "c1": 1 - h["betas.0"], "b2": h["betas.1"], "c2": 1 - h["betas.1"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        m = x[self.role]
        x[self.role] = mix(h.b2, m, h.c2, g)
        return mix(h.b1, m, h.c1, g)

    def equation(self, x: str = "g") -> str:
        return f"u = betas.0*m + (1-betas.0)*{x} ; m <- betas.1*m + (1-betas.1)*{x}"


@dataclass(frozen=True, repr=False)
class Largest(Slot):
    """AMSGrad: the largest second moment so far, taken before the bias correction as torch does, or after it."""

    inner: Average
    role: str = "max_exp_avg_sq"
    corrected: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers()

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {**self.inner.state(shape), self.role: State(signed=False)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.inner.scalars(h, t, numbers)

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        v = self.inner.accumulate(x, h, g)
        if self.corrected:
            v = self.inner.read(h, v, g)
        x[self.role] = largest = torch.maximum(x[self.role], v)
        return largest if self.corrected else self.inner.read(h, largest, g)

    def equation(self, x: str = "g") -> str:
        which = "corrected v" if self.corrected else "v"
        return f"{self.inner.equation(x)}, with the largest {which} so far in place of {which}"


@dataclass(frozen=True, repr=False)
class Centred(Slot):
    """The variance: the second moment less the square of the mean, not below zero where rounding would put it."""

    square: Average
    average: Average

    def hypers(self) -> dict[str, Hyper]:
        return {**self.square.hypers(), **self.average.hypers()}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {**self.square.state(shape), **self.average.state(shape)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.square.scalars(h, t, numbers)

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        a = self.average.accumulate(x, h, g)
        return (self.square.accumulate(x, h, g) - a * a).clamp(min=0)

    def equation(self, x: str = "g") -> str:
        return f"{self.square.equation(x)} ; {self.average.law.text('a', x)} ; v = max(v - a^2, 0)"


def adam_moments(first: Law | None = None, second: Law | None = None) -> dict[str, Slot]:
    """Adam's two averages, the most shared pair of slots."""
    return {
        "first": Average("exp_avg", first or Debiased("betas.0", 0.9)),
        "second": Average("exp_avg_sq", second or Debiased("betas.1", 0.999), power=2),
    }
