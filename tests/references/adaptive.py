"""Methods that scale by accumulated squared gradients, without Adam's bias correction: Adagrad, RMSprop, AdaX."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot


class Adagrad(Reference):
    """Adagrad (Duchi, Hazan & Singer, JMLR 12, 2011), in torch's form.

    ::

        g = g + weight_decay*p
        a = a + g^2                                  a = initial_accumulator_value before the first update
        p = p - lr/(1 + (t - 1)*lr_decay) * g/(sqrt(a) + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        a = slot.state["sum"] = slot.get("sum", h["initial_accumulator_value"]) + g * g
        return p - h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / (np.sqrt(a) + h["eps"])


class RMSprop(Reference):
    """RMSprop (Hinton, Coursera lecture 6; centred form of Graves, arXiv 1308.0850), in torch's form.

    ::

        g = g + weight_decay*p
        v = alpha*v + (1 - alpha)*g^2
        d = v            centred:  a = alpha*a + (1 - alpha)*g ;  d = max(v - a^2, 0)
        q = g/(sqrt(d) + eps)
        p = p - lr*q     with momentum > 0:  b = momentum*b + q ;  p = p - lr*b

    torch does not clamp d at 0 and can return NaN when rounding makes v - a^2 negative.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        d = slot.ema("square", g * g, h["alpha"])
        if h["centered"]:
            mean = slot.ema("mean", g, h["alpha"])
            d = np.maximum(d - mean * mean, 0.0)
        q = g / (np.sqrt(d) + h["eps"])
        if h["momentum"] > 0:
            q = slot.state["buffer"] = h["momentum"] * slot.get("buffer") + q
        return p - h["lr"] * q


class AdaX(Reference):
    """AdaX, and AdaX-W with decoupled decay (arXiv 2004.09740), in the bounded form.

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        m = b1*m + (1 - b1)*g           no bias correction
        c = (1 + b2)^t - 1 ;  w = b2/c
        vh = vh + w*(g^2 - vh)          w = 1 at t = 1
        p = p - lr*m/(sqrt(vh) + eps/sqrt(c))

    The authors' code keeps v = c*vh and divides by sqrt(v) + eps; eps/sqrt(c) is that same eps. 1/c is evaluated as
    exp(-t*L)/(1 - exp(-t*L)) with L = log(1 + b2), which cannot overflow.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.5e-3,
        "betas": (0.9, 1e-4),
        "eps": 1e-12,
        "weight_decay": 5e-4,
        "decoupled_weight_decay": False,
    }

    def check(self) -> None:
        if not self.hyper["betas"][1] > 0:
            raise ValueError("AdaX needs a positive second beta")

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        if h["decoupled_weight_decay"]:
            p = p * (1 - h["lr"] * h["weight_decay"])
        else:
            g = g + h["weight_decay"] * p
        m = slot.ema("m", g, b1)
        log_growth = t * math.log1p(b2)
        inverse_c = math.exp(-log_growth) / -math.expm1(-log_growth)
        vh = slot.get("vh")
        vh = slot.state["vh"] = vh + b2 * inverse_c * (g * g - vh)
        return p - h["lr"] * m / (np.sqrt(vh) + h["eps"] * math.sqrt(inverse_c))
