"""Adamax, Adam-atan2, SAdam, AdamWarmup, diffGrad and AdaMomentum."""

import math
from typing import Any, ClassVar

import numpy as np

from .adam import decayed
from .base import Array, Reference, Slot

ADAM: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def hat_step(h: dict[str, Any], m: Array, v: Array, t: int) -> Array:
    """Adam's direction with eps beside the root of the uncorrected v."""
    b1, b2 = h["betas"]
    return math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + h["eps"])


class Adamax(Reference):
    """Adamax (arXiv 1412.6980, section 7.1), with eps where torch has it.

    ::

        g = g + weight_decay*p
        m = b1*m + (1 - b1)*g ;  u = max(b2*u, |g| + eps)
        p = p - lr/(1 - b1^t) * m/u
    """

    defaults: ClassVar[dict[str, Any]] = {**ADAM, "lr": 2e-3}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        g = g + h["weight_decay"] * p
        m = slot.ema("m", g, b1)
        u = slot.state["u"] = np.maximum(b2 * slot.get("u"), np.abs(g) + h["eps"])
        return p - h["lr"] / (1 - b1**t) * m / u


class AdamAtan2(Reference):
    """Adam-atan2 (arXiv 2407.05872) in the forms of its two packages, and with cautious decay.

    ::

        u = a*atan2(m/(1 - b1^t), b*sqrt(v/(1 - b2^t)))
        raw_momentum:  u = a*atan2(m, b*sqrt(v/(1 - b2^t)))/(1 - b1^t)
        p = p*(1 - lr*weight_decay) - lr*u      cautious_weight_decay:  decay only where u*p > 0
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-4,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "a": 1.27,
        "b": 1.0,
        "raw_momentum": False,
        "cautious_weight_decay": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        m, v = slot.ema("m", g, b1), slot.ema("v", g * g, b2)
        root = h["b"] * np.sqrt(v / (1 - b2**t))
        u = h["a"] * (np.arctan2(m, root) / (1 - b1**t) if h["raw_momentum"] else np.arctan2(m / (1 - b1**t), root))
        decay = h["lr"] * h["weight_decay"] * p
        if h["cautious_weight_decay"]:
            decay = np.where(u * p > 0, decay, 0.0)
        return p - decay - h["lr"] * u


class SAdam(Reference):
    """SAdam and SAMSGrad (arXiv 1908.00700): softplus as the denominator.

    ::

        g = g + weight_decay*p
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2 ;  w = v, amsgrad: x = max(x, v), w = x
        p = p - lr*sqrt(1 - b2^t)/(1 - b1^t) * m/softplus(sqrt(w))
        bias_correct_inside:  p = p - lr/(1 - b1^t) * m/softplus(sqrt(w/(1 - b2^t)))
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "smooth": 50.0,
        "weight_decay": 0.0,
        "amsgrad": True,
        "bias_correct_inside": False,
    }

    def softplus(self, d: Array) -> Array:
        """log(1 + exp(smooth*d))/smooth, or d itself beyond the threshold of 20."""
        z = self.hyper["smooth"] * d
        return np.where(z > 20, d, np.logaddexp(0.0, np.minimum(z, 20)) / self.hyper["smooth"])

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        g = g + h["weight_decay"] * p
        m = slot.ema("m", g, b1)
        w = slot.ema("v", g * g, b2)
        if h["amsgrad"]:
            w = slot.state["max"] = np.maximum(slot.get("max"), w)
        if h["bias_correct_inside"]:
            return p - h["lr"] / (1 - b1**t) * m / self.softplus(np.sqrt(w / (1 - b2**t)))
        return p - h["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t) * m / self.softplus(np.sqrt(w))


class AdamWarmup(Reference):
    """The AdamW with warm-up in the code of RAdam's authors (arXiv 1908.03265).

    ::

        L = 1e-8 + t*lr/warmup  while warmup > t, else lr
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        p = p - weight_decay*L*p
        p = p - L*sqrt(1 - b2^t)/(1 - b1^t) * m/(sqrt(v) + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {**ADAM, "warmup": 0}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        rate = 1e-8 + t * h["lr"] / h["warmup"] if h["warmup"] > t else h["lr"]
        m, v = slot.ema("m", g, h["betas"][0]), slot.ema("v", g * g, h["betas"][1])
        p = p - h["weight_decay"] * rate * p
        return p - rate * hat_step(h, m, v, t)


class DiffGrad(Reference):
    """diffGrad (arXiv 1909.11015), second version of the authors' code; ``legacy`` is what the first one computes.

    ::

        g = g + weight_decay*p
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        xi = 1/(1 + exp(-|g_previous - g|)), legacy: 1/2 ;  g_previous = g, 0 at first
        p = p - lr*sqrt(1 - b2^t)/(1 - b1^t) * xi*m/(sqrt(v) + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {**ADAM, "legacy": False}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        m, v = slot.ema("m", g, h["betas"][0]), slot.ema("v", g * g, h["betas"][1])
        change = np.abs(slot.get("previous") - (slot.get("previous") if h["legacy"] else g))
        slot.state["previous"] = g
        return p - h["lr"] * hat_step(h, m / (1 + np.exp(-change)), v, t)


class AdaMomentum(Reference):
    """AdaMomentum, also AdaM3 (arXiv 2106.11514): the second moment is of the momentum.

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        m = b1*m + (1 - b1)*g
        v = b2*v + (1 - b2)*m^2 + eps   debias_momentum:  m/(1 - b1^t) is squared
        p = p - lr/(1 - b1^t) * m/sqrt(v/(1 - b2^t))
    """

    defaults: ClassVar[dict[str, Any]] = {
        **ADAM,
        "weight_decay": 5e-4,
        "decoupled_weight_decay": False,
        "debias_momentum": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        p, g = decayed(h, p, g)
        m = slot.ema("m", g, b1)
        squared = m / (1 - b1**t) if h["debias_momentum"] else m
        v = slot.state["v"] = b2 * slot.get("v") + (1 - b2) * squared**2 + h["eps"]
        return p - h["lr"] / (1 - b1**t) * m / np.sqrt(v / (1 - b2**t))
