"""LAMB: a layer's step has the layer's length."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import LAMB as BASE
from thalweg.registry import register
from thalweg.slots.average import adam_moments
from thalweg.slots.law import Plain
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.scale import TrustRatio


@register("lamb", source="arXiv 1904.00962", code="github.com/tensorflow/addons")
class LAMB(Named):
    """LAMB: Adam's direction with each tensor's step scaled to the tensor's own length; for very large batches.

    Equations::

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
        ratio_bounds: None, or (low, high) to clamp the ratio q itself (the paper's first version).
        eps_inside: put eps under the root.
        adapt: False takes q = 1, as for biases and norms that are to be left out of the scaling.
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

    structure = ("bias_correction", "phi_bounds", "ratio_bounds", "eps_inside", "adapt")

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
    ) -> Recipe:
        if not adapt and (phi_bounds or ratio_bounds):
            raise ValueError("phi_bounds and ratio_bounds have no effect with adapt=False; leave them at None")
        for name, bounds in (("phi_bounds", phi_bounds), ("ratio_bounds", ratio_bounds)):
            if bounds is None:
                continue
            if not (isinstance(bounds, tuple) and len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                raise ValueError(f"Invalid {name}: {bounds!r}; legal is None or (low, high) with 0 <= low <= high")
        recipe = BASE.but(scale=TrustRatio(phi_bounds, ratio_bounds) if adapt else None)
        if eps_inside:
            recipe = recipe.but(ratio=OverSqrt(eps=1e-6, inside=True))
        if not bias_correction:
            recipe = recipe.but(**adam_moments(Plain(), Plain("betas.1", 0.999)))
        return recipe
