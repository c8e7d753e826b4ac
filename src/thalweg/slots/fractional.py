"""Fractional-order gradients: weighted sums of the last ones (Gruenwald-Letnikov)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import Hyper, Number, check, referred
from thalweg.hyper import value as number
from thalweg.ops import mix
from thalweg.slots.base import Slot, State
from thalweg.techniques import technique

#: Legal orders, by rule.
ORDERS = {
    "paper": Hyper(0.9, 0.0, 1.0, open_low=True, open_high=False),
    "gl": Hyper(0.9, 0.0, 1.0, open_low=True, open_high=False),
    "adagl": Hyper(0.9, 0.0, 2.0, open_high=False),
}


@technique("fractional", source="Zhou, Zhao & Huang, Mathematics 11(2) 316 (2023)")
@dataclass(frozen=True, repr=False)
class Fractional(Slot):
    """A derivative of fractional order: the gradient plus a fading, weighted sum of the last ones.

    ``D = g + w_1*g_1 + ... + w_K*g_K`` with g_j the gradient of j steps ago (0 before the first), w_0 = 1 and
    "paper": ``w_j = (1 - (alpha+1)/(j+1))*w_(j-1)``, as the FCGD paper is restated; "gl": ``(1 - alpha/j)*w_(j-1)``,
    the order-alpha derivative of the loss; "adagl": ``(1 - (alpha+1)/j)*w_(j-1)``, the order-alpha difference of
    gradients. At alpha = 1 the first two are the plain gradient, the third is its change.

    Args:
        alpha: 0 < x <= 1 ("adagl": 0 <= x <= 2), or the name of a number in the parameter group.
        history: K, the gradients kept, a whole number >= 1; 4 bytes per parameter each.
        weights: "paper", "gl" or "adagl".
        disturb: leave out one of the K terms in every step, another each time; which follows from the step's number, so
            that runs and replicas agree.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, techniques=[thalweg.Fractional(alpha=0.5, history=2, weights="gl")])
        >>> for _ in range(2):
        ...     p.grad = torch.ones(2); opt.step()
        >>> p.data
        tensor([0.7500, 0.7500])
    """

    place = "gradient"
    alpha: Number = 0.9
    history: int = 10
    weights: str = "paper"
    disturb: bool = False

    def __post_init__(self) -> None:
        if self.weights not in ORDERS:
            raise ValueError(f"Invalid weights: {self.weights!r}; legal are {', '.join(map(repr, ORDERS))}")
        if isinstance(self.history, bool) or not isinstance(self.history, int) or self.history < 1:
            raise ValueError(f"Invalid history: {self.history!r}; legal is a whole number of at least 1")
        check("alpha", self.alpha, ORDERS[self.weights])

    def hypers(self) -> dict[str, Hyper]:
        return referred(self.alpha, ORDERS[self.weights])

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {f"past_{j}": State() for j in range(1, self.history + 1)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        alpha, weight, found = number(h, self.alpha), 1.0, {}
        dropped = 1 + (t * 2654435761 >> 7) % self.history if self.disturb else 0
        for j in range(1, self.history + 1):
            weight *= 1 - {"paper": (alpha + 1) / (j + 1), "gl": alpha / j, "adagl": (alpha + 1) / j}[self.weights]
            found[f"w{j}"] = 0.0 if j == dropped else weight
        return found

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        d = g
        for j in range(1, self.history + 1):
            d = mix(1, d, getattr(h, f"w{j}"), x[f"past_{j}"])
        for j in range(self.history, 1, -1):  # the oldest first: each takes over what the next one still holds
            x[f"past_{j}"] = x[f"past_{j - 1}"]
        x["past_1"] = g
        return d

    def equation(self, x: str = "g") -> str:
        alpha = self.alpha if isinstance(self.alpha, str) else f"{self.alpha:g}"
        rule = {"paper": f"({alpha}+1)/(j+1)", "gl": f"{alpha}/j", "adagl": f"({alpha}+1)/j"}[self.weights]
        out = ", one j left out" if self.disturb else ""
        return f"D = sum over j=0..{self.history} of w_j*{x}_(t-j), w_0 = 1, w_j = (1 - {rule})*w_(j-1){out}"


@dataclass(frozen=True, repr=False)
class ShortTerm(Slot):
    """AdaGL: steps between 0.6 and 1.1 times as long, longer where the gradient has just changed."""

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        change = (x["past_2"] - x["past_1"]).abs()  # the last gradient and the present one, now that both are kept
        return u * (1.1 - 0.5 / (change + 1))

    def equation(self, x: str = "g") -> str:
        return "u = u*(1.1 - 0.5/(1 + |g_(t-1) - g_t|))"
