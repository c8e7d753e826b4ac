"""Schedules that cycle momentum against the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from thalweg.hyper import BETA, Hyper
from thalweg.schedules.base import FACTOR, POSITIVE, Schedule, chosen, whole
from thalweg.schedules.cosine import half_cosine

FRACTION = Hyper(0.3, 0.0, 1.0, open_high=False)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One rise and a long fall of the rate, one fall and a rise of momentum (arXiv 1708.07120, in torch's form).

    The rate runs 1/div -> 1 -> 1/(div*final_div), in units of ``max_lr``, or of the group's own rate without it. The
    first phase ends at step pct_start*n - 1, the last at n - 1, n = total_steps. With ``three_phase`` a phase between
    falls back to 1/div until step 2*pct_start*n - 2. Momentum runs max -> base -> max. After n - 1 all is held, where
    torch turns up again for a step and then raises. Ends of phases need not be whole.

    Args:
        total_steps: whole number >= 2.
        max_lr: >= 0, the peak for every group; None leaves each group its own rate as its peak.
        pct_start: share of the steps that rise, 0 to 1.
        anneal: "cos" or "linear".
        cycle_momentum: whether to set the groups' ``momentum`` and ``betas[0]``; ValueError at attaching if none has.
        base_momentum, max_momentum: 0 <= m < 1.
        div_factor, final_div_factor: > 0.
        three_phase: see above.

    Example:
        >>> from thalweg.schedules import OneCycle
        >>> plan = OneCycle(10, div_factor=5)
        >>> [round(f, 3) for f in plan.values(4)], round(plan.momentum(2), 3)
        ([0.2, 0.6, 1.0, 0.95], 0.85)
    """

    total_steps: int
    max_lr: float | None = None
    pct_start: float = 0.3
    anneal: str = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        whole("total_steps", self.total_steps, 2)
        if self.max_lr is not None:
            FACTOR.check("max_lr", self.max_lr)
        FRACTION.check("pct_start", self.pct_start)
        chosen("anneal", self.anneal, ("cos", "linear"))
        for name in ("base_momentum", "max_momentum"):
            BETA.check(name, getattr(self, name))
        for name in ("div_factor", "final_div_factor"):
            POSITIVE.check(name, getattr(self, name))

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.max_lr is not None

    def _between(self, step: float, *ends: float) -> float:
        """The value at a step of what takes the values ``ends`` at the ends of the phases."""
        last = self.total_steps - 1
        times = [0.0, self.pct_start * self.total_steps - 1, 2 * self.pct_start * self.total_steps - 2, last]
        if not self.three_phase:
            del times[2]
        step = min(step, last)
        phase = next((i for i in range(1, len(times) - 1) if step <= times[i]), len(times) - 1)
        start, end, length = ends[phase - 1], ends[phase], times[phase] - times[phase - 1]
        x = (step - times[phase - 1]) / length if length else 1.0
        return end + (start - end) * half_cosine(x) if self.anneal == "cos" else (end - start) * x + start

    def rate(self, step: float, base: float) -> float:
        peak = base if self.max_lr is None else self.max_lr
        initial = peak / self.div_factor
        back = (initial,) if self.three_phase else ()
        return self._between(step, initial, peak, *back, initial / self.final_div_factor)

    def momentum(self, step: float) -> float | None:
        if not self.cycle_momentum:
            return None
        back = (self.max_momentum,) if self.three_phase else ()
        return self._between(step, self.max_momentum, self.base_momentum, *back, self.max_momentum)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """base_lr + (max_lr - base_lr)*triangle(k)*s, rising for step_size_up steps and falling for step_size_down.

    s = 1 (triangular), 2^-c (triangular2, c cycles done) or gamma^k (exp_range); arXiv 1506.01186. Momentum mirrors
    it: max_momentum - (max_momentum - base_momentum)*triangle(k)*s. The rates are absolute: the groups' own play no
    part.

    Args:
        base_lr, max_lr: >= 0.
        step_size_up: > 0; step_size_down: > 0, or None for as many.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: >= 0, of exp_range.
        scale_fn: a function in place of ``mode``, of the cycle 1, 2, ... or of the step, as ``scale_mode`` says.
        scale_mode: "cycle" or "iterations".
        cycle_momentum: whether to set the groups' ``momentum`` and ``betas[0]``; ValueError at attaching if none has.
        base_momentum, max_momentum: 0 <= m < 1.

    Example:
        >>> from thalweg.schedules import Cyclic
        >>> Cyclic(0.0, 1.0, step_size_up=2, mode="triangular2").values(7)
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5]
    """

    absolute = True
    base_lr: float
    max_lr: float
    step_size_up: float = 2000
    step_size_down: float | None = None
    mode: str = "triangular"
    gamma: float = 1.0
    scale_fn: Callable[[float], float] | None = None
    scale_mode: str = "cycle"
    cycle_momentum: bool = True
    base_momentum: float = 0.8
    max_momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("base_lr", "max_lr", "gamma"):
            FACTOR.check(name, getattr(self, name))
        POSITIVE.check("step_size_up", self.step_size_up)
        if self.step_size_down is not None:
            POSITIVE.check("step_size_down", self.step_size_down)
        chosen("mode", self.mode, ("triangular", "triangular2", "exp_range"))
        chosen("scale_mode", self.scale_mode, ("cycle", "iterations"))
        for name in ("base_momentum", "max_momentum"):
            BETA.check(name, getattr(self, name))

    def height(self, step: float) -> float:
        """Where between base (0) and max (1) the step is."""
        up = self.step_size_up
        total = up + (up if self.step_size_down is None else self.step_size_down)
        cycle, into = math.floor(step / total), step % total
        triangle = into / up if into <= up else (total - into) / (total - up)
        if self.scale_fn is not None:
            return triangle * self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else step)
        return triangle * {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]

    def rate(self, step: float, base: float) -> float:
        return self.base_lr + (self.max_lr - self.base_lr) * self.height(step)

    def momentum(self, step: float) -> float | None:
        if not self.cycle_momentum:
            return None
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self.height(step)
