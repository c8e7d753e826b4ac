"""AdamA, which accumulates micro-batches in Adam's moments."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference, Slot


class AdamA(Reference):
    """AdamA (arXiv 2305.19982): `accumulate` takes a micro-batch's gradients in, `step` the last ones, and moves."""

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    def accumulate(self, grads: Sequence[ArrayLike]) -> None:
        sign = -1.0 if self.hyper["maximize"] else 1.0
        for slot, grad in zip(self.slots, grads, strict=True):
            self.fold(slot, sign * np.array(grad, dtype=np.float64))

    def fold(self, slot: Slot, g: Array) -> None:
        b1, b2 = self.hyper["betas"]
        first = not slot.state.pop("open", None)
        slot.state["m"] = (b1 if first else 1.0) * slot.get("m") + (1 - b1) * g
        slot.state["v"] = (b2 if first else 1.0) * slot.get("v") + (1 - b2) * g * g
        slot.state["open"] = np.ones(1)

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        self.fold(slot, g)
        del slot.state["open"]
        u = slot.get("m") / (1 - b1**t) / (np.sqrt(slot.get("v")) / math.sqrt(1 - b2**t) + h["eps"])
        return p - h["lr"] * (u + h["weight_decay"] * p)
