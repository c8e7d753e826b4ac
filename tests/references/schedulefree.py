"""Schedule-Free SGD and AdamW, written with the average x and the base iterate z rather than the usual y and z."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference, Slot


class ScheduleFree(Reference):
    """The averaging of arXiv 2405.15682; the subclasses supply the direction d taken at y.

    ::

        k = steps of the model before this one
        gam = lr*min(1, (k + 1)/warmup_steps) ;  lr_max = max(lr_max, gam)
        wt = (k + 1)^r*lr_max^weight_lr_power ;  W = W + wt ;  c = wt/W, 0 if W = 0
        z = z - gam*d ;  x = (1 - c)*x + c*z ;  y = beta*x + (1 - beta)*z

    The parameters hold y while training and x after `eval`. x = y = z = p at the first update of a tensor. k, lr_max
    and W belong to the model and advance in every step in which some tensor has a gradient. The weight decay is part
    of d and acts at y.
    """

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        super().__init__(params, **hyper)
        self.training = True
        self.k = 0
        self.lr_max = -1.0
        self.weight_sum = 0.0

    @property
    def beta(self) -> float:
        """The weight of x in y."""
        raise NotImplementedError

    def direction(self, slot: Slot, y: Array, g: Array, t: int) -> Array:
        """The direction d at y, weight decay included."""
        raise NotImplementedError

    def train(self) -> None:
        """Let the parameters be y, where gradients are taken."""
        self.training = True
        for slot in self.slots:
            if slot.t:
                slot.p = np.asarray(self.beta * slot.state["x"] + (1 - self.beta) * slot.state["z"])

    def eval(self) -> None:
        """Let the parameters be the average x, which is to be evaluated and saved."""
        self.training = False
        for slot in self.slots:
            if slot.t:
                slot.p = slot.state["x"].copy()

    def check_step(self, loss: float | None) -> None:
        if not self.training:
            raise RuntimeError("call train() before step()")

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        warm = (self.k + 1) / h["warmup_steps"] if self.k < h["warmup_steps"] else 1.0
        self.gam = h["lr"] * warm
        self.lr_max = max(self.lr_max, self.gam)
        weight = (self.k + 1) ** h["r"] * self.lr_max ** h["weight_lr_power"]
        self.weight_sum += weight
        self.c = weight / self.weight_sum if self.weight_sum > 0 else 0.0
        self.k += 1

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        d = self.direction(slot, p, g, t)
        z = np.asarray(slot.state.get("z", p) - self.gam * d)
        x = np.asarray((1 - self.c) * slot.state.get("x", p) + self.c * z)
        slot.state.update(z=z, x=x)
        return self.beta * x + (1 - self.beta) * z


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD (arXiv 2405.15682): d = g + weight_decay*y, beta = momentum."""

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
    }

    @property
    def beta(self) -> float:
        return self.hyper["momentum"]

    def direction(self, slot: Slot, y: Array, g: Array, t: int) -> Array:
        return g + self.hyper["weight_decay"] * y


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW (arXiv 2405.15682, authors' package from version 1.3 on), beta = betas[0].

    ::

        v = b2*v + (1 - b2)*g^2 ;  d = g/(sqrt(v/(1 - b2^t)) + eps) + weight_decay*y

    There is no first moment. t counts the updates of the tensor, unlike k.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 2.5e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
    }

    @property
    def beta(self) -> float:
        return self.hyper["betas"][0]

    def direction(self, slot: Slot, y: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b2 = h["betas"][1]
        v = slot.ema("v", g * g, b2)
        return g / (np.sqrt(v / (1 - b2**t)) + h["eps"]) + h["weight_decay"] * y
