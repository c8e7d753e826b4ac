"""Calling Triton kernels: the tables they find their tensors in, and what is handed up of their sums."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thalweg.codecs import Blockwise, codebook
from thalweg.engine import family
from thalweg.engine.family import Key, NotCompiled
from thalweg.engine.record import Structure
from thalweg.engine.triton.source import TYPES, Source, Writer
from thalweg.engine.upload import capturing, upload
from thalweg.engine.work import Work, gradients

#: Devices whose tensors come here.
DEVICES = {"cuda", "xpu"}
#: Warps that work on a tile.
WARPS = 4

_NAMES = itertools.count()


@dataclass
class Kernel:
    """A source, and its functions once they are made."""

    source: Source
    made: dict[str, Any] | None = None

    def load(self) -> dict[str, Any]:
        """Its functions, which Triton compiles when they are launched first."""
        if self.made is None:
            self.made = functions_of(self.source.text)
            family.count_one()
        return self.made


def functions_of(text: str) -> dict[str, Any]:
    """What a generated module defines. Triton reads functions' text, so Python must know where it is."""
    import triton
    import triton.language as tl

    name = f"<thalweg kernel {next(_NAMES)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    made: dict[str, Any] = {"__name__": __name__, "triton": triton, "tl": tl}
    exec(compile(text, name, "exec"), made)
    return made


@cache
def source(key: Key, barrier: int | None) -> Source:
    """The text for a barrier's graph, or for the update's. Raises ``Unsupported``."""
    graph, kinds, row = family.recorded(key, barrier)
    return Writer(graph, kinds, family.tensors(key), key.structure.layout, row).write()


@cache
def kernel(key: Key, barrier: int | None) -> Kernel:
    """The kernel of a barrier, or of the update."""
    return Kernel(source(key, barrier))


@cache
def _writable(key: Key) -> bool:
    """Whether there is Triton for all of a family's graphs."""
    return family.writable(key, source)


def key(work: Work) -> Key | None:
    """The family of a tensor that fills its memory; None where there is no Triton for it."""
    rule, param = work.rule, work.param
    dtypes = (param.dtype, work.grad.dtype, *(s.dtype for s in work.state))
    if param.device.type not in DEVICES or not TYPES.keys() >= set(dtypes) or rule.recipe.squared:
        return None
    if rule.recipe.scope == "matrix" or (rule.recipe.scope == "row" and param.ndim > 1):
        return None
    structure = Structure(rule.flags, (1,), work.cast, rule.maximize, work.layout, native=True, sharded=work.sharded)
    found = Key(rule.recipe, tuple(rule.places), structure, 1, (param.device, *dtypes))
    return found if _writable(found) else None


class Chunk:
    """All works of a family: they share each launch."""

    def __init__(self, key: Key, members: list[int], works: list[Work]) -> None:
        self.key = key
        self.at = [[i] for i in members]
        self.count = len(members)
        self.kinds = family.barriers(key)
        self.members = members
        self.device = works[members[0]].param.device
        self.strides = [works[i].param.stride() for i in members]
        told = source(key, None)  # those of barriers cut tensors in the same way
        units = [works[i].param.numel() // told.unit for i in members]
        tiles = [max(-(-n // told.units), 1) for n in units]  # parts without elements join in
        starts = [0, *itertools.accumulate(tiles)]
        self.tiles = starts[-1]
        tensors = torch.repeat_interleave(torch.tensor(tiles)).tolist()
        self.tensor_of = upload(tensors, torch.int32, self.device)
        self.starts = upload(starts, torch.int32, self.device)
        self.sizes = upload(units, torch.int64, self.device)
        self.pointers = [[t.data_ptr() for t in (works[i].param, works[i].grad, *works[i].state)] for i in members]
        self.known: list[int] = []  # the gradients that the table points at
        self.table = self.sizes
        self.aligned = False
        self.held: list[Tensor] = []  # copies of gradients, for as long as a step takes

    def load(self, works: list[Work]) -> dict[tuple[Any, ...], Tensor]:
        """Point at this step's gradients; those in another layout than their parameters are copied."""
        grads = gradients((works[i] for i in self.members), self.strides, self.held)
        if grads != self.known:
            for row, pointer in zip(self.pointers, grads, strict=True):
                row[1] = pointer
            flat = [pointer for row in self.pointers for pointer in row]
            self.aligned = all(pointer % 16 == 0 for pointer in flat)
            self.table = upload(flat, torch.int64, self.device)
            self.known = [] if capturing(self.device) else grads  # filled when the captured step is replayed
        return {}

    def call(self, barrier: int | None, inputs: dict[tuple[Any, ...], Tensor]) -> list[Tensor]:
        """Launch the kernel of a barrier, or of the update; the totals it was asked for, one vector each."""
        found = kernel(self.key, barrier)
        told, made = found.source, found.load()
        later = torch.empty(told.sums * self.tiles + told.numbers * self.count, dtype=torch.float32, device=self.device)
        arguments = [inputs[key] for key in told.answers] + [_book(codec, self.device) for codec in told.books]
        table = (self.table, self.tensor_of, self.starts, self.sizes)
        self.launch(made["tiles"], self.tiles, *table, inputs["scalars",], later, *arguments, self.aligned)
        out = torch.empty((told.sums, self.count), dtype=torch.float64, device=self.device)
        if told.sums:
            self.launch(made["tensors"], self.count, self.starts, self.sizes, later, out)
        if told.numbers:
            self.launch(made["tensors"], self.count, self.table, later, stored=True)
        return list(out)

    def launch(self, function: Callable[..., Any], programs: int, *arguments: Any, stored: bool = False) -> None:
        """Launch so many programs on the tensors' device, whichever is the current one.

        Raises ``NotCompiled``, in which case nothing has run, unless something has been ``stored`` before.
        """
        elsewhere = self.device.type != "cpu"
        try:
            with torch.get_device_module(self.device).device(self.device) if elsewhere else nullcontext():
                function[(programs,)](*arguments, num_warps=WARPS)  # type: ignore[index]
        except Exception as error:
            if stored:
                raise
            raise NotCompiled(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])) from error

    def store(self) -> None:
        """Let go of copied gradients."""
        self.held.clear()


@cache
def _book(codec: Blockwise, device: torch.device) -> Tensor:
    """The values of a codec's codes."""
    return upload(list(codebook(codec.bits, codec.signed)), torch.float32, device)


def chunks(key: Key, members: list[int], works: list[Work]) -> list[Chunk]:
    """The works of a family, in one chunk."""
    return [Chunk(key, members, works)]
