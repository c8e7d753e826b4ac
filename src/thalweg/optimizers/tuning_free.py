"""Optimizers without a learning rate to tune: Prodigy, D-Adapt Adam, DoG, LDoG, MoMo and MoMo-Adam."""

from __future__ import annotations

import math
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.registry import register
from thalweg.slots.average import Average
from thalweg.slots.decay import Decoupled, DecoupledByStep
from thalweg.slots.gradient import L2
from thalweg.slots.law import Debiased, Plain, WholeFirst
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.tuning_free import (
    AtDistance,
    DAdaptRate,
    DistanceOverGradients,
    LayerScale,
    ModelRate,
    OverDistanceSqrt,
    ProdigyRate,
    Proximal,
)

PRODIGY = Recipe(
    first=Average("exp_avg", AtDistance("betas.0", 0.9)),
    second=Average("exp_avg_sq", AtDistance("betas.1", 0.999, power=2), power=2),
    ratio=OverDistanceSqrt(),
    rate=ProdigyRate(),
    decay=DecoupledByStep(),
    flow=flows.rate_first,
)
DADAPT_ADAM = Recipe(
    gradient=L2(),
    first=Average("exp_avg", Plain("betas.0", 0.9)),
    second=Average("exp_avg_sq", Plain("betas.1", 0.999), power=2),
    ratio=OverSqrt(),
    scale=LayerScale(),
    rate=DAdaptRate(),
    flow=flows.rate_within,
)
DOG = Recipe(gradient=L2(), rate=DistanceOverGradients(), flow=flows.rate_first)
LDOG = DOG.but(rate=DistanceOverGradients("tensor"))
MOMO = Recipe(first=Average("exp_avg", WholeFirst("beta")), rate=ModelRate(), after=Proximal(), flow=flows.rate_last)
MOMO_ADAM = MOMO.but(
    first=Average("exp_avg", Plain()),
    second=Average("exp_avg_sq", Debiased("betas.1", 0.999), power=2),
    ratio=OverSqrt(),
    rate=ModelRate("betas.0", from_zero=True),
)


@register("prodigy", source="arXiv 2306.06101", code="github.com/konstmish/prodigy")
class Prodigy(Named):
    """Prodigy: Adam whose rate is an estimate of the distance to the solution; leave lr at 1.

    Equations::

        a = d*lr*c                                 c = 1, or sqrt(1-betas[1]^t)/(1-betas[0]^t) with use_bias_correction
        n <- beta3*n + sum over tensors of d/d0*a*<g, p0-p>           p0: where the parameter started
        s <- beta3*s + d/d0*a*g                    safeguard_warmup: d/d0*d*g
        m <- betas[0]*m + (1-betas[0])*d*g ; v <- betas[1]*v + (1-betas[1])*d^2*g^2
        d' = d_coef*n/(sum of |s|) ; d <- min(max(d_max, d'), d*growth_rate), d_max the largest d' so far
        p <- p*(1 - a*weight_decay) ; p <- p - a*m/(sqrt(v) + d*eps)  with the a from before and the new d

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; d is one number for all of them.
        lr: a factor on the rate, >= 0, for schedules that fall from 1 (cosine). Groups may differ, which the authors'
            code refuses; a group at lr 0 keeps still, its decay and its part in the estimate included.
        betas: two numbers, 0 <= x < 1.
        beta3: forgetting of the estimate, 0 <= x < 1; None takes sqrt(betas[1]).
        eps: >= 0.
        weight_decay: >= 0.
        decouple: AdamW's decay, by the rate d*lr; False adds weight_decay*p to the gradient.
        use_bias_correction: Adam's correction, which shortens the first steps (3.2 times too long without).
        safeguard_warmup: leave lr out of the estimate; for warm-ups.
        d0: the first d, > 0.
        d_coef: factor on the estimate, > 0: the number to turn if any.
        growth_rate: d grows by at most this factor a step, >= 1; ``inf`` for no limit.
        slice_p: estimate from every slice_p-th element, a whole number >= 1 (about 11 is reasonable). From 2 on the
            compiled engine leaves the work to foreach.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, s, p0, 16 bytes per parameter (8 + 8/slice_p); d, d_max and d_numerator are numbers in
    the groups. They move once a step whichever parameters have a gradient; d_coef, growth_rate and beta3 are those of
    the first group that has one. Bias correction counts each parameter's own steps.
    Memory: 2 passes, 13 words per element: one reads for the estimate, one updates.
    With betas[0] = 0 the gradient is weighted with the new d, as in the authors' code.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Prodigy([p], d0=0.1, use_bias_correction=True)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("decouple", "use_bias_correction", "safeguard_warmup", "slice_p")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        slice_p: int = 1,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            decouple=decouple,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            slice_p=slice_p,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls, decouple: bool, use_bias_correction: bool, safeguard_warmup: bool, slice_p: int
    ) -> Recipe:
        recipe = PRODIGY.but(rate=ProdigyRate(use_bias_correction, safeguard_warmup, slice_p))
        return recipe if decouple else recipe.but(gradient=L2(), decay=None)


@register("dadapt_adam", source="arXiv 2301.07733", code="github.com/facebookresearch/dadaptation")
class DAdaptAdam(Named):
    """D-Adapt Adam: Adam whose rate is a growing lower bound of the distance to the solution; leave lr at 1.

    Equations::

        a = d*lr*c ; q = sqrt(betas[1])            c = 1, or sqrt(1-betas[1]^t)/(1-betas[0]^t) with use_bias_correction
        n <- q*n + (1-q) * sum over tensors of a*<g, s/(sqrt(v) + eps)>     s and v from before the step
        m <- betas[0]*m + (1-betas[0])*a*g ; v <- betas[1]*v + (1-betas[1])*g^2
        s <- q*s + (1-q)*a*g ; d <- max(d, min(n/((1-q)*sum of |s|), d*growth_rate))
        p <- p - m/(sqrt(v) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; d is one number for all of them.
        lr: a factor on the rate, >= 0; groups may differ, which the authors' code refuses.
        betas: two numbers, 0 <= x < 1.
        eps: > 0.
        weight_decay: >= 0; added to the gradient, or with ``decouple`` p <- p*(1 - a*weight_decay).
        decouple: AdamW's decay.
        use_bias_correction: Adam's correction.
        d0: the first d, > 0.
        growth_rate: d grows by at most this factor a step, >= 1; ``inf`` for no limit.
        layer_scale: a group's own factor on its steps and on its part of the sums, > 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, s, 12 bytes per parameter; d and numerator_weighted are numbers in the groups, which
    move once a step whichever parameters have a gradient. Bias correction counts each parameter's own steps.
    Memory: 2 passes, 13 words per element. exp_avg is kept without layer_scale, which is applied to the step.
    Prodigy finds the distance faster, for 4 bytes more.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.DAdaptAdam([p], d0=0.1, use_bias_correction=True)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("decouple", "use_bias_correction")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = False,
        use_bias_correction: bool = False,
        d0: float = 1e-6,
        growth_rate: float = math.inf,
        layer_scale: float = 1.0,
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
            decouple=decouple,
            use_bias_correction=use_bias_correction,
            d0=d0,
            growth_rate=growth_rate,
            layer_scale=layer_scale,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decouple: bool, use_bias_correction: bool) -> Recipe:  # type: ignore[override]
        recipe = DADAPT_ADAM.but(rate=DAdaptRate(use_bias_correction))
        return recipe.but(gradient=None, decay=DecoupledByStep()) if decouple else recipe


class _DistanceOverGradients(Named):
    def __init__(
        self,
        params: ParamsT,
        reps_rel: float = 1e-6,
        lr: float = 1.0,
        weight_decay: float = 0,
        eps: float = 1e-8,
        init_eta: float | None = None,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            reps_rel=reps_rel,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            init_eta=init_eta,
            maximize=maximize,
        )


@register("dog", source="arXiv 2302.12022", code="github.com/formll/dog")
class DoG(_DistanceOverGradients):
    """DoG: SGD whose rate is the largest distance from the start over the root of all squared gradients.

    Equations::

        g = g + weight_decay*p
        r <- max(r, |p - p0|)                      at first r = reps_rel*(1 + |p0|); p0: where the group started
        G <- G + |g|^2                             at first G = eps + |g|^2
        p <- p - lr*r/sqrt(G)*g

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; each group has its own r and G.
        reps_rel: the first step over 1 + |p0|, > 0; 1e-4 with batch norm.
        lr: a factor on the rate, >= 0; leave it at 1.
        weight_decay: coupled (L2) decay, >= 0.
        eps: >= 0.
        init_eta: the first step's rate instead of what reps_rel gives, > 0; r is then 0 until the second step.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    The authors rely on an average of the weights: ``DoG(params, outer=thalweg.PolynomialAverage())``, with ``eval()``
    before evaluating and ``train()`` before going on.
    State: p0, 4 bytes per parameter; rbar and G are numbers in the group. Sums run over the parameters that have a
    gradient; one without is left alone, where the authors' code fails.
    Memory: 2 passes, 6 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = thalweg.DoG([p], reps_rel=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([2.6400, 3.5200])
    """

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return DOG


@register("ldog", source="arXiv 2302.12022", code="github.com/formll/dog")
class LDoG(_DistanceOverGradients):
    """LDoG: DoG with a distance, a sum of gradients and so a rate for each tensor.

    Equations::

        g = g + weight_decay*p
        r <- max(r, |p - p0|)                      at first r = reps_rel*(1 + |p0|), norms of the tensor
        G <- G + |g|^2                             at first G = eps + |g|^2
        p <- p - lr*r/sqrt(G)*g

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        reps_rel: the first step over 1 + |p0|, > 0; 1e-4 with batch norm.
        lr: a factor on the rate, >= 0; leave it at 1.
        weight_decay: coupled (L2) decay, >= 0.
        eps: >= 0.
        init_eta: the first step's rate instead of what reps_rel gives, > 0; r is then 0 until the second step.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    The authors rely on an average of the weights: ``LDoG(params, outer=thalweg.PolynomialAverage())``.
    State: p0, 4 bytes per parameter; rbar and G, one number each per tensor.
    Memory: 2 passes, 6 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = thalweg.LDoG([p], reps_rel=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([2.6400, 3.5200])
    """

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return LDOG


@register("momo", source="arXiv 2305.07583", code="github.com/fabian-sp/MoMo")
class MoMo(Named):
    """MoMo: momentum with the step at which a model of the loss meets its lower bound; ``step`` must be given the loss.

    Equations::

        f, m, c <- averages of the loss, g and <p,g> with beta, from their first values (bias_correction: from 0)
        k = 1 + lr*weight_decay ; rho = 1 (bias_correction: 1-beta^t)
        a = min(lr/rho, max(k*(f - rho*lb - c) + <p,m>, 0)/|m|^2)            sums over the model
        p <- (p - a*m)/k

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; the sums run over all of them.
        lr: the largest step, >= 0.
        weight_decay: proximal decay, >= 0.
        beta: momentum, 0 <= x < 1.
        lb: lower bound of the loss, any number; with label smoothing or a regularised loss it lies above 0.
        bias_correction: start the averages at 0 and correct them.
        use_fstar: estimate the lower bound on the way, from lb upwards (``fstar`` in the groups).
        maximize: ascend instead of descend; pass the negative loss.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, 4 bytes per parameter, and grad_dot_w (c), one number per tensor; loss_average, loss_count and
    fstar are numbers in the groups. They move once a step whichever parameters have a gradient, with the beta of the
    first group that has one; lr and weight_decay are each group's own (for fstar the first one's). Sums are settled in
    float64, and a direction of length 0 makes no step, where the authors' code gives NaN.
    Memory: 2 passes, 8 words per element. Reading the loss waits for it on a GPU. With gradient accumulation pass the
    mean loss of the whole batch; under DDP, the mean over the ranks.

    Raises:
        ValueError: no loss was given to this step, or it is not finite.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.MoMo([p])
        >>> loss = (p**2).sum(); loss.backward(); opt.step(loss=loss.detach()); p.data
        tensor([0.5000, 0.5000])
    """

    structure = ("bias_correction", "use_fstar")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        weight_decay: float = 0,
        beta: float = 0.9,
        lb: float = 0.0,
        bias_correction: bool = False,
        use_fstar: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            weight_decay=weight_decay,
            beta=beta,
            lb=lb,
            bias_correction=bias_correction,
            use_fstar=use_fstar,
            maximize=maximize,
        )

    @classmethod
    def build(cls, bias_correction: bool, use_fstar: bool) -> Recipe:  # type: ignore[override]
        law = Plain("beta") if bias_correction else WholeFirst("beta")
        return MOMO.but(first=Average("exp_avg", law), rate=ModelRate("beta", bias_correction, use_fstar))


@register("momo_adam", source="arXiv 2305.07583", code="github.com/fabian-sp/MoMo", aliases=("momoadam",))
class MoMoAdam(Named):
    """MoMo-Adam: Adam with the step at which a model of the loss meets its lower bound; ``step`` needs the loss.

    Equations::

        f, m, c <- averages of the loss, g and <p,g> with betas[0], from 0
        v <- betas[1]*v + (1-betas[1])*g^2 ; D = sqrt(v/(1-betas[1]^t)) + eps
        k = 1 + lr*weight_decay ; rho = 1-betas[0]^t
        a = min(lr/rho, max(k*(f - rho*lb - c) + <p,m>, 0)/<m,m/D>)          sums over the model
        p <- (p - a*m/D)/k                         divide=False: p <- p*(1 - lr*weight_decay) ; p <- p - a*m/D

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; the sums run over all of them.
        lr: the largest step, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        lb: lower bound of the loss, any number; with label smoothing or a regularised loss it lies above 0.
        divide: proximal decay; False takes AdamW's.
        use_fstar: estimate the lower bound on the way, from lb upwards (``fstar`` in the groups).
        maximize: ascend instead of descend; pass the negative loss.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and grad_dot_w (c), one number per tensor; loss_average,
    loss_count and fstar are numbers in the groups, as in MoMo; each group steps by its own lr and weight_decay. t in D
    counts each parameter's own steps, in rho the steps of the model.
    Memory: 2 passes, 11 words per element. Reading the loss waits for it on a GPU.

    Raises:
        ValueError: no loss was given to this step, or it is not finite.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.MoMoAdam([p], lr=0.1)
        >>> loss = (p**2).sum(); loss.backward(); opt.step(loss=loss.detach()); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("divide", "use_fstar")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        lb: float = 0.0,
        divide: bool = True,
        use_fstar: bool = False,
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
            lb=lb,
            divide=divide,
            use_fstar=use_fstar,
            maximize=maximize,
        )

    @classmethod
    def build(cls, divide: bool, use_fstar: bool) -> Recipe:  # type: ignore[override]
        recipe = MOMO_ADAM.but(rate=ModelRate("betas.0", True, use_fstar))
        return recipe if divide else recipe.but(after=None, decay=Decoupled())
