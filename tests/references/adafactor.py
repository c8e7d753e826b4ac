"""Adafactor with the semantics of fairseq and transformers."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, rms


class Adafactor(Reference):
    """Adafactor (arXiv 1804.04235), as in fairseq and transformers. torch.optim.Adafactor is a different rule.

    ::

        rho   = lr                                            relative_step = False
                min(1e-2 or, with warmup_init, 1e-6*t ; 1/sqrt(t))     relative_step = True
        alpha = rho*max(eps2, rms(p)) with scale_parameter, else rho       p before the decay of this step
        B     = 1 - t^decay_rate                              0 at t = 1
        s     = g^2 + eps1
        two or more axes:   R = B*R + (1 - B)*mean(s, last axis) ;  C = B*C + (1 - B)*mean(s, second-last axis)
                            V = R*C/mean(R over its last axis)
        else:               V = B*V + (1 - B)*s
        u = g/sqrt(V) ;  u = alpha*u/max(1, rms(u)/clip_threshold)
        with beta1:         m = beta1*m + (1 - beta1)*u ;  u = m       no bias correction
        p = p*(1 - weight_decay*alpha) - u

    Only the last two axes are factored; leading axes are a batch. ``eps`` is the pair (eps1, eps2). With
    ``flatten_conv`` the axes after the first are one; without ``factored`` V is the average of s for every tensor.
    ``decay_by``: "lr" has rho in place of alpha in the decay, "lr_squared" rho^2 (PaLM).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": None,
        "eps": (1e-30, 1e-3),
        "clip_threshold": 1.0,
        "decay_rate": -0.8,
        "beta1": None,
        "weight_decay": 0.0,
        "scale_parameter": True,
        "relative_step": True,
        "warmup_init": False,
        "factored": True,
        "flatten_conv": False,
        "decay_by": "step",
    }

    def check(self) -> None:
        h = self.hyper
        if h["relative_step"] == (h["lr"] is not None):
            raise ValueError("give lr if and only if relative_step is False")
        if h["warmup_init"] and not h["relative_step"]:
            raise ValueError("warmup_init needs relative_step")

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        eps1, eps2 = h["eps"]
        rho = h["lr"]
        if h["relative_step"]:
            rho = min(1e-6 * t if h["warmup_init"] else 1e-2, 1 / math.sqrt(t))
        alpha = rho * max(eps2, rms(p)) if h["scale_parameter"] else rho
        keep = 1 - t ** h["decay_rate"]
        s = g * g + eps1
        if g.ndim >= 2 and h["factored"]:
            if h["flatten_conv"]:
                s = s.reshape(len(s), -1)
            rows = slot.state["R"] = keep * slot.state.get("R", 0.0) + (1 - keep) * s.mean(axis=-1)
            cols = slot.state["C"] = keep * slot.state.get("C", 0.0) + (1 - keep) * s.mean(axis=-2)
            share = rows / rows.mean(axis=-1, keepdims=True)
            u = g / np.sqrt(share[..., :, None] * cols[..., None, :]).reshape(g.shape)
        else:
            u = g / np.sqrt(slot.ema("V", s, keep))
        u = alpha * u / max(1.0, rms(u) / h["clip_threshold"])
        if h["beta1"] is not None:
            u = slot.ema("m", u, h["beta1"])
        scale = {"step": alpha, "lr": rho, "lr_squared": rho**2}[h["decay_by"]]
        return p * (1 - h["weight_decay"] * scale) - u
