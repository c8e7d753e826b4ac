"""AdaLo, whose learning rate follows the loss."""

from typing import Any, ClassVar

from .base import Array, Reference, Slot


class AdaLo(Reference):
    """AdaLo (Information Sciences 690 (2025) 121607), after the published code cpuimage/AdaLo, not the paper.

    ::

        e = b2*e + (1 - b2)/(2 + loss)              one scalar for the model, 0 at first, no bias correction
        a = max(e/kappa, eps)                       mode = "adversarial": a large loss gives a small rate
        a = max((1 - e)/kappa, eps)                 mode = "compliant":   a large loss gives a large rate
        m = b1*m + (1 - b1)*g                       no bias correction
        p = p*(1 - a*weight_decay) - a*m

    There is no lr. A step without a loss leaves e as it is; the very first one needs a loss. The loss enters as it is
    given, also with ``maximize``. Losses at or below -1 are refused, where the published code returns NaN.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "weight_decay": 1e-2,
        "kappa": 3.0,
        "eps": 1e-8,
        "mode": "adversarial",
    }

    e: float | None = None

    def check(self) -> None:
        if self.hyper["mode"] not in ("adversarial", "compliant"):
            raise ValueError(f"unknown mode {self.hyper['mode']!r}")

    def check_step(self, loss: float | None) -> None:
        if loss is None and self.e is None:
            raise ValueError("AdaLo needs the loss in its first step")
        if loss is not None and not loss > -1:
            raise ValueError(f"AdaLo is not defined for a loss of {loss}")

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        b2 = self.hyper["betas"][1]
        if loss is not None:
            self.e = b2 * (self.e or 0.0) + (1 - b2) / (2 + loss)

    @property
    def rate(self) -> float:
        """The learning rate a of the last step."""
        e = self.e if self.hyper["mode"] == "adversarial" else 1 - self.e
        return max(e / self.hyper["kappa"], self.hyper["eps"])

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        m = slot.ema("m", g, h["betas"][0])
        return p * (1 - self.rate * h["weight_decay"]) - self.rate * m
