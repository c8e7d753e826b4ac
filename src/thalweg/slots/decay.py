"""How weights decay apart from the gradient. A decay slot returns the factor that the parameter keeps."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import DECAY, Hyper, Number, referred, value
from thalweg.slots.base import Request, Slot, mean


@dataclass(frozen=True, repr=False)
class Decoupled(Slot):
    """AdamW's decay: p shrinks by lr*weight_decay, apart from the averages; ``power``: by lr^power*weight_decay."""

    power: int = 1

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": 1 - h["lr"] ** self.power * h["weight_decay"]}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return h["weight_decay"] == 0

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        return h.keep

    def equation(self, x: str = "g") -> str:
        rate = {0: "", 1: "lr*"}.get(self.power, f"lr^{self.power}*")
        return f"p <- p*(1 - {rate}weight_decay)"


@dataclass(frozen=True, repr=False)
class DecoupledByStep(Decoupled):
    """Decoupled decay by the rate of the step itself, where that is not the group's (Adafactor, ASGD)."""

    weight: str = "weight_decay"

    def hypers(self) -> dict[str, Hyper]:
        return {self.weight: DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h[self.weight]}

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        return 1 - lr * h.weight_decay

    def equation(self, x: str = "g") -> str:
        return f"p <- p*(1 - lr*{self.weight})"


@dataclass(frozen=True, repr=False)
class StableDecay(Slot):
    """Stable weight decay (AdamS): decoupled decay over the root of the mean second moment of the whole model."""

    scope = "tensor"
    couples = "model"
    eps: Number = "eps"

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY, **referred(self.eps, Hyper(1e-8))}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"shrink": h["lr"] * h["weight_decay"], "eps": value(h, self.eps)}

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Generator[Request, Any, Any]:
        square = yield mean(v, "model")
        return 1 - h.shrink / square.sqrt().clamp(min=h.eps)

    def equation(self, x: str = "g") -> str:
        return "p <- p*(1 - lr*weight_decay/max(sqrt(mean of v over the model), eps))"


@dataclass(frozen=True, repr=False)
class StableMomentumDecay(Slot):
    """Stable weight decay of SGD with momentum (SGDS): decay matched to the total push a gradient ends up giving."""

    def hypers(self) -> dict[str, Hyper]:
        return {
            "weight_decay": DECAY,
            "momentum": Hyper(0.9, 0.0, 1.0),
            "dampening": Hyper(0.0, 0.0, 1.0, open_high=False),
        }

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": 1 - (1 - h["dampening"]) / (1 - h["momentum"]) * h["lr"] * h["weight_decay"]}

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        return h.keep

    def equation(self, x: str = "g") -> str:
        return "p <- p*(1 - (1-dampening)/(1-momentum)*lr*weight_decay)"
