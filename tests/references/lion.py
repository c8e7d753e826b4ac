"""Lion, the sign of an interpolated momentum."""

from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot


class Lion(Reference):
    """Lion (arXiv 2302.06675).

    ::

        p = p*(1 - lr*weight_decay)
        p = p - lr*sign(b1*m + (1 - b1)*g)              sign(0) = 0
        m = b2*m + (1 - b2)*g
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        c = b1 * slot.get("m") + (1 - b1) * g
        slot.ema("m", g, b2)
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * np.sign(c)
