"""Rises and falls with an end: shapes shared by warm-up and cool-down, and the warm-ups that Adam's memory sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from thalweg.hyper import BETA, Hyper
from thalweg.schedules.base import POSITIVE, Schedule, chosen, whole
from thalweg.schedules.cosine import half_cosine
from thalweg.slots.ratio import rectification

#: From 1 at x = 0 to 0 at x = 1; a warm-up runs the same curve backwards.
SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": half_cosine,
    "1-sqrt": lambda x: 1 - math.sqrt(x),
}


@dataclass(frozen=True)
class Warmup(Schedule):
    """A rise from 0 to 1 over n = steps, then 1: x (linear), (1-cos(pi*x))/2 (cosine), 1-sqrt(1-x) (1-sqrt).

    x = k/n, so that the first step has the rate 0, as in transformers; with ``from_zero=False`` x = (k+1)/n, and the
    first step moves. ``schedule.warmup(n)`` puts it before a schedule; ``schedule * Warmup(n)`` dampens a schedule's
    own first steps.

    Args:
        steps: whole number >= 1.
        shape: "linear", "cosine" or "1-sqrt".
        from_zero: whether step 0 has the factor 0.

    Example:
        >>> from thalweg.schedules import Warmup
        >>> Warmup(2).values(4), Warmup(2, from_zero=False).values(4)
        ([0.0, 0.5, 1.0, 1.0], [0.5, 1.0, 1.0, 1.0])
    """

    steps: int
    shape: str = "linear"
    from_zero: bool = True

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        chosen("shape", self.shape, tuple(SHAPES))

    def factor(self, step: float) -> float:
        done = min(step + (not self.from_zero), self.steps)
        if self.shape == "linear":
            return done / self.steps
        return SHAPES[self.shape]((self.steps - done) / self.steps)


@dataclass(frozen=True)
class Decay(Schedule):
    """A fall from 1 to 0 over n = steps, then 0: 1-x (linear), (1+cos(pi*2*cycles*x))/2 (cosine), 1-sqrt(x) (1-sqrt).

    x = k/n. The cool-down of warm-up-stable-decay; `Cosine` and `Polynomial` are its relatives without the end.

    Args:
        steps: whole number >= 1.
        shape: "linear", "cosine" or "1-sqrt".
        cycles: > 0, waves of the cosine; 0.5 is one fall. The other shapes leave it alone.

    Example:
        >>> from thalweg.schedules import Decay
        >>> Decay(4, "1-sqrt").values(6)
        [1.0, 0.5, 0.2928932188134524, 0.1339745962155614, 0.0, 0.0]
    """

    steps: int
    shape: str = "linear"
    cycles: float = 0.5

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        chosen("shape", self.shape, tuple(SHAPES))
        POSITIVE.check("cycles", self.cycles)

    def factor(self, step: float) -> float:
        if step >= self.steps:
            return 0.0
        x = step / self.steps
        return SHAPES[self.shape](2 * self.cycles * x if self.shape == "cosine" else x)


@dataclass(frozen=True)
class UntunedLinear(Schedule):
    """f(k) = min(1, (1-beta2)/2*t), t = k + 1: a warm-up over Adam's own memory (arXiv 1910.04209). Multiply with it.

    Args:
        beta2: Adam's second beta, 0 <= beta2 < 1.
        truncate: pytorch_warmup's form: the 2/(1-beta2) steps rounded down, which for 0.99 gives 199 and not 200.

    Example:
        >>> from thalweg.schedules import Cosine, UntunedLinear
        >>> plan = Cosine(1000) * UntunedLinear(beta2=0.99)
        >>> round(UntunedLinear(beta2=0.99)(99), 12)
        0.5
    """

    beta2: float = 0.999
    truncate: bool = False

    def __post_init__(self) -> None:
        BETA.check("beta2", self.beta2)

    def factor(self, step: float) -> float:
        rate = (1 - self.beta2) / 2
        return min(1.0, (step + 1) / int(1 / rate) if self.truncate else (step + 1) * rate)


@dataclass(frozen=True)
class UntunedExponential(Schedule):
    """f(k) = 1 - exp(-(1-beta2)*t), t = k + 1 (arXiv 1910.04209). Multiply with it.

    Args:
        beta2: Adam's second beta, 0 <= beta2 < 1.
        truncate: pytorch_warmup's form: 1/(1-beta2) rounded down, which for 0.99 gives 99 and not 100.

    Example:
        >>> from thalweg.schedules import UntunedExponential
        >>> round(UntunedExponential(beta2=0.99)(99), 12)
        0.632120558829
    """

    beta2: float = 0.999
    truncate: bool = False

    def __post_init__(self) -> None:
        BETA.check("beta2", self.beta2)

    def factor(self, step: float) -> float:
        rate = 1 - self.beta2
        return -math.expm1(-(step + 1) / int(1 / rate) if self.truncate else -(step + 1) * rate)


@dataclass(frozen=True)
class RAdamWarmup(Schedule):
    """f(k) = RAdam's rectification at step k + d, d the first step at which it is defined (rho > 4). Multiply with it.

    Args:
        beta2: Adam's second beta, 0.6 < beta2 < 1.

    Example:
        >>> from thalweg.schedules import RAdamWarmup
        >>> round(RAdamWarmup(beta2=0.999)(0), 12)
        0.017311503166
    """

    beta2: float = 0.999
    _first: int = field(default=1, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Hyper(0.999, 0.6, 1.0, open_low=True).check("beta2", self.beta2)
        first = 1
        while rectification(self.beta2, first, 4.0) is None:
            first += 1
        object.__setattr__(self, "_first", first)

    def factor(self, step: float) -> float:
        found = rectification(self.beta2, step + self._first, 4.0)  # type: ignore[arg-type]
        assert found is not None
        return found
