"""Laws: how much an average keeps, takes in, and is corrected by, at step ``t``.

Every average of the library is ``s <- keep*s + gain*x``, read as ``fix*s + mix*x``. A law gives these four numbers
on the host in float64, so that Adam, AdaX, Adagrad, Adafactor and SGD's momentum differ by a law alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from thalweg.hyper import BETA, Hyper
from thalweg.scalars import exp, expm1
from thalweg.slots.base import law_repr


class Weights(NamedTuple):
    """``s <- keep*s + gain*x``, read as ``fix*s + mix*x``."""

    keep: float
    gain: float
    fix: float = 1.0
    mix: float = 0.0


@dataclass(frozen=True, repr=False)
class Law:
    """Base of the laws. ``corrects`` and ``mixes`` say whether reading uses ``fix`` and ``mix`` at all."""

    corrects: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    #: Whether a value of zero leaves the average as it is.
    idle: ClassVar[bool] = False
    numbers: ClassVar[Mapping[str, float]] = {}
    __repr__ = law_repr

    def hypers(self) -> dict[str, Hyper]:
        return {}

    def text(self, s: str, x: str) -> str:
        """The equation, with ``s`` for the average and ``x`` for what it averages."""
        raise NotImplementedError

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        raise NotImplementedError

    def raw(self, h: Mapping[str, Any], t: int) -> float:
        """What the published un-normalised average is, over the one kept here; places eps as its authors do."""
        return 1.0


@dataclass(frozen=True, repr=False)
class Plain(Law):
    """Exponential average from zero, not corrected."""

    beta: str = "betas.0"
    default: float = 0.9

    def text(self, s: str, x: str) -> str:
        return f"{s} <- {self.beta}*{s} + (1-{self.beta})*{x}"

    def hypers(self) -> dict[str, Hyper]:
        return {self.beta: Hyper(self.default, BETA.low, BETA.high)}

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        return Weights(beta, 1 - beta)


@dataclass(frozen=True, repr=False)
class Debiased(Plain):
    """Exponential average, divided by the weight it has gathered (Adam)."""

    corrects: ClassVar[bool] = True

    def text(self, s: str, x: str) -> str:
        return f"{super().text(s, x)} ; read {s}/(1-{self.beta}^t)"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        return Weights(beta, 1 - beta, 1 / (1 - beta**t))

    def raw(self, h: Mapping[str, Any], t: int) -> float:
        return 1 - h[self.beta] ** t


@dataclass(frozen=True, repr=False)
class WholeFirst(Plain):
    """Exponential average that takes its first value whole (ADOPT, MoMo)."""

    def text(self, s: str, x: str) -> str:
        return f"{super().text(s, x)} (at t=1: {s} <- {x})"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        return Weights(beta, 1.0 if t == 1 else 1 - beta)


@dataclass(frozen=True, repr=False)
class LookingAhead(Plain):
    """Exponential average read one step ahead (Nesterov), as Muon does.

    ``correction``: "" for none, "joint" divides what is read by the weight 1-beta^(t+1) it has gathered, "separate"
    divides the average by that weight and the new value by its own, 1-beta^t (NAdam with a constant beta).
    """

    mixes: ClassVar[bool] = True
    default: float = 0.95
    correction: str = ""

    def text(self, s: str, x: str) -> str:
        b = self.beta
        read = f"{b}*{s} + (1-{b})*{x}"
        if self.correction == "joint":
            read = f"({read})/(1-{b}^(t+1))"
        elif self.correction == "separate":
            read = f"{b}*{s}/(1-{b}^(t+1)) + (1-{b})*{x}/(1-{b}^t)"
        return f"{super().text(s, x)} ; read {read}"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        ahead = 1 - beta ** (t + 1) if self.correction else 1.0
        now = {"joint": ahead, "separate": 1 - beta**t}.get(self.correction, 1.0)
        return Weights(beta, 1 - beta, beta / ahead, (1 - beta) / now)


@dataclass(frozen=True, repr=False)
class Dozat(Plain):
    """NAdam's momentum schedule; the product of its values is kept per parameter, as torch does."""

    mixes: ClassVar[bool] = True
    numbers: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}

    def text(self, s: str, x: str) -> str:
        return (
            f"{super().text(s, x)} ; mu_t = {self.beta}*(1 - 0.5*0.96^(t*momentum_decay)), P <- P*mu_t ;"
            f" read mu_(t+1)/(1-P*mu_(t+1))*{s} + (1-mu_t)/(1-P)*{x}"
        )

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "momentum_decay": Hyper(4e-3)}

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta, psi = h[self.beta], h["momentum_decay"]
        now = beta * (1 - 0.5 * 0.96 ** (t * psi))
        after = beta * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
        numbers["mu_product"] *= now
        product = numbers["mu_product"]
        return Weights(beta, 1 - beta, after / (1 - product * after), (1 - now) / (1 - product))


@dataclass(frozen=True, repr=False)
class Heavy(Law):
    """SGD's momentum: the first value is taken whole, later ones dampened; Nesterov adds the next push."""

    nesterov: bool = False
    dampened: bool = True

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.nesterov

    def text(self, s: str, x: str) -> str:
        gain = "(1-dampening)*" if self.dampened else ""
        first = f" (at t=1: {s} <- {x})" if self.dampened else ""
        return f"{s} <- momentum*{s} + {gain}{x}{first}" + (f" ; read {x} + momentum*{s}" if self.nesterov else "")

    def hypers(self) -> dict[str, Hyper]:
        found = {"momentum": Hyper(0.9)}
        return {**found, "dampening": Hyper(0.0, -math.inf, 1.0, open_high=False)} if self.dampened else found

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        momentum = h["momentum"]
        gain = 1.0 if t == 1 or not self.dampened else 1 - h["dampening"]
        return Weights(momentum, gain, *((momentum, 1.0) if self.nesterov else ()))


@dataclass(frozen=True, repr=False)
class Sum(Law):
    """Everything counts for ever (Adagrad)."""

    idle: ClassVar[bool] = True

    def text(self, s: str, x: str) -> str:
        return f"{s} <- {s} + {x}"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        return Weights(1.0, 1.0)


@dataclass(frozen=True, repr=False)
class Fading(Law):
    """A sum whose terms fade: the exponential average without its gain, and with beta = 1 Adagrad's sum (RMSpropV2)."""

    beta: str = "alpha"
    default: float = 0.9

    def text(self, s: str, x: str) -> str:
        return f"{s} <- {self.beta}*{s} + {x}"

    def hypers(self) -> dict[str, Hyper]:
        return {self.beta: Hyper(self.default, 0.0, 1.0, open_high=False)}

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        return Weights(h[self.beta], 1.0)


@dataclass(frozen=True, repr=False)
class Growing(Law):
    """AdaX's long memory in its bounded form: the published sum divided by its own weight, so it cannot overflow."""

    beta: str = "betas.1"
    default: float = 1e-4

    def text(self, s: str, x: str) -> str:
        return f"w = {self.beta}/((1+{self.beta})^t - 1) ; {s} <- {s} + w*({x} - {s})"

    def hypers(self) -> dict[str, Hyper]:
        return {self.beta: Hyper(self.default, 0.0, 1.0, open_low=True)}

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        growth = t * math.log1p(h[self.beta])
        taken = h[self.beta] * exp(-growth) / -expm1(-growth)
        return Weights(1 - taken, taken)

    def raw(self, h: Mapping[str, Any], t: int) -> float:
        growth = t * math.log1p(h[self.beta])
        return expm1(growth) if growth < 700 else math.inf


@dataclass(frozen=True, repr=False)
class Rising(Law):
    """Adafactor's memory that lengthens with t: the first value is taken whole, no correction is needed."""

    rate: str = "decay_rate"
    default: float = -0.8

    def text(self, s: str, x: str) -> str:
        return f"B = 1 - t^{self.rate} ; {s} <- B*{s} + (1-B)*{x}"

    def hypers(self) -> dict[str, Hyper]:
        return {self.rate: Hyper(self.default, -math.inf, 0.0)}

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        taken = t ** h[self.rate]
        return Weights(1 - taken, taken)


@dataclass(frozen=True, repr=False)
class Undamped(Debiased):
    """The corrected average of Debiased, taking in whole values: 1/(1-beta) times as large (LAMB's grad_averaging)."""

    def text(self, s: str, x: str) -> str:
        return f"{s} <- {self.beta}*{s} + {x} ; read {s}/(1-{self.beta}^t)"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        return super().weights(h, t, numbers)._replace(gain=1.0)
