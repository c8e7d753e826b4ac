"""Kernels by torch's inductor: recorded graphs, compiled once for tensors of any size, called without guards.

Tensors travel as flat views in storage order, eight to a call, so that one graph serves a model of any size and
shape; the last chunk is filled up with scratch tensors. Formulas that reduce along axes see real shapes, one tensor
a call. On a CPU only those come here, and what ``thalweg.engine.native`` has no C++ for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import family, functions, numbers
from thalweg.engine.family import Key, NotCompiled
from thalweg.engine.joined import Joined, joinable
from thalweg.engine.lengths import Lengths
from thalweg.engine.record import Graph, Kind, Structure, barriers, record
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


def compile_graph(graph: Graph, arguments: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile for every size.

    Dynamo is left out: the graph is recorded already, and its guards cost 0.2 ms a call when the caches are cold.
    """
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
    family.count_one()
    return code


@cache
def kernel(key: Key, barrier: int | None) -> Kernel:
    if key.structure.pieces and not (barrier is not None and _cut(key, barrier)):
        # Tensors that are cut into other pieces, or into none, share this kernel.
        return kernel(replace(key, structure=replace(key.structure, pieces=None)), barrier)
    return Kernel(record(key.recipe, list(key.places), key.structure, key.count, barrier)[0])


def _cut(key: Key, barrier: int) -> bool:
    """Whether a measure graph reduces along the axis that is cut into pieces."""
    axis, _ = key.structure.pieces or (None, 0)
    return axis in _reduced_axes(family.barriers(key)[barrier], key.structure.ndim)


class Chunk:
    """Works served by one call of each kernel of a family: a work to a place, or small ones joined in one place."""

    def __init__(self, key: Key, at: list[list[int]], works: list[Work]) -> None:
        self.key = key
        self.at = at
        self.count = key.count
        self.joined: list[tuple[list[int], Joined]] = []
        self.single: list[tuple[int, int, tuple[int, ...], int]] = []
        self.flat = key.structure.ndim == 1
        self.fold = key.structure.layout.fold
        self.kinds = family.barriers(key)
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
            inputs["grad", i] = self.alias(works[w].grad_laid(strides), numel)
        return inputs

    def template(self, barrier: int | None) -> tuple[list[Any], list[tuple[int, tuple[Any, ...]]]]:
        """The kernel's arguments as far as they never change, and where the changing ones go."""
        if barrier not in self.templates:
            arguments: list[Any] = []
            changing: list[tuple[int, tuple[Any, ...]]] = []
            for j, key in enumerate(kernel(self.key, barrier).graph.inputs):
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

    def call(self, barrier: int | None, inputs: dict[tuple[Any, ...], Tensor]) -> Any:
        """Run the kernel of a barrier, or of the update."""
        fixed, changing = self.template(barrier)
        arguments = fixed.copy()
        for j, key in changing:
            arguments[j] = inputs[key]
        found = kernel(self.key, barrier)
        if found.graph.pieces:
            split = self.key.structure.split
            pairs = zip(found.graph.inputs, arguments, strict=True)
            arguments = [split(t) if key[0] in ("param", "grad") else t for key, t in pairs]
        return found(*arguments)

    def store(self) -> None:
        """Copy back what small tensors have joined for the step."""
        for _, joined in self.joined:
            joined.store()


def chunks(key: Key, members: list[int], works: list[Work]) -> list[Chunk]:
    """The works of a family in chunks, small tensors that follow the same rule joined."""
    alike: dict[Any, list[int]] = {}
    for i in members:
        alike.setdefault(id(works[i].rule) if joinable(works[i]) else -i, []).append(i)
    places = sorted(alike.values(), key=lambda place: -sum(works[i].param.numel() for i in place))
    return [Chunk(key, places[at : at + key.count], works) for at in range(0, len(places), key.count)]


def key(work: Work) -> Key | None:
    """The family of a tensor that fills its memory; None where there is no kernel for it."""
    rule, param = work.rule, work.param
    shaped = rule.recipe.scope == "row" and param.ndim > 1
    if rule.recipe.squared or param.numel() < 2 or (shaped and (work.layout.fold or not param.is_contiguous())):
        return None
    wide = param.device.type == "cpu"
    cut = pieces(rule.recipe, tuple(param.shape)) if shaped and wide else None
    matrix = rule.recipe.scope == "matrix"
    shape = rule.recipe.alike(tuple(param.shape)) if shaped else (1,) * (min(param.ndim, 2) if matrix else 1)
    structure = Structure(rule.flags, shape, work.cast, rule.maximize, work.layout, wide, cut, flat=matrix)
    smaller = [s.shape for s in work.state if s.shape != param.shape]
    lengths = [tuple(min(n, 2) for n in s) for s in (*([param.shape] if shaped else []), *smaller)]
    memory = (param.device, param.dtype, work.grad.dtype, *(s.dtype for s in work.state), *lengths)
    # Codecs are long formulas for tensors that are not small: one to a call compiles in a fraction of the time.
    several = min(CHUNK, PASSES_CHUNK) if barriers(rule.recipe, shape) else CHUNK
    count = 1 if shaped or matrix or work.layout.fold else several
    return Key(rule.recipe, tuple(rule.places), structure, count, memory)


def pieces(recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, int] | None:
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


@cache
def _scratch(position: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of ones that fills a place in an incomplete chunk: two numbers or blocks, or one for a lone number.

    No two places share memory.
    """
    return torch.ones(shape, dtype=dtype, device=device)
