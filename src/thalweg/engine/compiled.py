"""The fused engine: recorded graphs, compiled once, run over chunks of tensors of any size.

Tensors travel as flat views in storage order, eight to a call, so that one graph serves a model of any size and
shape; the last chunk is filled up with scratch tensors. Formulas that reduce along axes see real shapes, one tensor
a call. What no graph can serve (formulas that multiply matrices, a tensor of one element, memory with gaps)
runs on the foreach engine.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import chain
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import eager, functions, numbers, parts
from thalweg.engine.joined import Joined, joinable
from thalweg.engine.lengths import Lengths
from thalweg.engine.record import Graph, Kind, Structure, barriers, record
from thalweg.engine.view import WIDE
from thalweg.engine.work import Work
from thalweg.recipe import Recipe

#: Tensors in one call of a kernel: enough to hide the cost of the call, few enough to compile fast.
CHUNK = 8
#: At most so many where a step is several passes, and so several kernels to compile.
PASSES_CHUNK = 4
#: The sizes seen when a graph is compiled must not decide whether it runs on one core: it will serve other sizes.
OPTIONS: dict[str, Any] = {"cpp.min_chunk_size": 1, **numbers.OPTIONS}
#: What several reductions or blocks need is worked out for each: stored, it would be as large as the parameter.
ANEW: dict[str, Any] = {
    **OPTIONS,
    **dict.fromkeys(("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 1 << 30),
}
#: Products and sums in one, for long formulas over little memory: codecs, polynomials.
CONTRACTED: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
#: Along an axis that is not the last, a large matrix is reduced in pieces of at most so many rows first.
PIECE, LARGE = 32, 1 << 16
#: How many patterns of present gradients a plan is kept for.
PLANS = 16


@cache
def available(device: torch.device) -> str | None:
    """``None`` if a compiler for the device is present, else what is missing."""
    if device.type == "cpu":
        wanted = os.environ.get("CXX", "g++ or clang++")
        if any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
            return None
        return f"no C++ compiler ({wanted}) was found"
    from importlib.util import find_spec

    return None if find_spec("triton") else "triton is not installed"


class NotCompiled(RuntimeError):
    """A graph that the compiler refused, or that would not fit every size; nothing has run."""


@dataclass
class Kernel:
    """A recorded graph, compiled at its first call: code for tensors of any size, called without guards."""

    graph: Graph
    code: Callable[..., Any] | None = None

    def __call__(self, *arguments: Tensor) -> Any:
        if self.code is None:
            self.code = compile_graph(self.graph, arguments)
        return self.code(*arguments)


@cache
def _look_ahead() -> None:
    """Find out beside other work which vectors the processor has; the compiler asks other processes, for a second."""
    import_module("torch._inductor.compile_fx")  # all that a compilation needs, so that two threads import nothing
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    Thread(target=valid_vec_isa_list, daemon=True).start()


#: Graphs compiled by this process so far.
graphs_compiled = 0


def compile_graph(graph: Graph, arguments: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile for every size.

    Dynamo is left out: the graph is recorded already, and its guards cost 0.2 ms a call when the caches are cold.
    """
    global graphs_compiled
    import torch._inductor

    if arguments[0].device.type == "cpu":
        _look_ahead()
    lengths = Lengths(graph, arguments)
    expanded = all(t.dtype != torch.float64 for t in arguments) and functions.expand(graph.module.graph)
    if expanded:
        graph.module.recompile()
    options = ANEW if graph.blocks or graph.pieces else OPTIONS
    if graph.blocks or expanded:
        options = {**options, **CONTRACTED}
    try:
        code = torch._inductor.compile(graph.module, lengths.inputs, options=options)
    except Exception as error:
        raise NotCompiled(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])) from error
    if fixed := lengths.fixed():
        raise NotCompiled(f"the graph would only fit sizes with {fixed}")
    graphs_compiled += 1
    return code


@dataclass(frozen=True)
class Key:
    """Everything that shapes a family of kernels; equal keys share compiled code, across optimizers too."""

    recipe: Recipe
    places: tuple[tuple[str, str], ...]
    structure: Structure
    count: int
    memory: tuple[Any, ...]  # device, dtypes, and which axes are of length one: what the code is made for


@cache
def _family(key: Key) -> list[list[Kind]]:
    """The barriers that kernels of this key stop at."""
    return record(key.recipe, list(key.places), key.structure, 1, None)[1]


@cache
def _kernel(key: Key, barrier: int | None) -> Kernel:
    if key.structure.pieces and not (barrier is not None and _cut(key, barrier)):
        # Tensors that are cut into other pieces, or into none, share this kernel.
        return _kernel(replace(key, structure=replace(key.structure, pieces=None)), barrier)
    return Kernel(record(key.recipe, list(key.places), key.structure, key.count, barrier)[0])


def _cut(key: Key, barrier: int) -> bool:
    """Whether a measure graph reduces along the axis that is cut into pieces."""
    axis, _ = key.structure.pieces or (None, 0)
    return axis in _reduced_axes(_family(key)[barrier], key.structure.ndim)


def forget() -> None:
    """Drop every kernel of this process, so that the next steps compile anew."""
    _kernel.cache_clear()


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


class _Chunk:
    """Works served by one call of each kernel of a family: a work to a place, or small ones joined in one place."""

    def __init__(self, key: Key, at: list[list[int]], works: list[Work]) -> None:
        self.key = key
        self.at = at
        self.joined: list[tuple[list[int], Joined]] = []
        self.single: list[tuple[int, int, tuple[int, ...], int]] = []
        self.flat = key.structure.ndim == 1
        self.fold = key.structure.layout.fold
        self.kinds = _family(key)
        self.fixed: dict[tuple[Any, ...], Tensor] = {}
        self.templates: dict[int | None, tuple[list[Any], list[tuple[int, tuple[Any, ...]]]]] = {}
        for i, members in enumerate(at):
            work = works[members[0]]
            param, state = work.param, work.state
            if len(members) > 1:
                joined = Joined([works[w] for w in members])
                param, state = joined.param, joined.state
                self.fixed["grad", i] = joined.grad
                self.joined.append((members, joined))
            else:
                self.single.append((i, members[0], param.stride(), param.numel()))
            self.fixed["param", i] = self.alias(param, param.numel())
            for role, tensor in zip(work.layout.roles, state, strict=True):
                plain = not self.fold or (role in work.layout.seen and work.layout.codec(role) is None)
                self.fixed["state", i, role] = self.alias(tensor, tensor.numel()) if plain else tensor.data

    def alias(self, t: Tensor, numel: int) -> Tensor:
        """A 1-D alias in storage order, or one of blocks; ``.data``, as a graph could not write to a view."""
        if self.fold:
            return t.detach().view((-1, *self.fold) if numel > 1 else (1,)).data
        return torch.as_strided(t, (numel,), (1,)).data if self.flat else t.data

    def load(self, works: list[Work]) -> dict[tuple[Any, ...], Tensor]:
        """This step's gradients in the layout of their parameters; joined tensors are copied to their buffers."""
        for members, joined in self.joined:
            joined.load([works[w].grad for w in members])
        inputs: dict[tuple[Any, ...], Tensor] = {}
        for i, w, strides, numel in self.single:
            grad = works[w].grad
            if grad.stride() != strides:
                ordered = torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device)
                grad = ordered.copy_(grad)
            inputs["grad", i] = self.alias(grad, numel)
        return inputs

    def template(self, barrier: int | None) -> tuple[list[Any], list[tuple[int, tuple[Any, ...]]]]:
        """The kernel's arguments as far as they never change, and where the changing ones go."""
        if barrier not in self.templates:
            arguments: list[Any] = []
            changing: list[tuple[int, tuple[Any, ...]]] = []
            for j, key in enumerate(_kernel(self.key, barrier).graph.inputs):
                if key[0] in ("param", "grad", "state") and key[1] >= len(self.at):
                    like = self.fixed["param" if key[0] == "grad" else key[0], 0, *key[2:]]
                    shape = (min(like.shape[0], 2), *like.shape[1:])
                    arguments.append(_scratch(j, shape, like.dtype, like.device))
                elif key in self.fixed:
                    arguments.append(self.fixed[key])
                else:
                    arguments.append(None)
                    changing.append((j, key))
            self.templates[barrier] = arguments, changing
        return self.templates[barrier]


@dataclass
class Plan:
    """How one set of parameters is put into chunks; valid while the tensors keep their memory."""

    chunks: list[_Chunk]
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
        works = [w for w in works if w.param.numel()]
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
        self.plans[key] = plan
        if len(self.plans) > self.limit:
            self.plans.pop(next(iter(self.plans)))
        return plan

    def _make_plan(self, works: list[Work]) -> Plan:
        families: dict[tuple[Key, Any], list[int]] = {}
        leftover: list[int] = []
        for i, work in enumerate(works):
            key = self._key(work)
            if key is None:
                leftover.append(i)
            else:
                families.setdefault((key, work.rule.together), []).append(i)
        chunks = []
        for (key, _), members in families.items():
            alike: dict[Any, list[int]] = {}
            for i in members:
                alike.setdefault(id(works[i].rule) if joinable(works[i]) else -i, []).append(i)
            places = sorted(alike.values(), key=lambda place: -sum(works[i].param.numel() for i in place))
            starts = range(0, len(places), key.count)
            chunks += [_Chunk(key, places[at : at + key.count], works) for at in starts]
        return Plan(chunks, leftover, _pointers(works))  # joining has moved small state

    def _key(self, work: Work) -> Key | None:
        rule, param = work.rule, work.param
        scope = rule.recipe.scope
        shaped = scope == "row" and param.ndim > 1
        matrix = scope == "matrix"
        # On an accelerator matrices are stacked, which is the foreach engine's.
        if matrix and not (rule.recipe.asks and param.device.type == "cpu" and param.is_contiguous()):
            return None
        if param.numel() < 2 or not _dense(param):
            return None
        if work.layout.fold and (shaped or not param.is_contiguous()):
            return None
        if shaped and not param.is_contiguous():
            return None
        if any(s.shape == param.shape and s.stride() != param.stride() for s in work.state):
            return None  # the parameter's layout changed after its state was made
        wide = param.device.type == "cpu"
        pieces = _pieces(rule.recipe, tuple(param.shape)) if shaped and wide else None
        shape = rule.recipe.alike(tuple(param.shape)) if shaped else (1,)
        structure = Structure(rule.flags, shape, work.cast, rule.maximize, work.layout, wide, pieces)
        smaller = [s.shape for s in work.state if s.shape != param.shape]
        lengths = [tuple(min(n, 2) for n in s) for s in (*([param.shape] if shaped else []), *smaller)]
        memory = (param.device, param.dtype, work.grad.dtype, *(s.dtype for s in work.state), *lengths)
        # Codecs are long formulas for tensors that are not small: one to a call compiles in a fraction of the time.
        several = min(CHUNK, PASSES_CHUNK) if barriers(rule.recipe, shape) else CHUNK
        count = 1 if shaped or matrix or work.layout.fold else several
        return Key(rule.recipe, tuple(rule.places), structure, count, memory)


def _pieces(recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axis of a large tensor that is reduced but not the last, and the longest piece that divides it."""
    if math.prod(shape) < LARGE:
        return None
    axes = _reduced_axes([kind for kinds in barriers(recipe, recipe.alike(shape)) for kind in kinds], len(shape))
    for axis in sorted(axes - {len(shape) - 1}):
        length = max((n for n in range(2, PIECE + 1) if shape[axis] % n == 0 and n < shape[axis]), default=None)
        if length is not None:
            return axis, length
    return None


def _reduced_axes(kinds: list[Kind], ndim: int) -> set[int]:
    """The first axis, counted from the front, of every reduction along axes."""
    overs = [kind.over for kind in kinds if not isinstance(kind.over, str)]
    return {(over if isinstance(over, int) else over[0]) % ndim for over in overs}


def _pointers(works: list[Work]) -> tuple[int, ...]:
    return tuple([t.data_ptr() for w in works for t in (w.param, *w.state)])


class _Packed:
    """The packed scalars of one step, made once for each set of rules and shared by the chunks that use it."""

    def __init__(self) -> None:
        self.made: dict[Any, Tensor] = {}

    def __call__(self, works: list[Work], count: int) -> Tensor:
        """A row of numbers per tensor, rounded once from float64 to the compute dtype."""
        like = works[0]
        seeds = [] if like.seed is None else [w.seed or 0 for w in works]
        key = (like.compute_dtype, like.param.device, count, *[id(w.rule) for w in works], *seeds)
        if key not in self.made:
            rows = [(*w.rule.numbers, *seeds[i : i + 1]) for i, w in enumerate(works)]
            rows += rows[:1] * (count - len(rows))
            numbers = [n for row in rows for n in row]
            self.made[key] = torch.tensor(numbers or (0.0,), dtype=like.compute_dtype, device=like.param.device)
        return self.made[key]


class _Run:
    """One chunk on its way through one step: its inputs so far, and the barrier it has reached.

    Where a graph does not compile nothing has been changed, so eager chunks catch up and take the step instead.
    """

    def __init__(self, chunk: _Chunk, works: list[Work], packed: _Packed, engine: Engine, strict: bool) -> None:
        self.chunk = chunk
        self.engine = engine
        self.strict = strict
        self.works = [works[i] for members in chunk.at for i in members]
        self.barrier = 0
        self.told: list[list[Tensor | None]] = []
        self.instead: list[eager.Chunk] | None = None
        self.inputs = chunk.load(works)
        self.inputs["scalars",] = packed([works[members[0]] for members in chunk.at], chunk.key.count)

    def call(self, barrier: int | None) -> Any:
        fixed, changing = self.chunk.template(barrier)
        arguments = fixed.copy()
        for j, key in changing:
            arguments[j] = self.inputs[key]
        kernel = _kernel(self.chunk.key, barrier)
        if kernel.graph.pieces:
            split = self.chunk.key.structure.split
            pairs = zip(kernel.graph.inputs, arguments, strict=True)
            arguments = [split(t) if key[0] in ("param", "grad") else t for key, t in pairs]
        return kernel(*arguments)

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
            outputs = iter(self.call(self.barrier))
            asked: parts.Asked = []
            for q, (over, how, slot, function, given, _) in enumerate(kinds):
                if over in WIDE:
                    asked.append(parts.Totals([next(outputs)[: len(self.chunk.at)]], how, slot))
                    continue
                asked.append(None)
                if over == "tensor":
                    self.inputs["answer", self.barrier, q] = next(outputs).to(compute)
                elif function:
                    # One matrix a call, so the first tensor is all there is.
                    self.inputs["answer", self.barrier, q, 0] = self.of_matrix(next(outputs), function, given)
                else:
                    for i in range(self.chunk.key.count):
                        self.inputs["answer", self.barrier, q, i] = next(outputs).to(compute)
            self.barrier += 1
            if any(asked):
                return asked
        return None

    def of_matrix(self, value: Tensor, function: Callable[..., Tensor], given: tuple[int, ...]) -> Tensor:
        """A function of the whole matrix that a measure graph has left in storage order."""
        (work,) = self.works
        numbers = [work.rule.numbers[place] for place in given]
        return function(value.view(1, *work.param.shape), *numbers).reshape(value.shape).to(value.dtype)

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
                self.call(None)
                for _, joined in self.chunk.joined:
                    joined.store()
                return
            except NotCompiled as error:
                self.fall_back(error)
                self.ask()
        for chunk in self.instead or ():
            chunk.commit()

    def fall_back(self, error: NotCompiled) -> None:
        if self.strict:
            raise RuntimeError("this recipe did not compile; engine='foreach' needs no compiler") from error
        self.engine.failed = f"compiling failed ({error})"
        self.instead = list(eager.chunks(self.works, many=True))
        for totals in self.told:
            for chunk in self.instead:
                chunk.ask()
                chunk.tell(totals)


@cache
def _scratch(position: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of ones that fills a place in an incomplete chunk: two numbers or blocks, or one for a lone number.

    No two places share memory.
    """
    return torch.ones(shape, dtype=dtype, device=device)
