"""The AdaNorm family: AdamNorm, diffGradNorm, RAdamNorm and AdaBeliefNorm, each its namesake with one technique."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.optimizers.adam import RAdam
from thalweg.optimizers.adam_variants import DIFFGRAD
from thalweg.optimizers.moments import ADABELIEF, with_options
from thalweg.recipe import Recipe
from thalweg.recipes import ADAM
from thalweg.registry import register
from thalweg.slots.adanorm import AdaNorm
from thalweg.slots.moments import Belief

NORM = AdaNorm("gamma")
_SOURCE, _CODE = "arXiv 2210.06364", "github.com/shivram1987/AdaNorm"


@register("adamnorm", source=_SOURCE, code=_CODE)
class AdamNorm(Named):
    """AdamNorm: Adam whose momentum takes gradients no shorter than they have lately been.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        e <- gamma*e + (1-gamma)*|g| ; h = g*max(1, e/|g|)       |g| over the tensor ; h = 0 where g = 0
        m <- betas[0]*m + (1-betas[0])*h
        v <- betas[1]*v + (1-betas[1])*g^2                       accumulate_eps: + eps
        p <- p - lr*m/(1-betas[0]^t)/(sqrt(v/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        gamma: 0 <= x < 1.
        amsgrad: read the largest second moment so far.
        decoupled_weight_decay: AdamW's decay.
        accumulate_eps: eps joins v in every step too, as in the authors' code, which was made from AdaBelief's.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter (amsgrad: 12), and exp_grad_norm, one number a tensor.
    Memory: 2 passes, 9 words per element (decoupled decay: 8).
    A zero gradient is left as it is; the authors' code divides 0 by 0 there.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamNorm([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("amsgrad", "decoupled_weight_decay", "accumulate_eps")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        gamma: float = 0.95,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        accumulate_eps: bool = False,
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
            gamma=gamma,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            accumulate_eps=accumulate_eps,
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool, decoupled_weight_decay: bool, accumulate_eps: bool) -> Recipe:  # type: ignore[override]
        recipe = ADAM.but(second=Belief("exp_avg_sq", around=None)) if accumulate_eps else ADAM
        return NORM.into(with_options(recipe, amsgrad, decoupled_weight_decay, False))


@register("adabeliefnorm", source=_SOURCE, code=_CODE)
class AdaBeliefNorm(Named):
    """AdaBeliefNorm: AdaBelief on gradients no shorter than they have lately been.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        e <- gamma*e + (1-gamma)*|g| ; h = g*max(1, e/|g|)       |g| over the tensor ; h = 0 where g = 0
        m <- betas[0]*m + (1-betas[0])*h
        s <- betas[1]*s + (1-betas[1])*(h - m)^2 + eps           m is the new one
        p <- p - lr*m/(1-betas[0]^t)/(sqrt(s/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0, within s and beside its root.
        weight_decay: >= 0.
        gamma: 0 <= x < 1.
        amsgrad: read the largest s so far.
        decoupled_weight_decay: AdamW's decay.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_var, 8 bytes per parameter (amsgrad: 12), and exp_grad_norm, one number a tensor.
    Memory: 2 passes, 9 words per element (decoupled decay: 8).
    A zero gradient is left as it is; the authors' code divides 0 by 0 there.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaBeliefNorm([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8889, 0.8889])
    """

    structure = ("amsgrad", "decoupled_weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        gamma: float = 0.95,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
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
            gamma=gamma,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool, decoupled_weight_decay: bool) -> Recipe:  # type: ignore[override]
        return NORM.into(with_options(ADABELIEF, amsgrad, decoupled_weight_decay, False))


@register("radamnorm", source=_SOURCE, code=_CODE)
class RAdamNorm(Named):
    """RAdamNorm: RAdam whose momentum takes gradients no shorter than they have lately been.

    Equations::

        e <- gamma*e + (1-gamma)*|g| ; h = g*max(1, e/|g|)       |g| over the tensor ; h = 0 where g = 0
        RAdam's step with m <- betas[0]*m + (1-betas[0])*h ; v <- betas[1]*v + (1-betas[1])*g^2
        p <- p*(1 - lr*weight_decay) before it     (decoupled_weight_decay=False: g = g + weight_decay*p instead)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        gamma: 0 <= x < 1.
        decoupled_weight_decay: AdamW's decay, the default here as in the authors' code.
        threshold: >= 4; rho_t that makes the step adaptive.
        degenerated_to_sgd: take momentum steps before that, else none.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and exp_grad_norm, one number a tensor.
    Memory: 2 passes, 8 words per element.
    The authors' file sets e to 0 in every step, so that h is always g: their code is RAdam (``thalweg.RAdam``), in
    float32. A zero gradient is left as it is; theirs divides 0 by 0.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.RAdamNorm([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8000, 0.8000])
    """

    structure = ("decoupled_weight_decay", "degenerated_to_sgd")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        gamma: float = 0.95,
        decoupled_weight_decay: bool = True,
        threshold: float = 5.0,
        degenerated_to_sgd: bool = True,
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
            gamma=gamma,
            decoupled_weight_decay=decoupled_weight_decay,
            threshold=threshold,
            degenerated_to_sgd=degenerated_to_sgd,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, degenerated_to_sgd: bool) -> Recipe:  # type: ignore[override]
        return NORM.into(RAdam.build(decoupled_weight_decay, degenerated_to_sgd))


@register("diffgradnorm", source=_SOURCE, code=_CODE)
class diffGradNorm(Named):
    """diffGradNorm: diffGrad whose momentum takes gradients no shorter than they have lately been.

    Equations::

        g = g + weight_decay*p
        e <- gamma*e + (1-gamma)*|g| ; h = g*max(1, e/|g|)       |g| over the tensor ; h = 0 where g = 0
        m <- betas[0]*m + (1-betas[0])*h ; v <- betas[1]*v + (1-betas[1])*g^2
        xi = 1/(1 + exp(-|q - g|)) ; q <- g
        p <- p - lr*sqrt(1-betas[1]^t)/(1-betas[0]^t) * xi*m/(sqrt(v) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        gamma: 0 <= x < 1.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, previous_grad, 12 bytes per parameter, and exp_grad_norm, one number a tensor.
    Memory: 2 passes, 11 words per element. A zero gradient is left as it is; the authors' code divides 0 by 0 there.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.diffGradNorm([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9119, 0.9119])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        gamma: float = 0.95,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, gamma=gamma, maximize=maximize
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return NORM.into(DIFFGRAD)
