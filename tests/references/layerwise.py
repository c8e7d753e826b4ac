"""Methods that measure a step, or a tensor, against the tensor's own size: LARS, LARC, AdamCPR, AdamW^2."""

from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, norm
from .sgd import descent


class LARS(Reference):
    """LARS (arXiv 1708.03888) as in timm, and with ``lr_inside`` as in the paper.

    ::

        q = trust_coeff*|p|/(|g| + weight_decay*|p| + eps), or 1 where |p| = 0 or |g| = 0
        q = min(q/lr, 1)                                with trust_clip
        q = 1                                           where weight_decay = 0, without always_adapt
        d = q*(g + weight_decay*p)
        p = p - lr*(momentum of d as in SGD)            or  v = momentum*v + lr*d ;  p = p - v
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 5e-4,
        "nesterov": False,
        "trust_coeff": 1e-3,
        "eps": 1e-8,
        "trust_clip": False,
        "always_adapt": False,
        "lr_inside": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        lr, decay = h["lr"], h["weight_decay"]
        q = 1.0
        if decay != 0 or h["always_adapt"]:
            if norm(p) > 0 and norm(g) > 0:
                q = h["trust_coeff"] * norm(p) / (norm(g) + decay * norm(p) + h["eps"])
            if h["trust_clip"]:
                q = min(q / lr, 1.0) if lr > 0 else 1.0
        d = q * (g + decay * p)
        if not h["lr_inside"]:
            return p - lr * descent(slot, d, h["momentum"], h["dampening"], h["nesterov"])
        if h["momentum"] == 0:
            return p - lr * d
        slot.state["v"] = v = h["momentum"] * slot.get("v") + lr * d
        return p - (lr * d + h["momentum"] * v if h["nesterov"] else v)


class LARC(Reference):
    """LARC (arXiv 1708.03888) as in apex: the gradient alone, not even decayed, where a norm is 0.

    ::

        q = trust_coefficient*|p|/(|g| + weight_decay*|p| + eps) ;  q = min(q/lr, 1) with clip
        d = q*(g + weight_decay*p), or g where |p| = 0 or |g| = 0
        p = p - lr*(momentum of d as in SGD)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 0.1,
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "trust_coefficient": 0.02,
        "clip": True,
        "eps": 1e-8,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if norm(p) > 0 and norm(g) > 0:
            q = h["trust_coefficient"] * norm(p) / (norm(g) + h["weight_decay"] * norm(p) + h["eps"])
            if h["clip"]:
                q = min(q / h["lr"], 1.0) if h["lr"] > 0 else 1.0
            g = q * (g + h["weight_decay"] * p)
        return p - h["lr"] * descent(slot, g, h["momentum"], h["dampening"], h["nesterov"])


def adam_direction(slot: Slot, g: Array, t: int, betas: tuple[float, float], eps: float) -> Array:
    """m_hat/(sqrt(v_hat) + eps)."""
    m = slot.ema("m", g, betas[0]) / (1 - betas[0] ** t)
    v = slot.ema("v", g * g, betas[1]) / (1 - betas[1] ** t)
    return m / (np.sqrt(v) + eps)


def measure(p: Array, how: str) -> tuple[float, Array]:
    """The size of a tensor and its derivative."""
    if how == "l2":
        return float(np.sum(p**2)), 2 * p
    if how == "l1":
        return float(np.sum(np.abs(p))), np.sign(p)
    if how == "huber":
        inside = np.abs(p) < 1
        return float(np.sum(np.where(inside, p**2 / 2, np.abs(p) - 0.5))), np.where(inside, p, np.sign(p))
    if p.size < 2 or np.ptp(p) == 0:
        return 0.0, np.zeros_like(p)
    deviation = float(np.std(p, ddof=1))
    return deviation, (p - np.mean(p)) / ((p.size - 1) * deviation)


class AdamCPR(Reference):
    """Adam with constrained parameter regularisation (arXiv 2311.09058); R is ``reg_function``.

    ::

        p = p*(1 - lr*weight_decay) - lr*Adam's direction
        lam = max(0, lam + kappa_update/n*(R(p) - kappa))        "std": kappa_update alone ; lam = 0 at first
        p = p - lam*dR(p)                                        reg_by_lr: lr*lam

    kappa is kappa_init_param ("uniform"), kappa_init_param*R(p) before the first step ("dependent"), or R(p) at step
    kappa_init_param ("warm_start", active from the next step). "inflection_point": every 200 steps the average
    e = 0.9*e + 0.1*R(p) is taken; at the fourth or a later look where its difference from the look before is smaller
    than the difference then, kappa = R(p), active from the next step.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "kappa_init_method": "inflection_point",
        "kappa_init_param": 1000.0,
        "reg_function": "l2",
        "kappa_update": 1.0,
        "reg_by_lr": False,
        "weight_decay": 0.0,
    }
    period = 200

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        method, how, value = h["kappa_init_method"], h["reg_function"], h["kappa_init_param"]
        kept: dict[str, Any] = slot.state
        if method == "uniform":
            kept["kappa"] = value
        if method == "dependent" and t == 1:
            kept["kappa"] = value * measure(p, how)[0]
        p = p * (1 - h["lr"] * h["weight_decay"])
        p = p - h["lr"] * adam_direction(slot, g, t, h["betas"], h["eps"])
        size, slope = measure(p, how)
        if "kappa" in kept:
            per = h["kappa_update"] / (1 if how == "std" else p.size)
            kept["lam"] = max(0.0, kept.get("lam", 0.0) + per * (size - kept["kappa"]))
            p = p - kept["lam"] * slope * (h["lr"] if h["reg_by_lr"] else 1.0)
        elif method == "warm_start" and t == value:
            kept["kappa"] = size
        elif method == "inflection_point" and t % self.period == 0:
            looks = kept.setdefault("looks", [0.0])
            looks.append(0.9 * looks[-1] + 0.1 * size)
            if len(looks) > 4 and looks[-1] - looks[-2] < looks[-2] - looks[-3]:
                kept["kappa"] = size
        return p


class AdamW2(Reference):
    """AdamW^2 (arXiv 2505.21910): a step no longer than tau of the matrix, by the largest singular value s(.).

    ::

        A = Adam's direction ;  a = min(lr, tau*s(p)/s(A))       lr where p has fewer than two axes or s is 0
        p = p - a*A - a*weight_decay*p

    ``sigma`` is "svd" or "power": power_iters times v = M^T u/|.|, s = |M v|, u = M v/|.|, u at first ones/sqrt(rows).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "tau": 0.01,
        "sigma": "svd",
        "power_iters": None,
    }

    def largest(self, slot: Slot, name: str, matrix: Array) -> float:
        """The largest singular value, axes after the first flattened."""
        matrix = matrix.reshape(matrix.shape[0], -1)
        if self.hyper["sigma"] == "svd":
            return float(np.linalg.svd(matrix, compute_uv=False)[0])
        rows = matrix.shape[0]
        u = slot.state.get(name, np.full(rows, rows**-0.5))
        size = 0.0
        for _ in range(self.hyper["power_iters"]):
            v = matrix.T @ u
            if norm(v) == 0:
                return 0.0
            w = matrix @ (v / norm(v))
            size = norm(w)
            u = w / size
        slot.state[name] = u
        return size

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        a = h["lr"]
        direction = adam_direction(slot, g, t, h["betas"], h["eps"])
        if p.ndim >= 2:
            own, step = self.largest(slot, "own", p), self.largest(slot, "step", direction)
            if own > 0 and step > 0:
                a = min(a, h["tau"] * own / step)
        return p - a * direction - a * h["weight_decay"] * p
