"""Further forms of the outer methods: Schedule-Free with other rates, and Lookahead that acts on the momentum too."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference, Slot
from .lookahead import Lookahead
from .schedulefree import ScheduleFree, ScheduleFreeAdamW


class ScheduleFreeAdam(ScheduleFreeAdamW):
    """Schedule-Free AdamW (arXiv 2405.15682) with two options.

    ::

        inner_momentum b:  m = b*m + (1 - b)*g ;  m/(1 - b^t) takes the place of g in the direction
        paper:             gam = lr*warm-up*sqrt(1 - b2^(k + 1)) ;  d = g/(sqrt(v) + eps) + weight_decay*y
    """

    defaults: ClassVar[dict[str, Any]] = {**ScheduleFreeAdamW.defaults, "inner_momentum": 0.0, "paper": False}

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        given = self.hyper["lr"]
        if self.hyper["paper"]:
            self.hyper["lr"] = given * np.sqrt(1 - self.hyper["betas"][1] ** (self.k + 1))
        super().prepare(active, loss)
        self.hyper["lr"] = given

    def direction(self, slot: Slot, y: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b2, inner = h["betas"][1], h["inner_momentum"]
        v = slot.ema("v", g * g, b2)
        if not h["paper"]:
            v = v / (1 - b2**t)
        if inner:
            g = slot.ema("m", g, inner) / (1 - inner**t)
        return g / (np.sqrt(v) + h["eps"]) + h["weight_decay"] * y


class ScheduleFreeRAdam(ScheduleFree):
    """Schedule-Free RAdam (the package of arXiv 2405.15682), beta = betas[0], with K = k + 1 the steps so far.

    ::

        rho_inf = 2/(1 - b2) - 1 ;  rho = rho_inf - 2*K*b2^K/(1 - b2^K) ;  v = b2*v + (1 - b2)*g^2
        rho > 4:  gam = lr*sqrt((rho - 4)*(rho - 2)*rho_inf/((rho_inf - 4)*(rho_inf - 2)*rho))
                  d = g/(sqrt(v/(1 - b2^t)) + eps) + weight_decay*y
        else:     gam = 0 with silent_sgd_phase, lr without ;  d = g + weight_decay*y
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 2.5e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "silent_sgd_phase": True,
    }

    @property
    def beta(self) -> float:
        return self.hyper["betas"][0]

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        given, b2, steps = self.hyper["lr"], self.hyper["betas"][1], self.k + 1
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * steps * b2**steps / (1 - b2**steps)
        self.adaptive = rho > 4
        if self.adaptive:
            factor = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        else:
            factor = 0.0 if self.hyper["silent_sgd_phase"] else 1.0
        self.hyper.update(lr=given * factor, warmup_steps=0)
        super().prepare(active, loss)
        self.hyper["lr"] = given

    def direction(self, slot: Slot, y: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b2 = h["betas"][1]
        v = slot.ema("v", g * g, b2)
        if self.adaptive:
            g = g / (np.sqrt(v / (1 - b2**t)) + h["eps"])
        return g + h["weight_decay"] * y


class MomentumLookahead(Lookahead):
    """Lookahead that treats the inner momentum m at each pull.

    ::

        pullback:  slow_m = slow_m + alpha*(m - slow_m) from slow_m = 0 ;  m = slow_m
        reset:     m = 0
    """

    def __init__(self, inner: Reference, k: int = 5, alpha: float = 0.5, momentum: str = "keep") -> None:
        super().__init__(inner, k, alpha)
        self.momentum = momentum
        self.slow_momentum: dict[int, Array] = {}

    def step(self, grads: Sequence[ArrayLike | None], loss: float | None = None) -> None:
        super().step(grads, loss)
        for i, grad in enumerate(grads):
            slot = self.inner.slots[i]
            if grad is None or slot.t % self.k or self.momentum == "keep":
                continue
            name = next(name for name in ("buffer", "m") if name in slot.state)
            if self.momentum == "reset":
                slot.state[name] = np.zeros_like(slot.p)
            else:
                slow = self.slow_momentum.get(i, np.zeros_like(slot.p))
                self.slow_momentum[i] = slow + self.alpha * (slot.state[name] - slow)
                slot.state[name] = self.slow_momentum[i].copy()
