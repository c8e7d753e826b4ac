"""Adam and its nearest relatives: AdamW, NAdam, AdamS."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot


def decayed(h: dict[str, Any], p: Array, g: Array) -> tuple[Array, Array]:
    """Parameter and gradient after weight decay: decoupled on the parameter, or coupled (L2) on the gradient."""
    if h["decoupled_weight_decay"]:
        return p * (1 - h["lr"] * h["weight_decay"]), g
    return p, g + h["weight_decay"] * p


class Adam(Reference):
    """Adam with torch's AMSGrad option (arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018).

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        w = v                           amsgrad:  x = max(x, v) ;  w = x
        p = p - lr * m/(1 - b1^t) / (sqrt(w/(1 - b2^t)) + eps)

    The maximum of AMSGrad is taken over the uncorrected v, the bias correction follows; ``amsgrad_convention`` "optax"
    takes it over the corrected v, "paper" corrects neither m nor v. ``epsilon_hat``: m/(1 - b1^t) times
    sqrt(1 - b2^t)/(sqrt(w) + eps).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "decoupled_weight_decay": False,
        "epsilon_hat": False,
        "amsgrad_convention": "torch",
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        p, g = decayed(self.hyper, p, g)
        return p - self.hyper["lr"] * self.direction(slot, g, t)

    def direction(self, slot: Slot, g: Array, t: int) -> Array:
        """m_hat/(sqrt(w_hat) + eps)."""
        h = self.hyper
        b1, b2 = h["betas"]
        m = slot.ema("m", g, b1)
        w = slot.ema("v", g * g, b2)
        convention = h.get("amsgrad_convention", "torch")
        if h["amsgrad"]:
            if convention == "optax":
                w = w / (1 - b2**t)
            w = slot.state["max"] = np.maximum(slot.get("max"), w)
        if convention == "paper":
            return m / (np.sqrt(w) + h["eps"])
        if convention == "optax":
            return m / (1 - b1**t) / (np.sqrt(w) + h["eps"])
        if h.get("epsilon_hat"):
            return m / (1 - b1**t) * math.sqrt(1 - b2**t) / (np.sqrt(w) + h["eps"])
        return (m / (1 - b1**t)) / (np.sqrt(w / (1 - b2**t)) + h["eps"])


class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv 1711.05101), scaled by lr as in torch.

    ::

        p = p*(1 - lr*weight_decay)
        then the Adam step with the raw gradient
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "amsgrad": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * self.direction(slot, g, t)


class NAdam(Reference):
    """NAdam (Dozat, ICLR 2016 workshop), in torch's form with the schedule of mu.

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        mu_t = b1*(1 - 0.5*0.96^(t*momentum_decay)) ;  P = P*mu_t, P = 1 before the first update
        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2 ;  d = sqrt(v/(1 - b2^t)) + eps
        p = p - lr*(1 - mu_t)/(1 - P)*g/d - lr*mu_{t+1}/(1 - P*mu_{t+1})*m/d

    The product P belongs to the tensor, like t. Other conventions, with a constant momentum, replace the last line::

        constant:  p = p - lr*(b1*m/(1 - b1^(t+1)) + (1 - b1)*g/(1 - b1^t))/d
        simple:    p = p - lr*(b1*m + (1 - b1)*g)/(1 - b1^(t+1))/d
        raw:       p = p - lr*(b1*m + (1 - b1)*g)/(sqrt(v) + eps)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "convention": "torch",
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        p, g = decayed(h, p, g)
        mu = b1 * (1 - 0.5 * 0.96 ** (t * h["momentum_decay"]))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * h["momentum_decay"]))
        product = slot.state["product"] = slot.state.get("product", np.float64(1.0)) * mu
        m = slot.ema("m", g, b1)
        v = slot.ema("v", g * g, b2)
        d = np.sqrt(v / (1 - b2**t)) + h["eps"]
        if h["convention"] == "constant":
            return p - h["lr"] * (b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)) / d
        if h["convention"] == "simple":
            return p - h["lr"] * (b1 * m + (1 - b1) * g) / (1 - b1 ** (t + 1)) / d
        if h["convention"] == "raw":
            return p - h["lr"] * (b1 * m + (1 - b1) * g) / (np.sqrt(v) + h["eps"])
        return p - h["lr"] * (1 - mu) / (1 - product) * g / d - h["lr"] * mu_next / (1 - product * mu_next) * m / d


class AdamS(Reference):
    """Adam with stable weight decay (arXiv 2011.11152). Not the optimizer of the same name from 2025.

    ::

        m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
        v_hat = v/(1 - b2^t)            amsgrad:  x = max(x, v) ;  v_hat = x/(1 - b2^t)
        vb = max(sqrt(mean of v_hat over all entries of all tensors with a gradient), eps)
        p = p*(1 - lr*weight_decay/vb)
        p = p - lr * m/(1 - b1^t) / (sqrt(v_hat) + eps)

    vb is one scalar for the model. The authors have no lower bound on it and fail when all gradients are zero.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-4,
        "amsgrad": False,
    }

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        b1, b2 = h["betas"]
        total, entries = 0.0, 0
        for slot in active:
            slot.ema("m", slot.g, b1)
            w = slot.ema("v", slot.g * slot.g, b2)
            if h["amsgrad"]:
                w = slot.state["max"] = np.maximum(slot.get("max"), w)
            slot.state["v_hat"] = np.asarray(w / (1 - b2**slot.t))
            total += float(np.sum(slot.state["v_hat"]))
            entries += slot.p.size
        self.vb = max(math.sqrt(total / entries), h["eps"])

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        p = p * (1 - h["lr"] * h["weight_decay"] / self.vb)
        m_hat = slot.state["m"] / (1 - h["betas"][0] ** t)
        return p - h["lr"] * m_hat / (np.sqrt(slot.state["v_hat"]) + h["eps"])
