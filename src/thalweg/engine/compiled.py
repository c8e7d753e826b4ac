"""The fused engine: recorded graphs, compiled once, run over chunks of tensors of any size.

Tensors travel as flat views in storage order, eight to a call, so that one graph serves a model of any size and
shape; the last chunk is filled up with scratch tensors. Formulas that reduce along axes see real shapes, one tensor
a call. What no graph can serve (whole matrices, a tensor of one element, an axis of length one, memory with gaps)
runs on the foreach engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import eager, parts
from thalweg.engine.joined import Joined, joinable
from thalweg.engine.record import Graph, Structure, record
from thalweg.engine.work import Work
from thalweg.recipe import Recipe

#: Tensors in one call of a kernel: enough to hide the cost of the call, few enough to compile fast.
CHUNK = 8
#: The sizes seen when a graph is compiled must not decide whether it runs on one core: it will serve other sizes.
OPTIONS: dict[str, Any] = {"cpp.min_chunk_size": 1}
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


@dataclass
class Kernel:
    """A compiled graph and where its inputs come from."""

    graph: Graph
    call: Callable[..., Any]


@dataclass(frozen=True)
class Key:
    """Everything that shapes a family of kernels; equal keys share compiled code, across optimizers too."""

    recipe: Recipe
    places: tuple[tuple[str, str], ...]
    structure: Structure
    count: int


@cache
def _family(key: Key) -> list[list[tuple[str | int, bool]]]:
    """The barriers that kernels of this key stop at."""
    return record(key.recipe, list(key.places), key.structure, 1, None)[1]


@cache
def _kernel(key: Key, barrier: int | None) -> Kernel:
    graph, _ = record(key.recipe, list(key.places), key.structure, key.count, barrier)
    call = torch.compile(graph.module.forward, fullgraph=True, dynamic=True, options=OPTIONS)
    return Kernel(graph, call)


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
            for role, tensor in zip(work.roles, state, strict=True):
                self.fixed["state", i, role] = self.alias(tensor, tensor.numel())

    def alias(self, t: Tensor, numel: int) -> Tensor:
        """A 1-D alias in storage order. ``.data`` makes it no view, whose base the compiler would guard on."""
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
                    arguments.append(_scratch(j, like.dtype, like.device))
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
        # Two tensors of equal size must not share a size symbol, or a graph would only fit equal sizes.
        with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            parts.run(chain[parts.Part](fused, left))

    def _plan(self, works: list[Work]) -> Plan:
        pointers = tuple([t.data_ptr() for w in works for t in (w.param, *w.state)])
        # Joined tensors share a row of numbers, so which works follow the same rule is part of the key.
        rules: dict[int, int] = {}
        key = tuple([n for w in works for n in (w.owner, w.rule.kind, rules.setdefault(id(w.rule), len(rules)))])
        plan = self.plans.pop(key, None)
        if plan is None or plan.pointers != pointers:
            plan = self._make_plan(works, pointers)
        self.plans[key] = plan
        if len(self.plans) > PLANS:
            self.plans.pop(next(iter(self.plans)))
        return plan

    def _make_plan(self, works: list[Work], pointers: tuple[int, ...]) -> Plan:
        families: dict[Any, list[int]] = {}
        leftover: list[int] = []
        for i, work in enumerate(works):
            key = self._key(work)
            if key is None:
                leftover.append(i)
            else:
                families.setdefault((key, work.param.device, work.param.dtype, work.grad.dtype), []).append(i)
        chunks = []
        for (key, *_), members in families.items():
            alike: dict[Any, list[int]] = {}
            for i in members:
                alike.setdefault(id(works[i].rule) if joinable(works[i]) else -i, []).append(i)
            places = sorted(alike.values(), key=lambda place: -sum(works[i].param.numel() for i in place))
            starts = range(0, len(places), key.count)
            chunks += [_Chunk(key, places[at : at + key.count], works) for at in starts]
        return Plan(chunks, leftover, pointers)

    def _key(self, work: Work) -> Key | None:
        rule, param = work.rule, work.param
        scope = rule.recipe.scope
        shaped = scope == "row" and param.ndim > 1
        if scope == "matrix" or param.numel() < 2 or not _dense(param):
            return None
        if shaped and (min(param.shape) < 2 or not param.is_contiguous()):
            return None
        if any(s.shape == param.shape and s.stride() != param.stride() for s in work.state):
            return None  # the parameter's layout changed after its state was made
        rounding = work.seed is not None
        wide = param.device.type == "cpu"
        structure = Structure(rule.flags, param.ndim if shaped else 1, work.cast, rule.maximize, rounding, wide)
        return Key(rule.recipe, tuple(rule.places), structure, 1 if shaped else CHUNK)


class _Packed:
    """The packed scalars of one step, made once for each set of rules and shared by the chunks that use it."""

    def __init__(self) -> None:
        self.made: dict[Any, Tensor] = {}

    def __call__(self, works: list[Work], count: int) -> Tensor:
        """A row of numbers per tensor, rounded once from float64 to the compute dtype."""
        rules = [w.rule for w in works]
        rules += rules[:1] * (count - len(rules))
        like = works[0]
        key: tuple[Any, ...] = (like.compute_dtype, like.param.device, *[id(r) for r in rules])
        if like.seed is not None:
            seeds = [w.seed or 0 for w in works] + [0] * (count - len(works))
            numbers = [n for rule, seed in zip(rules, seeds, strict=True) for n in (*rule.numbers, seed)]
            key = (*key, *seeds)
        else:
            numbers = [n for rule in rules for n in rule.numbers]
        if key not in self.made:
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
        return _kernel(self.chunk.key, barrier).call(*arguments)

    def ask(self) -> parts.Asked | None:
        if self.instead is None:
            try:
                return self.measure()
            except torch._dynamo.exc.TorchDynamoException as error:
                self.fall_back(error)
        assert self.instead is not None
        asked = [a for c in self.instead if (a := c.ask()) is not None]
        if not asked:
            return None
        return [
            None if q[0] is None else ([t for a in q if a for t in a[0]], q[0][1]) for q in zip(*asked, strict=True)
        ]

    def measure(self) -> parts.Asked | None:
        """Measure up to and including the next barrier over the model."""
        while self.barrier < len(self.chunk.kinds):
            kinds = self.chunk.kinds[self.barrier]
            outputs = self.call(self.barrier)
            for q, ((over, _), output) in enumerate(zip(kinds, outputs, strict=True)):
                if isinstance(over, int):
                    compute = self.works[0].compute_dtype
                    self.inputs.update({("answer", self.barrier, q, i): t.to(compute) for i, t in enumerate(output)})
                elif over == "tensor":
                    self.inputs["answer", self.barrier, q] = output.to(self.works[0].compute_dtype)
            self.barrier += 1
            if any(over == "model" for over, _ in kinds):
                pairs = zip(outputs, kinds, strict=True)
                return [([o[: len(self.chunk.at)]], mean) if over == "model" else None for o, (over, mean) in pairs]
        return None

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
            except torch._dynamo.exc.TorchDynamoException as error:
                self.fall_back(error)
                self.ask()
        for chunk in self.instead or ():
            chunk.commit()

    def fall_back(self, error: Exception) -> None:
        if self.strict:
            raise RuntimeError("this recipe did not compile; engine='foreach' needs no compiler") from error
        self.engine.failed = f"compiling failed ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        self.instead = list(eager.chunks(self.works, many=True))
        for totals in self.told:
            for chunk in self.instead:
                chunk.ask()
                chunk.tell(totals)


@cache
def _scratch(position: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of two ones that fills a place in an incomplete chunk; no two places share memory."""
    return torch.ones(2, dtype=dtype, device=device)
