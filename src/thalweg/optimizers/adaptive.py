"""Adagrad and RMSprop: the first denominators."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAGRAD, RMSPROP
from thalweg.registry import register
from thalweg.slots.average import Average, Centred
from thalweg.slots.decay import Decoupled
from thalweg.slots.law import Heavy, Plain
from thalweg.slots.ratio import OverSqrt


@register("adagrad", source="Duchi, Hazan & Singer, JMLR 12 (2011)")
class Adagrad(Named):
    """Adagrad: every coordinate's rate falls with the sum of its squared gradients; torch.optim.Adagrad's drop-in.

    Equations::

        g = g + weight_decay*p
        s <- s + g^2                               s starts at initial_accumulator_value
        p <- p - lr/(1 + (t-1)*lr_decay) * g/(sqrt(s) + eps)       eps_inside: g/sqrt(s + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        lr_decay: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        initial_accumulator_value: >= 0.
        eps: >= 0.
        eps_inside: eps under the root.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: sum, 4 bytes per parameter, made at the first step (torch makes it at construction).
    Memory: 1 pass, 5 words per element. Without weight_decay sparse gradients touch only their rows, exactly.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Adagrad([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("eps_inside",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        eps_inside: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            eps_inside=eps_inside,
            maximize=maximize,
        )

    @classmethod
    def build(cls, eps_inside: bool) -> Recipe:  # type: ignore[override]
        return ADAGRAD.but(ratio=OverSqrt(eps=1e-10, inside=True)) if eps_inside else ADAGRAD


@register("rmsprop", source="Hinton, Coursera lecture 6 (2012); centred: arXiv 1308.0850")
class RMSprop(Named):
    """RMSprop: divide by a running root mean square of the gradient; torch.optim.RMSprop's drop-in.

    Equations::

        g = g + weight_decay*p                     (decoupled_weight_decay: p <- p*(1 - lr*weight_decay) instead)
        v <- alpha*v + (1-alpha)*g^2               v starts at initial_square_avg
        centered: a <- alpha*a + (1-alpha)*g ; read max(v - a^2, 0) for v
        u = g/(sqrt(v) + eps)                      eps_inside: g/sqrt(v + eps)
        momentum: b <- momentum*b + u ; u = b      lr_inside: b <- momentum*b + lr*u ; p <- p - b
        p <- p - lr*u

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        alpha: 0 <= x < 1.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        momentum: >= 0; 0 keeps no buffer.
        centered: divide by the standard deviation instead.
        eps_inside: eps under the root.
        lr_inside: keep the learning rate inside the momentum buffer, where past gradients keep their old rate.
        initial_square_avg: >= 0.
        decoupled_weight_decay: AdamW's decay instead.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: square_avg (4 bytes per parameter), momentum_buffer (+4; velocity with lr_inside), grad_avg (+4 centred).
    Memory: 1 pass, 5 words per element, and 2 more for each extra state.
    TensorFlow's rule: ``momentum=0.9, alpha=0.9, eps=1e-10, eps_inside=True, lr_inside=True, initial_square_avg=1``.
    The centred variance is held at zero where rounding would make it negative (torch returns NaN there).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.RMSprop([p], lr=0.01)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    structure = ("momentum", "centered", "eps_inside", "lr_inside", "initial_square_avg", "decoupled_weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        eps_inside: bool = False,
        lr_inside: bool = False,
        initial_square_avg: float = 0,
        decoupled_weight_decay: bool = False,
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
            centered=centered,
            eps_inside=eps_inside,
            lr_inside=lr_inside,
            initial_square_avg=initial_square_avg,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls,
        momentum: bool,
        centered: bool,
        eps_inside: bool,
        lr_inside: bool,
        initial_square_avg: bool,
        decoupled_weight_decay: bool,
    ) -> Recipe:
        if lr_inside and not momentum:
            raise ValueError("lr_inside needs momentum > 0: there is no buffer for the learning rate to be inside of")
        start = "initial_square_avg" if initial_square_avg else None
        square = Average("square_avg", Plain("alpha", 0.99), power=2, start=start)
        recipe = RMSPROP.but(second=square, ratio=OverSqrt(inside=eps_inside))
        if centered:
            recipe = recipe.but(second=Centred(square, Average("grad_avg", Plain("alpha", 0.99))))
        if decoupled_weight_decay:
            recipe = recipe.but(gradient=None, decay=Decoupled())
        if lr_inside:
            return recipe.but(first=Average("velocity", Heavy(dampened=False)), flow=flows.step_first)
        return recipe.but(first=Average("momentum_buffer", Heavy(dampened=False))) if momentum else recipe
