"""The classics: lr inside the momentum, eps inside the root, RMSpropV2, Adadelta, ASGD, Rprop, and Adam on rows."""

from typing import Any, ClassVar

import numpy as np

from . import adaptive, sgd
from .base import Array, Reference, Slot


def buffered(slot: Slot, u: Array, momentum: float) -> Array:
    """The buffer b, zero at first, after b = momentum*b + u."""
    slot.state["buffer"] = momentum * slot.get("buffer") + u
    return slot.state["buffer"]


class SGD(sgd.SGD):
    """SGD, with the learning rate inside the momentum as an option (Sutskever et al. 2013; Caffe).

    ::

        lr_inside:   v = momentum*v + (1 - dampening)*lr*g, at the first update v = lr*g
                     p = p - v          p = p - (lr*g + momentum*v) with nesterov
    """

    defaults: ClassVar[dict[str, Any]] = {**sgd.SGD.defaults, "lr_inside": False}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if not h["lr_inside"]:
            return super().update(slot, p, g, t)
        push = h["lr"] * (g + h["weight_decay"] * p)
        return p - sgd.descent(slot, push, h["momentum"], h["dampening"], h["nesterov"])


class Adagrad(adaptive.Adagrad):
    """Adagrad (Duchi, Hazan & Singer 2011) with eps inside the root as an option: p = p - lr*g/sqrt(a + eps)."""

    defaults: ClassVar[dict[str, Any]] = {**adaptive.Adagrad.defaults, "eps_inside": False}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if not h["eps_inside"]:
            return super().update(slot, p, g, t)
        g = g + h["weight_decay"] * p
        a = slot.state["sum"] = slot.get("sum", h["initial_accumulator_value"]) + g**2
        return p - h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / np.sqrt(a + h["eps"])


class RMSprop(Reference):
    """RMSprop (Hinton 2012; centred: arXiv 1308.0850) with the options of TensorFlow's and timm's form.

    ::

        g = g + weight_decay*p          decoupled:  p = p*(1 - lr*weight_decay)
        v = alpha*v + (1 - alpha)*g^2                 v = initial_square_avg at first
        d = v            centred:  a = alpha*a + (1 - alpha)*g ;  d = max(v - a^2, 0)
        q = g/(sqrt(d) + eps)                         eps_inside:  g/sqrt(d + eps)
        p = p - lr*q                                  momentum:    b = momentum*b + q ;     p = p - lr*b
                                                      lr_inside:   b = momentum*b + lr*q ;  p = p - b
    """

    defaults: ClassVar[dict[str, Any]] = {
        **adaptive.RMSprop.defaults,
        "eps_inside": False,
        "lr_inside": False,
        "initial_square_avg": 0.0,
        "decoupled_weight_decay": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if h["decoupled_weight_decay"]:
            p = p * (1 - h["lr"] * h["weight_decay"])
        else:
            g = g + h["weight_decay"] * p
        d = slot.state["v"] = h["alpha"] * slot.get("v", h["initial_square_avg"]) + (1 - h["alpha"]) * g**2
        if h["centered"]:
            d = np.maximum(d - slot.ema("a", g, h["alpha"]) ** 2, 0.0)
        q = g / (np.sqrt(d + h["eps"]) if h["eps_inside"] else np.sqrt(d) + h["eps"])
        if h["momentum"] == 0:
            return p - h["lr"] * q
        if h["lr_inside"]:
            return p - buffered(slot, h["lr"] * q, h["momentum"])
        return p - h["lr"] * buffered(slot, q, h["momentum"])


class RMSpropV2(Reference):
    """RMSpropV2 (bytedance/monolith, 2022; no paper): the sum of squares is not normalised.

    ::

        g = g + weight_decay*p
        v = alpha*v + g^2
        q = g/sqrt(v + eps)             eps_inside = False:  g/(sqrt(v) + eps)
        p = p - lr*q                    momentum:  b = momentum*b + lr*q ;  p = p - b
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "alpha": 0.9,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "eps_inside": True,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        v = slot.state["v"] = h["alpha"] * slot.get("v") + g * g
        step = h["lr"] * g / (np.sqrt(v + h["eps"]) if h["eps_inside"] else np.sqrt(v) + h["eps"])
        return p - (buffered(slot, step, h["momentum"]) if h["momentum"] else step)


class Adadelta(Reference):
    """Adadelta (arXiv 1212.5701), with torch's lr and L2 decay.

    ::

        g = g + weight_decay*p
        v = rho*v + (1 - rho)*g^2
        d = sqrt(u + eps)/sqrt(v + eps)*g             u of the steps before this one
        u = rho*u + (1 - rho)*d^2
        p = p - lr*d
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        v = slot.ema("v", g * g, h["rho"])
        d = np.sqrt(slot.get("u") + h["eps"]) / np.sqrt(v + h["eps"]) * g
        slot.ema("u", d * d, h["rho"])
        return p - h["lr"] * d


class SparseAdam(Reference):
    """Adam in the form of torch.optim.SparseAdam (arXiv 1412.6980, eps hat of its section 2); ``rows`` are touched.

    ::

        of the named rows:  g = g + weight_decay*p
                            m = b1*m + (1 - b1)*g ;  v = b2*v + (1 - b2)*g^2
                            p = p - lr*sqrt(1 - b2^t)/(1 - b1^t) * m/(sqrt(v) + eps)

    Without ``rows``, a list of row numbers for each tensor set before the step, all rows are.
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    rows: list[list[int]] | None = None

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        g = g + h["weight_decay"] * p
        m, v, p = slot.get("m").copy(), slot.get("v").copy(), p.copy()
        index = next(i for i, s in enumerate(self.slots) if s is slot)
        named = ... if self.rows is None else self.rows[index]
        m[named] = b1 * m[named] + (1 - b1) * g[named]
        v[named] = b2 * v[named] + (1 - b2) * g[named] ** 2
        scale = h["lr"] * np.sqrt(1 - b2**t) / (1 - b1**t)
        p[named] -= scale * m[named] / (np.sqrt(v[named]) + h["eps"])
        slot.state.update(m=m, v=v)
        return p


class ASGD(Reference):
    """Averaged SGD in torch's form (Polyak & Juditsky 1992; Bottou's sgd).

    ::

        g = g + weight_decay*p
        p = p*(1 - lambd*eta) - eta*g                 eta = lr at the first update
        ax = ax + mu*(p - ax)                         mu = 1 at the first update
        eta = lr/(1 + lambd*lr*t)^alpha ;  mu = 1/max(1, t - t0)          for the next update
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "lambd": 1e-4,
        "alpha": 0.75,
        "t0": 1e6,
        "weight_decay": 0.0,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        eta, mu = slot.state.get("eta", h["lr"]), slot.state.get("mu", 1.0)
        p = p * (1 - h["lambd"] * eta) - eta * g
        slot.state["ax"] = slot.get("ax") + mu * (p - slot.get("ax"))
        slot.state["eta"] = h["lr"] / (1 + h["lambd"] * h["lr"] * t) ** h["alpha"]
        slot.state["mu"] = 1 / max(1, t - h["t0"])
        return p


class Rprop(Reference):
    """Rprop without way back, iRprop- (Riedmiller & Braun 1993; Igel & Huesken 2000).

    ::

        g = g + weight_decay*p
        f = eta_plus where g*prev > 0, eta_minus where g*prev < 0, else 1
        step = clip(step*f, smallest, largest)        step = lr at first
        g = 0 where g*prev < 0 ;  p = p - step*sign(g) ;  prev = g
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "etas": (0.5, 1.2),
        "step_sizes": (1e-6, 50.0),
        "weight_decay": 0.0,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        g = g + h["weight_decay"] * p
        agreement = np.sign(g * slot.get("prev"))
        factor = np.choose((agreement + 1).astype(int), [h["etas"][0], 1.0, h["etas"][1]])
        step = slot.state["step"] = np.clip(slot.get("step", h["lr"]) * factor, *h["step_sizes"])
        g = slot.state["prev"] = np.where(agreement < 0, 0.0, g)
        return p - step * np.sign(g)
