"""Optimizers whose momentum adapts to the gradients: AM-MSGD and AM-AdamW."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.registry import register
from thalweg.slots.adaptive_memory import AdaptiveAverage, AdaptiveRatio
from thalweg.slots.average import Average
from thalweg.slots.decay import Decoupled
from thalweg.slots.gradient import L2
from thalweg.slots.law import Debiased

AM_MSGD = Recipe(gradient=L2(), first=AdaptiveAverage())
AM_ADAMW = Recipe(
    second=Average("exp_avg_sq", Debiased("betas.1", 0.999), power=2),
    ratio=AdaptiveRatio(),
    decay=Decoupled(),
)


@register("am_msgd", source="arXiv 2510.04988", aliases=("ammsgd", "am_sgd"))
class AdaptiveMemorySGD(Named):
    """AM-MSGD: SGD with a momentum that is chosen anew at every step, one number for the whole model.

    Equations::

        g = g + weight_decay*p
        beta = ((1+lam)*<g,m> - <m-g, g+lam*m>)/|m-g|^2, clipped to 0..beta_max, 0 where m = g; sums over the model
        m <- ((beta+lam)*m + (1-beta)*g)/(1+lam)   at a parameter's first step m = g
        p <- p - lr*m

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; the sums run over all of them.
        lr: learning rate, >= 0.
        lam: pull towards the accumulated direction, >= 0.
        beta_max: largest momentum, 0 <= x <= 1; the first group's counts for all.
        weight_decay: coupled (L2) decay, >= 0; beta sees it.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, 4 bytes per parameter; beta, the momentum of the last step, is a number in the groups.
    Memory: 2 passes, 8 words per element.
    The formula was derived anew from the two-plane model and a public port; the paper's text was not at hand. Its
    exact-loss variant, which needs the loss itself, is not part of this class.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaptiveMemorySGD([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8000, 0.8000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        lam: float = 0.1,
        beta_max: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params, options, lr=lr, lam=lam, beta_max=beta_max, weight_decay=weight_decay, maximize=maximize
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return AM_MSGD


@register("am_adamw", source="arXiv 2510.04988", aliases=("amadamw",))
class AdaptiveMemoryAdamW(Named):
    """AM-AdamW: AdamW with a momentum that each tensor chooses anew at every step, at most betas[0].

    Equations::

        v <- betas[1]*v + (1-betas[1])*g^2
        P = (1 - betas[0]*B)*(sqrt(v/(1-betas[1]^t)) + eps)                  B: product of the earlier beta
        D = m - g ; W = 1/(P*(1 + lam*P)) ; at t=1 beta = betas[0], later
        beta = ((1 + weight_decay*lr)*lr'*<g, m/P + weight_decay*p>/lr - sum(D*(g + lam*P*m)*W) - weight_decay*<p,D>)
               / sum(D^2*W), clipped to 0..betas[0], 0 where D = 0           lr': the rate of the previous step
        m <- ((1-beta)*g + (lam*P + beta)*m)/(1 + lam*P)
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*m/P

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; at 0 the first term of beta is left out.
        betas: the largest momentum and the second moment's, 0 <= x < 1. Advised: betas[0] = 0.9 - 0.1*lam.
        eps: >= 0.
        weight_decay: >= 0.
        lam: pull towards the accumulated direction, >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter; per tensor beta_product (B) and lr_prev, one number each.
    Memory: 2 passes, 11 words per element. With beta held at betas[0] and lam = 0 this is AdamW.
    The formula was derived anew from the two-plane model and a public port; the paper's text was not at hand.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaptiveMemoryAdamW([p], lr=0.1, lam=0.0)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8990, 0.8990])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.89, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        lam: float = 0.1,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, lam=lam, maximize=maximize
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return AM_ADAMW
