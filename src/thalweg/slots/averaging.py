"""Averages of the weights: outer methods that leave the training alone and keep what to evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thalweg.hyper import Hyper
from thalweg.ops import mix
from thalweg.slots.base import State
from thalweg.slots.outer import Outer
from thalweg.techniques import technique


@dataclass(frozen=True)
class WeightAverage(Outer):
    """Base of the averages: ``average <- average + a*(p - average)`` after every step, in the state ``average``.

    The step itself is unchanged. ``optimizer.eval()`` exchanges parameter and average, ``train()`` exchanges them
    back; in between the state holds the weights of the training, and ``step`` raises. The exchange is exact, but for
    half-precision parameters, where the average is rounded to their precision each time. Each parameter counts its
    own steps. Buffers (batch-norm statistics) are the model's and want recomputing for the average.
    """

    has_modes: ClassVar[bool] = True

    def taken(self, t: int) -> float:
        """How much the average takes in of the weights after step t."""
        raise NotImplementedError

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"average": State("param")}

    def turn(self, param: Any, state: dict[str, Any], training: bool) -> None:
        """Exchange parameter and average."""
        held = param.detach().clone()
        param.copy_(state["average"])
        state["average"].copy_(held)

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        a = self.taken(t)
        return {"keep": 1 - a, "gain": a}

    def __call__(self, x: Any, h: Any, old: Any, new: Any) -> Any:
        x["average"] = mix(h.keep, x["average"], h.gain, new)
        return new


@technique("ema", source="Polyak & Juditsky 1992", needs="no other outer method")
@dataclass(frozen=True)
class EMA(WeightAverage):
    """Exponential average of the weights, evaluated in ``eval()`` mode.

    ``average <- decay*average + (1-decay)*p``, from the weights that training starts with.

    ``decay``: 0 <= x < 1.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=1.0, techniques=[thalweg.EMA(0.75)])
        >>> p.grad = torch.ones(2); opt.step(); p.data
        tensor([0., 0.])
        >>> _ = opt.eval(); p.data
        tensor([0.7500, 0.7500])
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        Hyper(0.999, 0.0, 1.0).check("decay", self.decay)

    def taken(self, t: int) -> float:
        return 1 - self.decay

    def equation(self, x: str = "g") -> str:
        return f"average <- {self.decay:g}*average + {1 - self.decay:g}*p   (eval() evaluates the average)"


@technique("polynomial_average", source="Shamir & Zhang, ICML 2013", needs="no other outer method")
@dataclass(frozen=True)
class PolynomialAverage(WeightAverage):
    """Polynomial-decay average of the weights, evaluated in ``eval()`` mode; what DoG is meant to be used with.

    ``average <- (1-a)*average + a*p``, ``a = (1+gamma)/(t+gamma)``: about the last 1/(1+gamma) of the steps count,
    however many there are. Source: Shamir & Zhang 2013, arXiv 2302.12022.

    ``gamma``: >= 0; 0 is the plain mean of all steps.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=1.0, outer=thalweg.PolynomialAverage(0.0))
        >>> for _ in range(2): p.grad = torch.ones(2); opt.step()
        >>> _ = opt.eval(); p.data
        tensor([-0.5000, -0.5000])
    """

    gamma: float = 8.0

    def __post_init__(self) -> None:
        Hyper(8.0).check("gamma", self.gamma)

    def taken(self, t: int) -> float:
        return (1 + self.gamma) / (t + self.gamma)

    def equation(self, x: str = "g") -> str:
        g = f"{self.gamma:g}"
        return f"a = (1+{g})/(t+{g}) ; average <- (1-a)*average + a*p   (eval() evaluates the average)"
