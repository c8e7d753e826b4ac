"""Adam with other moments: StableAdamW, ADOPT, AdEMAMix and AdaBelief."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, rms


class StableAdamW(Reference):
    """StableAdamW (arXiv 2304.13013).

    ::

        h1 = b1*(1 - b1^(t-1))/(1 - b1^t), h2 likewise
        m = h1*m + (1 - h1)*g ; v = h2*v + (1 - h2)*g^2
        R = sqrt(mean(g^2/max(v, eps^2))) ; eta = lr/max(1, R/clip_threshold)
        p = p*(1 - eta*weight_decay) - eta*m/(sqrt(v) + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 2e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.2, "clip_threshold": 1.0
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        h1, h2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in h["betas"])
        m, v = slot.ema("m", g, h1), slot.ema("v", g * g, h2)
        eta = h["lr"] / max(1.0, rms(g / np.sqrt(np.maximum(v, h["eps"] ** 2))) / h["clip_threshold"])
        return p * (1 - eta * h["weight_decay"]) - eta * m / (np.sqrt(v) + h["eps"])


class ADOPT(Reference):
    """ADOPT (arXiv 2411.02853): v starts as the first squared gradient, and the step lags it by one."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.0, "decoupled_weight_decay": False,
        "clip": True, "clip_power": 0.25,
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        if not h["decoupled_weight_decay"]:
            g = g + h["weight_decay"] * p
        if t == 1:
            slot.state["v"] = g * g
            return p
        n = g / np.maximum(np.sqrt(slot.get("v")), h["eps"])
        if h["clip"]:
            bound = (t - 1) ** h["clip_power"]
            n = np.clip(n, -bound, bound)
        m = slot.ema("m", n, b1)
        slot.ema("v", g * g, b2)
        if h["decoupled_weight_decay"]:
            p = p - h["lr"] * h["weight_decay"] * p
        return p - h["lr"] * m


class AdEMAMix(Reference):
    """AdEMAMix (arXiv 2409.03137): a corrected fast average, a slow one that is not, warm-ups of alpha and beta3."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "eps": 1e-8, "weight_decay": 0.0,
        "alpha": 2.0, "alpha_warmup": None, "beta3_warmup": None,
    }  # fmt: skip

    def beta3(self, t: int) -> float:
        b1, _, b3 = self.hyper["betas"]
        steps = self.hyper["beta3_warmup"]
        if steps is None or t >= steps:
            return float(b3)
        low, high = (math.log(0.5) / math.log(b + 1e-8) - 1 for b in (b1, b3))
        return float(math.pow(0.5, 1 / ((1 - t / steps) * low + t / steps * high + 1)))

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2, _ = h["betas"]
        alpha = h["alpha"] * (1.0 if h["alpha_warmup"] is None else min(1.0, t / h["alpha_warmup"]))
        m1, m2, v = slot.ema("m1", g, b1), slot.ema("m2", g, self.beta3(t)), slot.ema("v", g * g, b2)
        u = (m1 / (1 - b1**t) + alpha * m2) / (np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"])
        return p - h["lr"] * (u + h["weight_decay"] * p)


def belief_step(
    h: dict[str, Any], slot: Slot, p: Array, g: Array, pushed: Array, residual: bool, eps_inside: bool, t: int
) -> Array:
    """Adam's step with ``pushed`` in m and g, or pushed less the new m, squared in v; eps may join v every step."""
    b1, b2 = h["betas"]
    m = slot.ema("m", pushed, b1)
    r = pushed - m if residual else g
    v = slot.ema("v", r * r, b2)
    if eps_inside:
        v = slot.state["v"] = v + h["eps"]
    if h["amsgrad"]:
        v = slot.state["vmax"] = np.maximum(slot.get("vmax"), v)
    m_hat = m / (1 - b1**t)
    if h["rectify"]:
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        if rho <= 5:
            return p - h["lr"] * m_hat
        r_t = math.sqrt((rho - 4) / (limit - 4) * (rho - 2) / (limit - 2) * limit / rho)
        return p - h["lr"] * r_t * m_hat * math.sqrt(1 - b2**t) / (np.sqrt(v) + h["eps"])
    return p - h["lr"] * m_hat / (np.sqrt(v / (1 - b2**t)) + h["eps"])


class AdaBelief(Reference):
    """AdaBelief (arXiv 2010.07468)."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0,
        "amsgrad": False, "decoupled_weight_decay": True, "rectify": False,
    }  # fmt: skip

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if h["decoupled_weight_decay"]:
            p = p * (1 - h["lr"] * h["weight_decay"])
        else:
            g = g + h["weight_decay"] * p
        return belief_step(h, slot, p, g, g, True, True, t)
