"""The fused engine: recorded graphs, compiled once, run over chunks of tensors of any size.

Three compilers serve it: ``native`` writes C++ of its own for the CPU, ``triton`` kernels for accelerators, and
``inductor`` is torch's, for what those have no code for. What no graph can serve (formulas that multiply matrices,
memory with gaps) runs on the foreach engine.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.engine import eager, family, inductor, native, parts, processes, triton
from thalweg.engine.family import Key, NotCompiled
from thalweg.engine.native.build import compiler
from thalweg.engine.record import Kind
from thalweg.engine.upload import capturing, upload
from thalweg.engine.view import WIDE
from thalweg.engine.work import Work
from thalweg.sharding import EVERY
from thalweg.slots.symmetric import OfGram

#: In the order in which they are asked for a tensor's kernels.
COMPILERS = (native, triton, inductor)
#: How many patterns of present gradients a plan is kept for.
PLANS = 16


@cache
def available(device: torch.device) -> str | None:
    """``None`` if a compiler for the device is present, else what is missing."""
    if device.type == "cpu":
        return None if compiler() else f"no C++ compiler ({os.environ.get('CXX', 'g++ or clang++')}) was found"
    from importlib.util import find_spec

    return None if find_spec("triton") else "triton is not installed"


def forget() -> None:
    """Drop every kernel of this process, so that the next steps compile anew."""
    for known in (family.barriers, inductor.kernel, native.kernel, native.source, triton.kernel, triton.source):
        known.cache_clear()


def _dense(t: Tensor) -> bool:
    """Whether the tensor fills its memory without gaps or overlaps, in some order of its axes."""
    if t.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((st, s) for st, s in zip(t.stride(), t.shape, strict=True) if s > 1):
        if stride != expected:
            return False
        expected *= size
    return True


class Chunk(Protocol):
    """Works served by one call of each kernel of a family."""

    at: list[list[int]]  # the works at each place: one, or small ones that travel joined
    count: int  # places, those that are filled up counted too
    kinds: list[list[Kind]]  # the barriers

    def load(self, works: list[Work]) -> dict[tuple[Any, ...], Tensor]:
        """This step's inputs that are tensors of the works."""

    def call(self, barrier: int | None, inputs: dict[tuple[Any, ...], Tensor]) -> Any:
        """Run the kernel of a barrier, or of the update; may raise ``NotCompiled``."""

    def store(self) -> None:
        """Put back what was copied for the step."""


@dataclass
class Plan:
    """How one set of parameters is put into chunks; valid while the tensors keep their memory."""

    chunks: list[Chunk]
    leftover: list[int]
    pointers: tuple[int, ...]


class Engine:
    """The compiled engine of one optimizer: its plans. Kernels are shared by the whole process."""

    def __init__(self) -> None:
        self.plans: dict[Any, Plan] = {}
        self.limit = PLANS  #: plans kept; gradient release steps in many small sets, each with its own
        self.failed: str | None = None

    def run(self, works: list[Work], strict: bool = True) -> None:
        """Take one step of every work. Where a graph does not compile, raise, or unless ``strict`` go on without.

        A graph that does not compile has changed nothing, so the foreach engine can take over its tensors.
        """
        works = [w for w in works if w.size]
        plan = self._plan(works)
        packed = _Packed()
        fused = (_Run(chunk, works, packed, self, strict) for chunk in plan.chunks)
        left = eager.chunks([works[i] for i in plan.leftover], many=True)
        parts.run(chain[parts.Part](fused, left))

    def _plan(self, works: list[Work]) -> Plan:
        pointers = _pointers(works)
        # Joined tensors share a row of numbers, so which works follow the same rule is part of the key.
        rules: dict[int, int] = {}
        key = tuple([n for w in works for n in (w.owner, w.rule.kind, rules.setdefault(id(w.rule), len(rules)))])
        plan = self.plans.pop(key, None)
        if plan is None or plan.pointers != pointers:
            plan = self._make_plan(works)
            if works and capturing(works[0].param.device):
                return plan  # its tables are filled when the captured step is replayed
        self.plans[key] = plan
        if len(self.plans) > self.limit:
            self.plans.pop(next(iter(self.plans)))
        return plan

    def _make_plan(self, works: list[Work]) -> Plan:
        families: dict[tuple[Any, Key, Any, Any], list[int]] = {}
        leftover: list[int] = []
        for i, work in enumerate(works):
            found = _served(work)
            if found is None:
                leftover.append(i)
            else:
                families.setdefault((*found, work.rule.together, work.fellows), []).append(i)
        chunks: list[Chunk] = []
        for (by, key, *_), members in families.items():
            chunks += by.chunks(key, members, works)
        return Plan(chunks, leftover, _pointers(works))  # joining has moved small state


def _served(work: Work) -> tuple[Any, Key] | None:
    """What compiles a tensor's kernels, and their family; None where there are none for it."""
    param = work.param
    if not _dense(param):
        return None
    if any(s.shape == param.shape and s.stride() != param.stride() for s in work.state):
        return None  # the parameter's layout changed after its state was made
    if work.layout.fold and not param.is_contiguous():
        return None
    if work.rule.recipe.scope == "matrix":
        # On an accelerator matrices are stacked, which is the foreach engine's.
        asks = work.rule.recipe.asks and param.device.type == "cpu" and param.is_contiguous()
        if not asks or work.shard:
            return None
    # Inductor's chunks are cut by what a process holds, and would not be the same in all.
    compilers = COMPILERS if work.shard is None else (native, triton)
    return next(((by, key) for by in compilers if (key := by.key(work))), None)


def _pointers(works: list[Work]) -> tuple[int, ...]:
    return tuple([t.data_ptr() for w in works for t in (w.param, *w.state)])


class _Packed:
    """The packed scalars of one step, made once for each set of rules and shared by the chunks that use it."""

    def __init__(self) -> None:
        self.made: dict[Any, Tensor] = {}

    def __call__(self, works: list[Work], count: int) -> Tensor:
        """A row of numbers per tensor, rounded once from float64 to the compute dtype."""
        like = works[0]
        if like.rule.row is not None:
            return self.on_device(works, count)
        seeds = [] if like.seed is None else [w.seed for w in works]
        key = (like.compute_dtype, like.param.device, count, *[id(w.rule) for w in works], *seeds)
        if key not in self.made:
            alike = not seeds and len({id(w.rule) for w in works}) == 1
            rows = [(*w.rule.numbers, *seeds[i : i + 1]) for i, w in enumerate(works[:1] if alike else works)]
            if not alike:
                rows += rows[:1] * (count - len(rows))
            numbers = [n for row in rows for n in row]
            made = upload(numbers or (0.0,), like.compute_dtype, like.param.device)
            self.made[key] = made.repeat(count) if alike else made
        return self.made[key]

    def on_device(self, works: list[Work], count: int) -> Tensor:
        """The same of a captured step."""
        like = works[0]
        rows = torch.stack([w.rule.row for w in works])  # type: ignore[misc]
        if like.seed is not None:
            rows = torch.cat((rows, torch.stack([w.seed for w in works]).unsqueeze(1)), 1)
        rows = torch.cat((rows, rows[:1].expand(count - len(rows), -1)))
        return rows.to(like.compute_dtype).flatten()


class _Run:
    """One chunk on its way through one step: its inputs so far, and the barrier it has reached.

    Where a graph does not compile nothing has been changed, so eager chunks catch up and take the step instead.
    """

    def __init__(self, chunk: Chunk, works: list[Work], packed: _Packed, engine: Engine, strict: bool) -> None:
        self.chunk = chunk
        self.engine = engine
        self.strict = strict
        self.works = [works[i] for members in chunk.at for i in members]
        self.shards = [w.shard for w in self.works if w.shard is not None]
        self.barrier = 0
        self.told: list[list[Tensor | None]] = []
        self.instead: list[parts.Part] | None = None
        self.inputs = chunk.load(works)
        self.inputs["scalars",] = packed([works[members[0]] for members in chunk.at], chunk.count)

    def ask(self) -> parts.Asked | None:
        if self.instead is None:
            try:
                return self.measure()
            except NotCompiled as error:
                self.fall_back(error)
        assert self.instead is not None
        asked = [a for c in self.instead if (a := c.ask()) is not None]
        if not asked:
            return None
        return [
            None if q[0] is None else q[0]._replace(shares=[t for totals in q if totals for t in totals.shares])
            for q in zip(*asked, strict=True)
        ]

    def measure(self) -> parts.Asked | None:
        """Measure up to and including the next barrier that involves other tensors."""
        compute = self.works[0].compute_dtype
        while self.barrier < len(self.chunk.kinds):
            kinds = self.chunk.kinds[self.barrier]
            outputs = iter(self.chunk.call(self.barrier, self.inputs))
            asked: parts.Asked = []
            for q, kind in enumerate(kinds):
                gone = self.gone(kind)
                if kind.over in WIDE:
                    groups = self.shards[0].groups(gone) if gone else ()
                    asked.append(parts.Totals([next(outputs)[: len(self.chunk.at)]], kind.how, kind.slot, groups))
                    continue
                asked.append(None)
                if gone:
                    whole = kind.over == "tensor"
                    found = list(next(outputs)) if whole else [next(outputs) for _ in self.works]
                    found = [t.to(compute) for t in processes.together(found, self.shards, kind.how, gone)]
                    if whole:
                        self.inputs["answer", self.barrier, q] = torch.stack(found)
                    else:
                        self.inputs.update({("answer", self.barrier, q, i): t for i, t in enumerate(found)})
                elif kind.over == "tensor":
                    self.inputs["answer", self.barrier, q] = next(outputs).to(compute)
                elif kind.function:
                    # One matrix a call, so the first tensor is all there is.
                    self.inputs["answer", self.barrier, q, 0] = self.of_matrix(next(outputs), kind)
                else:
                    for i in range(self.chunk.count):
                        self.inputs["answer", self.barrier, q, i] = next(outputs).to(compute)
            del outputs  # matrices go before the next barrier's come
            self.barrier += 1
            if any(asked):
                return asked
        return None

    def gone(self, kind: Kind) -> Collection[int]:
        """The axes along which processes reduce this together; none where each knows it by itself."""
        if not self.shards or kind.function:
            return ()
        flat = self.works[0].rule.recipe.scope != "row"  # kernels see one axis
        gone = EVERY if kind.gone and flat else kind.gone
        return gone if self.shards[0].groups(gone) else ()

    def of_matrix(self, value: Tensor | Iterator[Tensor], kind: Kind) -> Tensor:
        """A function of the whole matrix that a measure graph has left in storage order, or leaves in pieces."""
        assert kind.function is not None
        (work,) = self.works
        if not isinstance(value, Tensor):
            assert isinstance(kind.function, OfGram)
            return kind.function.of_rows(value).reshape(()).to(work.compute_dtype)
        numbers = [work.rule.numbers[place] for place in kind.given]
        found = kind.function(value.view(1, *work.param.shape), *numbers)
        return found.reshape(() if kind.lone else value.shape).to(value.dtype)

    def tell(self, totals: list[Tensor | None]) -> None:
        self.told.append(totals)
        for chunk in self.instead or ():
            chunk.tell(totals)
        like = self.works[0]
        for q, whole in enumerate(totals):
            if whole is not None:
                self.inputs["answer", self.barrier - 1, q] = whole.to(like.param.device, like.compute_dtype)

    def commit(self) -> None:
        if self.instead is None:
            try:
                self.chunk.call(None, self.inputs)
                self.chunk.store()
                return
            except NotCompiled as error:
                self.fall_back(error)
                self.ask()
        for chunk in self.instead or ():
            chunk.commit()

    def fall_back(self, error: NotCompiled) -> None:
        if self.strict or self.shards:  # other processes may not fall back
            raise RuntimeError("this recipe did not compile; engine='foreach' needs no compiler") from error
        self.engine.failed = f"compiling failed ({error})"
        self.instead = list(eager.chunks(self.works, many=True))
        for totals in self.told:
            for chunk in self.instead:
                chunk.ask()
                chunk.tell(totals)
