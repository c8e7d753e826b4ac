"""Moments that keep far less than a number per element: of rows and columns, of covers, of a square view."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from thalweg.hyper import Hyper, Number, check, referred, value
from thalweg.ops import mix
from thalweg.scalars import least, most
from thalweg.slots.average import Average
from thalweg.slots.base import Slot, State, largest, mean
from thalweg.slots.law import Law, Rising, Sum, Weights
from thalweg.techniques import technique

NEEDS = "a second moment that is a plain average of the squared gradient"


@dataclass(frozen=True, repr=False)
class Compact(Slot):
    """Base of the compact second moments. As a technique, one takes the law of the full average it stands in for."""

    place = "second"
    law: Law = Rising()

    def into(self, recipe: Any) -> Any:
        there = recipe.second
        name = type(self).__name__
        if type(there) is not Average or there.power != 2 or there.law.mixes:
            kept = "none" if there is None else repr(there)
            raise ValueError(f"{name} needs {NEEDS} (Adam's, RMSprop's); this recipe's second moment is {kept}")
        return recipe.but(second=replace(self, law=there.law))

    def hypers(self) -> dict[str, Hyper]:
        return self.law.hypers()

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.law.weights(h, t, numbers)._asdict()

    def read(self, h: Any, v: Any) -> Any:
        return v * h.fix if self.law.corrects else v


#: The least a factored second moment can be: about the smallest normal float32.
TINY = 1.2e-38
FLOOR = Hyper(1e-30)
AXES = ("last", "first", "largest", "none")


def _by_size(shape: tuple[int, ...]) -> list[int]:
    """The axes from the smallest to the largest, of equal ones the later as the larger."""
    return sorted(range(len(shape)), key=lambda i: (shape[i], i))


@technique("factored", source="arXiv 1804.04235", needs=NEEDS)
@dataclass(frozen=True, repr=False)
class Factored(Compact):
    """Adafactor's second moment: row and column means whose product stands for the matrix.

    ``V = R*C/mean(R)`` with R and C the averages of g^2 + eps along two axes; 0-d and 1-d tensors keep all of it.
    ``axes``: "last" factors the last two, with leading ones as a batch; "first" the first against all the others, so
    that a convolution is factored as (o, i*kh*kw); "largest" the two largest (of equal ones the later) where both have
    ``least`` entries; "none" keeps the full average. ``eps`` is a reference to a number of the group or the number.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(64, 64))
        >>> opt = thalweg.AdamW([p], techniques=[thalweg.Factored(axes="first")])
        >>> opt.recipe.state_bytes((64, 64))
        4.125
    """

    axes: str = "last"
    eps: Number = "eps.0"
    least: int = 0
    names: tuple[str, str, str] = ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")
    keepdim: bool = False

    def __post_init__(self) -> None:
        if self.axes not in AXES:
            raise ValueError(f"Invalid axes: {self.axes!r}; legal are {', '.join(AXES)}")
        check("eps", self.eps, FLOOR)

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "element" if self.axes == "none" else "row"

    def into(self, recipe: Any) -> Any:
        own = replace(self, eps=1e-30) if isinstance(self.eps, str) else self
        return Compact.into(own, recipe)

    def hypers(self) -> dict[str, Hyper]:
        return {**self.law.hypers(), **referred(self.eps, FLOOR)}

    def averaged(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The axes that rows and columns average over; None for tensors that are not factored."""
        ndim = len(shape)
        if ndim < 2 or self.axes == "none":
            return None
        if self.axes == "first":
            return tuple(range(1, ndim)), (0,)
        if self.axes == "last":
            return (-1,), (-2,)
        second, first = _by_size(shape)[-2:]
        return ((first,), (second,)) if shape[second] >= self.least else None

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.axes != "largest" or self.averaged(shape) is None:
            return super().alike(shape)
        order = _by_size(shape)
        return tuple(self.least + 1 + order.index(i) for i in range(len(shape)))

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        full, row, col = self.names
        over = self.averaged(shape)
        if over is None:
            return {full: State()}
        found = {}
        for role, gone in zip((row, col), over, strict=True):
            axes = tuple(None if i in gone or i - len(shape) in gone else i for i in range(len(shape)))
            if self.axes == "last" and not self.keepdim:
                axes = tuple(i for i in axes if i is not None)
            found[role] = State.along(shape, axes)
        return found

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {**super().scalars(h, t, numbers), "eps": value(h, self.eps)}

    def square(self, h: Any, g: Any) -> Any:
        return g * g + h.eps

    def full(self, x: Any, h: Any, v: Any) -> Any:
        return v

    def product(self, h: Any, x: Any, r: Any, middle: Any, c: Any) -> Any:
        # One root of the whole quotient follows (the precise "square root last" form). A row and a column without
        # gradients meet in eps^2/mean(r), which float32 cannot hold; the gradient there is zero whatever it is over.
        return r / middle * c + TINY

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Any, Any, Any]:
        full, row, col = self.names
        q = self.square(h, g)
        over = self.averaged(x.shape)
        if over is None:
            x[full] = v = mix(h.keep, x[full], h.gain, q)
            return self.read(h, self.full(x, h, v))
        keepdim = self.keepdim or self.axes != "last"
        rows, columns = yield tuple(mean(q, axes if keepdim else axes[0]) for axes in over)
        x[row] = r = mix(h.keep, x[row], h.gain, rows)
        x[col] = c = mix(h.keep, x[col], h.gain, columns)
        if keepdim:
            middle = yield mean(r, over[1])
        else:
            middle = yield mean(r, -1)
            r, c, middle = r.unsqueeze(-1), c.unsqueeze(-2), middle.unsqueeze(-1).unsqueeze(-1)
        return self.read(h, self.product(h, x, r, middle, c))

    def equation(self, x: str = "g") -> str:
        if self.axes == "none":
            return self.law.text("v", f"({x}^2 + {self.eps})")
        return (
            f"q = {x}^2 + {self.eps} ; {self.law.text('R', 'rowmean(q)')} ; C likewise over columns ; v = R*C/mean(R)"
            "   (0-d and 1-d tensors: v is the full average of q)"
        )


@dataclass(frozen=True, repr=False)
class FlooredFactored(Factored):
    """The factored second moment of torch.optim: eps is the least mean(R) and root of V, and is not added to g^2.

    eps None is the machine epsilon of the arithmetic, float32's for half precision.
    """

    law: Law = Rising("beta2_decay")
    names: tuple[str, str, str] = ("variance", "row_var", "col_var")
    keepdim: bool = True

    def hypers(self) -> dict[str, Hyper]:
        return {**self.law.hypers(), "eps.0": Hyper(None)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        eps = h["eps.0"]
        return {**Compact.scalars(self, h, t, numbers), "machine": eps is None, "eps": 0.0 if eps is None else eps}

    def square(self, h: Any, g: Any) -> Any:
        return g * g

    def least_value(self, h: Any, like: Any) -> Any:
        if not h.machine:
            return h.eps
        one = like.new_ones(())
        return torch.nextafter(one, one * 2) - one

    def full(self, x: Any, h: Any, v: Any) -> Any:
        eps = self.least_value(h, v)
        return v.clamp(min=eps * eps).clamp(min=TINY)

    def product(self, h: Any, x: Any, r: Any, middle: Any, c: Any) -> Any:
        eps = self.least_value(h, r)
        return (r / middle.clamp(min=eps) * c).clamp(min=eps * eps).clamp(min=TINY)

    def equation(self, x: str = "g") -> str:
        return (
            f"{self.law.text('R', f'rowmean({x}^2)')} ; C likewise over columns ;"
            f" v = max(R*C/max(mean(R), eps.0), eps.0^2)   (0-d and 1-d tensors: v = max(average of {x}^2, eps.0^2))"
        )


@dataclass(frozen=True, repr=False)
class Capped(Law):
    """Adafactor's lengthening memory up to a longest one, counted from a later step: big_vision's."""

    def text(self, s: str, x: str) -> str:
        b = "B = min(beta2_cap, 1 - max(t-decay_offset, 1)^-decay_rate)"
        return f"{b} ; {s} <- B*{s} + (1-B)*{x}"

    def hypers(self) -> dict[str, Hyper]:
        return {
            "decay_rate": Hyper(0.8, open_low=True),
            "decay_offset": Hyper(0.0),
            "beta2_cap": Hyper(0.999, 0.0, 1.0, open_high=False),
        }

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        keep = least(h["beta2_cap"], 1 - most(t - h["decay_offset"], 1) ** -h["decay_rate"])
        return Weights(keep, 1 - keep)


@technique("sm3", source="arXiv 1901.11150", needs=NEEDS)
@dataclass(frozen=True, repr=False)
class Cover(Compact):
    """SM3's second moment: one number per index of each axis; an element takes the least of those that cover it.

    ``variant`` "II": ``v = min_i a_i + g^2 ; a_i <- max of v over all axes but i``; "I": ``a_i <- a_i + max of g^2 over
    all axes but i ; v = min_i a_i``, never smaller. 0-d and 1-d tensors keep the full moment. As a technique, the
    recipe's own average stands in place of the sum.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(64, 64))
        >>> opt = thalweg.Adagrad([p], techniques=["sm3"])
        >>> opt.recipe.state_bytes((64, 64))
        0.125
    """

    scope = "row"
    law: Law = Sum()
    variant: str = "II"

    def __post_init__(self) -> None:
        if self.variant not in ("I", "II"):
            raise ValueError(f"Invalid variant: {self.variant!r}; legal are 'I' and 'II'")

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if len(shape) < 2:
            return {"accumulator_0": State()}
        every = range(len(shape))
        return {f"accumulator_{i}": State.along(shape, tuple(j if j == i else None for j in every)) for i in every}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Any, Any, Any]:
        q = g * g
        if x.ndim < 2:
            x["accumulator_0"] = v = mix(h.keep, x["accumulator_0"], h.gain, q)
            return self.read(h, v)
        roles = [f"accumulator_{i}" for i in range(x.ndim)]
        covers = [x[role] for role in roles]
        others = [tuple(j for j in range(x.ndim) if j != i) for i in range(x.ndim)]
        if self.variant == "II":
            v = mix(h.keep, reduce(torch.minimum, covers), h.gain, q)
            tops = yield tuple(largest(v, axes) for axes in others)
        else:
            highest = yield tuple(largest(q, axes) for axes in others)
            tops = tuple(mix(h.keep, a, h.gain, top) for a, top in zip(covers, highest, strict=True))
            v = reduce(torch.minimum, tops)
        for role, top in zip(roles, tops, strict=True):
            x[role] = top
        return self.read(h, v)

    def equation(self, x: str = "g") -> str:
        if self.variant == "I":
            return f"{self.law.text('a_i', f'max of {x}^2 over all axes but i')} ; v = min_i a_i"
        return f"v = min_i a_i ; {self.law.text('v', f'{x}^2')} ; a_i <- max of v over all axes but i"
