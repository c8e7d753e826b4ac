"""Schedules that fall by a rule in the step, one idea each."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from thalweg.schedules.base import FACTOR, POSITIVE, Schedule, whole


@dataclass(frozen=True)
class Step(Schedule):
    """f(k) = gamma^floor(k/every).

    Args:
        every: steps between falls, a whole number >= 1 (torch's step_size, which divides by zero for 0).
        gamma: >= 0, the factor of each.

    Example:
        >>> from thalweg.schedules import Step
        >>> Step(every=2, gamma=0.5).values(5)
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        whole("every", self.every)
        FACTOR.check("gamma", self.gamma)

    def factor(self, step: float) -> float:
        return float(self.gamma) ** (step // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """f(k) = gamma^(number of milestones <= k); a milestone listed twice counts twice.

    Args:
        milestones: whole numbers >= 0, in any order.
        gamma: >= 0, the factor at each.

    Example:
        >>> from thalweg.schedules import MultiStep
        >>> MultiStep([1, 3, 3], gamma=0.5).values(5)
        [1.0, 0.5, 0.5, 0.125, 0.125]
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(sorted(whole("milestones", m, 0) for m in self.milestones)))
        FACTOR.check("gamma", self.gamma)

    def factor(self, step: float) -> float:
        return float(self.gamma) ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class Exponential(Schedule):
    """f(k) = gamma^(k/every).

    Args:
        gamma: >= 0, the factor of ``every`` steps.
        every: > 0; ``Exponential(0.5, every=h)`` halves over h steps, as MiniCPM's cool-down does.

    Example:
        >>> from thalweg.schedules import Exponential
        >>> Exponential(0.25, every=2).values(4)
        [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float
    every: float = 1

    def __post_init__(self) -> None:
        FACTOR.check("gamma", self.gamma)
        POSITIVE.check("every", self.every)

    def factor(self, step: float) -> float:
        return float(self.gamma) ** (step / self.every)


@dataclass(frozen=True)
class Linear(Schedule):
    """f(k) = start + (end - start)*min(k, n)/n, n = steps.

    Args:
        start: >= 0 (torch's LinearLR refuses 0).
        end: >= 0, held after ``steps``.
        steps: whole number >= 1.

    Example:
        >>> from thalweg.schedules import Linear
        >>> Linear(0.0, 1.0, steps=2).values(4)
        [0.0, 0.5, 1.0, 1.0]
    """

    start: float = 1 / 3
    end: float = 1.0
    steps: int = 5

    def __post_init__(self) -> None:
        FACTOR.check("start", self.start)
        FACTOR.check("end", self.end)
        whole("steps", self.steps)

    def factor(self, step: float) -> float:
        return self.start + (self.end - self.start) * min(step, self.steps) / self.steps


@dataclass(frozen=True)
class Polynomial(Schedule):
    """f(k) = (1 - min(k, n)/n)^power, n = steps. Down to a rate instead of 0: ``.above(lr=...)``.

    Args:
        steps: whole number >= 1.
        power: > 0.

    Example:
        >>> from thalweg.schedules import Polynomial
        >>> Polynomial(steps=2, power=2).values(4)
        [1.0, 0.25, 0.0, 0.0]
    """

    steps: int = 5
    power: float = 1.0

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        POSITIVE.check("power", self.power)

    def factor(self, step: float) -> float:
        return (1 - min(step, self.steps) / self.steps) ** self.power


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """f(k) = 1/sqrt(1 + k/timescale).

    After a warm-up of ``timescale`` steps this is sqrt(timescale/step) in steps of training, fairseq's form.

    Args:
        timescale: > 0.

    Example:
        >>> from thalweg.schedules import InverseSqrt
        >>> InverseSqrt(timescale=4).warmup(4)(16)
        0.5
    """

    timescale: float

    def __post_init__(self) -> None:
        POSITIVE.check("timescale", self.timescale)

    def factor(self, step: float) -> float:
        return 1 / math.sqrt((step + self.timescale) / self.timescale)


@dataclass(frozen=True)
class Noam(Schedule):
    """lr(k) = multiplier*d_model^-0.5*min(s^-0.5, s*w^-1.5), s = k + 1, w = warmup_steps; peak (d_model*w)^-0.5.

    This is the learning rate itself (arXiv 1706.03762, equation 3): the group's own plays no part.

    Args:
        d_model: the width of the model, > 0.
        warmup_steps: whole number >= 1.
        multiplier: >= 0. tensor2tensor's older code multiplies by 5000*0.002 and by its learning rate.

    Example:
        >>> from thalweg.schedules import Noam
        >>> round(Noam(512, 4000)(3999), 9)
        0.000698771
    """

    absolute = True
    d_model: float
    warmup_steps: int = 4000
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        POSITIVE.check("d_model", self.d_model)
        whole("warmup_steps", self.warmup_steps)
        FACTOR.check("multiplier", self.multiplier)

    def rate(self, step: float, base: float) -> float:
        s = step + 1
        return self.multiplier * self.d_model**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5)


@dataclass(frozen=True)
class Lambda(Schedule):
    """f(k) = function(k). One function per group: ``Attached(optimizer, [Lambda(f), Lambda(g)])``.

    The function is code, not state: checkpoints hold the step alone, and lambdas need no pickling.

    Args:
        function: of the step, returning a number.

    Example:
        >>> from thalweg.schedules import Lambda
        >>> Lambda(lambda k: 1 / (1 + k)).values(3)
        [1.0, 0.5, 0.3333333333333333]
    """

    function: Callable[[float], float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"Invalid function: {self.function!r}; legal is a function of the step")

    def factor(self, step: float) -> float:
        return float(self.function(step))


@dataclass(frozen=True)
class Multiplicative(Schedule):
    """f(0) = 1, f(k) = f(k-1)*function(k).

    The product so far is remembered, so that steps in order cost one call each; a jump back starts over.

    Args:
        function: of the step k = 1, 2, ..., returning the factor on the last step's rate.

    Example:
        >>> from thalweg.schedules import Multiplicative
        >>> Multiplicative(lambda k: 0.5).values(3)
        [1.0, 0.5, 0.25]
    """

    function: Callable[[int], float]
    _seen: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"Invalid function: {self.function!r}; legal is a function of the step")

    def factor(self, step: float) -> float:
        k = math.floor(step)
        at, product = self._seen.get("step", 0), self._seen.get("product", 1.0)
        if at > k:
            at, product = 0, 1.0
        for one in range(int(at) + 1, k + 1):
            product *= self.function(one)
        self._seen.update(step=k, product=product)
        return product
