"""Methods whose step is normalised by a norm of the tensor or of the model: LAMB and nSGDA."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, norm


class LAMB(Reference):
    """LAMB (arXiv 1904.00962, versions 4 and 5) with phi = identity; every tensor has its own trust ratio.

    ::

        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        m_hat = m/(1 - b1^t), v_hat = v/(1 - b2^t)      without bias_correction:  m_hat = m, v_hat = v
        u = m_hat/(sqrt(v_hat) + eps) + weight_decay*p
        q = |p|/|u|, or 1 where either norm is 0
        p = p - lr*q*u

    Options, which are timm's: max_grad_norm first divides g by max(1, |g|/max_grad_norm) with |g| over all tensors;
    grad_averaging=False takes m = b1*m + g; always_adapt=False takes q = 1 where weight_decay = 0; ratio_bounds
    clamps q; phi_bounds clamps |p|; eps_inside takes sqrt(v_hat + eps); adapt=False takes q = 1.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "bias_correction": True,
        "max_grad_norm": None,
        "grad_averaging": True,
        "always_adapt": True,
        "ratio_bounds": None,
        "phi_bounds": None,
        "eps_inside": False,
        "adapt": True,
    }

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        most = self.hyper["max_grad_norm"]
        if most is not None:
            whole = math.sqrt(sum(norm(slot.g) ** 2 for slot in active))
            for slot in active:
                slot.g = slot.g / max(1.0, whole / most)

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        m = slot.ema("m", g, b1)
        v = slot.ema("v", g * g, b2)
        if not h["grad_averaging"]:
            m = m / (1 - b1)
        if h["bias_correction"]:
            m, v = m / (1 - b1**t), v / (1 - b2**t)
        root = np.sqrt(v + h["eps"]) if h["eps_inside"] else np.sqrt(v) + h["eps"]
        u = m / root + h["weight_decay"] * p
        ratio = 1.0
        if h["adapt"] and (h["always_adapt"] or h["weight_decay"] != 0) and norm(p) > 0 and norm(u) > 0:
            ratio = float(np.clip(norm(p), *(h["phi_bounds"] or (0.0, math.inf)))) / norm(u)
            ratio = float(np.clip(ratio, *(h["ratio_bounds"] or (0.0, math.inf))))
        return p - h["lr"] * ratio * u


class NSGDA(Reference):
    """Normalised SGD with momentum, for descent or (``maximize=True``) ascent (arXiv 2210.04319).

    ::

        g = g + weight_decay*p
        m = momentum*m + (1 - momentum)*g ;  m_hat = m/(1 - momentum^t)
        N = |m_hat| of this tensor                                            scope = "layer"
        N = sqrt(sum of |m_hat|^2 over all tensors with a gradient)           scope = "global"
        p = p - lr*m_hat/(N + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 4e-5,
        "momentum": 0.9,
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "scope": "layer",
    }

    def check(self) -> None:
        if self.hyper["scope"] not in ("layer", "global"):
            raise ValueError(f"unknown scope {self.hyper['scope']!r}")

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        for slot in active:
            m = slot.ema("m", slot.g + h["weight_decay"] * slot.p, h["momentum"])
            slot.state["m_hat"] = np.asarray(m / (1 - h["momentum"] ** slot.t))
        self.joint = math.sqrt(sum(norm(slot.state["m_hat"]) ** 2 for slot in active))

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        m_hat = slot.state["m_hat"]
        size = self.joint if h["scope"] == "global" else norm(m_hat)
        return p - h["lr"] * m_hat / (size + h["eps"])
