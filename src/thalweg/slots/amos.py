"""Amos: a step that knows the size its parameter is heading for, and decays the rate and the weights by itself."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import Hyper
from thalweg.ops import mix
from thalweg.scalars import sqrt
from thalweg.slots.base import Request, Slot, State, mean

KINDS = ("tensor", "row", "col", "full")


def expected_scale(shape: tuple[int, ...]) -> float:
    """The size to expect of a trained parameter's entries: 0.5 for vectors, sqrt(2/fan_in) for everything else.

    Fan-in is counted over all axes but the first.
    """
    return 0.5 if len(shape) < 2 else math.sqrt(2 / max(math.prod(shape[1:]), 1))


@dataclass(frozen=True, repr=False)
class AmosStep(Slot):
    """Amos' step over lr: normalised by a mean square, with decays of step and weights that grow with a sum b.

    ``each``: a mean square v and a sum b for the "tensor", for each "row" (the first axis), for each "col" (all axes
    but the first), or for every entry ("full"); 0-d and 1-d tensors have one of each unless "full". With ``shaped``
    eta follows from the tensor's shape and is kept beside them.
    """

    each: str = "tensor"
    shaped: bool = False

    def __post_init__(self) -> None:
        if self.each not in KINDS:
            raise ValueError(f"Invalid slots: {self.each!r}; legal are {', '.join(KINDS)}")

    @property
    def scope(self) -> str:  # type: ignore[override]
        wide = "tensor" if self.shaped else "element"
        return {"tensor": "tensor", "full": wide}.get(self.each, "row")

    def axes(self, ndim: int) -> tuple[int, ...] | None:
        """The axes that a slot averages over; None for all of them."""
        if ndim < 2 or self.each == "tensor":
            return None
        return tuple(range(1, ndim)) if self.each == "row" else (0,)

    def hypers(self) -> dict[str, Hyper]:
        found = {"beta": Hyper(0.999, 0.0, 1.0), "epsilon": Hyper(2.0**-125, open_low=True)}
        found |= {"c_coef": Hyper(0.25), "d_coef": Hyper(0.25), "extra_l2": Hyper(0.0)}
        return found if self.shaped else {**found, "eta": Hyper(1.0, open_low=True)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        gone = self.axes(len(shape))
        axes = () if gone is None else tuple(None if i in gone else i for i in range(len(shape)))
        kept = State() if self.each == "full" else State.along(shape, axes)
        scale = {"scale": State(expected_scale(shape), ())} if self.shaped else {}
        return {"exp_avg_sq": kept, "decay": kept, **scale}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        lr, eta = h["lr"], 1.0 if self.shaped else h["eta"]
        return {
            "keep": h["beta"],
            "gain": 1 - h["beta"],
            "weight": 1 - h["beta"] ** t,
            "least": h["epsilon"],
            "lr": lr,
            "eta": eta,
            "c": h["c_coef"] * sqrt(lr),
            "d": h["d_coef"] * sqrt(lr * eta),
            "l2": h["extra_l2"] / lr if lr else 0.0,
        }

    def __call__(self, x: Any, h: Any, g: Any, v: Any) -> Generator[Request, Any, Any]:
        square = g * g
        if self.each != "full":
            axes = self.axes(x.ndim)
            square = yield mean(square, "tensor" if axes is None else axes)
        b = x["decay"]
        x["exp_avg_sq"] = v = mix(h.keep, x["exp_avg_sq"], h.gain, square)
        r = h.weight / v.clamp(min=h.least)
        shrink = r * square * h.lr / (b * h.c + 1).sqrt()
        x["decay"] = b + shrink * h.lr * (b + 1)
        eta, d = h.eta, h.d
        if self.shaped:
            eta, d = x["scale"], x["scale"].sqrt() * d
        return (x.param * (shrink * 0.5 + h.l2) + g * (r.sqrt() * eta)) / (b * d + 1)

    def equation(self, x: str = "g") -> str:
        over = {"full": f"{x}^2", "tensor": f"mean({x}^2)"}.get(self.each, f"{self.each}mean({x}^2)")
        eta = "eta(shape)" if self.shaped else "eta"
        return (
            f"q = {over} ; v <- beta*v + (1-beta)*q ; r = (1-beta^t)/max(v, epsilon) ;"
            " s = lr^2*r*q/sqrt(1 + c_coef*sqrt(lr)*b) ;"
            f" u = ((s/2 + extra_l2)*p/lr + {eta}*sqrt(r)*{x})/(1 + d_coef*sqrt(lr*{eta})*b) ; b <- b + s*(1 + b)"
        )
