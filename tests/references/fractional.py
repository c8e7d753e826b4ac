"""Fractional-order gradients: FCGD_G-L (Mathematics 11(2) 316, 2023) and AdaGL (Neural Processing Letters, 2024)."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot

HISTORY = 10


def remembered(slot: Slot, g: Array) -> list[Array]:
    """The gradients of this step and the ten before it, newest first, zeros where there were none; stores them."""
    past = [slot.get(f"g{j}") for j in range(1, HISTORY + 1)]
    for j, value in enumerate([g, *past[:-1]], start=1):
        slot.state[f"g{j}"] = value.copy()
    return [g, *past]


class FCGD(Reference):
    """FCGD_G-L (Zhou, Zhao & Huang, 2023), without disturbance."""

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-2, "alpha": 0.9, "weight_decay": 0.0, "weights": "paper"}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        d, w = np.zeros_like(p), 1.0
        for j, past in enumerate(remembered(slot, g)):
            if j:
                w *= 1 - ((h["alpha"] + 1) / (j + 1) if h["weights"] == "paper" else h["alpha"] / j)
            d = d + w * past
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * d


class AdaGL(Reference):
    """AdaGL (Chen, Zhang & Mu, 2024): the weights are (-1)^j binom(alpha, j)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "alpha": 0.9, "weight_decay": 0.0
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        gradients = remembered(slot, g)
        d = sum((-1) ** j * _binomial(h["alpha"], j) * past for j, past in enumerate(gradients))
        m, v = slot.ema("m", d, b1), slot.ema("v", d * d, b2)
        c = 1.1 - 1 / (2 * (1 + np.abs(gradients[1] - g)))
        step = c * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + h["eps"])
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * step


def _binomial(alpha: float, j: int) -> float:
    return math.prod(alpha - i for i in range(j)) / math.factorial(j)
