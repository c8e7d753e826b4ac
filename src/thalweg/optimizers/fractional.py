"""Optimizers on fractional-order gradients: FCGD_G-L and AdaGL."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAM
from thalweg.registry import register
from thalweg.slots.decay import Decoupled
from thalweg.slots.fractional import Fractional, ShortTerm

FCGD_ = Recipe(gradient=Fractional("alpha"), decay=Decoupled())
ADAGL = ADAM.but(gradient=Fractional("alpha", weights="adagl"), direction=ShortTerm(), decay=Decoupled())


@register("fcgd", source="Zhou, Zhao & Huang, Mathematics 11(2) 316 (2023)", aliases=("fcgd_gl", "fcgd_g-l"))
class FCGD(Named):
    """FCGD_G-L: gradient descent along a derivative of fractional order, a fading sum of the last ten gradients.

    Equations::

        D = g_t + w_1*g_(t-1) + ... + w_10*g_(t-10)              gradients before the first are 0
        w_0 = 1, w_j = (1 - (alpha+1)/(j+1))*w_(j-1)             weights="gl": (1 - alpha/j)*w_(j-1)
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*D

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        alpha: order, 0 < x <= 1; 1 is plain gradient descent.
        weight_decay: decoupled, >= 0 (the paper has none).
        weights: "paper", or "gl" for the weights of an order-alpha derivative of the loss.
        disturb: leave out one of the ten terms in every step, as published; which one follows from the step's number.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: past_1 to past_10, 40 bytes per parameter. Memory: 1 pass, 23 words per element.
    The paper could be read in a restatement only, whose weights "paper" are. With momentum or in Adam: the technique
    ``thalweg.Fractional``, which also takes another number of gradients.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.FCGD([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8000, 0.8000])
    """

    structure = ("weights", "disturb")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.9,
        weight_decay: float = 0,
        weights: str = "paper",
        disturb: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            alpha=alpha,
            weight_decay=weight_decay,
            weights=weights,
            disturb=disturb,
            maximize=maximize,
        )

    @classmethod
    def build(cls, weights: str, disturb: bool) -> Recipe:  # type: ignore[override]
        if weights not in ("paper", "gl"):
            raise ValueError(f"Invalid weights: {weights!r}; legal are 'paper' and 'gl'")
        return FCGD_.but(gradient=Fractional("alpha", weights=weights, disturb=disturb))


@register("adagl", source="Chen, Zhang & Mu, Neural Processing Letters (2024)")
class AdaGL(Named):
    """AdaGL: Adam on the fractional difference of the last gradients, with steps that follow their latest change.

    Equations::

        D = g_t + w_1*g_(t-1) + ... + w_10*g_(t-10) ; w_0 = 1, w_j = (1 - (alpha+1)/j)*w_(j-1)
        m <- betas[0]*m + (1-betas[0])*D ; v <- betas[1]*v + (1-betas[1])*D^2
        C = 1.1 - 0.5/(1 + |g_(t-1) - g_t|)                      entry by entry, between 0.6 and 1.1
        p <- p*(1 - lr*weight_decay)
        p <- p - lr*C*m/(1-betas[0]^t)/(sqrt(v/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        alpha: order of the difference, 0 <= x <= 2; 0 is the gradient itself, 1 its last change. The paper's value is
            not known; large ones leave little of a steady gradient.
        weight_decay: decoupled, >= 0 (the paper has none).
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, past_1 to past_10, 48 bytes per parameter. Memory: 1 pass, 27 words per element.
    The paper could be read in a restatement only.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaGL([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9067, 0.9067])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        alpha: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params, options, lr=lr, betas=betas, eps=eps, alpha=alpha, weight_decay=weight_decay, maximize=maximize
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAGL
