"""Muon: momentum, orthogonalised by a Newton-Schulz iteration in float64."""

import math
from typing import Any, ClassVar

from .base import Array, Reference, Slot, norm


def newton_schulz(x: Array, steps: int, coefficients: tuple[float, float, float], eps: float) -> Array:
    """Drive the singular values of a matrix towards 1: x = a*x + (b*A + c*A^2)*x with A = x*x^T, on the wide side."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(Reference):
    """Muon (Keller Jordan 2024; the scale "moonlight" from arXiv 2502.16982).

    ::

        b = momentum*b + (1 - momentum)*g
        u = (1 - momentum)*g + momentum*b with nesterov, else b
        U = u as a matrix: the first axis against all the others ;  O = newton_schulz(U)
        scale = sqrt(max(1, rows/cols))  "keller"     0.2*sqrt(max(rows, cols))  "moonlight"     1  "none"
        p = p*(1 - lr*weight_decay) - lr*scale*O

    rows and cols are those of U. Defined for two or more axes; vectors and scalars belong to another optimizer and are
    refused. Published code runs the iteration in bfloat16, so its results agree to about 1e-3 only.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 0.02,
        "weight_decay": 0.0,
        "momentum": 0.95,
        "nesterov": True,
        "eps": 1e-7,
        "ns_steps": 5,
        "ns_coefficients": (3.4445, -4.7750, 2.0315),
        "adjust_lr": "keller",
    }

    def check(self) -> None:
        if self.hyper["adjust_lr"] not in ("keller", "moonlight", "none"):
            raise ValueError(f"unknown adjust_lr {self.hyper['adjust_lr']!r}")
        if any(slot.p.ndim < 2 for slot in self.slots):
            raise ValueError("Muon needs tensors of two or more axes")

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        mu = h["momentum"]
        b = slot.ema("b", g, mu)
        u = (1 - mu) * g + mu * b if h["nesterov"] else b
        matrix = u.reshape(u.shape[0], -1)
        rows, cols = matrix.shape
        direction = newton_schulz(matrix, h["ns_steps"], tuple(h["ns_coefficients"]), h["eps"]).reshape(p.shape)
        scale = {
            "keller": math.sqrt(max(1.0, rows / cols)),
            "moonlight": 0.2 * math.sqrt(max(rows, cols)),
            "none": 1.0,
        }[h["adjust_lr"]]
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * scale * direction
