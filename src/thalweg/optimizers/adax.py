"""AdaX: Adam with an ever longer memory of the second moment."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAX
from thalweg.registry import register
from thalweg.slots.decay import Decoupled
from thalweg.slots.ratio import OverSqrt


@register("adax", source="arXiv 2004.09740", code="github.com/switchablenorms/AdaX")
class AdaX(Named):
    """AdaX: Adam whose second moment weighs the past ever more, so that late steps keep their scale.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        m <- betas[0]*m + (1-betas[0])*g           not corrected for its start
        w = betas[1]/((1+betas[1])^t - 1) ; v <- v + w*(g^2 - v)
        p <- p - lr*m/(sqrt(v) + eps/sqrt((1+betas[1])^t - 1))

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0 (the authors use 1.5e-3, and 5e-3 with decoupled decay).
        betas: 0 <= betas[0] < 1, and 0 < betas[1] < 1, small.
        eps: >= 0, added to the root of the authors' un-normalised sum; ``normalised_eps`` adds it to sqrt(v).
        weight_decay: >= 0 (the authors use 5e-4 coupled, 5e-2 decoupled).
        decoupled_weight_decay: AdaX-W.
        normalised_eps: see eps.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.
    v is the authors' sum divided by (1+betas[1])^t - 1, so it cannot overflow (theirs does, in float32, near step
    887 000). A state of theirs is divided by that number to be loaded here.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaX([p], lr=0.1, weight_decay=0)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9900, 0.9900])
    """

    structure = ("decoupled_weight_decay", "normalised_eps")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.5e-3,
        betas: tuple[float, float] = (0.9, 1e-4),
        eps: float = 1e-12,
        weight_decay: float = 5e-4,
        decoupled_weight_decay: bool = False,
        normalised_eps: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            normalised_eps=normalised_eps,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, normalised_eps: bool) -> Recipe:  # type: ignore[override]
        recipe = ADAX.but(ratio=OverSqrt(eps=1e-12)) if normalised_eps else ADAX
        return recipe.but(gradient=None, decay=Decoupled()) if decoupled_weight_decay else recipe
