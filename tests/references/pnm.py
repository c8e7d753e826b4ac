"""Positive-negative momentum (arXiv 2103.17182): PNM and AdaPNM."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot


class PNM(Reference):
    """PNM (arXiv 2103.17182): two buffers written in turn; the present one counts 1+b0, the other -b0."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 1.0), "weight_decay": 0.0, "decoupled_weight_decay": True
    }  # fmt: skip
    beta0: ClassVar[int] = 1

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if h["decoupled_weight_decay"]:
            p = p * (1 - h["lr"] * h["weight_decay"])
        else:
            g = g + h["weight_decay"] * p
        b0 = h["betas"][self.beta0]
        i = (t - 1) % 2
        now = slot.ema(f"M{i}", g, h["betas"][0] ** 2)
        u = ((1 + b0) * now - b0 * slot.get(f"M{1 - i}")) / math.sqrt((1 + b0) ** 2 + b0**2)
        return p - h["lr"] * self.scaled(slot, u, g, t)

    def scaled(self, slot: Slot, u: Array, g: Array, t: int) -> Array:
        return u


class AdaPNM(PNM):
    """AdaPNM (arXiv 2103.17182): PNM's direction over the root of Adam's second moment."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999, 1.0), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": True,
        "decoupled_weight_decay": True,
    }  # fmt: skip
    beta0: ClassVar[int] = 2

    def scaled(self, slot: Slot, u: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2, _ = h["betas"]
        v = slot.ema("v", g * g, b2)
        if h["amsgrad"]:
            v = slot.state["vmax"] = np.maximum(slot.get("vmax"), v)
        return u / (1 - b1**t) / (np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"])
