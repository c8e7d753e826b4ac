"""Adam with other moments: StableAdamW, ADOPT, AdEMAMix and AdaBelief."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.average import Average, Largest
from thalweg.slots.decay import Decoupled, DecoupledByStep
from thalweg.slots.gradient import L2
from thalweg.slots.law import Plain, WholeFirst
from thalweg.slots.moments import (
    Belief,
    FromSecond,
    Normalised,
    OverPast,
    Past,
    Restrained,
    TwoMomenta,
    Watched,
)
from thalweg.slots.ratio import OverSqrt, Rectified

STABLE_ADAMW = Recipe(
    first=Average("exp_avg", Normalised("betas.0", 0.9)),
    second=Watched("exp_avg_sq", Normalised("betas.1", 0.99), power=2),
    ratio=OverSqrt(eps=1e-6),
    rate=Restrained(),
    decay=DecoupledByStep(),
)
ADOPT_ = Recipe(
    gradient=L2(),
    second=Past("exp_avg_sq", WholeFirst("betas.1", 0.9999), power=2),
    ratio=OverPast(),
    first=Average("exp_avg", Plain("betas.0", 0.9)),
    rate=FromSecond(),
    flow=flows.normalise_first,
)
ADEMAMIX = ADAMW.but(first=TwoMomenta())
ADABELIEF = ADAMW.but(second=Belief(), ratio=OverSqrt(eps=1e-16), flow=flows.first_then_second)


def with_options(recipe: Recipe, amsgrad: bool, decoupled: bool, rectify: bool) -> Recipe:
    """A recipe of Adam's kind with the largest second moment, decoupled or coupled decay, and rectification."""
    if amsgrad:
        assert isinstance(recipe.second, Average)
        recipe = recipe.but(second=Largest(recipe.second, f"max_{recipe.second.role}"))
    if rectify:
        recipe = recipe.but(ratio=Rectified())
    return recipe.but(gradient=None, decay=Decoupled()) if decoupled else recipe.but(gradient=L2(), decay=None)


@register("stableadamw", source="arXiv 2304.13013", aliases=("stable_adamw",))
class StableAdamW(Named):
    """StableAdamW: AdamW whose rate falls, tensor by tensor, where gradients outgrow their second moment.

    Equations::

        B = betas[0]*(1-betas[0]^(t-1))/(1-betas[0]^t) ; m <- B*m + (1-B)*g      the correction is part of B
        C = betas[1]*(1-betas[1]^(t-1))/(1-betas[1]^t) ; v <- C*v + (1-C)*g^2
        RMS = sqrt(mean(g^2/max(v, eps^2)))                                      of the tensor
        a = lr/max(1, RMS/clip_threshold)
        p <- p*(1 - a*weight_decay) ; p <- p - a*m/(sqrt(v) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0; scaled by the fallen rate a, as the step is.
        clip_threshold: d, > 0; 1 is the published value.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and rms, one number a tensor, worth logging: it rises some steps
    before the loss does. Memory: 2 passes, 9 words per element.
    Both averages are kept corrected, so a checkpoint of AdamW does not fit. The authors' Kahan buffer for bfloat16
    weights is not part of it; ``rounding="stochastic"`` serves the same end.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.StableAdamW([p], lr=0.1, weight_decay=0)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        clip_threshold: float = 1.0,
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
            clip_threshold=clip_threshold,
            maximize=maximize,
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return STABLE_ADAMW


@register("adopt", source="arXiv 2411.02853", code="github.com/iShohei220/adopt")
class ADOPT(Named):
    """ADOPT: Adam that divides each gradient by the past second moment, before averaging; converges for any betas[1].

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        t = 1:  v = g^2, and nothing moves
        t > 1:  n = g/max(sqrt(v), eps) ; n = min(max(n, -c), c), c = (t-1)^clip_power
                m <- betas[0]*m + (1-betas[0])*n ; p <- p - lr*m
                v <- betas[1]*v + (1-betas[1])*g^2

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: the least denominator, >= 0.
        weight_decay: >= 0.
        decoupled_weight_decay: AdamW's decay.
        clip: bound the quotient; its bound grows with t.
        clip_power: >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.
    A parameter's first gradient only starts its second moment. The bound counts from there, (t-1), as in the authors'
    code; ports that take t^(1/4) or (t-1)^(1/3) differ.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ADOPT([p], lr=0.1)
        >>> for _ in range(2):
        ...     opt.zero_grad(); (p**2).sum().backward(); opt.step(); p.data
        tensor([1., 1.])
        tensor([0.9900, 0.9900])
    """

    structure = ("decoupled_weight_decay", "clip")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        clip: bool = True,
        clip_power: float = 0.25,
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
            clip=clip,
            clip_power=clip_power,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, clip: bool) -> Recipe:  # type: ignore[override]
        recipe = ADOPT_.but(ratio=OverPast(clip))
        return recipe.but(gradient=None, decay=Decoupled()) if decoupled_weight_decay else recipe


@register("ademamix", source="arXiv 2409.03137", code="github.com/apple/ml-ademamix")
class AdEMAMix(Named):
    """AdEMAMix: AdamW with a second, very slow momentum beside the fast one, so that old gradients still count.

    Equations::

        m <- betas[0]*m + (1-betas[0])*g ; n <- B*n + (1-B)*g ; v <- betas[1]*v + (1-betas[1])*g^2
        u = (m/(1-betas[0]^t) + a*n)/(sqrt(v/(1-betas[1]^t)) + eps)         n is not corrected
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*u
        a = alpha*min(1, t/alpha_warmup)
        B rises from betas[0] to betas[2] within beta3_warmup steps, its half-life linearly

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: three numbers, 0 <= x < 1. With betas[0] = 0 the fast average is g itself and is not kept.
        eps: >= 0.
        weight_decay: >= 0.
        alpha: weight of the slow average, >= 0; the paper uses 4 to 10.
        alpha_warmup: steps, >= 1, or None; the paper takes the length of the training for both warm-ups.
        beta3_warmup: steps, >= 1, or None.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_slow, exp_avg_sq, 12 bytes per parameter (betas[0] = 0: 8).
    Memory: 1 pass, 9 words per element (7).
    Without warm-ups a large alpha can diverge early. Warm-ups count the steps of each parameter.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdEMAMix([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("betas",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        alpha: float = 2.0,
        alpha_warmup: float | None = None,
        beta3_warmup: float | None = None,
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
            alpha=alpha,
            alpha_warmup=alpha_warmup,
            beta3_warmup=beta3_warmup,
            maximize=maximize,
        )

    def _built(self, group: Mapping[str, Any]) -> Recipe:
        betas = group["betas"]
        none = isinstance(betas, (tuple, list)) and len(betas) > 0 and bool(betas[0] == 0)
        return super()._built({**group, "betas": not none})

    @classmethod
    def build(cls, betas: Any) -> Recipe:  # type: ignore[override]
        return ADEMAMIX if betas else ADEMAMIX.but(first=TwoMomenta(fast=False))


@register("adabelief", source="arXiv 2010.07468", code="github.com/juntang-zhuang/Adabelief-Optimizer")
class AdaBelief(Named):
    """AdaBelief: large steps where gradients are as their average predicts, small ones where they surprise.

    Equations::

        p <- p*(1 - lr*weight_decay)               (decoupled_weight_decay=False: g = g + weight_decay*p instead)
        m <- betas[0]*m + (1-betas[0])*g
        s <- betas[1]*s + (1-betas[1])*(g - m)^2 + eps                  m is the new one ; eps adds up
        p <- p - lr*m/(1-betas[0]^t)/(sqrt(s/(1-betas[1]^t)) + eps)     amsgrad: the largest s so far is read for s
        rectify: RAdam's rule and threshold for the step, with s for v

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0, within s and beside its root. 1e-16 (the authors' later default, for transformers and GANs) needs
            gradients that are not tiny; 1e-8 is theirs for convolutional networks.
        weight_decay: >= 0.
        amsgrad: divide by the largest s so far.
        decoupled_weight_decay: AdamW's decay, the default.
        rectify: RAdam's rectification; the authors' later versions have it on.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_var, 8 bytes per parameter (amsgrad: 12). Memory: 1 pass, 7 words per element (9).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaBelief([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8889, 0.8889])
    """

    structure = ("amsgrad", "decoupled_weight_decay", "rectify")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        rectify: bool = False,
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
            rectify=rectify,
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool, decoupled_weight_decay: bool, rectify: bool) -> Recipe:  # type: ignore[override]
        return with_options(ADABELIEF, amsgrad, decoupled_weight_decay, rectify)
