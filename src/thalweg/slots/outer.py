"""What wraps the whole: methods that turn the inner step into another one. They are called with the new parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thalweg.hyper import ANY, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Slot, State


@dataclass(frozen=True)
class Lookahead(Slot):
    """Every k steps the slow weights move part of the way to the fast ones, which restart from there.

    Each parameter counts its own steps; its slow copy starts as the parameter at its first step.
    Source: arXiv 1907.08610, github.com/michaelrzhang/lookahead.
    """

    k: int = 5
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"Invalid k: {self.k!r}; Lookahead needs a whole number of steps of at least 1")
        Hyper(0.5, 0.0, 1.0, open_low=True, open_high=False).check("alpha", self.alpha)

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"slow": State("param")}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"sync": t % self.k == 0, "alpha": self.alpha, "beta": 1 - self.alpha}

    def __call__(self, x: Any, h: Any, old: Any, new: Any) -> Any:
        if not h.sync:
            return new
        x["slow"] = slow = mix(h.beta, x["slow"], h.alpha, new)
        return slow

    def equation(self, x: str = "g") -> str:
        return f"every {self.k} steps: slow <- slow + {self.alpha:g}*(p - slow) ; p <- slow"


@dataclass(frozen=True)
class ScheduleFree(Slot):
    """Schedule-Free averaging: the parameter holds y, between the base iterate z and its average x.

    Gradients are taken at y in ``train()`` mode; ``eval()`` puts x into the parameter. No schedule is needed.
    ``z <- z + step ; x <- (1-c)*x + c*z ; y = beta*x + (1-beta)*z`` with ``c`` the newest weight over the sum of
    weights ``(k+1)^r * lr_max^weight_lr_power``. Source: arXiv 2405.15682, github.com/facebookresearch/schedule_free.
    """

    beta: float = 0.9
    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0
    group_numbers: ClassVar[Mapping[str, float]] = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0, "newest": 0.0}

    def __post_init__(self) -> None:
        Hyper(0.9, 0.0, 1.0, open_low=True).check("beta", self.beta)
        for name in ("r", "weight_lr_power"):
            ANY.check(name, getattr(self, name))
        if isinstance(self.warmup_steps, bool) or not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise ValueError(f"Invalid warmup_steps: {self.warmup_steps!r}; legal is a whole number of at least 0")

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"z": State("param")}

    def _factor(self, k: int) -> float:
        """Warm-up at the k-th update, k = 1, 2, ..."""
        return min(1.0, k / self.warmup_steps) if self.warmup_steps else 1.0

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        group["k"] += 1
        lr = 1.0 if group.get("lr") is None else float(group["lr"])
        group["lr_max"] = max(lr * self._factor(group["k"]), group["lr_max"])
        weight = group["k"] ** self.r * group["lr_max"] ** self.weight_lr_power
        group["weight_sum"] += weight
        group["newest"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        return h["lr"] * self._factor(h["k"])

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        c = h["newest"]
        return {"c": c, "keep": 1 - c, "push": 1 - self.beta * (1 - c)}

    def __call__(self, x: Any, h: Any, old: Any, new: Any) -> Any:
        step = new - old
        z = x["z"]
        x["z"] = z + step
        return mix(1, mix(h.keep, old, h.c, z), h.push, step)

    def equation(self, x: str = "g") -> str:
        warm = f", warm-up {self.warmup_steps}" if self.warmup_steps else ""
        return f"z <- z + (p_new - p) ; x <- (1-c)*x + c*z ; p = y = {self.beta:g}*x + {1 - self.beta:g}*z{warm}"
