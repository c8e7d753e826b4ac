"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.registry import register
from thalweg.slots.average import adam_moments
from thalweg.slots.law import Debiased, Plain
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.soap import DecoupledAfter, Eigenbasis, UnitRMS

DEBIASED = {"first": Debiased("betas.0", 0.95), "second": Debiased("betas.1", 0.95)}
PLAIN = {"first": Plain("betas.0", 0.95), "second": Plain("betas.1", 0.95)}
SOAP_RECIPE = Recipe(
    **adam_moments(**DEBIASED),
    basis=Eigenbasis(),
    ratio=OverSqrt(raw=Debiased("betas.1", 0.95)),
    after=DecoupledAfter(),
    flow=flows.in_basis,
)


@register("soap", source="arXiv 2409.11321", code="github.com/nikhilvyas/SOAP", recipe=SOAP_RECIPE)
class SOAP(Named):
    """SOAP: Adam run in the eigenbasis of the gradients' second moments along each axis (Shampoo's preconditioner).

    Equations (a matrix; n counts the steps after the first, b = shampoo_beta)::

        first step:  L = (1-b)*g g^T ; R = (1-b)*g^T g ; Q_L, Q_R = eigenvectors of L, R ; nothing moves
        m <- betas[0]*m + (1-betas[0])*g ; g' = Q_L^T g Q_R ; m' = Q_L^T m Q_R
        v <- betas[1]*v + (1-betas[1])*g'^2
        p <- p - lr*sqrt(1-betas[1]^n)/(1-betas[0]^n) * Q_L (m'/(sqrt(v) + eps)) Q_R^T
        p <- p*(1 - lr*weight_decay)
        L <- b*L + (1-b)*g g^T ; R <- b*R + (1-b)*g^T g
        n a multiple of precondition_frequency:  the columns of Q_L in the order of falling diag(Q_L^T L Q_L), and the
                     rows of v with them ; Q_L <- qr(L Q_L) ; Q_R and the columns of v likewise

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups. Tensors of more axes have a basis for each axis;
            0-d and 1-d ones take Adam's steps.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        shampoo_beta: b, -1 <= x < 1; below 0 it is betas[1].
        eps: >= 0.
        weight_decay: decoupled, taken after the step, >= 0.
        precondition_frequency: steps between refreshes of the bases, a whole number >= 1.
        max_precond_dim: longer axes keep their own coordinates, a whole number >= 1.
        merge_dims: join neighbouring axes while their product does not exceed max_precond_dim.
        precondition_1d: a basis for 1-d tensors too.
        normalize_grads: scale each tensor's direction to root mean square one, before Adam's corrections.
        correct_bias: False leaves Adam's corrections sqrt(1-betas[1]^n)/(1-betas[0]^n) out.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter; GG and Q of each axis, twice the square of its length, 16 bytes
    per parameter more for a square matrix. Memory: 5 passes, 22 words per element, the square bases counted.
    Equal shapes are stacked. The matrix products, eight a step for a matrix, dominate; eigenvectors and the orthonormal
    iteration run in the compute dtype, as do L and R. The first moment is kept in the parameter's coordinates, which
    is the same in exact arithmetic as the authors' moment that is turned along with the basis.
    The count of a parameter's first step is spent on the bases: a run has one step fewer than calls.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.eye(2))
        >>> opt = thalweg.SOAP([p], lr=0.1, weight_decay=0)
        >>> for _ in range(2):
        ...     opt.zero_grad(); (p**2).sum().backward(); opt.step()
        >>> p.data
        tensor([[0.9000, 0.0000],
                [0.0000, 0.9000]])
    """

    structure = ("max_precond_dim", "merge_dims", "precondition_1d", "normalize_grads", "correct_bias")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        merge_dims: bool = False,
        precondition_1d: bool = False,
        normalize_grads: bool = False,
        correct_bias: bool = True,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            shampoo_beta=shampoo_beta,
            eps=eps,
            weight_decay=weight_decay,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            merge_dims=merge_dims,
            precondition_1d=precondition_1d,
            normalize_grads=normalize_grads,
            correct_bias=correct_bias,
            maximize=maximize,
        )

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        every = group["precondition_frequency"]
        if isinstance(every, float) and not every.is_integer():
            raise ValueError(f"Invalid precondition_frequency: {every!r}; legal is a whole number of at least 1")

    @classmethod
    def build(  # type: ignore[override]
        cls, max_precond_dim: int, merge_dims: bool, precondition_1d: bool, normalize_grads: bool, correct_bias: bool
    ) -> Recipe:
        recipe = SOAP_RECIPE.but(basis=Eigenbasis(max_precond_dim, merge_dims, precondition_1d))
        if correct_bias and not normalize_grads:
            return recipe
        recipe = recipe.but(**adam_moments(**PLAIN), ratio=OverSqrt())
        return recipe.but(scale=UnitRMS(correct_bias)) if normalize_grads else recipe
