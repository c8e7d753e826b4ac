"""The AdaNorm family (arXiv 2210.06364): four methods whose momentum takes a stretched gradient."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, norm
from .moments import belief_step

COMMON: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "gamma": 0.95}


class _Norm(Reference):
    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if h.get("decoupled_weight_decay", False):
            p = p * (1 - h["lr"] * h["weight_decay"])
        else:
            g = g + h["weight_decay"] * p
        n = norm(g)
        e = h["gamma"] * float(slot.state.get("e", np.zeros(()))) + (1 - h["gamma"]) * n
        slot.state["e"] = np.array(e)
        return self.move(slot, p, g, g * e / n if e > n > 0 else g, t)

    def move(self, slot: Slot, p: Array, g: Array, stretched: Array, t: int) -> Array:
        raise NotImplementedError


class AdamNorm(_Norm):
    """AdamNorm (arXiv 2210.06364): Adam with the stretched gradient in m; eps may join v as in the authors' code."""

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON, "amsgrad": False, "decoupled_weight_decay": False, "accumulate_eps": False
    }  # fmt: skip

    def move(self, slot: Slot, p: Array, g: Array, stretched: Array, t: int) -> Array:
        h = {**self.hyper, "rectify": False}
        return belief_step(h, slot, p, g, stretched, False, h["accumulate_eps"], t)


class AdaBeliefNorm(_Norm):
    """AdaBeliefNorm (arXiv 2210.06364)."""

    defaults: ClassVar[dict[str, Any]] = {**COMMON, "amsgrad": False, "decoupled_weight_decay": False}

    def move(self, slot: Slot, p: Array, g: Array, stretched: Array, t: int) -> Array:
        return belief_step({**self.hyper, "rectify": False}, slot, p, g, stretched, True, True, t)


class RAdamNorm(_Norm):
    """RAdamNorm (arXiv 2210.06364), with e kept from step to step; no step where not degenerated_to_sgd."""

    defaults: ClassVar[dict[str, Any]] = {
        **COMMON, "decoupled_weight_decay": True, "threshold": 5.0, "degenerated_to_sgd": True
    }  # fmt: skip

    def move(self, slot: Slot, p: Array, g: Array, stretched: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        m, v = slot.ema("m", stretched, b1), slot.ema("v", g * g, b2)
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        if rho <= h["threshold"]:
            return p - h["lr"] * m / (1 - b1**t) if h["degenerated_to_sgd"] else slot.p
        r = math.sqrt((1 - b2**t) * (rho - 4) / (limit - 4) * (rho - 2) / rho * limit / (limit - 2)) / (1 - b1**t)
        return p - h["lr"] * r * m / (np.sqrt(v) + h["eps"])


class DiffGradNorm(_Norm):
    """diffGradNorm (arXiv 2210.06364): diffGrad compares gradients as they are, m takes the stretched one."""

    defaults: ClassVar[dict[str, Any]] = dict(COMMON)

    def move(self, slot: Slot, p: Array, g: Array, stretched: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        m, v = slot.ema("m", stretched, b1), slot.ema("v", g * g, b2)
        xi = 1 / (1 + np.exp(-np.abs(slot.get("last") - g)))
        slot.state["last"] = g.copy()
        return p - h["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t) * m * xi / (np.sqrt(v) + h["eps"])
