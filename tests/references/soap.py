"""SOAP: Adam in a slowly turning eigenbasis, with both moments kept in that basis."""

from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, rms


def merged(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Neighbouring axes joined from the left as long as their product is at most `limit`."""
    result: list[int] = []
    for n in shape:
        if result and result[-1] * n <= limit:
            result[-1] *= n
        else:
            result.append(n)
    return tuple(n for n in result if n > 1) or (1,)


class SOAP(Reference):
    """SOAP (arXiv 2409.11321).

    ::

        first update: M_i = (1 - sb)*G_i G_i^T for each axis i, G_i the gradient unfolded along it ;
                      Q_i = eigenvectors of M_i, falling eigenvalues ;  the parameter stays, n = 0
        later:  n = n + 1 ;  g' = g turned by each Q_i^T
                m = b1*m + (1 - b1)*g' ;  v = b2*v + (1 - b2)*g'^2          both in the basis
                u = m/(sqrt(v) + eps), turned back ;  u = u/rms(u) with normalize_grads
                c = sqrt(1 - b2^n)/(1 - b1^n) with correct_bias, else 1
                p = (p - lr*c*u)*(1 - lr*weight_decay)
                M_i = sb*M_i + (1 - sb)*G_i G_i^T
                n divisible by f: order_i = falling diag(Q_i^T M_i Q_i), v sorted along axis i by it,
                                  Q_i = qr(M_i Q_i[:, order_i]) ;  m turned out of the old basis and into the new one

    sb is shampoo_beta, or b2 where that is negative. Axes longer than max_precond_dim, tensors without axes and, unless
    precondition_1d, tensors of one axis have no basis. Eigenvectors are free up to their sign, and where eigenvalues
    coincide up to more than that: tests want gradients of (nearly) full rank along every axis.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 3e-3,
        "betas": (0.95, 0.95),
        "shampoo_beta": -1,
        "eps": 1e-8,
        "weight_decay": 0.01,
        "precondition_frequency": 10,
        "max_precond_dim": 10000,
        "merge_dims": False,
        "precondition_1d": False,
        "normalize_grads": False,
        "correct_bias": True,
    }

    def shape(self, p: Array) -> tuple[int, ...]:
        return merged(p.shape, self.hyper["max_precond_dim"]) if self.hyper["merge_dims"] and p.ndim > 1 else p.shape

    def axes(self, p: Array) -> list[int]:
        if p.ndim < (1 if self.hyper["precondition_1d"] else 2):
            return []
        return [i for i, n in enumerate(self.shape(p)) if n <= self.hyper["max_precond_dim"]]

    def turned(self, slot: Slot, x: Array, back: bool = False) -> Array:
        y = x.reshape(self.shape(slot.p))
        for i in self.axes(slot.p):
            q = slot.state[f"Q{i}"]
            y = np.moveaxis(np.tensordot(q if back else q.T, y, axes=(1, i)), 0, i)
        return np.asarray(y.reshape(slot.p.shape))

    def observe(self, slot: Slot, g: Array) -> None:
        h = self.hyper
        beta = h["betas"][1] if h["shampoo_beta"] < 0 else h["shampoo_beta"]
        for i in self.axes(slot.p):
            unfolded = np.moveaxis(g.reshape(self.shape(slot.p)), i, 0).reshape(self.shape(slot.p)[i], -1)
            product = unfolded @ unfolded.T
            slot.state[f"M{i}"] = beta * slot.state.get(f"M{i}", np.zeros_like(product)) + (1 - beta) * product

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        n = t - 1
        if n == 0:
            self.observe(slot, g)
            for i in self.axes(p):
                slot.state[f"Q{i}"] = np.linalg.eigh(slot.state[f"M{i}"])[1][:, ::-1]
            return p
        rotated = self.turned(slot, g)
        m, v = slot.ema("m", rotated, b1), slot.ema("v", rotated * rotated, b2)
        u = self.turned(slot, m / (np.sqrt(v) + h["eps"]), back=True)
        if h["normalize_grads"]:
            u = u / (rms(u) + 1e-30)
        correction = np.sqrt(1 - b2**n) / (1 - b1**n) if h["correct_bias"] else 1.0
        new = np.asarray((p - h["lr"] * correction * u) * (1 - h["lr"] * h["weight_decay"]))
        self.observe(slot, g)
        if n % h["precondition_frequency"] == 0:
            whole = self.turned(slot, m, back=True)
            v = v.reshape(self.shape(p))
            for i in self.axes(p):
                q, matrix = slot.state[f"Q{i}"], slot.state[f"M{i}"]
                order = np.argsort(-np.diag(q.T @ matrix @ q))
                v = np.take(v, order, axis=i)
                slot.state[f"Q{i}"] = np.linalg.qr(matrix @ q[:, order])[0]
            slot.state["v"] = v.reshape(p.shape)
            slot.state["m"] = self.turned(slot, whole)
        return new
