"""The schedules of transformers, fairseq and MiniCPM, composed. ``warmup`` of 0 steps is none."""

from __future__ import annotations

from thalweg.schedules.base import Constant, Schedule, whole
from thalweg.schedules.cosine import Cosine, HardRestarts
from thalweg.schedules.decay import Exponential, InverseSqrt, Linear, Polynomial
from thalweg.schedules.warmup import Decay


def _after(warmup: int, total: int) -> int:
    """The steps after a warm-up."""
    if whole("total_steps", total) <= whole("warmup_steps", warmup, 0):
        raise ValueError(f"Invalid total_steps: {total!r}; legal is more than warmup_steps={warmup!r}")
    return total - warmup


def constant_with_warmup(warmup_steps: int) -> Schedule:
    """k/w, then 1 (transformers).

    Args:
        warmup_steps: whole number >= 0.

    Example:
        >>> from thalweg.schedules import constant_with_warmup
        >>> constant_with_warmup(2).values(4)
        [0.0, 0.5, 1.0, 1.0]
    """
    return Constant().warmup(warmup_steps)


def linear_with_warmup(warmup_steps: int, total_steps: int) -> Schedule:
    """k/w, then max(0, (n - k)/(n - w)) (transformers). Without warm-up it falls from step 0: it is not constant.

    Args:
        warmup_steps: whole number w >= 0.
        total_steps: whole number n > w.

    Example:
        >>> from thalweg.schedules import linear_with_warmup
        >>> linear_with_warmup(2, 4).values(6)
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    return Linear(1.0, 0.0, _after(warmup_steps, total_steps)).warmup(warmup_steps)


def cosine_with_warmup(
    warmup_steps: int, total_steps: int, cycles: float = 0.5, minimum: float = 0.0, *, min_lr: float | None = None
) -> Schedule:
    """k/w, then a cosine to ``minimum`` or to the rate ``min_lr`` (transformers' cosine, and cosine with min lr).

    Past n the cosine rises again, as theirs does.

    Args:
        warmup_steps: whole number w >= 0.
        total_steps: whole number n > w.
        cycles: > 0, waves; 0.5 is one fall.
        minimum: 0 <= minimum <= 1; min_lr: >= 0. At most one of the two. transformers divides its min_lr by the
            optimizer's default rate and so scales it in groups with another; here it is the rate of every group.

    Example:
        >>> from thalweg.schedules import cosine_with_warmup
        >>> [round(f, 12) for f in cosine_with_warmup(2, 4, minimum=0.1).values(5)]
        [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    cosine: Schedule = Cosine(_after(warmup_steps, total_steps), cycles)
    return (cosine.above(minimum, lr=min_lr) if minimum or min_lr is not None else cosine).warmup(warmup_steps)


def cosine_hard_restarts_with_warmup(warmup_steps: int, total_steps: int, cycles: float = 1) -> Schedule:
    """k/w, then ``cycles`` falls along half a cosine, then 0 (transformers).

    Args:
        warmup_steps: whole number w >= 0.
        total_steps: whole number n > w.
        cycles: > 0.

    Example:
        >>> from thalweg.schedules import cosine_hard_restarts_with_warmup
        >>> [round(f, 12) for f in cosine_hard_restarts_with_warmup(1, 5, cycles=2).values(6)]
        [0.0, 1.0, 0.5, 1.0, 0.5, 0.0]
    """
    return HardRestarts(_after(warmup_steps, total_steps), cycles).warmup(warmup_steps)


def polynomial_with_warmup(
    warmup_steps: int, total_steps: int, end_lr: float = 1e-7, power: float = 1.0, *, end: float | None = None
) -> Schedule:
    """k/w, then end_lr + (base - end_lr)*(1 - (k-w)/(n-w))^power, then end_lr (transformers).

    Args:
        warmup_steps: whole number w >= 0.
        total_steps: whole number n > w.
        end_lr: >= 0, the last rate of every group. transformers divides it by the optimizer's default rate and so
            scales it in groups with another rate: ``end=end_lr/default`` does so.
        power: > 0.
        end: 0 <= end <= 1, the last factor, in place of ``end_lr``.

    Example:
        >>> from thalweg.schedules import polynomial_with_warmup
        >>> polynomial_with_warmup(1, 3, power=2, end=0.0).values(5)
        [0.0, 1.0, 0.25, 0.0, 0.0]
    """
    falling = Polynomial(_after(warmup_steps, total_steps), power)
    return (falling.above(lr=end_lr) if end is None else falling.above(end)).warmup(warmup_steps)


def inverse_sqrt_with_warmup(warmup_steps: int, timescale: float | None = None) -> Schedule:
    """k/w, then 1/sqrt(1 + (k - w)/timescale) (transformers, after big_vision).

    Args:
        warmup_steps: whole number w >= 0.
        timescale: > 0; None for w, or 10000 where w = 0.

    Example:
        >>> from thalweg.schedules import inverse_sqrt_with_warmup
        >>> inverse_sqrt_with_warmup(4)(16)
        0.5
    """
    default = whole("warmup_steps", warmup_steps, 0) or 10_000
    return InverseSqrt(default if timescale is None else timescale).warmup(warmup_steps)


def fairseq_inverse_sqrt(warmup_steps: int = 4000, init_lr: float = 0.0) -> Schedule:
    """init_lr + k*(base - init_lr)/w, then base*sqrt(w/k) (fairseq).

    Args:
        warmup_steps: whole number w >= 1.
        init_lr: >= 0, the rate of step 0.

    Example:
        >>> from thalweg.schedules import fairseq_inverse_sqrt
        >>> fairseq_inverse_sqrt(4, init_lr=0.5).rate(2, base=1.0)
        0.75
    """
    whole("warmup_steps", warmup_steps)
    return InverseSqrt(warmup_steps).warmup(warmup_steps, lr=init_lr or None)


def wsd(
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    *,
    warmup_shape: str = "linear",
    decay_shape: str = "cosine",
    minimum: float = 0.0,
    cycles: float = 0.5,
) -> Schedule:
    """Warm-up from ``minimum``, constant, cool-down to ``minimum``, which is held (transformers' get_wsd_schedule).

    Args:
        warmup_steps, stable_steps: whole numbers >= 0.
        decay_steps: whole number >= 1.
        warmup_shape, decay_shape: "linear", "cosine" or "1-sqrt"; see `Warmup` and `Decay`.
        minimum: 0 <= minimum <= 1.
        cycles: > 0, waves of a cosine cool-down.

    Example:
        >>> from thalweg.schedules import wsd
        >>> wsd(2, 1, 2, decay_shape="linear").values(7)
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    plan: Schedule = Decay(decay_steps, decay_shape, cycles)
    if whole("stable_steps", stable_steps, 0):
        plan = Constant().then(plan, at=stable_steps)
    plan = plan.warmup(warmup_steps, warmup_shape)
    return plan.above(minimum) if minimum else plan


def minicpm_wsd(warmup_steps: int, decay_from: int, half_life: float) -> Schedule:
    """k/w, then 1, from step T = decay_from 0.5^((k - T)/half_life) (arXiv 2404.06395).

    Args:
        warmup_steps: whole number w >= 0.
        decay_from: whole number T > w; the paper cools down over about the last tenth of the tokens.
        half_life: > 0, in steps.

    Example:
        >>> from thalweg.schedules import minicpm_wsd
        >>> minicpm_wsd(2, 3, half_life=1).values(6)
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.25]
    """
    stable = _after(warmup_steps, decay_from)
    return Constant().then(Exponential(0.5, every=half_life), at=stable).warmup(warmup_steps)
