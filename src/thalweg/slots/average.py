"""Averages of the gradient (first moments) and of its square (second moments)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.hyper import Hyper
from thalweg.ops import mix
from thalweg.slots.base import Slot, State, mean
from thalweg.slots.law import Debiased, Law, Rising


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
        return {self.role: State(self.start or 0.0)}

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.law.numbers

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
    """AMSGrad: the largest second moment so far, taken before the bias correction, as torch does."""

    inner: Average
    role: str = "max_exp_avg_sq"

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers()

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {**self.inner.state(shape), self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.inner.scalars(h, t, numbers)

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        x[self.role] = largest = torch.maximum(x[self.role], self.inner.accumulate(x, h, g))
        return self.inner.read(h, largest, g)

    def equation(self, x: str = "g") -> str:
        return f"{self.inner.equation(x)}, with the largest v so far in place of v"


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


#: The least a factored second moment can be: about the smallest normal float32.
TINY = 1.2e-38


@dataclass(frozen=True, repr=False)
class Factored(Slot):
    """Adafactor's second moment: row and column means whose product stands for the matrix."""

    scope: ClassVar[str] = "row"
    law: Law = Rising()

    def hypers(self) -> dict[str, Hyper]:
        return {**self.law.hypers(), "eps.0": Hyper(1e-30)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if len(shape) < 2:
            return {"exp_avg_sq": State()}
        return {
            "exp_avg_sq_row": State(shape=shape[:-1]),
            "exp_avg_sq_col": State(shape=(*shape[:-2], shape[-1])),
        }

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {**self.law.weights(h, t, numbers)._asdict(), "eps": h["eps.0"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Any, Any, Any]:
        q = g * g + h.eps
        if x.ndim < 2:
            x["exp_avg_sq"] = v = mix(h.keep, x["exp_avg_sq"], h.gain, q)
            return v
        rows, columns = yield mean(q, -1), mean(q, -2)
        x["exp_avg_sq_row"] = r = mix(h.keep, x["exp_avg_sq_row"], h.gain, rows)
        x["exp_avg_sq_col"] = c = mix(h.keep, x["exp_avg_sq_col"], h.gain, columns)
        middle = yield mean(r, -1)
        # One root of the whole quotient follows (the precise "square root last" form). A row and a column without
        # gradients meet in eps^2/mean(r), which float32 cannot hold; the gradient there is zero whatever it is over.
        return ((r / middle.unsqueeze(-1)).unsqueeze(-1) * c.unsqueeze(-2)).clamp(min=TINY)

    def equation(self, x: str = "g") -> str:
        return (
            f"q = {x}^2 + eps.0 ; {self.law.text('R', 'rowmean(q)')} ; C likewise over columns ; v = R*C/mean(R)"
            "   (0-d and 1-d tensors: v is the full average of q)"
        )


def adam_moments(first: Law | None = None, second: Law | None = None) -> dict[str, Slot]:
    """Adam's two averages, the most shared pair of slots."""
    return {
        "first": Average("exp_avg", first or Debiased("betas.0", 0.9)),
        "second": Average("exp_avg_sq", second or Debiased("betas.1", 0.999), power=2),
    }
