"""The kernels of a family in one call, where their barriers concern one tensor each."""

from __future__ import annotations

import ctypes
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from thalweg.engine.native import build

if TYPE_CHECKING:
    from thalweg.engine.native.chunk import Chunk, Kernel


class Pass(ctypes.Structure):
    """What ``series.cpp`` knows of a kernel."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("columns", "numbers", "bytes", "sums", "answers")),
        *((name, ctypes.c_void_p) for name in ("answer", "found", "told")),
    )


class Series:
    """A chunk's kernels, from the first barrier's to the update's, each set of its tensors after the other.

    ``sets`` are the numbers of tensors that pass their barriers together, in the chunk's order. The memory for answers
    is kept: a few numbers for each tensor, and for one set those of its rows and columns.
    """

    def __init__(self, chunk: Chunk, kernels: list[Kernel], sets: list[int]) -> None:
        self.chunk = chunk
        self.code = build.shipped("series.cpp")
        begins = [0, *accumulate(sets)]
        self.sets = len(sets)
        self.begins = (ctypes.c_int64 * len(begins))(*begins)
        self.passes = (Pass * len(kernels))()
        self.held: list[object] = []  # what the passes point to
        places: dict[tuple[object, ...], int] = {}
        lines: list[tuple[int, int, tuple[object, ...]]] = []  # of rows or columns: tensor, length, request
        for barrier, (kernel, entry) in enumerate(zip(kernels, self.passes, strict=True)):
            source = kernel.source
            code: Any = kernel.load()
            entry.run = ctypes.cast(code, ctypes.c_void_p).value
            entry.columns, entry.numbers, entry.bytes = chunk.width, source.row, chunk.compute.itemsize
            answers = (ctypes.c_void_p * (len(source.answers) + 1))(*(places[key] for key in source.answers))
            entry.answers, entry.answer = len(source.answers), ctypes.addressof(answers)
            self.held.append(answers)
            if not source.asked:
                continue
            found = torch.empty(source.sums * max(sets) + 1, dtype=torch.float64)
            told = torch.empty(source.sums * chunk.count + 1, dtype=chunk.compute)
            entry.sums, entry.found, entry.told = source.sums, found.data_ptr(), told.data_ptr()
            self.held += [found, told]
            row = 0
            for q, what in enumerate(source.asked):
                if what in ("row", "column"):
                    lengths = chunk.rows if what == "row" else chunk.units
                    lines += [(t, lengths[t], (barrier, q)) for t in range(chunk.count)]
                    continue
                at = told.data_ptr() + row * chunk.count * entry.bytes
                row += 1
                places["answer", barrier, q] = at
                if what == "each":
                    for t in range(chunk.count):
                        chunk.point(t, ("answer", barrier, q), at + t * entry.bytes)
        self._lay(lines, begins)

    def _lay(self, lines: list[tuple[int, int, tuple[object, ...]]], begins: list[int]) -> None:
        """Give rows and columns their memory, which one set after the other uses."""
        chunk = self.chunk
        set_of = [s for s in range(self.sets) for _ in range(begins[s], begins[s + 1])]
        ends = [0] * self.sets
        offsets = []
        for t, length, _ in lines:
            offsets.append(ends[set_of[t]])
            ends[set_of[t]] += length
        memory = torch.empty(max(ends, default=0) + 1, dtype=chunk.compute)
        self.held.append(memory)
        for (t, _, request), offset in zip(lines, offsets, strict=True):
            for what in ("value", "answer"):
                chunk.point(t, (what, *request), memory.data_ptr() + offset * chunk.compute.itemsize)

    def __call__(self, numbers: int) -> None:
        """Take the step; ``numbers`` is where the rows of numbers are."""
        chunk = self.chunk
        self.code(self.sets, self.begins, self.passes, chunk.sizes, chunk.units, chunk.pointers, numbers)
