"""MARS: AdamW on variance-reduced gradients for matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from thalweg.hyper import join, suggest, validate
from thalweg.optimizers.partition import Kind, Partitioned
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.average import Average, Largest
from thalweg.slots.moments import VarianceReduced

MARS_ADAMW = ADAMW.but(gradient=VarianceReduced())
#: What tensors that are no matrices get, unless ``rest`` says otherwise.
REST: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def _amsgrad(recipe: Recipe) -> Recipe:
    assert isinstance(recipe.second, Average)
    return recipe.but(second=Largest(recipe.second))


@register(
    "mars",
    source="arXiv 2411.10438",
    code="github.com/AGI-Arena/MARS",
    aliases=("mars_adamw", "mars-adamw"),
    recipe=MARS_ADAMW,
)
class MARS(Partitioned):
    """MARS: AdamW whose gradient is corrected by its change since the last step, for matrices; AdamW for the rest.

    Equations (tensors of two axes; with optimize_1d all)::

        c = g + gamma*betas[0]/(1-betas[0])*(g - g_last) ; g_last <- g         g_last starts at 0
        c = c/max(1, |c|)                                                      |c| over the tensor
        m <- betas[0]*m + (1-betas[0])*c ; v <- betas[1]*v + (1-betas[1])*c^2  amsgrad: the largest v so far is read
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*m/(1-betas[0]^t)/(sqrt(v/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups. Each group is split: tensors of exactly two axes
            (embeddings too, convolutions not) follow the equations, all others AdamW with the options of ``rest``.
        lr: learning rate of matrices, >= 0.
        betas: of matrices, two numbers, 0 <= x < 1.
        eps: of matrices, >= 0.
        weight_decay: of matrices, >= 0.
        amsgrad: read the largest second moment so far, for all tensors.
        gamma: >= 0; 0 keeps the clipping of c.
        optimize_1d: treat every tensor like a matrix.
        rest: options of AdamW for the other tensors (lr 3e-3, betas (0.9, 0.95), eps 1e-8, weight_decay 0.1); the
            authors' lr_1d, betas_1d and weight_decay_1d. Their groups have a rate of their own, which schedulers
            scale with the others.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``.

    State: exp_avg, exp_avg_sq, last_grad, 12 bytes per matrix parameter, 8 for the rest (amsgrad: 4 more).
    Memory: 2 passes, 11 words per element.
    This is the approximate form; the exact one needs the last batch's gradient at the present weights. The last
    gradient is copied (the authors' code keeps the gradient's own memory, which accumulation in place overwrites).
    The correction alone is the technique "mars", for other optimizers.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.MARS([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([[0.9000, 0.9000],
                [0.9000, 0.9000]])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        gamma: float = 0.025,
        optimize_1d: bool = False,
        rest: Mapping[str, Any] | None = None,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        for name, switch in (("amsgrad", amsgrad), ("optimize_1d", optimize_1d)):
            if not isinstance(switch, bool):
                raise TypeError(f"{name} must be True or False, got {switch!r}")
        legal = join(ADAMW.hypers())
        for key in (rest or {}).keys() - legal.keys():
            raise ValueError(f"rest has no option {key!r}." + suggest(key, legal))
        own = {**REST, **(rest or {})}
        validate(own, ADAMW.hypers())
        matrices, others = ADAMW.but(gradient=VarianceReduced(gamma)), ADAMW
        if amsgrad:
            matrices, others = _amsgrad(matrices), _amsgrad(others)
        self.optimize_1d = optimize_1d
        self.kinds = {"matrices": Kind(matrices, {}), "rest": Kind(others, own, inherits=False)}
        numbers: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, matrices, maximize=maximize, **numbers, **options)

    def kind_of(self, name: str, param: torch.Tensor, group: dict[str, Any]) -> str:
        return "matrices" if self.optimize_1d or param.ndim == 2 else "rest"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimize_1d": self.optimize_1d}
