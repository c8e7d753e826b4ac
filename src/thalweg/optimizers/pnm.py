"""Positive-negative momentum: PNM and AdaPNM."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.optimizers.moments import with_options
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.decay import Decoupled
from thalweg.slots.gradient import L2
from thalweg.slots.moments import PositiveNegative

PNM_ = Recipe(first=PositiveNegative(), decay=Decoupled())
ADAPNM = ADAMW.but(first=PositiveNegative("betas.2", corrects=True))
_SOURCE, _CODE = "arXiv 2103.17182", "github.com/zeke-xie/Positive-Negative-Momentum"


@register("pnm", source=_SOURCE, code=_CODE)
class PNM(Named):
    """PNM: SGD on the difference of two momenta, whose noise is larger than either's while their direction is the same.

    Equations::

        n, m <- m, n ; m <- betas[0]^2*m + (1-betas[0]^2)*g      gradients go to the two averages in turn
        u = ((1+betas[1])*m - betas[1]*n)/sqrt((1+betas[1])^2 + betas[1]^2)
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*u             (decoupled_weight_decay=False: g = g + weight_decay*p)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; about SGD's. The authors give no default, 1e-3 is ours.
        betas: 0 <= betas[0] < 1, and betas[1] >= 0, the paper's beta_0: how much noise is added. 0 leaves momentum.
        weight_decay: >= 0.
        decoupled_weight_decay: AdamW's decay, the default.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg (odd steps), neg_exp_avg (even ones), 8 bytes per parameter. Memory: 1 pass, 6 words per element.
    Not corrected for its start, as published: the second step is the first in which both averages hold something.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.PNM([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9660, 0.9660])
    """

    structure = ("decoupled_weight_decay",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 1.0),
        weight_decay: float = 0,
        decoupled_weight_decay: bool = True,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool) -> Recipe:  # type: ignore[override]
        return PNM_ if decoupled_weight_decay else PNM_.but(gradient=L2(), decay=None)


@register("adapnm", source=_SOURCE, code=_CODE)
class AdaPNM(Named):
    """AdaPNM: AdamW with positive-negative momentum.

    Equations::

        n, m <- m, n ; m <- betas[0]^2*m + (1-betas[0]^2)*g      gradients go to the two averages in turn
        u = ((1+betas[2])*m - betas[2]*n)/sqrt((1+betas[2])^2 + betas[2]^2)/(1-betas[0]^t)
        v <- betas[1]*v + (1-betas[1])*g^2                       amsgrad: the largest v so far is read for v
        p <- p*(1 - lr*weight_decay)                             (decoupled_weight_decay=False: g = g + weight_decay*p)
        p <- p - lr*u/(sqrt(v/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; about Adam's.
        betas: betas[0] and betas[1] as Adam's, 0 <= x < 1; betas[2] >= 0 is the paper's beta_0.
        eps: >= 0.
        weight_decay: >= 0.
        amsgrad: divide by the largest second moment so far, the default.
        decoupled_weight_decay: AdamW's decay, the default.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg (odd steps), neg_exp_avg (even ones), exp_avg_sq, max_exp_avg_sq, 16 bytes per parameter
    (amsgrad=False: 12). Memory: 1 pass, 10 words per element (8).
    The correction 1-betas[0]^t is the published one, though the newer average holds 1-betas[0]^2 after one gradient:
    the first step is 1.7 times Adam's.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaPNM([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8301, 0.8301])
    """

    structure = ("amsgrad", "decoupled_weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = True,
        decoupled_weight_decay: bool = True,
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
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool, decoupled_weight_decay: bool) -> Recipe:  # type: ignore[override]
        return with_options(ADAPNM, amsgrad, decoupled_weight_decay, False)
