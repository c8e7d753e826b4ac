"""Rates that need no tuning: distances estimated from gradients (Prodigy, D-Adaptation, DoG) and losses (MoMo).

What they estimate is settled on the host in float64, once a step for the model or the group, and kept in the group.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.hyper import ANY, EPS, Hyper
from thalweg.ops import mix
from thalweg.scalars import isfinite, least, most, plain, sqrt
from thalweg.slots.base import Request, Slot, State, settled, total
from thalweg.slots.law import Plain, Weights
from thalweg.slots.ratio import OverSqrt

Asked = Generator[tuple[Request, ...], Any, Any]


@dataclass(frozen=True)
class OrInfinite(Hyper):
    """A number that may also be infinite: no limit."""

    def check(self, name: str, value: Any) -> float | torch.Tensor | None:
        return math.inf if isinstance(value, float) and value == math.inf else super().check(name, value)


GROWTH = OrInfinite(math.inf, 1.0)
DISTANCE = Hyper(1e-6, open_low=True)


@dataclass(frozen=True, repr=False)
class AtDistance(Plain):
    """Prodigy's averages: what they take in is weighted with d^power, d being the distance estimated so far."""

    power: int = 1

    def text(self, s: str, x: str) -> str:
        weight = "d" if self.power == 1 else f"d^{self.power}"
        return f"{s} <- {self.beta}*{s} + (1-{self.beta})*{weight}*{x}"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        return Weights(beta, (1 - beta) * _distance(h) ** self.power)


def _distance(h: Mapping[str, Any]) -> float:
    return h["d"] or h["d0"]


@dataclass(frozen=True, repr=False)
class _Distance(Slot):
    """A rate d*lr, with a distance d that is estimated once a step for the whole model and only grows.

    ``bias_correction`` multiplies the rate with sqrt(1-betas.1^t)/(1-betas.0^t). A step in which every gradient that
    there ever was is zero moves nothing, decay included.
    """

    scope: ClassVar[str] = "tensor"
    couples: ClassVar[str] = "model"
    bias_correction: bool = False

    def hypers(self) -> dict[str, Hyper]:
        betas = {"betas.0": Hyper(0.9, 0.0, 1.0), "betas.1": Hyper(0.999, 0.0, 1.0)}
        return {"lr": Hyper(1.0), **betas, "d0": DISTANCE, "growth_rate": GROWTH}

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        if not group["d"]:
            group["d"] = plain(group["d0"])

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        corrected = sqrt(1 - h["betas.1"] ** t) / (1 - h["betas.0"] ** t) if self.bias_correction else 1.0
        return _distance(h) * h["lr"] * corrected


@dataclass(frozen=True, repr=False)
class ProdigyRate(_Distance):
    """Prodigy: d is the largest weighted sum of <g, p0-p> over that of |g|, p0 being where the parameter started.

    ``safeguard`` leaves the learning rate out of the lower sum, for warm-ups. ``slice`` > 1: p0 and s keep every
    ``slice``-th element only, and both sums run over those.
    """

    group_numbers: ClassVar[Mapping[str, float]] = {"d": 0.0, "d_max": 0.0, "d_numerator": 0.0}
    safeguard: bool = False
    slice: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.slice, bool) or not isinstance(self.slice, int) or self.slice < 1:
            raise ValueError(f"Invalid slice_p: {self.slice!r}; legal is a whole number of at least 1")

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "tensor" if self.slice == 1 else "matrix"

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "beta3": Hyper(None, 0.0, 1.0), "d_coef": Hyper(1.0, open_low=True)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if self.slice == 1:
            return {"s": State(), "p0": State("param")}
        kept = State(shape=(-(-math.prod(shape) // self.slice),))
        return {"s": kept, "p0": kept}

    @staticmethod
    def _beta3(h: Mapping[str, Any]) -> float:
        return math.sqrt(h["betas.1"]) if h["beta3"] is None else h["beta3"]

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        rate, d = h["lr"], _distance(h)
        weight = d / h["d0"]
        counts = 1.0 if rate > 0 else 0.0
        found: dict[str, float | bool] = {
            "rate": rate,
            "weight": weight * rate,
            "keep": self._beta3(h) if counts else 1.0,
            "gain": weight * (d if self.safeguard else rate) * counts,
            "counts": counts,
        }
        return found if self.slice == 1 else {**found, "first": t == 1}

    def _thin(self, value: Any) -> Any:
        return value if self.slice == 1 else value.flatten().unfold(0, 1, self.slice).squeeze(-1)

    def __call__(self, x: Any, h: Any, g: Any) -> Asked:
        g, p = self._thin(g), self._thin(x.param)
        if self.slice > 1 and h.first:
            x["p0"] = p.clone()  # not a view of what is about to move
        x["s"] = s = mix(h.keep, x["s"], h.gain, g)
        x.notes["d"], moves = yield settled(self, g * (x["p0"] - p) * h.weight, s.abs() * h.counts)
        return moves * h.rate

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        pushed, length = totals
        if not (length > 0 and isfinite(pushed + length)):
            return h["d"], 1.0 if length != 0 else 0.0
        h["d_numerator"] = self._beta3(h) * h["d_numerator"] + pushed
        found = h["d_coef"] * h["d_numerator"] / length
        d = most(h["d"], found) if h["d"] == h["d0"] else h["d"]
        h["d_max"] = most(most(h["d_max"], h["d0"]), found)
        h["d"] = least(h["d_max"], d * h["growth_rate"])
        return h["d"], 1.0

    def equation(self, x: str = "g") -> str:
        lower = "d" if self.safeguard else "a"
        c = " * sqrt(1-betas.1^t)/(1-betas.0^t)" if self.bias_correction else ""
        over = f" over every {self.slice}th element" if self.slice > 1 else ""
        return (
            f"a = d*lr{c} ; n <- beta3*n + d/d0*a*<g, p0-p> ; s <- beta3*s + d/d0*{lower}*g ;"
            f" d <- min(max(d_max, d_coef*n/|s|_1), d*growth_rate){over} ; lr <- a"
        )


@dataclass(frozen=True, repr=False)
class OverDistanceSqrt(OverSqrt):
    """Prodigy's ratio: eps is weighted with the newest d, as the averages are; without momentum, so is the gradient."""

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "betas.0": Hyper(0.9, 0.0, 1.0)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"eps": h["eps"], "fresh": h["betas.0"] == 0, "per_d": 1 / _distance(h)}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        d = x.notes["d"]
        u = m / (v.sqrt() + d * h.eps)
        return u * (d * h.per_d) if h.fresh else u

    def equation(self, x: str = "g") -> str:
        return f"u = {x}/(sqrt(v) + d*eps)"


@dataclass(frozen=True, repr=False)
class DAdaptRate(_Distance):
    """D-Adaptation for Adam: a lower bound of the distance to the solution, from how far steps agree.

    Each group's ``layer_scale`` weights its part of the sums.
    """

    group_numbers: ClassVar[Mapping[str, float]] = {"d": 0.0, "numerator_weighted": 0.0}

    def check(self, recipe: Any) -> None:
        if recipe.second is None or "exp_avg_sq" not in recipe.second.state((8, 8)):
            raise ValueError(
                "D-Adaptation measures distances by the second moment exp_avg_sq, which this recipe's second moment"
                f" ({recipe.second!r}) does not keep; leave that technique out"
            )

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "eps": Hyper(1e-8, open_low=True), "layer_scale": Hyper(1.0, open_low=True)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"s": State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        rate, q = h["lr"], math.sqrt(h["betas.1"])
        found = {"keep": q, "gain": (1 - q) * rate, "counts": h["layer_scale"]}
        still = {"keep": 1.0, "gain": 0.0, "counts": 0.0}
        return {"rate": rate, "eps": h["eps"], "weight": h["layer_scale"] * rate, **(found if rate > 0 else still)}

    def __call__(self, x: Any, h: Any, g: Any) -> Asked:
        before = x["s"]
        x["s"] = s = mix(h.keep, before, h.gain, g)
        agreed = g * before / (x["exp_avg_sq"].sqrt() + h.eps) * h.weight
        _, moves = yield settled(self, agreed, s.abs() * h.counts)
        return moves * h.rate

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        agreed, length = totals
        if not (length > 0 and isfinite(agreed + length)):
            return h["d"], 1.0 if length != 0 else 0.0
        q = math.sqrt(h["betas.1"])
        h["numerator_weighted"] = q * h["numerator_weighted"] + (1 - q) * agreed
        found = h["numerator_weighted"] / ((1 - q) * length)
        h["d"] = most(h["d"], least(found, h["d"] * h["growth_rate"]))
        return h["d"], 1.0

    def equation(self, x: str = "g") -> str:
        c = "*sqrt(1-betas.1^t)/(1-betas.0^t)" if self.bias_correction else ""
        return (
            f"lr <- d*lr{c} ; q = sqrt(betas.1) ; n <- q*n + (1-q)*lr*<g, s/(sqrt(v) + eps)>, s and v before the step ;"
            " s <- q*s + (1-q)*lr*g ; d <- max(d, min(n/((1-q)*|s|_1), d*growth_rate))"
        )


@dataclass(frozen=True, repr=False)
class LayerScale(Slot):
    """A group's own factor on its steps."""

    def hypers(self) -> dict[str, Hyper]:
        return {"layer_scale": Hyper(1.0, open_low=True)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"scale": h["layer_scale"]}

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        return u * h.scale

    def equation(self, x: str = "g") -> str:
        return "u = u*layer_scale"


@dataclass(frozen=True, repr=False)
class DistanceOverGradients(Slot):
    """DoG: the largest distance from the start so far over the root of the sum of all squared gradients.

    ``over`` "group": one distance and one sum for the tensors of a group; "tensor" (LDoG): for each tensor.
    """

    scope: ClassVar[str] = "tensor"
    over: str = "group"

    @property
    def couples(self) -> str:  # type: ignore[override]
        return "group" if self.over == "group" else ""

    @property
    def group_numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"rbar": 0.0, "G": 0.0, "dog_steps": 0} if self.over == "group" else {}

    def hypers(self) -> dict[str, Hyper]:
        first = {"reps_rel": Hyper(1e-6, open_low=True), "init_eta": Hyper(None, open_low=True)}
        return {"lr": Hyper(1.0), "eps": EPS, **first}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        own = {"rbar": State(shape=()), "G": State(shape=())} if self.over == "tensor" else {}
        return {"p0": State("param"), **own}

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        if self.over == "group":
            group["dog_steps"] += 1

    @staticmethod
    def _first(h: Mapping[str, Any], first: bool) -> tuple[float, float, float]:
        """Of the step that begins: what the first distance is over 1 + |p0|, what joins G, and a given step size."""
        if not first:
            return 0.0, 0.0, 0.0
        given = h["init_eta"]
        return (h["reps_rel"], h["eps"], 0.0) if given is None else (0.0, h["eps"], given)

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        if self.over == "group":
            return {"rate": h["lr"]}
        start, eps, given = self._first(h, t == 1)
        return {"rate": h["lr"], "start": start, "eps": eps, "given": given}

    def __call__(self, x: Any, h: Any, g: Any) -> Asked:
        p, away = x.param, x.param - x["p0"]
        if self.over == "group":
            ratio, given, _ = yield settled(self, g * g, away * away, p * p)
            return ratio * h.rate + given
        gg, dd, pp = yield total(g * g), total(away * away), total(p * p)
        x["rbar"] = far = torch.maximum(torch.maximum(x["rbar"], (pp.sqrt() + 1) * h.start), dd.sqrt())
        x["G"] = summed = x["G"] + gg + h.eps
        return torch.where(summed > 0, far / summed.sqrt(), 0.0) * h.rate + h.given

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        gg, dd, pp = totals
        start, eps, given = self._first(h, h["dog_steps"] == 1)
        if isfinite(gg + dd):
            h["rbar"] = most(most(h["rbar"], start * (1 + sqrt(pp))), sqrt(dd))
            h["G"] += gg + eps
        return h["rbar"] / sqrt(h["G"]) if h["G"] else 0.0, given, 0.0

    def equation(self, x: str = "g") -> str:
        return (
            f"r <- max(r, |p - p0|), r = reps_rel*(1 + |p0|) at first ; G <- G + |g|^2, G = eps at first ;"
            f" lr <- lr*r/sqrt(G)   (norms over the {self.over}; init_eta replaces the first lr)"
        )


@dataclass(frozen=True, repr=False)
class ModelRate(Slot):
    """MoMo: the step after which an averaged linear model of the loss reaches its lower bound, at most lr.

    ``beta``: the reference of the momentum. ``from_zero``: averages start at zero and lr is divided by 1-beta^t, else
    they start at their first values. ``fstar``: the lower bound is estimated on the way, from ``lb`` upwards.
    """

    scope: ClassVar[str] = "tensor"
    couples: ClassVar[str] = "model"
    needs_loss: ClassVar[bool] = True
    group_numbers: ClassVar[Mapping[str, float]] = {"loss_average": 0.0, "loss_count": 0, "fstar": 0.0}
    beta: str = "beta"
    from_zero: bool = False
    fstar: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"lr": Hyper(1.0), self.beta: Hyper(0.9, 0.0, 1.0), "weight_decay": Hyper(0.0), "lb": ANY}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"grad_dot_w": State(shape=())}

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        if loss is None or not math.isfinite(loss):
            raise ValueError(
                f"MoMo sets its rate from the loss and needs a finite one at every step, got {loss}: call"
                " step(loss=loss.detach()), or pass a closure that returns the loss"
            )
        name, _, i = self.beta.partition(".")
        beta = float(group[name][int(i)] if i else group[name])
        if not group["loss_count"]:
            group["fstar"] = float(group["lb"])
        first = 1 - beta if self.from_zero else 1.0
        gain = 1 - beta if group["loss_count"] else first
        group["loss_average"] = beta * group["loss_average"] + gain * loss
        group["loss_count"] += 1

    def _weight(self, h: Mapping[str, Any]) -> float:
        """The weight that the averages have gathered."""
        return 1 - h[self.beta] ** h["loss_count"] if self.from_zero else 1.0

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        beta = h[self.beta]
        shrink = h["lr"] * h["weight_decay"]
        gain = 1.0 if t == 1 and not self.from_zero else 1 - beta
        most = h["lr"] / self._weight(h)
        return {"keep": beta, "gain": gain, "most": most, "shrink": shrink, "grow": 1 + shrink}

    def __call__(self, x: Any, h: Any, u: Any) -> Asked:
        p, m, c = x.param, x["exp_avg"], x["grad_dot_w"]
        push = x.grad * p * h.gain
        joined = settled(self, p * m, push, c * h.keep, m * u)
        pushed, above, dot, _, square = yield (total(push), *joined)
        x["grad_dot_w"] = mix(h.keep, c, 1, pushed)
        # square is 0 where the direction vanishes; any step will do there
        wanted = (above * h.grow - dot * h.shrink).clamp(min=0)
        return torch.where(square > 0, wanted / square, 0.0).clamp(max=h.most)

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        dot, pushed, kept, square = totals
        rho, f, bound = self._weight(h), h["loss_average"], h["fstar"] if self.fstar else h["lb"]
        linear = f + dot - pushed - kept
        if self.fstar:
            shrink = h["lr"] * h["weight_decay"]
            reach = (linear * (1 + shrink) - dot * shrink) / (1 + shrink)
            if reach < rho * bound:
                bound = max(reach / (2 * rho), h["lb"])
            wanted = max((linear - rho * bound) * (1 + shrink) - dot * shrink, 0.0)
            taken = min(h["lr"] / rho, wanted / square) if square else 0.0
            h["fstar"] = max((linear - taken * square / 2) / rho, h["lb"])
        return linear - rho * bound, dot, 0.0, square

    def equation(self, x: str = "g") -> str:
        rho = f"1-{self.beta}^t" if self.from_zero else "1"
        bound = "b, estimated on the way from lb" if self.fstar else "b = lb"
        return (
            f"f, c <- averages of the loss and <p,g> with {self.beta} ; k = 1 + lr*weight_decay ; rho = {rho} ; {bound}"
            f" ; lr <- min(lr/rho, max(k*(f - rho*b - c) + <p,m>, 0)/<m,u>), sums over the model"
        )


@dataclass(frozen=True, repr=False)
class Proximal(Slot):
    """Weight decay as a proximal step: the parameter is divided after the update."""

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": Hyper(0.0)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": 1 / (1 + h["lr"] * h["weight_decay"])}

    def __call__(self, x: Any, h: Any, new: Any) -> Any:
        return new * h.keep

    def equation(self, x: str = "p") -> str:
        return f"{x} <- {x}/(1 + lr*weight_decay)   (the group's lr)"
