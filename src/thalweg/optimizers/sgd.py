"""SGD, plain and with momentum, and its stable weight decay."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import MOMENTUM, STABLE_SGD
from thalweg.recipes import SGD as PLAIN
from thalweg.registry import register
from thalweg.slots.average import Average
from thalweg.slots.law import Heavy

_NESTEROV = Average("momentum_buffer", Heavy(nesterov=True))


@register(
    "sgd",
    source="Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013",
    aliases=("momentum", "heavyball", "nag", "nesterov"),
)
class SGD(Named):
    """Stochastic gradient descent, with momentum, dampening and Nesterov's form; torch.optim.SGD's drop-in.

    Equations::

        g = g + weight_decay*p
        b <- momentum*b + (1-dampening)*g          (first step: b <- g)
        u = b, or g + momentum*b with nesterov, or g where momentum = 0
        p <- p - lr*u
        lr_inside: b <- momentum*b + (1-dampening)*lr*g ; p <- p - b, or p - (lr*g + momentum*b) with nesterov

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        momentum: >= 0; 0 keeps no state. Polyak's heavy ball without nesterov.
        dampening: <= 1; read only with momentum, and 0 with nesterov.
        weight_decay: coupled (L2) decay, >= 0.
        nesterov: read the momentum one step ahead; needs momentum > 0.
        lr_inside: keep the learning rate inside the buffer (Sutskever, Caffe); needs momentum > 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: momentum_buffer, 4 bytes per parameter (0 without momentum). Memory: 1 pass, 5 words per element (3).
    The learning rate stays outside the buffer, as in torch: lowering it slows the stored velocity at once. With
    ``lr_inside`` (state: velocity) past gradients keep the rate of their step; at a constant rate both are the same.
    Without momentum and weight_decay sparse gradients touch only their rows, exactly.

    Raises:
        ValueError: a number out of range, nesterov without momentum, dampening without effect.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, momentum=0.9)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.8000, 0.8000])
    """

    structure = ("momentum", "dampening", "nesterov", "lr_inside")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
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
            lr_inside=lr_inside,
            maximize=maximize,
        )

    @classmethod
    def build(cls, momentum: bool, dampening: bool, nesterov: bool, lr_inside: bool) -> Recipe:  # type: ignore[override]
        if nesterov and (not momentum or dampening):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        if not momentum:
            if dampening:
                raise ValueError("SGD: dampening has no effect without momentum; leave it at 0")
            if lr_inside:
                raise ValueError(
                    "lr_inside needs momentum > 0: there is no buffer for the learning rate to be inside of"
                )
            return PLAIN
        if lr_inside:
            return MOMENTUM.but(first=Average("velocity", Heavy(nesterov=nesterov)), flow=flows.step_first)
        return MOMENTUM.but(first=_NESTEROV) if nesterov else MOMENTUM


@register(
    "sgds",
    source="arXiv 2011.11152",
    code="github.com/zeke-xie/stable-weight-decay-regularization",
)
class SGDS(Named):
    """SGD with momentum and stable weight decay: decay matched to the whole push that a gradient ends up giving.

    Equations::

        b <- momentum*b + (1-dampening)*g          (first step: b <- g)
        p <- p*(1 - (1-dampening)/(1-momentum)*lr*weight_decay)
        p <- p - lr*b                              (nesterov: g + momentum*b)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        momentum: 0 <= x < 1.
        dampening: 0 <= x <= 1.
        weight_decay: >= 0.
        nesterov: read the momentum one step ahead.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: momentum_buffer, 4 bytes per parameter. Memory: 1 pass, 5 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGDS([p], lr=0.1, weight_decay=0.01)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.7900, 0.7900])
    """

    structure = ("nesterov",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
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
            maximize=maximize,
        )

    @classmethod
    def build(cls, nesterov: bool) -> Recipe:  # type: ignore[override]
        return STABLE_SGD.but(first=_NESTEROV) if nesterov else STABLE_SGD
