"""Adam and its nearest relatives: AdamW, NAdam, RAdam, and Adam with stable weight decay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAM, ADAMW, NADAM, RADAM, STABLE
from thalweg.registry import register
from thalweg.slots.average import Average, Largest, adam_moments
from thalweg.slots.decay import Decoupled
from thalweg.slots.law import Debiased, LookingAhead, Plain
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.warmup import UntilRectified


def _with(recipe: Recipe, amsgrad: bool = False, decoupled: bool = False) -> Recipe:
    if amsgrad:
        assert isinstance(recipe.second, Average)
        recipe = recipe.but(second=Largest(recipe.second))
    return recipe.but(gradient=None, decay=Decoupled()) if decoupled else recipe


def _choice(name: str, value: str, legal: tuple[str, ...]) -> str:
    if value not in legal:
        raise ValueError(f"Invalid {name}: {value!r}; legal are {', '.join(map(repr, legal))}")
    return value


@register("adam", source="arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018")
class Adam(Named):
    """Adam: momentum over the root of the mean squared gradient, both corrected for their start; torch's drop-in.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*g^2         amsgrad: the largest v so far is read for v
        p <- p - lr * m/(1-betas[0]^t) / (sqrt(v/(1-betas[1]^t)) + eps)
                                                   epsilon_hat: (sqrt(v) + eps)/sqrt(1-betas[1]^t) divides

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend instead of descend.
        decoupled_weight_decay: AdamW's decay.
        epsilon_hat: add eps before the correction, as TensorFlow does: eps/sqrt(1-betas[1]^t) in effect, 31.6 times
            as much at the first step.
        amsgrad_convention: "torch", the largest v before its correction; "optax", after it; "paper", as published, no
            correction of m and v at all.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter (amsgrad: max_exp_avg_sq, 12).
    Memory: 1 pass, 7 words per element (9).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Adam([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("amsgrad", "decoupled_weight_decay", "epsilon_hat", "amsgrad_convention")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        epsilon_hat: bool = False,
        amsgrad_convention: str = "torch",
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
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            epsilon_hat=epsilon_hat,
            amsgrad_convention=amsgrad_convention,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls, amsgrad: bool, decoupled_weight_decay: bool, epsilon_hat: bool, amsgrad_convention: str
    ) -> Recipe:
        recipe, convention = ADAM, _choice("amsgrad_convention", amsgrad_convention, ("torch", "optax", "paper"))
        if convention != "torch" and (not amsgrad or epsilon_hat):
            why = "takes no correction of v to put eps before" if amsgrad else "has no effect without amsgrad=True"
            raise ValueError(f"amsgrad_convention={convention!r} {why}; leave it at 'torch'")
        if epsilon_hat:
            recipe = recipe.but(ratio=OverSqrt(raw=Debiased("betas.1", 0.999)))
        if convention == "paper":
            recipe = recipe.but(**adam_moments(Plain("betas.0", 0.9), Plain("betas.1", 0.999)))
        recipe = _with(recipe, amsgrad, decoupled_weight_decay)
        if convention == "optax":
            assert isinstance(recipe.second, Largest)
            recipe = recipe.but(second=replace(recipe.second, corrected=True))
        return recipe


@register("adamw", source="arXiv 1711.05101")
class AdamW(Named):
    """AdamW: Adam whose weight decay acts on the weights alone; torch.optim.AdamW's drop-in.

    Equations::

        p <- p*(1 - lr*weight_decay)
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*g^2         amsgrad: the largest v so far is read for v
        p <- p - lr * m/(1-betas[0]^t) / (sqrt(v/(1-betas[1]^t)) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. As in torch it scales the decay too; the paper's lambda is lr*weight_decay.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter (amsgrad: 12). Memory: 1 pass, 7 words per element (9).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8990, 0.8990])
    """

    structure = ("amsgrad",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
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
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool) -> Recipe:  # type: ignore[override]
        return _with(ADAMW, amsgrad)


#: NAdam's conventions of constant momentum, and how each corrects what it reads.
_AHEAD = {"constant": "separate", "simple": "joint", "raw": ""}


@register("nadam", source="Dozat, ICLR workshop 2016")
class NAdam(Named):
    """NAdam: Adam with Nesterov's look ahead and a momentum that warms up; torch.optim.NAdam's drop-in.

    Equations::

        mu_t = betas[0]*(1 - 0.5*0.96^(t*momentum_decay)) ; P <- P*mu_t
        m <- betas[0]*m + (1-betas[0])*g ; v <- betas[1]*v + (1-betas[1])*g^2
        n = (1-mu_t)/(1-P)*g + mu_(t+1)/(1-P*mu_(t+1))*m
        p <- p - lr * n/(sqrt(v/(1-betas[1]^t)) + eps)
        convention "constant":  n = betas[0]*m/(1-betas[0]^(t+1)) + (1-betas[0])*g/(1-betas[0]^t)
        convention "simple":    n = (betas[0]*m + (1-betas[0])*g)/(1-betas[0]^(t+1))
        convention "raw":       n = betas[0]*m + (1-betas[0])*g, and v is not corrected either

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        momentum_decay: psi, >= 0.
        decoupled_weight_decay: AdamW's decay instead.
        maximize: ascend instead of descend.
        convention: "torch", or a constant momentum: "constant" (Dozat's rule, as in other libraries), "simple" (first
            step of exactly lr), "raw" (nothing corrected: a first step of 6*lr, for comparison only).
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and mu_product, one number, kept in float64 (torch: float32,
    which costs about 1e-8 of accuracy). Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.NAdam([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8944, 0.8944])
    """

    structure = ("decoupled_weight_decay", "convention")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        convention: str = "torch",
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            convention=convention,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, convention: str) -> Recipe:  # type: ignore[override]
        recipe = NADAM
        if _choice("convention", convention, ("torch", *_AHEAD)) in _AHEAD:
            second = Plain("betas.1", 0.999) if convention == "raw" else None
            recipe = recipe.but(**adam_moments(LookingAhead("betas.0", 0.9, _AHEAD[convention]), second))
        return _with(recipe, decoupled=decoupled_weight_decay)


@register("radam", source="arXiv 1908.03265", code="github.com/LiyuanLucasLiu/RAdam")
class RAdam(Named):
    """RAdam: Adam that takes momentum steps until its variance estimate can be trusted; torch.optim.RAdam's drop-in.

    Equations::

        m <- betas[0]*m + (1-betas[0])*g ; v <- betas[1]*v + (1-betas[1])*g^2 ; m_hat = m/(1-betas[0]^t)
        rho_inf = 2/(1-betas[1]) - 1 ; rho_t = rho_inf - 2*t*betas[1]^t/(1-betas[1]^t)
        rho_t > threshold:  r = sqrt((rho_t-4)(rho_t-2)rho_inf / ((rho_inf-4)(rho_inf-2)rho_t))
                            p <- p - lr*r*m_hat*sqrt(1-betas[1]^t)/(sqrt(v) + eps)
        otherwise:          p <- p - lr*m_hat, or nothing (degenerated_to_sgd=False)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. The first five steps are not normalised: large gradients make large steps.
        betas: two numbers, 0 <= x < 1; with betas[1] <= 2/3 the step never becomes adaptive.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        decoupled_weight_decay: AdamW's decay instead.
        maximize: ascend instead of descend.
        threshold: >= 4; the step is adaptive above it, from t = 6 on. The paper has 4 (from t = 5 on) and no eps.
        degenerated_to_sgd: take momentum steps before that. False, the authors' default since 2021, leaves parameters
            alone instead, decoupled decay included.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.
    The defaults are torch's; the authors' code is ``RAdam(decoupled_weight_decay=True, degenerated_to_sgd=False)``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.RAdam([p], lr=0.1)
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
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        threshold: float = 5.0,
        degenerated_to_sgd: bool = True,
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
            maximize=maximize,
            threshold=threshold,
            degenerated_to_sgd=degenerated_to_sgd,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, degenerated_to_sgd: bool) -> Recipe:  # type: ignore[override]
        recipe = RADAM if degenerated_to_sgd else RADAM.but(rate=UntilRectified())
        return _with(recipe, decoupled=decoupled_weight_decay)


@register(
    "adams",
    source="arXiv 2011.11152",
    code="github.com/zeke-xie/stable-weight-decay-regularization",
    aliases=("stableadam",),
)
class AdamS(Named):
    """AdamS: Adam with stable weight decay, one decay rate for the whole model, set by its mean second moment.

    Equations::

        m, v as in Adam, m_hat = m/(1-betas[0]^t), v_hat = v/(1-betas[1]^t)
        vb = max(sqrt(mean of v_hat over all parameters), eps)
        p <- p*(1 - lr*weight_decay/vb)
        p <- p - lr*m_hat/(sqrt(v_hat) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; the mean runs over all groups' parameters that
            have a gradient.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0; also keeps vb from being zero (the authors' code divides by zero there).
        weight_decay: >= 0; useful values are those of SGD (about 5e-4), not AdamW's.
        amsgrad: read the largest second moment so far.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter (amsgrad: 12).
    Memory: 2 passes, 9 words per element: one reads for the mean, one updates.
    Not the AdamS of 2025, which is another method of the same name.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamS([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("amsgrad",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        amsgrad: bool = False,
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
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool) -> Recipe:  # type: ignore[override]
        return _with(STABLE, amsgrad)
