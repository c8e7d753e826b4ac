"""Adam with something held within bounds: the size of each tensor (AdamCPR), or of its step (AdamW^2)."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.clipping import SpectralBound
from thalweg.slots.regularise import CPR, MEASURES, METHODS


@register("adamcpr", source="arXiv 2311.09058", code="github.com/automl/CPR")
class AdamCPR(Named):
    """AdamCPR: Adam with a bound on the size of each tensor in place of weight decay.

    Equations::

        p <- p*(1 - lr*weight_decay) - lr*A        A Adam's direction
        lam <- max(0, lam + kappa_update/n*(R(p) - kappa))       n elements (no 1/n for "std"); lam starts at 0
        p <- p - lam*dR(p)                         reg_by_lr: times lr

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0. The penalty is not scaled by it: lr = 0 still regularises, without reg_by_lr.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        kappa_init_method: "inflection_point" takes R(p) where its growth first slows down, looked at every 200 steps;
            "warm_start" R(p) at step kappa_init_param; "dependent" kappa_init_param times the first R(p); "uniform"
            kappa_init_param itself.
        kappa_init_param: > 0; without effect on "inflection_point".
        reg_function: R is "l2" the sum of squares, "l1" of absolute values, "std" the standard deviation, "huber".
        kappa_update: > 0.
        reg_by_lr: multiply the penalty by lr.
        weight_decay: AdamW's decay beside the bound, >= 0; the published method has none.
        regularise: False for groups that are to be left alone: biases, norms, embeddings.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and up to four numbers per tensor.
    Memory: 1 pass, 7 words per element until kappa is known, then 2 passes, 11 words ("std": 3, 15).
    The authors' code regularises towards the unused kappa_init_param of 1000 before the inflection is found, forgets
    its average of R between steps, and fails for "std", "l1" and "huber"; here nothing happens before kappa is known.
    Where R is far above kappa and a tensor has few elements, lam passes 1/2 and the penalty overshoots.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=1.5)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.5000, 0.5000])
    """

    structure = ("kappa_init_method", "reg_function", "reg_by_lr", "regularise")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        kappa_init_method: str = "inflection_point",
        kappa_init_param: float = 1000.0,
        reg_function: str = "l2",
        kappa_update: float = 1.0,
        reg_by_lr: bool = False,
        *,
        weight_decay: float = 0,
        regularise: bool = True,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            eps=eps,
            kappa_init_method=kappa_init_method,
            kappa_init_param=kappa_init_param,
            reg_function=reg_function,
            kappa_update=kappa_update,
            reg_by_lr=reg_by_lr,
            weight_decay=weight_decay,
            regularise=regularise,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls, kappa_init_method: str, reg_function: str, reg_by_lr: bool, regularise: bool
    ) -> Recipe:
        for name, given, legal in (
            ("kappa_init_method", kappa_init_method, METHODS),
            ("reg_function", reg_function, MEASURES),
        ):
            if given not in legal:
                raise ValueError(f"Invalid {name}: {given!r}; legal are {', '.join(map(repr, legal))}")
        numbers = ("kappa_init_param", reg_function, "kappa_update")
        return ADAMW.but(after=CPR(kappa_init_method, *numbers, reg_by_lr, active=regularise))


@register("adamw2", source="arXiv 2505.21910")
class AdamW2(Named):
    """AdamW^2: AdamW in which no matrix moves by more than a fraction of its spectral norm; needs no warm-up.

    Equations::

        A Adam's direction, s(.) the largest singular value, axes after the first flattened
        a = lr*min(1, tau*s(p)/(lr*s(A)))          lr itself for tensors of fewer than two axes, or where s is 0
        p <- p - a*(A + weight_decay*p)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0; acts with the bounded rate.
        tau: largest change of a matrix over its own size, > 0.
        sigma: "svd" for exact singular values, or ("power", k) for k power iterations from where the last step's
            ended, k >= 1; too few of them underestimate s.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter; ("power", k) adds two vectors of a number per row.
    Memory: 3 passes, 11 words per element; singular values take most of the time, with ("power", k) k products.
    The bound is the paper's; the value of tau, and decay by the bounded rate, are choices made here.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.eye(2))
        >>> opt = thalweg.AdamW2([p], lr=1.0, weight_decay=0, tau=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([[0.9000, 0.0000],
                [0.0000, 0.9000]])
    """

    structure = ("sigma",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        tau: float = 0.01,
        sigma: str | tuple[str, int] = "svd",
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
            tau=tau,
            sigma=tuple(sigma) if isinstance(sigma, list) else sigma,
            maximize=maximize,
        )

    @classmethod
    def build(cls, sigma: str | tuple[str, int]) -> Recipe:  # type: ignore[override]
        iterations = None
        if sigma != "svd":
            if not (isinstance(sigma, tuple) and len(sigma) == 2 and sigma[0] == "power"):
                raise ValueError(f"Invalid sigma: {sigma!r}; legal are 'svd' and ('power', k)")
            iterations = sigma[1]
            if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
                raise ValueError(f"Invalid sigma: {sigma!r}; k must be a whole number of at least 1")
        return ADAMW.but(decay=None, scale=SpectralBound(iterations))
