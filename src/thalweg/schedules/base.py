"""What a schedule is, and how schedules combine: a pure function of the step, evaluated anywhere, kept nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from thalweg.hyper import Hyper

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from thalweg.schedules.attached import Attached

FACTOR = Hyper(1.0)
POSITIVE = Hyper(1.0, open_low=True)


def whole(name: str, value: Any, low: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``low``; a ValueError names it and the range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"Invalid {name}: {value!r}; legal is a whole number of at least {low}")
    return int(value)


def chosen(name: str, value: Any, legal: Sequence[str]) -> None:
    """A ValueError unless ``value`` is one of the words that are legal."""
    if value not in legal:
        raise ValueError(f"Invalid {name}: {value!r}; legal are {', '.join(map(repr, legal))}")


class Schedule:
    """A learning-rate schedule: ``schedule(k)`` is the factor at step k = 0, 1, 2, ... on a group's own rate.

    A subclass is a frozen dataclass that defines ``factor(step)``. One that states rates of its own, in units of the
    learning rate, defines ``rate(step, base)`` instead and sets ``absolute``; ``schedule(k)`` is then its rate for
    a group whose own rate is 1. Nothing is stored, so that any step can be jumped to.

    Example:
        >>> from thalweg.schedules import Cosine
        >>> plan = Cosine(100).above(0.1).warmup(10)
        >>> plan(5), plan(10), plan(110)
        (0.5, 1.0, 0.1)
    """

    #: Whether the rate is anything but the group's own rate times a factor.
    absolute: bool = False

    def factor(self, step: float) -> float:
        """The factor on the group's own learning rate at a step; ``__call__`` has checked the step."""
        return self.rate(step, 1.0)

    def rate(self, step: float, base: float) -> float:
        """The learning rate at a step for a group whose own rate is ``base``."""
        return base * self.factor(step)

    def momentum(self, step: float) -> float | None:
        """The momentum (or the first beta) at a step; None where the schedule leaves it alone."""
        return None

    def __call__(self, step: float) -> float:
        """The factor at a step, a number of at least 0; ValueError for any other."""
        if isinstance(step, bool) or not isinstance(step, Real) or not 0 <= step < math.inf:
            raise ValueError(f"Invalid step: {step!r}; legal is a finite number of at least 0")
        return self.rate(step, 1.0)

    def values(self, n: int) -> list[float]:
        """The factors at the steps 0 to n - 1, for a plot.

        Example:
            >>> from thalweg.schedules import Linear
            >>> Linear(1.0, 0.0, 4).values(6)
            [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        """
        return [self(k) for k in range(whole("n", n, 0))]

    def then(self, other: Schedule, at: int) -> Schedule:
        """This schedule before step ``at`` (a whole number >= 1), from there the other, starting at its step 0.

        Example:
            >>> from thalweg.schedules import Constant, Linear
            >>> Constant().then(Linear(1.0, 0.0, 2), at=2).values(5)
            [1.0, 1.0, 1.0, 0.5, 0.0]
        """
        return Then(self, other, at)

    def warmup(
        self, steps: int, shape: str = "linear", *, start: float = 0.0, lr: float | None = None, from_zero: bool = True
    ) -> Schedule:
        """``steps`` steps that rise to where this schedule begins, before its step 0.

        ``shape`` and ``from_zero`` are those of `Warmup`. The rise begins at the factor ``start`` (0 <= start <= 1)
        of the first rate, or at the learning rate ``lr``. ``steps=0`` returns the schedule itself.

        Example:
            >>> from thalweg.schedules import Constant
            >>> Constant().warmup(4).values(6)
            [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
            >>> Constant().warmup(4, from_zero=False).values(6)
            [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        """
        from thalweg.schedules.warmup import Warmup

        if whole("steps", steps, 0) == 0:
            return self
        ramp: Schedule = Warmup(steps, shape, from_zero)
        return WarmedUp(self, steps, ramp.above(start, lr=lr) if start or lr is not None else ramp)

    def above(self, minimum: float = 0.0, *, lr: float | None = None) -> Schedule:
        """Squeezed to run between ``minimum`` and 1: minimum + (1 - minimum)*f, 0 <= minimum <= 1.

        With ``lr``, a learning rate >= 0, the lower end is that rate, whatever the group's own: lr + (base - lr)*f.

        Example:
            >>> from thalweg.schedules import Linear
            >>> Linear(1.0, 0.0, 4).above(0.2)(4)
            0.2
        """
        return Above(self, minimum, lr)

    def scale(self, c: float) -> Schedule:
        """c times this schedule, c >= 0."""
        return Product(self, Constant(c))

    def __mul__(self, other: Schedule | float) -> Schedule:
        return Product(self, other) if isinstance(other, Schedule) else self.scale(other)

    __rmul__ = __mul__

    def attach(self, optimizer: Optimizer, last_epoch: int = -1) -> Attached:
        """A torch scheduler that puts this schedule's rates into the optimizer's groups; see `Attached`."""
        from thalweg.schedules.attached import Attached

        return Attached(optimizer, self, last_epoch)


@dataclass(frozen=True)
class Constant(Schedule):
    """f(k) = value.

    torch's ConstantLR(optimizer, factor, n) is ``Constant(factor).then(Constant(), at=n)``; here 0 is a legal factor.

    Args:
        value: >= 0.

    Example:
        >>> from thalweg.schedules import Constant
        >>> Constant(0.5).then(Constant(), at=2).values(4)
        [0.5, 0.5, 1.0, 1.0]
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        FACTOR.check("value", self.value)

    def factor(self, step: float) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Then(Schedule):
    """``first`` before step ``at``, from there ``second``, counting from its step 0; see `Schedule.then`.

    Where only one of the two sets momentum, its nearest value is held during the other.
    """

    first: Schedule
    second: Schedule
    at: int

    def __post_init__(self) -> None:
        whole("at", self.at)

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.first.absolute or self.second.absolute

    def rate(self, step: float, base: float) -> float:
        return self.first.rate(step, base) if step < self.at else self.second.rate(step - self.at, base)

    def momentum(self, step: float) -> float | None:
        if step < self.at:
            value, held = self.first.momentum(step), self.second.momentum(0)
        else:
            value, held = self.second.momentum(step - self.at), self.first.momentum(self.at - 1)
        return held if value is None else value


@dataclass(frozen=True)
class WarmedUp(Schedule):
    """``ramp`` times the first rate of ``schedule`` for ``steps`` steps, then the schedule; see `Schedule.warmup`."""

    schedule: Schedule
    steps: int
    ramp: Schedule

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.schedule.absolute or self.ramp.absolute

    def rate(self, step: float, base: float) -> float:
        if step < self.steps:
            return self.ramp.rate(step, self.schedule.rate(0, base))
        return self.schedule.rate(step - self.steps, base)

    def momentum(self, step: float) -> float | None:
        return self.schedule.momentum(max(0, step - self.steps))


@dataclass(frozen=True)
class Above(Schedule):
    """``minimum`` + (1 - minimum)*f, or ``lr`` + (base - lr)*f; see `Schedule.above`."""

    schedule: Schedule
    minimum: float = 0.0
    lr: float | None = None

    def __post_init__(self) -> None:
        Hyper(0.0, 0.0, 1.0, open_high=False).check("minimum", self.minimum)
        if self.lr is not None:
            Hyper(0.0).check("lr", self.lr)
        if self.lr is not None and self.minimum:
            raise ValueError(f"minimum={self.minimum!r} and lr={self.lr!r} exclude each other; give one")
        if self.schedule.absolute:
            raise ValueError(
                f"{self.schedule!r} states rates of its own; only a factor can be squeezed above a minimum"
            )

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.lr is not None

    def rate(self, step: float, base: float) -> float:
        low = base * self.minimum if self.lr is None else self.lr
        return low + (base - low) * self.schedule.factor(step)

    def momentum(self, step: float) -> float | None:
        return self.schedule.momentum(step)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of two schedules, at most one of which states rates of its own.

    Example:
        >>> from thalweg.schedules import Exponential, UntunedLinear
        >>> (Exponential(0.5) * UntunedLinear(beta2=0.5)).values(3)
        [0.25, 0.25, 0.1875]
    """

    left: Schedule
    right: Schedule

    def __post_init__(self) -> None:
        if self.left.absolute and self.right.absolute:
            raise ValueError(
                f"{self.left!r} and {self.right!r} both state rates of their own; at least one must be a factor"
            )

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.left.absolute or self.right.absolute

    def rate(self, step: float, base: float) -> float:
        if self.right.absolute:
            return self.right.rate(step, base) * self.left.factor(step)
        return self.left.rate(step, base) * self.right.factor(step)

    def momentum(self, step: float) -> float | None:
        left = self.left.momentum(step)
        return self.right.momentum(step) if left is None else left
