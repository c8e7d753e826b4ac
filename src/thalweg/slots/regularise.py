"""Regularisers that take the place of a recipe's weight decay, and the forms of weight decay as techniques."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.hyper import DECAY, Hyper, Number, check, referred, value
from thalweg.ops import mix
from thalweg.scalars import plain
from thalweg.slots.base import Slot, State, mean, total
from thalweg.slots.chain import Chain
from thalweg.slots.decay import Decoupled, DecoupledByStep, StableDecay
from thalweg.slots.direction import PlusDecay
from thalweg.slots.gradient import L2, check_axis, units
from thalweg.techniques import technique

#: Slots outside the place ``decay`` that do nothing but regularise.
_ELSEWHERE: list[type[Slot]] = [L2, PlusDecay]


def without_decay(recipe: Any) -> Any:
    """The recipe without its weight decay or regulariser; a ValueError where that is part of another slot."""
    changes: dict[str, Any] = {"decay": None}
    for place in ("gradient", "coupled", "after"):
        there = getattr(recipe, place)
        if there is None:
            continue
        kept = tuple(s for s in there.links if not isinstance(s, tuple(_ELSEWHERE)))
        changes[place] = Chain(kept) if len(kept) > 1 else kept[0] if kept else None
    bare = recipe.but(**changes)
    own = next((slot for _, slot in bare.slots() if "weight_decay" in slot.hypers()), None)
    if own is not None:
        raise ValueError(
            f"weight decay is part of {type(own).__name__} in this recipe, so no other decay can take its place"
        )
    return bare


def _on_device(recipe: Any) -> bool:
    """Whether the step's rate is known on the device only."""
    return recipe.rate is not None and not recipe.rate.on_host


class Replaces(Slot):
    """Base of techniques that take the place of a recipe's weight decay."""

    place = "decay"

    def into(self, recipe: Any) -> Any:
        return without_decay(recipe).plus(self.place, self)


@technique("decoupled", source="arXiv 1711.05101")
@dataclass(frozen=True, repr=False)
class DecoupledDecay(Decoupled):
    """Decoupled weight decay, AdamW's, in place of the recipe's own.

    ``p <- p*(1 - lr*weight_decay)``, with the rate that the step itself is taken with. ``power``: a whole number of at
    least 0, for ``lr^power*weight_decay``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Adam([p], lr=0.1, weight_decay=0.1, techniques=["decoupled"])
        >>> p.grad = torch.zeros(2); opt.step(); p.data
        tensor([0.9900, 0.9900])
    """

    place = "decay"

    def __post_init__(self) -> None:
        if isinstance(self.power, bool) or not isinstance(self.power, int) or self.power < 0:
            raise ValueError(f"Invalid power: {self.power!r}; legal is a whole number of at least 0")

    def into(self, recipe: Any) -> Any:
        if not _on_device(recipe):
            return without_decay(recipe).but(decay=Decoupled(self.power))
        if self.power != 1:
            raise ValueError("power is only defined for a rate that is known before the step; leave it at 1")
        return without_decay(recipe).but(decay=DecoupledByStep())


@technique("coupled", source="Krogh & Hertz 1991")
@dataclass(frozen=True, repr=False)
class CoupledDecay(L2):
    """Coupled (L2) weight decay, in place of the recipe's own: it joins the gradient and so enters every average.

    ``g = g + weight_decay*p``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0.1, techniques=["coupled"])
        >>> p.grad = torch.zeros(2); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    place = "gradient"

    def into(self, recipe: Any) -> Any:
        return without_decay(recipe).plus("gradient", L2())


@technique("fully_decoupled", source="arXiv 1711.05101")
@dataclass(frozen=True, repr=False)
class FullyDecoupled(Replaces):
    """Weight decay that follows the schedule of the learning rate but not its size: the lambda of AdamW's paper.

    ``p <- p*(1 - weight_decay*lr/lr_0)``: ``weight_decay`` is what a weight loses in a step at the rate ``lr_0``, the
    group's ``initial_lr`` where a scheduler has set one, else the first lr above 0 that a step was taken with (kept
    in the group as ``first_lr``). Useful values are a torch weight_decay times the learning rate.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.01, weight_decay=0.1, techniques=["fully_decoupled"])
        >>> p.grad = torch.zeros(2); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    group_numbers: ClassVar[Mapping[str, float]] = {"first_lr": 0.0}

    def into(self, recipe: Any) -> Any:
        if recipe.rate is not None and recipe.hypers()["lr"].default is None:
            raise ValueError("fully decoupled decay needs a group's lr; this recipe sets its rate without one")
        return super().into(recipe)

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        group["first_lr"] = plain(group.get("initial_lr") or group["first_lr"] or group["lr"])

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": 1 - h["weight_decay"] * (h["lr"] / h["first_lr"] if h["first_lr"] else 0.0)}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return h["weight_decay"] == 0

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        return h.keep

    def equation(self, x: str = "g") -> str:
        return "p <- p*(1 - weight_decay*lr/lr_0), lr_0 the initial lr"


@technique("stable", source="arXiv 2011.11152", needs="a second moment")
@dataclass(frozen=True, repr=False)
class Stable(StableDecay):
    """Stable weight decay, AdamS's, in place of the recipe's own; for recipes with a second moment.

    ``p <- p*(1 - lr*weight_decay/max(sqrt(mean of v over the model), eps))``. Useful values of weight_decay are those
    of SGD. ``eps`` > 0 is the group's, where it has one, else 1e-8. SGD with momentum has ``SGDS``.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0.1, techniques=["stable"])
        >>> p.grad = torch.full((2,), 0.5); opt.step(); p.data
        tensor([0.8800, 0.8800])
    """

    place = "decay"

    def into(self, recipe: Any) -> Any:
        if recipe.second is None:
            raise ValueError("stable decay divides by the second moment, and this recipe has none; SGD has SGDS")
        if _on_device(recipe):
            raise ValueError("stable decay needs a rate that is known before the step; this recipe's is not")
        bare = without_decay(recipe)
        lacks = self.eps == "eps" and "eps" not in bare.hypers()
        return bare.but(decay=StableDecay(1e-8 if lacks else self.eps))


@technique("norm_loss", source="arXiv 2103.06583")
@dataclass(frozen=True, repr=False)
class NormLoss(Replaces):
    """Norm loss: every output unit's weights are drawn towards length one, from both sides, in place of decay.

    ``p <- p*(1 - 2*lr*weight_decay*(1 - 1/(max(|p|, floor) + eps)))`` over each output unit, before the step; Ranger21
    takes a weight_decay of 1e-4. It grows short rows: leave out heads and layers that start at zero.

    ``coupled``: the gradient of the loss term, ``2*weight_decay*(p - p/|p|)``, joins the gradient instead.
    ``vectors``: 1-d and 0-d tensors too, as one unit (Ranger21); by default they are left alone. ``eps`` >= 0;
    ``floor`` > 0 keeps very short units from exploding (published: none). ``unit_axis`` >= 0, 1 for ConvTranspose.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> opt = thalweg.SGD([p], lr=1.0, weight_decay=0.125, techniques=["norm_loss"])
        >>> p.grad = torch.zeros(1, 2); opt.step(); p.data
        tensor([[2.4000, 3.2000]])
    """

    scope = "row"
    coupled: bool = False
    vectors: bool = False
    eps: float = 1e-8
    floor: float = 1e-3
    unit_axis: int = 0

    def __post_init__(self) -> None:
        Hyper(1e-8).check("eps", self.eps)
        Hyper(1e-3, open_low=True).check("floor", self.floor)
        check_axis(self.unit_axis)

    def into(self, recipe: Any) -> Any:
        return without_decay(recipe).plus("gradient" if self.coupled else "decay", self)

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"]}

    def __call__(self, x: Any, h: Any, *values: Any) -> Generator[Any, Any, Any]:
        if x.ndim < 2 and not self.vectors:
            return values[0] if self.coupled else None
        over = ("tensor",) if x.ndim < 2 else (units(x.ndim, self.unit_axis),)
        squares = yield total(x.param * x.param, *over)
        length = squares.sqrt().clamp(min=self.floor)
        if self.coupled:
            (g,) = values
            return g + (x.param - x.param / length) * (2 * h.weight_decay)
        lr, _, _ = values
        return 1 - (1 - 1 / (length + self.eps)) * (2 * lr * h.weight_decay)

    def equation(self, x: str = "g") -> str:
        length = f"max(|p|, {self.floor:g})"
        if self.coupled:
            return f"{x} = {x} + 2*weight_decay*(p - p/{length}), |p| over each output unit"
        return f"p <- p*(1 - 2*lr*weight_decay*(1 - 1/({length} + {self.eps:g}))), |p| over each output unit"


METHODS = ("inflection_point", "uniform", "dependent", "warm_start")
MEASURES = ("l2", "l1", "std", "huber")


def inflected(measure: Any, average: Any, change: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """One sample of CPR's detector: the new average, its change, and whether the change has become smaller."""
    new = mix(smoothing, average, 1 - smoothing, measure)
    return new, new - average, new - average < change


@technique("cpr", source="arXiv 2311.09058")
@dataclass(frozen=True, repr=False)
class CPR(Replaces):
    """Constrained parameter regularisation: a penalty on each tensor that rises until its size R(p) is within kappa.

    After the step, ``lam <- max(0, lam + update/n*(R(p) - kappa)) ; p <- p - lam*dR(p)`` for a tensor of n elements
    (no 1/n for "std"); it takes the place of weight decay. A penalty with 2*lam > 1 overshoots: tensors of few
    elements far above their kappa can diverge. R and kappa are per tensor; leave biases and norms to other groups.

    ``measure``: R is "l2" the sum of squares, "l1" of absolute values, "std" the standard deviation, "huber".
    ``method``: kappa is "uniform" ``kappa`` for all, "dependent" ``kappa*R(p)`` before the first step, "warm_start"
    R(p) at step ``kappa``, or "inflection_point": R(p) where its growth first slows down, looked at every ``period``
    steps from the fourth look on, in an average with ``smoothing``. Before kappa is known nothing is done.
    ``kappa`` > 0, ``update`` > 0: numbers, or the names of the group's numbers. ``by_lr``: the penalty times lr.
    ``period`` >= 1, 0 <= ``smoothing`` < 1. ``active=False`` does nothing, for groups that are to be left alone.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, techniques=[thalweg.CPR("uniform", kappa=1.5)])
        >>> p.grad = torch.zeros(2); opt.step(); p.data
        tensor([0.5000, 0.5000])
    """

    place = "after"
    method: str = "inflection_point"
    kappa: Number = 1000.0
    measure: str = "l2"
    update: Number = 1.0
    by_lr: bool = False
    period: int = 200
    smoothing: float = 0.9
    active: bool = True

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "tensor" if self.active else "element"

    def idle(self, h: Mapping[str, Any]) -> bool:
        return not self.active

    def __post_init__(self) -> None:
        for name, legal in (("method", METHODS), ("measure", MEASURES)):
            if getattr(self, name) not in legal:
                raise ValueError(f"Invalid {name}: {getattr(self, name)!r}; legal are {', '.join(map(repr, legal))}")
        for name in ("kappa", "update"):
            check(name, getattr(self, name), Hyper(1.0, open_low=True))
        if isinstance(self.period, bool) or not isinstance(self.period, int) or self.period < 1:
            raise ValueError(f"Invalid period: {self.period!r}; legal is a whole number of at least 1")
        Hyper(0.9, 0.0, 1.0).check("smoothing", self.smoothing)

    def hypers(self) -> dict[str, Hyper]:
        kappa = referred(self.kappa, Hyper(1000.0, open_low=True))
        return {**kappa, **referred(self.update, Hyper(1.0, open_low=True))}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if not self.active:
            return {}
        found = {"lagmul": State(shape=())}
        if self.method == "inflection_point":
            averages = {"measure_average": State(shape=()), "measure_change": State(shape=())}
            return {**found, "kappa": State(-1.0, ()), **averages}
        return found if self.method == "uniform" else {**found, "kappa": State(shape=())}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        found: dict[str, float | bool] = {"update": value(h, self.update), "sets": False, "acts": True}
        if self.method == "inflection_point":
            look = t % self.period == 0
            found |= {"sets": look, "ready": look and t >= 4 * self.period, "acts": t >= 4 * self.period}
        elif self.method == "warm_start":
            start = value(h, self.kappa)
            found |= {"sets": t == round(start), "acts": t > round(start)}
        else:
            found |= {"sets": self.method == "dependent" and t == 1, "kappa": value(h, self.kappa)}
        return {**found, "lr": h["lr"]} if self.by_lr else found

    def __call__(self, x: Any, h: Any, new: Any) -> Generator[Any, Any, Any]:
        if not (self.active and (h.sets or h.acts)):
            return new
        if self.method == "dependent" and h.sets:
            before, _, _ = yield from self._measured(x.param)
            x["kappa"] = before * h.kappa
        size, count, slope = yield from self._measured(new)
        if self.method == "warm_start" and h.sets:
            x["kappa"] = size
        if not h.acts:
            if self.method == "inflection_point":
                self._look(x, size)
            return new
        kappa = h.kappa if self.method == "uniform" else x["kappa"]
        lam = (x["lagmul"] + (size - kappa) * h.update / count).clamp(min=0)
        if self.method == "inflection_point":
            lam = torch.where(kappa < 0, x["lagmul"], lam)
            if h.sets:
                slower = self._look(x, size)
                if h.ready:
                    x["kappa"] = torch.where((kappa < 0) & slower, size, kappa)
        x["lagmul"] = lam
        return new - slope * (lam * h.lr if self.by_lr else lam)

    def _look(self, x: Any, size: Any) -> Any:
        looked = inflected(size, x["measure_average"], x["measure_change"], self.smoothing)
        x["measure_average"], x["measure_change"], slower = looked
        return slower

    def _measured(self, p: Any) -> Generator[Any, Any, tuple[Any, Any, Any]]:
        """R(p), what its distance from kappa is divided by, and its derivative."""
        if self.measure == "std":
            middle, count = yield mean(p), total(torch.ones_like(p))
            away = p - middle
            others = (count - 1).clamp(min=1)
            squares = yield total(away * away)
            deviation = (squares / others).sqrt()
            return deviation, 1, away / (deviation * others).clamp(min=1e-30)
        term, slope = p * p, p * 2
        if self.measure == "l1":
            term, slope = p.abs(), p.sign()
        elif self.measure == "huber":
            size = p.abs()
            term, slope = torch.where(size < 1, p * p / 2, size - 0.5), p.clamp(-1, 1)
        whole, count = yield total(term), total(torch.ones_like(p))
        return whole, count, slope

    def equation(self, x: str = "g") -> str:
        if not self.active:
            return "p <- p   (not regularised)"
        per = "" if self.measure == "std" else "/n"
        rate = "lr*" if self.by_lr else ""
        kappa = {
            "uniform": f"kappa = {self.kappa}",
            "dependent": f"kappa = {self.kappa}*R(p) at the start",
            "warm_start": f"kappa = R(p) at step {self.kappa}",
            "inflection_point": "kappa = R(p) where its growth first slows down",
        }[self.method]
        return f"lam <- max(0, lam + {self.update}{per}*(R(p) - kappa)) ; p <- p - {rate}lam*dR(p), {kappa}"


_ELSEWHERE += [CPR, NormLoss]
