"""The classics: Adadelta, RMSpropV2, SparseAdam, ASGD and Rprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.registry import register
from thalweg.slots.average import Average, adam_moments
from thalweg.slots.chain import Chain
from thalweg.slots.classic import AverageAfter, FallingRate, Lazy, OverDeltas, RateInSteps, Resilient
from thalweg.slots.decay import DecoupledByStep
from thalweg.slots.gradient import L2
from thalweg.slots.law import Debiased, Fading, Heavy, Plain
from thalweg.slots.ratio import OverSqrt

ADADELTA = Recipe(gradient=L2(), second=Average("square_avg", Plain("rho", 0.9), power=2), ratio=OverDeltas())
RMSPROP_V2 = Recipe(
    gradient=L2(),
    second=Average("square_sum", Fading(), power=2),
    ratio=OverSqrt(inside=True),
    flow=flows.step_first,
)
SPARSE_ADAM = Recipe(gradient=Chain((L2(), Lazy())), **adam_moments(), ratio=OverSqrt(raw=Debiased("betas.1", 0.999)))
ASGD_RECIPE = Recipe(gradient=L2(), rate=FallingRate(), decay=DecoupledByStep(weight="lambd"), after=AverageAfter())
RPROP = Recipe(gradient=L2(), direction=Resilient(), rate=RateInSteps())


@register("adadelta", source="arXiv 1212.5701")
class Adadelta(Named):
    """Adadelta: the root mean square of past steps over that of past gradients; torch.optim.Adadelta's drop-in.

    Equations::

        g = g + weight_decay*p
        v <- rho*v + (1-rho)*g^2
        u = sqrt(d + eps)/sqrt(v + eps)*g          d before it moves
        d <- rho*d + (1-rho)*u^2
        p <- p - lr*u

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: multiplies the step, not what d remembers, >= 0; the paper has 1.
        rho: 0 <= x < 1.
        eps: >= 0; it alone drives the first step, which is about sqrt(eps/(1-rho)) long; with 0 nothing ever moves.
        weight_decay: coupled (L2) decay, >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``.

    State: square_avg, acc_delta, 8 bytes per parameter. Memory: 1 pass, 7 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Adadelta([p], eps=1e-2)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.6877, 0.6877])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADADELTA


@register(
    "rmspropv2",
    source="bytedance/monolith, native_training/optimizers/rmsprop.py",
    code="github.com/bytedance/monolith",
)
class RMSpropV2(Named):
    """RMSpropV2: RMSprop whose sum of squares fades without being normalised, so that the first step is lr long.

    Equations::

        g = g + weight_decay*p
        v <- alpha*v + g^2
        u = g/sqrt(v + eps)                        eps_inside=False: g/(sqrt(v) + eps)
        p <- p - lr*u                              momentum: b <- momentum*b + lr*u ; p <- p - b

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        alpha: 0 <= x <= 1; 1 is Adagrad. No source names defaults for the bare rule; these are RMSprop's usual ones.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        momentum: >= 0; 0 keeps no buffer. The learning rate is inside the buffer, as in monolith.
        eps_inside: eps under the root (True) or beside it.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: square_sum, 4 bytes per parameter (velocity with momentum, 8). Memory: 1 pass, 5 words per element (7).
    It is RMSprop with lr*sqrt(1-alpha) and eps*(1-alpha), or eps*sqrt(1-alpha) beside the root.
    monolith's dense kernel: ``RMSpropV2(lr, alpha=beta2, momentum=beta1, eps=eps, eps_inside=False)``; its hash table:
    ``RMSpropV2(lr, alpha=momentum, eps=1.0, eps_inside=False)``; its version 1: ``RMSprop(lr, alpha=beta2,
    momentum=beta1, eps_inside=True, lr_inside=True)``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.RMSpropV2([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("momentum", "eps_inside")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        eps_inside: bool = True,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            eps_inside=eps_inside,
            maximize=maximize,
        )

    @classmethod
    def build(cls, momentum: bool, eps_inside: bool) -> Recipe:  # type: ignore[override]
        recipe = RMSPROP_V2 if eps_inside else RMSPROP_V2.but(ratio=OverSqrt())
        return recipe.but(first=Average("velocity", Heavy(dampened=False))) if momentum else recipe


@register("sparseadam", source="arXiv 1412.6980; torch.optim.SparseAdam", aliases=("lazyadam",))
class SparseAdam(Named):
    """SparseAdam: Adam that touches only the rows a sparse gradient names; torch.optim.SparseAdam's drop-in.

    Equations::

        of the rows in the gradient, after adding up repeated indices:
        g = g + weight_decay*p
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*g^2
        p <- p - lr * m/(1-betas[0]^t) / (sqrt(v/(1-betas[1]^t)) + eps/sqrt(1-betas[1]^t))

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0; added to the root of the uncorrected v, as torch does here, and so larger than Adam's early on.
        weight_decay: coupled (L2) decay of the rows in the gradient, >= 0; torch has none here.
        maximize: ascend instead of descend.
        options: ``outer`` (dense gradients only), ``engine``, ``rounding``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter. Memory: 1 pass, 7 words per element of a dense gradient; of a
    sparse one, the rows are copied out and back as well.
    t counts the steps of the whole tensor: a row that comes late is corrected as if it had been there, and its first
    step is about lr*(1-betas[0])/sqrt(1-betas[1]) long. Dense gradients are taken too, where torch refuses them: all
    rows are there then. For other optimizers that leave absent rows alone, see ``techniques=["lazy"]``.

    Example:
        >>> import torch, thalweg
        >>> table = torch.nn.Embedding(3, 2, sparse=True, _weight=torch.ones(3, 2))
        >>> opt = thalweg.SparseAdam(table.parameters(), lr=0.1)
        >>> table(torch.tensor([1])).sum().backward(); opt.step(); table.weight.data[:2]
        tensor([[1.0000, 1.0000],
                [0.9000, 0.9000]])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return SPARSE_ADAM


@register("asgd", source="Polyak & Juditsky, SIAM J. Control Optim. 30 (1992)", aliases=("averagedsgd",))
class ASGD(Named):
    """ASGD: descent at a slowly falling rate, with the average of the iterates beside it; torch.optim.ASGD's drop-in.

    Equations::

        g = g + weight_decay*p
        p <- p*(1 - lambd*eta) - eta*g
        ax <- ax + mu*(p - ax)                     mu = 1: ax <- p
        eta <- lr/(1 + lambd*lr*t)^alpha ; mu <- 1/max(1, t - t0)      for the next step; at first eta = lr, mu = 1

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. A change acts one step later, as in torch.
        lambd: >= 0; makes the rate fall and decays the weights, whatever weight_decay is.
        alpha: power of the fall, >= 0.
        t0: step from which on the iterates are averaged, >= 0. At torch's default nothing is averaged for a million
            steps: give the step at which the parameters stop travelling.
        weight_decay: coupled (L2) decay, >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``.

    State: ax, 4 bytes per parameter, and two numbers, eta and mu, kept in float64 (torch: float32, which costs about
    1e-8 of accuracy). Memory: 1 pass, 4 words per element (5 while averaging).
    The parameters hold the last iterate. The average is ``opt.state[p]["ax"]``; copy it into p when training is over.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.ASGD([p], lr=0.1, lambd=0)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8000, 0.8000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ASGD_RECIPE


@register("rprop", source="Riedmiller & Braun, ICNN 1993; Igel & Huesken 2000 (iRprop-)")
class Rprop(Named):
    """Rprop: each coordinate's step grows while its gradient keeps its sign; torch.optim.Rprop's drop-in.

    Equations::

        g = g + weight_decay*p
        a = sign(g)*sign(prev)                     prev and size: of the step before; size starts as lr
        size <- clip(size*f, step_sizes)           f = etas[1] where a > 0, etas[0] where a < 0, else 1
        g = 0 where a < 0 ; prev <- g
        p <- p - size*sign(g)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: first step size, >= 0; later changes of it, as by a schedule, have no effect.
        etas: two numbers, 0 < etas[0] < 1 < etas[1].
        step_sizes: smallest and largest step, 0 <= step_sizes[0] <= step_sizes[1].
        weight_decay: coupled (L2) decay, >= 0; torch has none here.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``.

    State: prev, step_size, 8 bytes per parameter. Memory: 1 pass, 7 words per element.
    For gradients of the full batch only: noise in the sign undoes it. After a change of sign a coordinate rests for one
    step (iRprop-, no way back). The signs are multiplied where torch multiplies the gradients, which can underflow.
    A NaN gradient leaves a NaN in the state while the parameter stays finite, as with Lion.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Rprop([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        weight_decay: float = 0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            etas=etas,
            step_sizes=step_sizes,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        sizes = group["step_sizes"]
        if isinstance(sizes, (tuple, list)) and len(sizes) == 2 and sizes[0] > sizes[1]:
            raise ValueError(f"Invalid step_sizes: {sizes!r}; the smallest must not be above the largest")

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return RPROP
