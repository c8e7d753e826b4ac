"""MARS and Adam-mini: rules that depend on the shape of a tensor."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, norm


def adamw_step(slot: Slot, p: Array, g: Array, square: Array, h: dict[str, Any], t: int, amsgrad: bool) -> Array:
    """AdamW's step with gradient g, whose second moment averages ``square`` (of any shape that broadcasts)."""
    b1, b2 = h["betas"]
    m = slot.ema("m", g, b1)
    v = slot.state["v"] = b2 * slot.state.get("v", np.zeros_like(square)) + (1 - b2) * square
    if amsgrad:
        v = slot.state["vmax"] = np.maximum(slot.state.get("vmax", np.zeros_like(v)), v)
    step = m / (1 - b1**t) / (np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"])
    return p - h["lr"] * (step + h["weight_decay"] * p)


class MARS(Reference):
    """MARS-AdamW, approximate (arXiv 2411.10438): matrices by the rule, other tensors by AdamW with ``rest``."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 3e-3, "betas": (0.95, 0.99), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "gamma": 0.025,
        "optimize_1d": False, "rest": None,
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if p.ndim != 2 and not h["optimize_1d"]:
            rest = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, **(h["rest"] or {})}
            if h["lr"] == 0:
                rest["lr"] = 0.0
            return adamw_step(slot, p, g, g * g, rest, t, h["amsgrad"])
        b1 = h["betas"][0]
        c = g + h["gamma"] * b1 / (1 - b1) * (g - slot.get("last"))
        slot.state["last"] = g.copy()
        if norm(c) > 1:
            c = c / norm(c)
        return adamw_step(slot, p, c, c * c, h, t, h["amsgrad"])


class AdamMini(Reference):
    """Adam-mini (arXiv 2406.16793) with one kind of block for all tensors, or by shape where block is None."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "block": None, "heads": None,
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        block = self.hyper["block"] or ("row" if p.ndim > 1 else "tensor")
        square = g * g
        if block == "tensor":
            square = np.full((), square.mean())
        elif p.ndim > 1 and block in ("row", "head"):
            count = p.shape[0] if block == "row" else self.hyper["heads"]
            each = square.reshape(count, -1).mean(1)
            square = np.repeat(each, p.shape[0] // count).reshape(-1, *[1] * (p.ndim - 1))
        return adamw_step(slot, p, g, square, self.hyper, t, False)
