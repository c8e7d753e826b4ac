"""Adam with another denominator or another momentum: Adamax, AdamAtan2, SAdam, AdamWarmup, diffGrad, AdaMomentum."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAM, ADAMW
from thalweg.registry import register
from thalweg.slots.adam_moments import Friction, Peak, Twofold
from thalweg.slots.average import Average, Largest
from thalweg.slots.decay import Decoupled
from thalweg.slots.denominators import Atan2, Softplus
from thalweg.slots.law import Debiased
from thalweg.slots.ratio import Over, OverSqrt
from thalweg.slots.warmup import Warmup

FIRST, SECOND = Debiased("betas.0", 0.9), Debiased("betas.1", 0.999)
#: eps beside the root of the uncorrected average, as much of the published code has it.
EPSILON_HAT = OverSqrt(raw=SECOND)

ADAMAX = ADAM.but(second=Peak(), ratio=Over())
ADAM_ATAN2 = ADAMW.but(ratio=Atan2("a", "b"))
SADAM = ADAM.but(ratio=Softplus("smooth", OverSqrt(eps=None, raw=SECOND)))
ADAM_WARMUP = ADAMW.but(ratio=EPSILON_HAT, rate=Warmup("warmup", added=1e-8))
DIFFGRAD = ADAM.but(first=Friction(Average("exp_avg", FIRST)), ratio=EPSILON_HAT)
ADAMOMENTUM = ADAM.but(second=Twofold(), ratio=OverSqrt(eps=None), flow=flows.first_then_second)


@register("adamax", source="arXiv 1412.6980, section 7.1")
class Adamax(Named):
    """Adamax: Adam over a fading maximum of the gradient instead of a root mean square; torch.optim.Adamax's drop-in.

    Equations::

        g = g + weight_decay*p
        m <- betas[0]*m + (1-betas[0])*g
        v <- max(betas[1]*v, |g| + eps)
        p <- p - lr * m/(1-betas[0]^t) / v

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0; joins the gradient, as in torch (the paper has none, and 0/0 where no gradient ever came).
        weight_decay: coupled (L2) decay, >= 0.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_inf, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Adamax([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAMAX


@register("adam_atan2", source="arXiv 2407.05872", code="github.com/lucidrains/adam-atan2-pytorch")
class AdamAtan2(Named):
    """Adam-atan2: AdamW with an arc tangent in place of the division, so bounded and without eps.

    Equations::

        p <- p*(1 - lr*weight_decay)
        m <- betas[0]*m + (1-betas[0])*g ; m_hat = m/(1-betas[0]^t)
        v <- betas[1]*v + (1-betas[1])*g^2 ; v_hat = v/(1-betas[1]^t)
        u = a*atan2(m_hat, b*sqrt(v_hat))             raw_momentum: a*atan2(m, b*sqrt(v_hat))/(1-betas[0]^t)
        p <- p - lr*u                                 |u| <= a*pi/2; 0 where no gradient ever came

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        weight_decay: decoupled, >= 0.
        a: > 0; with b = 1, 4/pi makes a step at full agreement exactly lr, the default 0.9975*lr.
        b: > 0; a = b = 8 is the "lambda form", which comes closer to Adam without eps the larger it is.
        raw_momentum: the angle of the uncorrected momentum, corrected afterwards; with a = b = 1, betas (0.9, 0.999)
            and weight_decay 1e-2 this is the adam-atan2 package.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamAtan2([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9003, 0.9003])
    """

    structure = ("raw_momentum",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        a: float = 1.27,
        b: float = 1.0,
        raw_momentum: bool = False,
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
            a=a,
            b=b,
            raw_momentum=raw_momentum,
            maximize=maximize,
        )

    @classmethod
    def build(cls, raw_momentum: bool) -> Recipe:  # type: ignore[override]
        return ADAM_ATAN2.but(ratio=Atan2("a", "b", FIRST)) if raw_momentum else ADAM_ATAN2


@register("sadam", source="arXiv 1908.00700", code="github.com/neilliang90/Sadam", aliases=("samsgrad",))
class SAdam(Named):
    """SAdam: AMSGrad or Adam with a softplus for a denominator, which keeps it from ever being small.

    Equations::

        g = g + weight_decay*p
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*g^2                     amsgrad: the largest v so far is read for v
        d = log(1 + exp(smooth*sqrt(v)))/smooth                sqrt(v) itself where smooth*sqrt(v) > 20
        p <- p - lr*sqrt(1-betas[1]^t)/(1-betas[0]^t) * m/d    bias_correct_inside: v is corrected inside d instead

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; the authors' examples use 1e-2.
        betas: two numbers, 0 <= x < 1.
        smooth: > 0; d is at least log(2)/smooth, so the step depends on the scale of the loss.
        weight_decay: coupled (L2) decay, >= 0.
        amsgrad: divide by the largest second moment so far (SAMSGrad), the authors' default.
        bias_correct_inside: softplus of the corrected root, as in Ranger21, without which early steps are small; its
            eps beside the root comes with the technique: ``Adam(..., techniques=["softplus"])``.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, max_exp_avg_sq, 12 bytes per parameter (amsgrad=False: 8).
    Memory: 1 pass, 9 words per element (7).
    The authors' eps has no effect with softplus and is left out.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SAdam([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9013, 0.9013])
    """

    structure = ("amsgrad", "bias_correct_inside")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        smooth: float = 50.0,
        weight_decay: float = 0,
        amsgrad: bool = True,
        bias_correct_inside: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            smooth=smooth,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            bias_correct_inside=bias_correct_inside,
            maximize=maximize,
        )

    @classmethod
    def build(cls, amsgrad: bool, bias_correct_inside: bool) -> Recipe:  # type: ignore[override]
        recipe = SADAM.but(ratio=Softplus("smooth")) if bias_correct_inside else SADAM
        return recipe.but(second=Largest(Average("exp_avg_sq", SECOND, power=2))) if amsgrad else recipe


@register("adamwarmup", source="arXiv 1908.03265", code="github.com/LiyuanLucasLiu/RAdam")
class AdamWarmup(Named):
    """AdamWarmup: the AdamW with a linear warm-up that RAdam's authors compare with.

    Equations::

        L = 1e-8 + t*lr/warmup if t < warmup else lr
        p <- p*(1 - L*weight_decay)
        m <- betas[0]*m + (1-betas[0])*g ; v <- betas[1]*v + (1-betas[1])*g^2
        p <- p - L*sqrt(1-betas[1]^t)/(1-betas[0]^t) * m/(sqrt(v) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate after the warm-up, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: decoupled, >= 0; warms up with the rate.
        warmup: steps of each parameter until the full rate, >= 0; 0 for none. For other shapes, and for any other
            optimizer, there is the technique ``Warmup``.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamWarmup([p], lr=0.4, warmup=4)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup: float = 0,
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
            warmup=warmup,
            maximize=maximize,
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAM_WARMUP


@register("diffgrad", source="arXiv 1909.11015", code="github.com/shivram1987/diffGrad")
class diffGrad(Named):
    """diffGrad: Adam whose momentum is damped, down to a half, where the gradient changes little between steps.

    Equations::

        g = g + weight_decay*p
        m <- betas[0]*m + (1-betas[0])*g ; v <- betas[1]*v + (1-betas[1])*g^2
        xi = 1/(1 + exp(-|q - g|)) ; q <- g                    legacy: xi = 1/2
        p <- p - lr*sqrt(1-betas[1]^t)/(1-betas[0]^t) * xi*m/(sqrt(v) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. Gradients much below 1 give xi = 1/2 everywhere: Adam at half the rate.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        legacy: the authors' first version, used for the paper, which by an aliased tensor always has xi = 1/2.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, previous_grad, exp_avg_sq, 12 bytes per parameter (legacy: 8).
    Memory: 1 pass, 9 words per element (7).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.diffGrad([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9119, 0.9119])
    """

    structure = ("legacy",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        legacy: bool = False,
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
            legacy=legacy,
            maximize=maximize,
        )

    @classmethod
    def build(cls, legacy: bool) -> Recipe:  # type: ignore[override]
        return DIFFGRAD.but(first=Friction(Average("exp_avg", FIRST), stuck=True)) if legacy else DIFFGRAD


@register("adamomentum", source="arXiv 2106.11514", aliases=("adam3",))
class AdaMomentum(Named):
    """AdaMomentum (AdaM3): Adam whose second moment averages the square of the momentum instead of the gradient's.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*m^2 + eps   debias_momentum: (m/(1-betas[0]^t))^2
        p <- p - lr * m/(1-betas[0]^t) / sqrt(v/(1-betas[1]^t))

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. The first step is lr/(1-betas[0]), ten times Adam's: warm up, or take a tenth.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0; added in every step, it gathers to eps/(1-betas[1]). 1e-16 is used for Transformers and GANs; 0
            divides 0 by 0 where no gradient ever came.
        weight_decay: >= 0.
        decoupled_weight_decay: AdamW's decay.
        debias_momentum: square the corrected momentum, which makes the first step lr; not in the paper.
        maximize: ascend instead of descend.
        options: ``techniques``, ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg_sq, exp_avg, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaMomentum([p], lr=0.01, weight_decay=0, eps=1e-16)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("decoupled_weight_decay", "debias_momentum")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 5e-4,
        decoupled_weight_decay: bool = False,
        debias_momentum: bool = False,
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
            debias_momentum=debias_momentum,
            maximize=maximize,
        )

    @classmethod
    def build(cls, decoupled_weight_decay: bool, debias_momentum: bool) -> Recipe:  # type: ignore[override]
        recipe = ADAMOMENTUM.but(second=Twofold(debias=FIRST)) if debias_momentum else ADAMOMENTUM
        return recipe.but(gradient=None, decay=Decoupled()) if decoupled_weight_decay else recipe
