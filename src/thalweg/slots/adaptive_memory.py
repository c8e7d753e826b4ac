"""Adaptive memory: a momentum that is set at every step by how well the accumulated direction fits the gradient."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.hyper import EPS, Hyper
from thalweg.ops import mix
from thalweg.scalars import isfinite, least, most
from thalweg.slots.base import Request, Slot, State, settled, total

Asked = Generator[tuple[Request, ...], Any, Any]
PULL = Hyper(0.1)


@dataclass(frozen=True, repr=False)
class AdaptiveAverage(Slot):
    """AM-MSGD: a direction d whose weight against the gradient, at most beta_max, is one number for the model.

    The weight solves a proximal model with two planes, that of the gradient and that of d. It is kept in the group as
    ``beta``. A tensor in its first step takes its gradient whole and stays out of the sums.
    """

    scope: ClassVar[str] = "tensor"
    couples: ClassVar[str] = "model"
    group_numbers: ClassVar[Mapping[str, float]] = {"beta": 0.0}
    role: str = "exp_avg"

    def hypers(self) -> dict[str, Hyper]:
        return {"lam": PULL, "beta_max": Hyper(0.9, 0.0, 1.0, open_high=False)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        later, lam = 1.0 if t > 1 else 0.0, h["lam"]
        whole = 1 / (1 + lam)
        return {
            "lam": lam,
            "later": later,
            "grown": later * (1 + lam),
            "per": later * whole,
            "old": later * lam * whole,
            "new": 1 - later * (1 - whole),
        }

    def __call__(self, x: Any, h: Any, g: Any) -> Asked:
        d = x[self.role]
        apart = d - g
        fit = g * d * h.grown - apart * mix(1, g, h.lam, d) * h.later
        beta, _ = yield settled(self, fit, apart * apart * h.later)
        # d <- (beta+lam)/(1+lam)*d + (1-beta)/(1+lam)*g, and d <- g in the first step
        keep = beta * h.per
        x[self.role] = d = d * (keep + h.old) + g * (h.new - keep)
        return d

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        fit, apart = totals
        known = apart > 0 and isfinite(fit + apart)  # huge gradients overflow when squared
        h["beta"] = least(most(fit / apart, 0.0), h["beta_max"]) if known else 0.0
        return h["beta"], 0.0

    def equation(self, x: str = "g") -> str:
        return (
            f"beta = min(max(((1+lam)*<{x},m> - <m-{x}, {x}+lam*m>)/|m-{x}|^2, 0), beta_max), sums over the model ;"
            f" m <- ((beta+lam)*m + (1-beta)*{x})/(1+lam) (at t=1: m <- {x})"
        )


@dataclass(frozen=True, repr=False)
class AdaptiveRatio(Slot):
    """AM-AdamW: the same in Adam's metric, with a weight for each tensor; returns the direction over the metric.

    The product of the weights so far (state ``beta_product``) takes the place of Adam's power in the bias correction,
    and the learning rate of a tensor's previous step is kept as ``lr_prev``.
    """

    scope: ClassVar[str] = "tensor"
    numbers: ClassVar[Mapping[str, float]] = {"lr_prev": 0.0}

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.0": Hyper(0.89, 0.0, 1.0), "lam": PULL, "eps": EPS, "weight_decay": Hyper(0.0)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"exp_avg": State(), "beta_product": State(1.0, shape=())}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        lr, wd = h["lr"], h["weight_decay"]
        before, numbers["lr_prev"] = numbers["lr_prev"], lr
        most, later = h["betas.0"], 1.0 if t > 1 else 0.0
        return {
            "most": most,
            "later": later,
            "at_first": most * (1 - later),
            "lam": h["lam"],
            "eps": h["eps"],
            "decay": wd,
            "fall": (1 + wd * lr) * before / lr if lr else 0.0,
        }

    def __call__(self, x: Any, h: Any, g: Any, v: Any) -> Asked:
        d, p, product = x["exp_avg"], x.param, x["beta_product"]
        metric = (v.sqrt() + h.eps) * (1 - product * h.most)
        pull = metric * h.lam
        whole = pull + 1
        apart = d - g
        weighed = apart / (metric * whole)
        fit = g * (d / metric + p * h.decay) * h.fall - weighed * (g + pull * d) - apart * p * h.decay
        fit, size = yield total(fit), total(apart * weighed)
        ratio = fit / size  # not finite where the gradient is the direction, or too large to be squared
        free = torch.where(ratio.isfinite(), ratio, 0.0).clamp(min=0).clamp(max=h.most)
        beta = free * h.later + h.at_first
        x["exp_avg"] = d = d - apart * ((1 - beta) / whole)
        x["beta_product"] = product * beta
        return d / metric

    def equation(self, x: str = "g") -> str:
        return (
            "P = (1 - betas.0*product of earlier beta)*(sqrt(v) + eps) ; D = m - g ; W = 1/(P*(1 + lam*P)) ;"
            " beta = ((1 + weight_decay*lr)*lr_prev/lr*<g, m/P + weight_decay*p> - <D*W, g + lam*P*m>"
            " - weight_decay*<p,D>)/<D,D*W>, between 0 and betas.0 (at t=1: betas.0) ;"
            " m <- ((1-beta)*g + (lam*P + beta)*m)/(1 + lam*P) ; u = m/P"
        )
