"""One second moment for many entries: per tensor, per row, per attention head (Adam-mini)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from thalweg.hyper import Hyper
from thalweg.ops import mix
from thalweg.slots.average import Average
from thalweg.slots.base import Request, Slot, State, mean
from thalweg.slots.gradient import units
from thalweg.slots.law import Debiased
from thalweg.techniques import technique

#: Adam's second moment.
ADAMS = Average("exp_avg_sq", Debiased("betas.1", 0.999), power=2)
NEEDS = "a recipe whose second moment is a plain average of the squared gradient"


@technique("second_per_tensor", source="arXiv 2406.16793", needs=NEEDS)
@dataclass(frozen=True, repr=False)
class SecondPerTensor(Slot):
    """One second moment for the whole tensor, the average of its mean squared gradient.

    ``v <- keep*v + gain*mean(g^2)`` with the law of the recipe's own second moment.

    Args:
        inner: the second moment that is replaced; the recipe's own when switched on as a technique.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, techniques=["second_per_tensor"])
        >>> p.grad = torch.tensor([0.0, 2.0]); opt.step(); p.data
        tensor([1.0000, 0.8586])
    """

    place = "second"
    scope = "tensor"
    inner: Average = ADAMS

    def into(self, recipe: Any) -> Any:
        there = recipe.second
        if type(there) is not Average or there.power != 2:
            what = "it has none" if there is None else f"its second moment is {there!r}"
            raise ValueError(f"{type(self).__name__} needs {NEEDS}, as Adam's, RMSprop's or Adagrad's is: {what}")
        return recipe.but(second=replace(self, inner=there))

    def hypers(self) -> dict[str, Hyper]:
        return self.inner.hypers()

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        kept = self.shape(shape)
        axes = (0, *[None] * (len(kept) - 1)) if kept else ()
        return {self.inner.role: State(self.inner.start or 0.0, kept, axes=axes)}

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the second moment of a parameter of that shape; None for the parameter's own."""
        return ()

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.inner.numbers

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.inner.scalars(h, t, numbers)

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        q = yield from self.square(x, g)
        x[self.inner.role] = v = mix(h.keep, x[self.inner.role], h.gain, q)
        return self.inner.read(h, v, q)

    def square(self, x: Any, g: Any) -> Generator[Request, Any, Any]:
        """The mean squared gradient of each block."""
        return (yield mean(g * g))

    def equation(self, x: str = "g") -> str:
        return self.inner.law.text("v", f"mean({x}^2)")


@technique("second_per_row", source="arXiv 2406.16793", needs=NEEDS)
@dataclass(frozen=True, repr=False)
class SecondPerRow(SecondPerTensor):
    """One second moment for each row (index of the first axis): an output neuron, a token, a filter.

    ``v <- keep*v + gain*mean(g^2 over the row)`` with the law of the recipe's own second moment. Axes after the first
    are one row; of a tensor of fewer than two axes every entry is a row.

    Args:
        inner: the second moment that is replaced; the recipe's own when switched on as a technique.
        heads: rows are put together in this many blocks of equal height (the heads of a query's or key's weights), 0
            for none. v is kept by row, equal within a block; such tensors run on the foreach engine.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.AdamW([p], lr=0.1, weight_decay=0, techniques=["second_per_row"])
        >>> p.grad = torch.tensor([[0.0, 2.0], [1.0, 1.0]]); opt.step(); p.data
        tensor([[1.0000, 0.8586],
                [0.9000, 0.9000]])
    """

    heads: int = 0

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "matrix" if self.heads else "row"

    def __post_init__(self) -> None:
        if isinstance(self.heads, bool) or not isinstance(self.heads, int) or self.heads < 0:
            raise ValueError(f"Invalid heads: {self.heads!r}; legal is a whole number of at least 0")

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return None if len(shape) < 2 else (shape[0], *[1] * (len(shape) - 1))

    def square(self, x: Any, g: Any) -> Generator[Request, Any, Any]:
        q = g * g
        if x.ndim < 2:
            return q
        rows = yield mean(q, units(x.ndim))
        if not self.heads:
            return rows
        blocks = rows.reshape(self.heads, -1)
        return blocks.mean(1, keepdim=True).expand_as(blocks).reshape_as(rows)

    def equation(self, x: str = "g") -> str:
        return self.inner.law.text("v", f"mean({x}^2 over the {'head' if self.heads else 'row'})")
