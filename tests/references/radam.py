"""Rectified Adam."""

import math
from typing import Any, ClassVar

import numpy as np

from .adam import decayed
from .base import Array, Reference, Slot


def rectification(b2: float, t: int, threshold: float = 5.0) -> float | None:
    """The factor r_t of the variance rectification, or None while rho_t <= threshold (5 is torch's)."""
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
    if rho <= threshold:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


class RAdam(Reference):
    """RAdam (arXiv 1908.03265), torch's convention.

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        rho_inf = 2/(1 - b2) - 1 ;  rho_t = rho_inf - 2*t*b2^t/(1 - b2^t)
        rho_t > 5:  r = sqrt((rho_t - 4)*(rho_t - 2)*rho_inf/((rho_inf - 4)*(rho_inf - 2)*rho_t))
                    p = p - lr * r * m/(1 - b1^t) * sqrt(1 - b2^t)/(sqrt(v) + eps)
        else:       p = p - lr * m/(1 - b1^t)

    ``degenerated_to_sgd=False`` leaves p alone, decoupled decay included, in place of the last line; the paper's
    ``threshold`` is 4. eps is added before the correction of v. With b2 <= 2/3, rho_t never exceeds 5 and the method
    stays momentum SGD.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "threshold": 5.0,
        "degenerated_to_sgd": True,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        before = p
        p, g = decayed(h, p, g)
        m_hat = slot.ema("m", g, b1) / (1 - b1**t)
        v = slot.ema("v", g * g, b2)
        r = rectification(b2, t, h["threshold"])
        if r is None:
            return p - h["lr"] * m_hat if h["degenerated_to_sgd"] else before
        return p - h["lr"] * r * m_hat * math.sqrt(1 - b2**t) / (np.sqrt(v) + h["eps"])
