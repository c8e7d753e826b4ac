"""LARS, LARC and LAMB: a layer's step has, up to a factor, the layer's length."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import LAMB as BASE
from thalweg.registry import register
from thalweg.slots.average import Average, adam_moments
from thalweg.slots.clipping import ClipNorm
from thalweg.slots.gradient import LayerRate
from thalweg.slots.law import Fading, Heavy, Plain, Undamped
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.scale import TrustRatio


def _momentum(recipe: Recipe, momentum: bool, dampening: bool, nesterov: bool, dampened: bool = True) -> Recipe:
    """The recipe with SGD's momentum, where there is any."""
    if nesterov and (not momentum or dampening):
        raise ValueError("nesterov needs momentum > 0 and dampening = 0")
    if dampening and not momentum:
        raise ValueError("dampening has no effect without momentum; leave it at 0")
    return recipe.but(first=Average("momentum_buffer", Heavy(nesterov, dampened))) if momentum else recipe


@register("lamb", source="arXiv 1904.00962", code="github.com/tensorflow/addons")
class LAMB(Named):
    """LAMB: Adam's direction with each tensor's step scaled to the tensor's own length; for very large batches.

    Equations::

        g = g/max(1, |g|/max_grad_norm), |g| over the model                       only where max_grad_norm is given
        m <- betas[0]*m + (1-betas[0])*g ; v <- betas[1]*v + (1-betas[1])*g^2      both bias-corrected
        u = m/(sqrt(v) + eps) + weight_decay*p
        q = phi(|p|)/|u|, or 1 where |p| or |u| is 0
        p <- p - lr*q*u

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        bias_correction: the paper's versions 1, 4 and 5 have it, 2 and 3 do not.
        phi_bounds: None for phi(z) = z, or (low, high) to clamp |p|.
        ratio_bounds: None, or (low, high) to clamp the ratio q itself (the paper's first version); (0, 1) is timm's
            ``trust_clip``.
        eps_inside: put eps under the root.
        adapt: False takes q = 1, as for biases and norms that are to be left out of the scaling.
        always_adapt: False takes q = 1 in groups whose weight_decay is 0 (timm, apex).
        grad_averaging: False lets the momentum take in whole gradients, g in place of (1-betas[0])*g.
        max_grad_norm: None, or > 0 to shorten the gradient of the whole model first (timm and apex: 1.0).
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter.
    Memory: 2 passes, 11 words per element: one reads for the two norms, one updates.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.LAMB([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = (
        *("bias_correction", "phi_bounds", "ratio_bounds", "eps_inside", "adapt", "always_adapt", "grad_averaging"),
        *("max_grad_norm", "weight_decay"),
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        bias_correction: bool = True,
        *,
        phi_bounds: tuple[float, float] | None = None,
        ratio_bounds: tuple[float, float] | None = None,
        eps_inside: bool = False,
        adapt: bool = True,
        always_adapt: bool = True,
        grad_averaging: bool = True,
        max_grad_norm: float | None = None,
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
            bias_correction=bias_correction,
            phi_bounds=tuple(phi_bounds) if isinstance(phi_bounds, list) else phi_bounds,
            ratio_bounds=tuple(ratio_bounds) if isinstance(ratio_bounds, list) else ratio_bounds,
            eps_inside=eps_inside,
            adapt=adapt,
            always_adapt=always_adapt,
            grad_averaging=grad_averaging,
            max_grad_norm=max_grad_norm,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls,
        bias_correction: bool,
        phi_bounds: tuple[float, float] | None,
        ratio_bounds: tuple[float, float] | None,
        eps_inside: bool,
        adapt: bool,
        always_adapt: bool,
        grad_averaging: bool,
        max_grad_norm: bool | None,
        weight_decay: bool,
    ) -> Recipe:
        if not adapt and (phi_bounds or ratio_bounds):
            raise ValueError("phi_bounds and ratio_bounds have no effect with adapt=False; leave them at None")
        for name, bounds in (("phi_bounds", phi_bounds), ("ratio_bounds", ratio_bounds)):
            if bounds is None:
                continue
            if not (isinstance(bounds, tuple) and len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                raise ValueError(f"Invalid {name}: {bounds!r}; legal is None or (low, high) with 0 <= low <= high")
        adapts = adapt and (always_adapt or weight_decay)
        recipe = BASE.but(scale=TrustRatio(phi_bounds, ratio_bounds) if adapts else None)
        if max_grad_norm is not None:
            recipe = recipe.but(gradient=ClipNorm("max_grad_norm"))
        if eps_inside:
            recipe = recipe.but(ratio=OverSqrt(eps=1e-6, inside=True))
        if not bias_correction:
            recipe = recipe.but(**adam_moments(Plain(), Plain("betas.1", 0.999)))
        if not grad_averaging:
            law = Undamped() if bias_correction else Fading("betas.0")
            recipe = recipe.but(first=Average("exp_avg", law))
        return recipe


@register("lars", source="arXiv 1708.03888", code="github.com/NVIDIA/caffe")
class LARS(Named):
    """LARS: SGD in which each tensor's rate is a fixed fraction of its length over its gradient's; for large batches.

    Equations::

        q = trust_coeff*|p|/(|g| + weight_decay*|p| + eps), or 1 where |p| or |g| is 0
        trust_clip: q <- min(q/lr, 1)
        g = q*(g + weight_decay*p)
        b <- momentum*b + (1-dampening)*g          (first step: b <- g)
        p <- p - lr*b                              (nesterov: g + momentum*b)
        lr_inside: b <- momentum*b + lr*g ; p <- p - b

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; large, 1 to 30.
        momentum: >= 0; 0 keeps no state.
        dampening: <= 1; read only with momentum, and 0 with nesterov or lr_inside.
        weight_decay: >= 0; a part of what is scaled.
        nesterov: read the momentum one step ahead; needs momentum > 0.
        trust_coeff: eta, the length of a step over that of its tensor at lr 1, >= 0.
        eps: >= 0; the paper has none.
        trust_clip: LARC's clipping, by which lr is the largest rate a tensor can have.
        always_adapt: False takes q = 1 in groups whose weight_decay is 0, which is the way to leave out biases and
            norms; zero-initialised ones would otherwise take raw gradients at a very large lr.
        lr_inside: the paper's form, in which the velocity holds lr, so that lowering lr does not slow it at once.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: momentum_buffer, 4 bytes per parameter (0 without momentum).
    Memory: 2 passes, 7 words per element: one reads for the two norms, one updates.
    Momentum and weight decay default to the paper's; timm's defaults, 0 and 0, are plain SGD.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.LARS([p], lr=10.0, trust_coeff=0.01, weight_decay=1e-12)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("momentum", "dampening", "weight_decay", "nesterov", "trust_clip", "always_adapt", "lr_inside")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        trust_coeff: float = 1e-3,
        eps: float = 1e-8,
        trust_clip: bool = False,
        always_adapt: bool = False,
        *,
        lr_inside: bool = False,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            trust_coeff=trust_coeff,
            eps=eps,
            trust_clip=trust_clip,
            always_adapt=always_adapt,
            lr_inside=lr_inside,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls,
        momentum: bool,
        dampening: bool,
        weight_decay: bool,
        nesterov: bool,
        trust_clip: bool,
        always_adapt: bool,
        lr_inside: bool,
    ) -> Recipe:
        if lr_inside and dampening:
            raise ValueError("dampening has no place in the paper's form; leave it at 0 with lr_inside=True")
        adapts = LayerRate(trust_clip, adapts=bool(weight_decay or always_adapt))
        flow = flows.step_first if lr_inside else flows.moment_first
        return _momentum(Recipe(gradient=adapts, flow=flow), momentum, dampening, nesterov, not lr_inside)


@register("larc", source="arXiv 1708.03888", code="github.com/NVIDIA/apex")
class LARC(Named):
    """LARC: SGD whose rate no tensor exceeds, and which is a fraction of a tensor's length where that is less.

    Equations::

        q = trust_coefficient*|p|/(|g| + weight_decay*|p| + eps) ; clip: q <- min(q/lr, 1)
        g = q*(g + weight_decay*p), or g as it is where |p| or |g| is 0
        b <- momentum*b + (1-dampening)*g          (first step: b <- g)
        p <- p - lr*b                              (nesterov: g + momentum*b)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; with clip the largest that a tensor can have.
        momentum: >= 0; 0 keeps no state.
        dampening: <= 1; read only with momentum, and 0 with nesterov.
        weight_decay: >= 0; a part of what is scaled.
        nesterov: read the momentum one step ahead; needs momentum > 0.
        trust_coefficient: the length of a step over that of its tensor, >= 0.
        clip: False scales lr by q instead, as LARS does.
        eps: >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: momentum_buffer, 4 bytes per parameter (0 without momentum).
    Memory: 2 passes, 7 words per element: one reads for the two norms, one updates.
    apex wraps an optimizer and writes the scaled gradient back to ``p.grad``; here it is left as it is.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.LARC([p], lr=0.5, trust_coefficient=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("momentum", "dampening", "nesterov", "clip")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        trust_coefficient: float = 0.02,
        clip: bool = True,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            trust_coefficient=trust_coefficient,
            clip=clip,
            eps=eps,
            maximize=maximize,
        )

    @classmethod
    def build(cls, momentum: bool, dampening: bool, nesterov: bool, clip: bool) -> Recipe:  # type: ignore[override]
        recipe = Recipe(gradient=LayerRate(clip, whole=True, trust="trust_coefficient"))
        return _momentum(recipe, momentum, dampening, nesterov)
