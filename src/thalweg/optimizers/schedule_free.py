"""Schedule-Free SGD and AdamW: averaging in place of a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.hyper import Hyper
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW, SCHEDULE_FREE_ADAMW, SCHEDULE_FREE_SGD, SGD
from thalweg.registry import register
from thalweg.slots.outer import ScheduleFree

_SOURCE, _CODE = "arXiv 2405.15682", "github.com/facebookresearch/schedule_free"


class _Averaged(Named):
    """Base of the two: the outer method is built from the arguments."""

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
        maximize: ascend instead of descend.
        options: ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    Call ``opt.train()`` before training and ``opt.eval()`` before evaluating or saving the model. The mode is kept in
    the checkpoint; ``step`` in eval mode raises. betas[0] is fixed when the optimizer is built.
    State: z, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.
    This is the authors' present form; their paper's class folds the bias correction into gamma.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ScheduleFreeAdamW([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); _ = opt.eval(); p.data
        tensor([0.9000, 0.9000])
    """

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
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"Invalid betas: {betas!r}; legal is a tuple of 2 numbers")
        Hyper(0.9, 0.0, 1.0, open_low=True).check("betas[0]", betas[0])
        outer = ScheduleFree(betas[0], warmup_steps, r, weight_lr_power)
        super().__init__(
            params, options, outer, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, maximize=maximize
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAMW.but(first=None)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        assert isinstance(self.outer, ScheduleFree)
        if group["betas"][0] != self.outer.beta:
            raise ValueError(
                f"betas[0] is the same for all groups, {self.outer.beta:g}; this one has {group['betas']!r}"
            )
