"""What sets the learning rate, where it is not simply the group's ``lr``."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thalweg.hyper import EPS, Hyper
from thalweg.scalars import least, sqrt
from thalweg.slots.base import Request, Slot, mean


@dataclass(frozen=True, repr=False)
class InverseTime(Slot):
    """Adagrad's optional decay of the rate: lr <- lr/(1 + (t-1)*lr_decay)."""

    def hypers(self) -> dict[str, Hyper]:
        return {"lr": Hyper(1e-2), "lr_decay": Hyper(0.0)}

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        return h["lr"] / (1 + (t - 1) * h["lr_decay"])

    def equation(self, x: str = "g") -> str:
        return "lr <- lr/(1 + (t-1)*lr_decay)"


@dataclass(frozen=True, repr=False)
class LossRate(Slot):
    """AdaLo: one global rate set by an average e of s = 1/(2 + loss), kept per group as ``loss_average``.

    ``mode``: "adversarial" takes small steps while the loss is big, "compliant" (the paper's idea) big ones.
    """

    needs_loss: ClassVar[bool] = True
    group_numbers: ClassVar[Mapping[str, float]] = {"loss_average": 0.0, "loss_count": 0}
    mode: str = "adversarial"
    debias: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"lr": Hyper(1.0), "betas.1": Hyper(0.999, 0.0, 1.0), "kappa": Hyper(3.0, open_low=True), "eps": EPS}

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        if loss is None:
            if group["loss_count"]:
                return
            raise ValueError(
                "AdaLo sets its rate from the loss and has not been given one: call step(loss=loss.detach()),"
                " or pass a closure that returns the loss"
            )
        if not math.isfinite(loss) or loss < 0:
            raise ValueError(
                f"AdaLo needs a finite loss of at least 0, got {loss}; shift a loss that can be negative,"
                " and skip the step where the loss is not finite"
            )
        beta = group["betas"][1]
        group["loss_average"] = beta * group["loss_average"] + (1 - beta) / (2 + loss)
        group["loss_count"] += 1

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        e = h["loss_average"] / (1 - h["betas.1"] ** h["loss_count"] if self.debias else 1)
        return h["lr"] * max((e if self.mode == "adversarial" else 1 - e) / h["kappa"], h["eps"])

    def equation(self, x: str = "g") -> str:
        e = "e" if self.mode == "adversarial" else "(1-e)"
        hat = "/(1-betas.1^t)" if self.debias else ""
        return f"e <- betas.1*e + (1-betas.1)/(2+loss){hat} ; lr <- lr*max({e}/kappa, eps)"


@dataclass(frozen=True, repr=False)
class RelativeRate(Slot):
    """Adafactor: rho, times the root mean square of the parameter where ``parameter_scale``.

    rho is ``lr``, or with ``relative`` min(1e-2, 1/sqrt(t)), rising as 1e-6*t instead of 1e-2 with ``warmup``.
    ``capped`` (torch.optim): rho is min(lr, 1/sqrt(t)), which the decay does not see.
    """

    parameter_scale: bool = True
    relative: bool = True
    warmup: bool = False
    capped: bool = False

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "tensor" if self.parameter_scale else "element"

    def hypers(self) -> dict[str, Hyper]:
        found = {"lr": Hyper(None)} if self.relative else {"lr": Hyper(1e-3)}
        return {**found, "eps.1": Hyper(1e-3)} if self.parameter_scale else found

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        if not self.relative:
            return h["lr"]
        return least(1e-6 * t if self.warmup else 1e-2, 1 / sqrt(t))

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        rho = least(h["lr"], 1 / sqrt(t)) if self.capped else h["lr"]
        return {"rho": rho, **({"eps": h["eps.1"]} if self.parameter_scale else {})}

    def __call__(self, x: Any, h: Any) -> Generator[Request, Any, Any]:
        if not self.parameter_scale:
            return h.rho
        square = yield mean(x.param * x.param)
        return square.sqrt().clamp(min=h.eps) * h.rho

    def equation(self, x: str = "g") -> str:
        rho = f"min({'1e-6*t' if self.warmup else '1e-2'}, 1/sqrt(t))" if self.relative else "lr"
        rho = "min(lr, 1/sqrt(t))" if self.capped else rho
        return f"lr <- max(eps.1, rms(p))*{rho}" if self.parameter_scale else f"lr <- {rho}"
