"""Schedule-Free SGD, AdamW and RAdam: averaging in place of a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.hyper import Hyper
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW, SCHEDULE_FREE_ADAMW, SCHEDULE_FREE_RADAM, SCHEDULE_FREE_SGD, SGD
from thalweg.registry import register
from thalweg.slots.average import Average
from thalweg.slots.base import Slot
from thalweg.slots.law import Debiased, Plain
from thalweg.slots.outer import OnceRectified, ScheduleFree

_SOURCE, _CODE = "arXiv 2405.15682", "github.com/facebookresearch/schedule_free"


class _Averaged(Named):
    """Base of the three: the outer method is built from the arguments."""

    def __init__(self, params: ParamsT, options: dict[str, Any], outer: ScheduleFree, **hyper: Any) -> None:
        if options.get("outer") is not None:
            raise ValueError(f"{type(self).__name__} is itself an outer method; leave outer out")
        super().__init__(params, {**options, "outer": outer}, **hyper)


@register("schedulefree_sgd", source=_SOURCE, code=_CODE, aliases=("sgdschedulefree",), recipe=SCHEDULE_FREE_SGD)
class ScheduleFreeSGD(_Averaged):
    """Schedule-Free SGD: no schedule is needed, because what is evaluated is an average of the iterates.

    Equations::

        y = beta*x + (1-beta)*z                    the parameter, while training (beta is ``momentum``)
        d = g + weight_decay*y                     g is taken at y ; gamma = lr, warmed up
        z <- z - gamma*d ; x <- (1-c)*x + c*z      c: newest weight over the sum of weights

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        momentum: beta, 0 < x < 1.
        weight_decay: at y, >= 0.
        warmup_steps: linear warm-up, >= 0.
        r: weights grow as k^r.
        weight_lr_power: weights follow the largest rate so far to this power.
        maximize: ascend instead of descend.
        options: ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    Call ``opt.train()`` before training and ``opt.eval()`` before evaluating or saving the model; batch-norm
    statistics belong to y and want recomputing at x. The mode is kept in the checkpoint; ``step`` in eval mode raises.
    State: z, 4 bytes per parameter. Memory: 1 pass, 5 words per element.
    The count and the sum of weights are the group's; they advance when any of its parameters has a gradient.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ScheduleFreeSGD([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); _ = opt.eval(); p.data
        tensor([0.8000, 0.8000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        Hyper(0.9, 0.0, 1.0, open_low=True).check("momentum", momentum)
        outer = ScheduleFree(momentum, warmup_steps, r, weight_lr_power)
        super().__init__(params, options, outer, lr=lr, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return SGD


@register(
    "schedulefree_adamw",
    source=_SOURCE,
    code=_CODE,
    aliases=("adamwschedulefree", "schedulefree"),
    recipe=SCHEDULE_FREE_ADAMW,
)
class ScheduleFreeAdamW(_Averaged):
    """Schedule-Free AdamW: AdamW without a first moment, averaged instead of scheduled.

    Equations::

        y = beta*x + (1-beta)*z                    the parameter, while training (beta is betas[0])
        v <- betas[1]*v + (1-betas[1])*g^2         g is taken at y
        d = g/(sqrt(v/(1-betas[1]^t)) + eps) + weight_decay*y
        z <- z - gamma*d ; x <- (1-c)*x + c*z      gamma = lr, warmed up; c: newest weight over the sum of weights

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: 0 < betas[0] < 1 and 0 <= betas[1] < 1.
        eps: >= 0.
        weight_decay: at y, >= 0.
        warmup_steps: linear warm-up, >= 0.
        r: weights grow as k^r.
        weight_lr_power: weights follow the largest rate so far to this power.
        inner_momentum: beta of an average of g, over its weight, that takes g's place in d; 0 (none) <= x < 1.
        paper: the form of the authors' class for the paper: gamma is multiplied by sqrt(1-betas[1]^k), k the group's
            count of steps, which lowers the first weights of the average too, and v is not corrected in d.
        maximize: ascend instead of descend.
        options: ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    Call ``opt.train()`` before training and ``opt.eval()`` before evaluating or saving the model. The mode is kept in
    the checkpoint; ``step`` in eval mode raises. betas[0] is fixed when the optimizer is built.
    State: z, exp_avg_sq, 8 bytes per parameter (inner_momentum: 12). Memory: 1 pass, 7 words per element.
    This is the authors' present form (their version 1.3 and later), unless ``paper``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ScheduleFreeAdamW([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); _ = opt.eval(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("inner_momentum", "paper")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        inner_momentum: float = 0.0,
        paper: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        outer = ScheduleFree(_beta(betas), warmup_steps, r, weight_lr_power)
        super().__init__(
            params,
            options,
            outer,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            inner_momentum=inner_momentum,
            paper=paper,
            maximize=maximize,
        )

    @classmethod
    def build(cls, inner_momentum: bool, paper: bool) -> Recipe:  # type: ignore[override]
        first = Average("exp_avg", Debiased("inner_momentum", 0.0)) if inner_momentum else None
        second = Average("exp_avg_sq", Plain("betas.1", 0.999), power=2) if paper else ADAMW.second
        return ADAMW.but(first=first, second=second)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        _check_beta(self.outer, group)

    def _outer_of(self, group: Mapping[str, Any]) -> Slot | None:
        return _with_rate(self.outer, "corrected" if group["paper"] else "plain")


def _beta(betas: Any) -> float:
    """The weight of x in y, which is betas[0]."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas!r}; legal is a tuple of 2 numbers")
    Hyper(0.9, 0.0, 1.0, open_low=True).check("betas[0]", betas[0])
    return betas[0]


def _with_rate(outer: Slot | None, rate: str) -> Slot:
    assert isinstance(outer, ScheduleFree)
    return replace(outer, rate=rate)


def _check_beta(outer: Any, group: Mapping[str, Any]) -> None:
    if group["betas"][0] != outer.beta:
        raise ValueError(f"betas[0] is the same for all groups, {outer.beta:g}; this one has {group['betas']!r}")


@register("schedulefree_radam", source=_SOURCE, code=_CODE, aliases=("radamschedulefree",), recipe=SCHEDULE_FREE_RADAM)
class ScheduleFreeRAdam(_Averaged):
    """Schedule-Free RAdam: Schedule-Free AdamW whose warm-up is RAdam's rectification.

    Equations (k counts the steps of the group)::

        y = beta*x + (1-beta)*z                    the parameter, while training (beta is betas[0])
        v <- betas[1]*v + (1-betas[1])*g^2         g is taken at y
        rho_k = rho_inf - 2*k*betas[1]^k/(1-betas[1]^k), rho_inf = 2/(1-betas[1]) - 1
        rho_k > 4:  gamma = lr*sqrt((rho_k-4)(rho_k-2)rho_inf/((rho_inf-4)(rho_inf-2)rho_k))
                    d = g/(sqrt(v/(1-betas[1]^t)) + eps) + weight_decay*y
        otherwise:  gamma = 0 (silent_sgd_phase: nothing moves, such steps have no weight in x), else gamma = lr
                    d = g + weight_decay*y
        z <- z - gamma*d ; x <- (1-c)*x + c*z      c: newest weight over the sum of weights

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: 0 < betas[0] < 1 and 0 <= betas[1] < 1; with betas[1] <= 0.6 the step never becomes adaptive.
        eps: >= 0.
        weight_decay: at y, >= 0.
        r: weights grow as k^r.
        weight_lr_power: weights follow the largest rate so far to this power.
        silent_sgd_phase: leave the parameters alone in the first steps (four with betas[1] of 0.9 to 0.999); False
            takes steps of plain SGD there, which large gradients make large.
        maximize: ascend instead of descend.
        options: ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    Call ``opt.train()`` before training and ``opt.eval()`` before evaluating or saving the model. The mode is kept in
    the checkpoint; ``step`` in eval mode raises. betas[0] is fixed when the optimizer is built.
    State: z, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ScheduleFreeRAdam([p], lr=0.1, silent_sgd_phase=False)
        >>> (p**2).sum().backward(); opt.step(); _ = opt.eval(); p.data
        tensor([0.8000, 0.8000])
    """

    structure = ("silent_sgd_phase",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        silent_sgd_phase: bool = True,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        outer = ScheduleFree(_beta(betas), 0, r, weight_lr_power)
        super().__init__(
            params,
            options,
            outer,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            silent_sgd_phase=silent_sgd_phase,
            maximize=maximize,
        )

    @classmethod
    def build(cls, silent_sgd_phase: bool) -> Recipe:  # type: ignore[override]
        return ADAMW.but(first=None, ratio=OnceRectified())

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        _check_beta(self.outer, group)

    def _outer_of(self, group: Mapping[str, Any]) -> Slot | None:
        return _with_rate(self.outer, "silent" if group["silent_sgd_phase"] else "rectified")
