"""What the first moment is divided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.hyper import EPS, Hyper
from thalweg.scalars import sqrt
from thalweg.slots.base import Slot
from thalweg.slots.law import Law


@dataclass(frozen=True, repr=False)
class OverSqrt(Slot):
    """The step is the first moment over the root of the second.

    ``raw``: the second moment's law, where the authors add eps to the root of their un-normalised average; the
    effective eps is then larger early on. ``inside`` puts eps under the root. ``eps=None``: no eps (Adafactor).
    """

    eps: float | None = 1e-8
    raw: Law | None = None
    inside: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {} if self.eps is None else {"eps": Hyper(self.eps, EPS.low, EPS.high)}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return True

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        if self.eps is None:
            return {}
        weight = self.raw.raw(h, t) if self.raw else 1.0
        return {"eps": h["eps"] / (weight if self.inside else sqrt(weight))}

    def denominator(self, h: Any, v: Any) -> Any:
        """The root of v, with eps beside it or under it."""
        if self.eps is None:
            return v.sqrt()
        return (v + h.eps).sqrt() if self.inside else v.sqrt() + h.eps

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        return m / self.denominator(h, v)

    def equation(self, x: str = "g") -> str:
        if self.eps is None:
            return f"u = {x}/sqrt(v)"
        weight = "weight of the un-normalised v"
        eps = f"eps/{weight if self.inside else f'sqrt({weight})'}" if self.raw else "eps"
        return f"u = {x}/sqrt(v + {eps})" if self.inside else f"u = {x}/(sqrt(v) + {eps})"


@dataclass(frozen=True, repr=False)
class Over(Slot):
    """The step is the first moment over the second, which is of the gradient's own order (Adamax)."""

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        return m / v

    def equation(self, x: str = "g") -> str:
        return f"u = {x}/v"


def rectification(beta: float, t: int, threshold: float) -> float | None:
    """RAdam's factor on the adaptive step t, or None while the variance of its denominator is out of hand."""
    power = beta**t
    limit = 2 / (1 - beta) - 1
    rho = limit - 2 * t * power / (1 - power)
    if rho <= threshold:
        return None
    return sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


def switched_root(h: Any, v: Any) -> Any:
    """The root of v and eps, or 1: by ``h.root``, 1 or 0, and ``h.plus``, so that one graph serves both phases."""
    # A v that has overflowed must not meet a root of 0: infinity times 0 is not a number.
    return v.sqrt().clamp(max=3e38) * h.root + h.plus


@dataclass(frozen=True, repr=False)
class Rectified(Slot):
    """RAdam: the adaptive step times its rectification once rho_t > threshold, the bare corrected momentum before."""

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.1": Hyper(0.999, 0.0, 1.0), "eps": EPS, "threshold": Hyper(5.0, 4.0)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        rectified = rectification(h["betas.1"], t, h["threshold"])
        if rectified is None:
            return {"times": 1.0, "root": 0.0, "plus": 1.0}
        # v arrives bias-corrected and the authors add eps to the root of the uncorrected average.
        return {"times": rectified, "root": 1.0, "plus": h["eps"] / sqrt(1 - h["betas.1"] ** t)}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        return m * h.times / switched_root(h, v)

    def equation(self, x: str = "g") -> str:
        return (
            "rho_t = rho_inf - 2t*betas.1^t/(1-betas.1^t), rho_inf = 2/(1-betas.1) - 1 ;"
            " r = sqrt((rho_t-4)(rho_t-2)rho_inf/((rho_inf-4)(rho_inf-2)rho_t)) ;"
            " u = r*m/(sqrt(v) + eps/sqrt(1-betas.1^t)) if rho_t > threshold else m"
        )
