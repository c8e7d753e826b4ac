"""Gradient descent with momentum, and its form with stable weight decay."""

from typing import Any, ClassVar

from .base import Array, Reference, Slot


def descent(slot: Slot, g: Array, momentum: float, dampening: float, nesterov: bool) -> Array:
    """The direction of SGD: g itself, the momentum buffer b, or g + momentum*b. The first buffer is g, undampened."""
    if momentum == 0:
        return g
    if "buffer" in slot.state:
        slot.state["buffer"] = momentum * slot.state["buffer"] + (1 - dampening) * g
    else:
        slot.state["buffer"] = g.copy()
    return g + momentum * slot.state["buffer"] if nesterov else slot.state["buffer"]


class SGD(Reference):
    """Stochastic gradient descent as in torch: the learning rate multiplies the whole buffer.

    ::

        g = g + weight_decay*p
        b = g at the first update of the tensor, else momentum*b + (1 - dampening)*g
        p = p - lr*b          p = p - lr*(g + momentum*b) with nesterov          p = p - lr*g without momentum

    Sources: Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
    }

    def check(self) -> None:
        if self.hyper["nesterov"] and (self.hyper["momentum"] <= 0 or self.hyper["dampening"] != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        return p - h["lr"] * descent(slot, g, h["momentum"], h["dampening"], h["nesterov"])


class SGDS(SGD):
    """SGD with stable weight decay (arXiv 2011.11152).

    ::

        p = p*(1 - (1 - dampening)/(1 - momentum)*lr*weight_decay)
        then the SGD step with the raw gradient

    The factor is the ratio of the effective step of the momentum method to lr, so momentum must stay below 1. It is
    taken literally: with momentum = 0 the dampening, which SGD then ignores, still scales the decay.
    """

    defaults: ClassVar[dict[str, Any]] = {**SGD.defaults, "momentum": 0.9}

    def check(self) -> None:
        super().check()
        if not 0 <= self.hyper["momentum"] < 1:
            raise ValueError("stable weight decay needs 0 <= momentum < 1")

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        p = p * (1 - (1 - h["dampening"]) / (1 - h["momentum"]) * h["lr"] * h["weight_decay"])
        return p - h["lr"] * descent(slot, g, h["momentum"], h["dampening"], h["nesterov"])
