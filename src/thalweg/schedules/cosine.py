"""Schedules that fall along a cosine: once, again and again, or in ever longer cycles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.schedules.base import POSITIVE, Schedule, whole


def half_cosine(x: float) -> float:
    """(1 + cos(pi*x))/2: from 1 at x = 0 to 0 at x = 1."""
    return (1 + math.cos(math.pi * x)) / 2


@dataclass(frozen=True)
class Cosine(Schedule):
    """f(k) = (1 + cos(pi*2*cycles*k/n))/2, n = steps. It rises again after its lowest point, as torch's does.

    ``Cosine(n).above(lr=eta_min)`` is CosineAnnealingLR; to stay at the bottom use `Decay` with shape "cosine".

    Args:
        steps: whole number >= 1; with the default cycles, the steps until 0 is reached (torch's T_max).
        cycles: > 0, waves within ``steps``; 0.5 is one fall.

    Example:
        >>> from thalweg.schedules import Cosine
        >>> [round(f, 12) for f in Cosine(4).values(6)]
        [1.0, 0.853553390593, 0.5, 0.146446609407, 0.0, 0.146446609407]
    """

    steps: int
    cycles: float = 0.5

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        POSITIVE.check("cycles", self.cycles)

    def factor(self, step: float) -> float:
        return half_cosine(2 * self.cycles * step / self.steps)


@dataclass(frozen=True)
class WarmRestarts(Schedule):
    """f(k) = (1 + cos(pi*c/n))/2, c steps after the last restart; n = first, then grow times as much at each restart.

    SGDR (arXiv 1608.03983). The factor 0 is never reached at a whole step. torch's CosineAnnealingWarmRestarts, whose
    ``step(epoch)`` misplaces some restarts through a rounded logarithm; here they are counted.

    Args:
        first: steps of the first cycle, whole number >= 1 (torch's T_0).
        grow: whole number >= 1 (torch's T_mult).

    Example:
        >>> from thalweg.schedules import WarmRestarts
        >>> [round(f, 3) for f in WarmRestarts(first=2, grow=2).values(7)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    first: int
    grow: int = 1

    def __post_init__(self) -> None:
        whole("first", self.first)
        whole("grow", self.grow)

    def factor(self, step: float) -> float:
        done, cycle = step, self.first
        if self.grow == 1:
            done = step % cycle
        while done >= cycle:
            done -= cycle
            cycle *= self.grow
        return half_cosine(done / cycle)


@dataclass(frozen=True)
class HardRestarts(Schedule):
    """f(k) = (1 + cos(pi*((cycles*k/n) mod 1)))/2 for k < n = steps, then 0.

    The remainder is taken before dividing, so that a restart is never missed to rounding; transformers' form misses
    some from 22 cycles on.

    Args:
        steps: whole number >= 1.
        cycles: > 0, falls within ``steps``.

    Example:
        >>> from thalweg.schedules import HardRestarts
        >>> [round(f, 12) for f in HardRestarts(steps=4, cycles=2).values(6)]
        [1.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    steps: int
    cycles: float = 1

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        POSITIVE.check("cycles", self.cycles)

    def factor(self, step: float) -> float:
        if step >= self.steps:
            return 0.0
        return half_cosine(self.cycles * step % self.steps / self.steps)
