"""Calling native kernels: the pointers they are handed, and which tensors share a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import family, scratch
from thalweg.engine.family import Key
from thalweg.engine.native import build
from thalweg.engine.native.loops import Source, write
from thalweg.engine.native.series import Series
from thalweg.engine.native.source import TYPES, Column, Writer
from thalweg.engine.record import WHOLE, Structure
from thalweg.engine.view import WIDE
from thalweg.engine.work import Work, gradients
from thalweg.slots.symmetric import OfGram
from thalweg.square import square_shape

#: Elements of the tensors that pass their barriers together: few enough to be in cache still when they are updated.
PASSES_ELEMENTS = 1 << 20


@dataclass
class Kernel:
    """A source, compiled at its first call."""

    source: Source
    code: Callable[..., Any] | None = None

    def load(self) -> Callable[..., Any]:
        """Its code. Raises ``BuildError``."""
        if self.code is None:
            self.code = build.load(self.source.text)
            family.count_one()
        return self.code


def _columns(key: Key) -> tuple[Column, ...]:
    """The tensors of each parameter, in the order of their pointers."""
    kinds = enumerate(family.barriers(key))
    asked = [(b, q) for b, some in kinds for q, kind in enumerate(some) if kind.over not in WHOLE]
    return (
        *(Column(*tensor) for tensor in family.tensors(key)),
        *(Column((what, b, q), _compute(key)) for b, q in asked for what in ("value", "answer")),
    )


def _compute(key: Key) -> torch.dtype:
    return torch.float64 if key.memory[1] == torch.float64 else torch.float32


@cache
def source(key: Key, barrier: int | None) -> Source:
    """The C++ of a barrier's graph, or of the update's."""
    graph, kinds, row = family.recorded(key, barrier)
    structure, square = key.structure, key.recipe.squared
    columns, compute = _columns(key), _compute(key)
    return write(Writer(graph, kinds, barrier, columns, structure.layout, structure.ndim, square, compute), row)


@cache
def kernel(key: Key, barrier: int | None) -> Kernel:
    """The kernel of a barrier, or of the update."""
    return Kernel(source(key, barrier))


@cache
def _writable(key: Key) -> bool:
    """Whether there is C++ for all of a family's graphs."""
    return family.writable(key, source)


def key(work: Work) -> Key | None:
    """The family of a tensor that fills its memory; None where there is no native kernel for it."""
    rule, param = work.rule, work.param
    shaped = rule.recipe.scope == "row" and (param.ndim > 1 or rule.recipe.squared)
    dtypes = (param.dtype, work.grad.dtype, *(s.dtype for s in work.state))
    if param.device.type != "cpu" or not TYPES.keys() >= set(dtypes) or not build.supported():
        return None
    if (shaped and not param.is_contiguous()) or not all(_fits(work, *pair, shaped) for pair in _plain(work)):
        return None
    matrix = rule.recipe.scope == "matrix"
    seen = rule.recipe.alike(work.shape) if shaped else (1,) * min(param.ndim, 2) if matrix else ()
    shape = seen or (1,)
    if shaped and work.shard and work.shard.axes != work.sharded:
        return None
    structure = Structure(
        rule.flags, shape, work.cast, rule.maximize, work.layout, native=True, flat=matrix, sharded=work.sharded
    )
    found = Key(rule.recipe, tuple(rule.places), structure, 1, (param.device, *dtypes))
    return found if _writable(found) and _by_rows(found) else None


@cache
def _by_rows(key: Key) -> bool:
    """Whether what a process has no rows of it is not asked for columns by itself, which kernels take row by row."""
    kinds = [kind for some in family.barriers(key) for kind in some]
    return not key.structure.sharded or all(0 in (kind.axes[0] or ()) for kind in kinds)


def _plain(work: Work) -> list[tuple[str, Tensor]]:
    """The state that no codec stores, by role."""
    coded = {role + part for role, codec in work.layout.codecs for part in codec.tensors}
    return [(role, s) for role, s in zip(work.layout.roles, work.state, strict=True) if role not in coded]


def _fits(work: Work, role: str, state: Tensor, shaped: bool) -> bool:
    """Whether kernels know how a state lies beside its parameter: like it, along known axes, or a single number."""
    spec = work.rule.recipe.state(work.shape).get(role)
    if spec is None or spec.shape is None:
        return True
    if not spec.axes:
        return state.numel() == 1
    return shaped or state.numel() == work.param.numel()


def _unit(key: Key, param: Tensor) -> int:
    """The length of a row that kernels see; 0 where they see none."""
    if key.recipe.squared:
        return square_shape(tuple(param.shape))[1]
    return param.shape[1:].numel() if key.structure.ndim > 1 else 0


class Chunk:
    """Works of a family that share each call.

    With ``sets`` (how many of them pass their barriers together) there are no barriers to be seen from without: one
    call runs all kernels.
    """

    def __init__(self, key: Key, members: list[int], works: list[Work], sets: list[int] | None = None) -> None:
        self.key = key
        self.at = [[i] for i in members]
        self.count = len(members)
        self.kinds = [] if sets else family.barriers(key)
        self.sets = sets
        self.series: Series | None = None
        self.members = members
        self.strides = [works[i].param.stride() for i in members]
        self.compute = _compute(key)
        columns = _columns(key)
        self.width = len(columns)
        self.place = {column.key: j for j, column in enumerate(columns)}
        layout = key.structure.layout
        sizes = [works[i].param.numel() for i in members]
        # Elements that a kernel takes as one: a block of codes, or a row.
        block = layout.blockwise[0][1].block if layout.blockwise else 1
        units = [_unit(key, works[i].param) or block for i in members]
        self.rows = [n // unit for n, unit in zip(sizes, units, strict=True)]
        self.sizes, self.units = ((ctypes.c_int64 * self.count)(*numbers) for numbers in (sizes, units))
        self.pointers = (ctypes.c_int64 * (self.count * self.width))()
        for t, i in enumerate(members):
            tensors = (works[i].param, works[i].grad, *works[i].state)
            for j, tensor in enumerate(tensors):
                self.pointers[t * self.width + j] = tensor.data_ptr()
        self.held: list[Tensor] = []  # copies of gradients, for as long as a step takes
        #: Rows and columns of a long matrix, and the pointers that move with its rows, with the bytes of a number.
        self.long: tuple[int, int, list[tuple[int, int]]] | None = None
        rows, length = works[members[0]].param.shape[:1].numel(), sizes[0]
        if rows**2 > length > PASSES_ELEMENTS and not layout.blockwise:
            moving = [(j, t.element_size()) for j, t in enumerate(tensors) if t.numel() == length]
            self.long = rows, length // rows, moving

    def load(self, works: list[Work]) -> dict[tuple[Any, ...], Tensor]:
        """Point at this step's gradients; those in another layout than their parameters are copied."""
        found = gradients((works[i] for i in self.members), self.strides, self.held)
        for at, pointer in zip(range(1, len(self.pointers), self.width), found, strict=True):
            self.pointers[at] = pointer
        return {}

    def call(self, barrier: int | None, inputs: dict[tuple[Any, ...], Tensor]) -> list[Any]:
        """Run the kernel of a barrier, or of the update; what it was asked for, request by request."""
        numbers = inputs["scalars",].data_ptr()
        if self.sets:
            if self.series is None:
                self.series = Series(
                    self, [kernel(self.key, barrier) for barrier in family.graphs(self.key)], self.sets
                )
            self.series(numbers)
            return []
        found = kernel(self.key, barrier)
        told = found.source
        for key, tensor in inputs.items():
            if len(key) == 4:
                self.point(key[3], key[:3], tensor.data_ptr())
        answers = (ctypes.c_int64 * len(told.answers))(*(inputs[key].data_ptr() for key in told.answers))
        if self.long and told.asked == ("matrix",) and isinstance(self.kinds[barrier or 0][0].function, OfGram):
            return [self.in_pieces(found, self.place["value", barrier, 0], numbers, answers)]
        sums = torch.empty((told.sums, self.count), dtype=torch.float64)
        rows = iter(sums)
        asked: list[Tensor] = []
        for q, what in enumerate(told.asked):
            if what == "sum":
                asked.append(next(rows))
            elif what == "each":
                asked += next(rows)
            else:
                lengths: dict[str, Iterable[int]] = {"row": self.rows, "column": self.units, "matrix": self.sizes}
                for t, length in enumerate(lengths[what]):
                    asked.append(scratch.empty((length,), self.compute, sums.device))
                    self.point(t, ("value", barrier, q), asked[-1].data_ptr())
        found.load()(self.count, self.sizes, self.units, self.pointers, numbers, answers, sums.data_ptr())
        return asked

    def in_pieces(self, found: Kernel, place: int, numbers: int, answers: Any) -> Iterator[Tensor]:
        """The value of a long matrix, some rows at a time, in memory for one piece."""
        assert self.long is not None
        rows, length, moving = self.long
        step = max(1, PASSES_ELEMENTS // length)
        value = scratch.empty((step * length,), self.compute, torch.device("cpu"))
        pointers = (ctypes.c_int64 * self.width)(*self.pointers)
        pointers[place] = value.data_ptr()
        for row in range(0, rows, step):
            size = min(step, rows - row) * length
            for j, item in moving:
                pointers[j] = self.pointers[j] + row * length * item
            found.load()(1, (ctypes.c_int64 * 1)(size), self.units, pointers, numbers, answers, None)
            yield value[:size].view(-1, length)

    def point(self, tensor: int, key: tuple[Any, ...], at: int) -> None:
        """Set a pointer."""
        self.pointers[tensor * self.width + self.place[key]] = at

    def store(self) -> None:
        """Let go of copied gradients."""
        self.held.clear()


def chunks(key: Key, members: list[int], works: list[Work]) -> list[Chunk]:
    """The works of a family, largest first: all in one chunk, but where they ask for functions of matrices."""
    size = {i: works[i].size for i in members}  # so that all processes have one order
    ordered = sorted(members, key=lambda i: -size[i])
    overs = {kind.over for kinds in family.barriers(key) for kind in kinds}
    if "matrix" in overs:
        return [Chunk(key, [i], works) for i in ordered]
    # Where all wait for all, or for other processes, there is nothing to keep in a cache.
    if not overs or overs & {*WIDE} or key.structure.sharded:
        return [Chunk(key, ordered, works)]
    sets: list[int] = []
    room = 0
    for i in ordered:
        if size[i] > room:
            sets.append(0)
            room = PASSES_ELEMENTS
        sets[-1] += 1
        room -= size[i]
    return [Chunk(key, ordered, works, sets)]
