"""``Work``: what an engine is handed for one parameter at one step, and how works are put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thalweg.codecs import Layout
from thalweg.engine.record import layout
from thalweg.recipe import Recipe, Scalars

if TYPE_CHECKING:
    from thalweg.sharding import Shard


@dataclass(slots=True)
class Rule:
    """A recipe with one step's scalars, shared by all parameters that stand at the same step of the same group.

    ``host`` holds the options and numbers of the ``group``-th group, which ``Slot.settle`` may move. ``together`` is
    equal for works that are coupled through totals. ``kind`` is one small number for everything about the rule that
    shapes graphs and plans; it makes plans quick to look up. In a captured step numbers are tensors, and in ``row``
    together.
    """

    recipe: Recipe
    scalars: Scalars
    maximize: bool
    places: list[tuple[str, str]]
    numbers: tuple[Any, ...]
    flags: tuple[tuple[str, str, bool], ...]
    kind: int
    host: dict[str, Any]
    group: int
    together: tuple[Any, ...]
    row: Tensor | None = None

    @classmethod
    def of(cls, recipe: Recipe, scalars: Scalars, maximize: bool, host: dict[str, Any], group: int) -> Rule:
        places, flags = layout(scalars)
        numbers = tuple(_plain(scalars[place][key]) for place, key in places)
        together: tuple[Any, ...] = recipe.coupled_slots
        if recipe.couples == "group":
            together = (*together, group)
        shape = (recipe, tuple(places), flags, maximize, together)
        kind = _KINDS.setdefault(shape, len(_KINDS))
        return cls(recipe, scalars, maximize, places, numbers, flags, kind, host, group, together)

    @property
    def plain(self) -> bool:
        """Whether its numbers are Python's."""
        return self.row is None or not any(isinstance(number, Tensor) for number in self.numbers)


_KINDS: dict[Any, int] = {}


def _plain(number: Any) -> Any:
    return number if isinstance(number, Tensor) else float(number)


@dataclass(slots=True)
class Work:
    """One parameter's step: its tensors (real ones; complex tensors come as real pairs) and its rule."""

    param: Tensor
    grad: Tensor
    state: list[Tensor]  # as ``layout`` says
    layout: Layout
    rule: Rule
    owner: int  # id of the parameter itself
    seed: Any = None  # of what is rounded at random: a number, in a captured step a tensor
    shard: Shard | None = None  # what the tensors are of the parameter, where its step looks at all of it

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        return tuple(self.param.shape) if self.shard is None else self.shard.shape

    @property
    def size(self) -> int:
        """The elements of the whole parameter: the same in every process."""
        return self.param.numel() if self.shard is None else math.prod(self.shard.shape)

    @property
    def sharded(self) -> tuple[int, ...]:
        """What kernels are told is shared out, if anything is: their first axis, of rows or of all elements."""
        return (0,) if self.shard is not None and self.shard.axes else ()

    @property
    def fellows(self) -> Any:
        """Equal for works whose parameters are shared out alike."""
        return None if self.shard is None else self.shard.fellows

    @property
    def compute_dtype(self) -> torch.dtype:
        """float64 for float64 parameters, else float32."""
        return torch.float64 if self.param.dtype == torch.float64 else torch.float32

    @property
    def cast(self) -> torch.dtype | None:
        """The dtype to load the parameter and gradient in, where it is not their own."""
        compute = self.compute_dtype
        return None if self.param.dtype == compute and self.grad.dtype == compute else compute

    def grad_laid(self, strides: tuple[int, ...]) -> Tensor:
        """The gradient with these strides, copied where it has others."""
        if self.grad.stride() == strides:
            return self.grad
        ordered = torch.empty_strided(self.grad.shape, strides, dtype=self.grad.dtype, device=self.grad.device)
        return ordered.copy_(self.grad)

    @property
    def form(self) -> tuple[int, ...]:
        """The part of the shape the recipe can see: nothing, the axes as far as it chooses by them, or all."""
        recipe, shape = self.rule.recipe, self.shape
        if recipe.scope == "matrix":
            return shape
        return recipe.alike(shape) if recipe.scope == "row" or self.shard is not None else ()


def gradients(works: Iterable[Work], strides: Iterable[tuple[int, ...]], held: list[Tensor]) -> list[int]:
    """Where gradients lie that have their parameters' strides; what is copied for that goes to ``held``."""
    found = []
    for work, laid in zip(works, strides, strict=True):
        grad = work.grad_laid(laid)
        if grad is not work.grad:
            held.append(grad)
        found.append(grad.data_ptr())
    return found


def gather(
    works: Iterable[Work], key: Callable[[Work], Hashable], limit: Callable[[Work], int], count: int
) -> list[list[Work]]:
    """Chunks of works with equal keys: at most ``count`` works, and at most ``limit`` elements unless alone."""
    chunks: list[list[Work]] = []
    open_chunks: dict[Any, tuple[list[Work], int]] = {}
    for work in works:
        k = key(work)
        size = work.size
        chunk, total = open_chunks.get(k, ([], 0))
        if not chunk or total + size > limit(work) or len(chunk) >= count:
            chunk, total = [], 0
            chunks.append(chunk)
        chunk.append(work)
        open_chunks[k] = (chunk, total + size)
    return chunks


def reduce_model(partials: list[Tensor], how: str) -> Tensor:
    """One number from those of the coupled tensors, in float64 and in the plan's order."""
    home = partials[0].device
    together = torch.cat([p.reshape(-1).to(home, torch.float64) for p in partials])
    return together.amax() if how == "max" else together.sum()
