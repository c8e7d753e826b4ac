"""Recording a recipe as straight-line graphs: one per barrier and one for the update.

A flow runs once over symbols (``torch.fx`` proxies), so slots may use any Python. At a barrier the recording stops
and the reduced values become the graph's outputs: a *measure* graph, which stores nothing and reads only what its
reductions need. The *update* graph runs the whole flow with the answers as inputs, so a state tensor is read and
written once however many barriers there are, and nothing is changed until every answer is known. For kernels of our
own barriers are fewer than the formula's (``order``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx

from thalweg.codecs import Layout
from thalweg.engine import coding, leaves
from thalweg.engine import numbers as arithmetic
from thalweg.engine.axes import Follow, Unknown
from thalweg.engine.order import Order, ordered
from thalweg.engine.view import WIDE, Bound, View, answer, reduce, requests
from thalweg.recipe import Recipe, Scalars
from thalweg.rounding import stochastic
from thalweg.sharding import Axes
from thalweg.slots.base import Over, Request, Slot
from thalweg.square import COLUMNS, ROWS, as_shaped, as_square

#: Reductions that leave one number of a tensor.
WHOLE = ("tensor", *WIDE)


class Kind(NamedTuple):
    """What one request at a barrier asks for.

    ``axes`` are those of its value and of the ``others`` beside it, as far as they are known.
    """

    over: Over
    how: str
    slot: Slot | None
    function: Callable[..., Any] | None = None  # of whole matrices
    given: tuple[int, ...] = ()  # the places of its numbers in a tensor's row
    whole: bool = True  # whether it is asked of something of the parameter's shape
    lone: bool = False  # whether a function of whole matrices gives a number
    square: bool = False  # whether it is asked of a square view
    shared: bool = False
    axes: tuple[Axes | None, ...] = ()

    @property
    def gone(self) -> frozenset[int]:
        """The parameter's axes that a reduction takes together."""
        (axes,) = self.axes
        if axes is None:
            raise Unknown("a reduction of what has other axes")
        return frozenset(axes[place] for place in self.places(len(axes)) if axes[place] is not None)  # type: ignore[misc]

    def places(self, ndim: int) -> Iterable[int]:
        """The axes of its value that are reduced, of ``ndim``."""
        if isinstance(self.over, str):
            return range(ndim)
        return (axis % ndim for axis in ((self.over,) if isinstance(self.over, int) else self.over))


@dataclass(frozen=True)
class Structure:
    """What shapes a graph besides the recipe: the chosen flags, the axes it can see, casting, sign and storage.

    ``shape`` is one that the recipe treats like the tensor's own (``Recipe.alike``), not its sizes. ``flat``: formulas
    see its axes, but what they do to elements does not depend on them, so memory is one run of elements.
    ``wide`` sums in float64. On a CPU that is more exact than the compiler's compensated float32 sums, takes three
    quarters of their time, and is one code for every size. ``pieces`` is an axis, and the length of the equal pieces in
    which measure graphs see and first reduce it. Down a column a processor reads a line of memory for each row; with
    few rows the lines are still in its cache when the next column comes. ``native`` is for C++ of our own
    (``engine/native``), where codecs and random rounding are one node each, numbers need no gathering, and reductions
    have an order of their own. Along the axes ``sharded`` a process holds a part of the tensor: over those, measure
    graphs take sums for means, in the formula's order, and processes put them together.
    """

    flags: tuple[tuple[str, str, bool], ...] = ()
    shape: tuple[int, ...] = (1,)
    cast: torch.dtype | None = None
    maximize: bool = False
    layout: Layout = Layout()  # noqa: RUF009
    wide: bool = False
    pieces: tuple[int, int] | None = None
    native: bool = False
    flat: bool = False
    sharded: tuple[int, ...] = ()

    @property
    def ndim(self) -> int:
        """How many axes a kernel's memory has."""
        return 1 if self.flat else len(self.shape)

    def split(self, t: Any) -> Any:
        """A tensor of the parameter's shape as measure graphs take it."""
        return t if self.pieces is None else t.unflatten(self.pieces[0], (-1, self.pieces[1]))


@dataclass(frozen=True)
class Graph:
    """A recorded graph: its module, and where each input comes from.

    Inputs are ``("scalars",)``, ``("param", i)``, ``("grad", i)``, ``("state", i, role)`` and the answers of earlier
    barriers: ``("answer", barrier, request)`` for a number per tensor or one for them all, with ``i`` for axes. With
    ``blocks`` the first axis of all that belongs to a tensor counts its blocks, and is the only one of no fixed length.
    With ``pieces`` parameters and gradients have that axis split in two, the second of that length. ``axes`` says which
    of its parameter's axes each input has, None for one of another length; empty where that is not known.
    """

    module: fx.GraphModule
    inputs: tuple[tuple[Any, ...], ...]
    stores: tuple[tuple[Any, ...], ...]
    blocks: bool
    pieces: tuple[int, int] | None = None
    axes: tuple[Axes, ...] = ()


class _Recorder:
    def __init__(self, structure: Structure, pieces: tuple[int, int] | None, axes: Callable[..., Axes]) -> None:
        self.blocks = bool(structure.layout.fold)
        self.native = structure.native
        self.pieces = pieces
        self.axes = axes
        self.graph = fx.Graph()
        self.tracer = leaves.Tracer(self.graph, structure.native)
        self.inputs: dict[tuple[Any, ...], fx.Proxy] = {}
        self.keys: dict[fx.Node, tuple[Any, ...]] = {}
        self.follow = Follow(lambda node: axes(self.keys[node]))

    def input(self, *key: Any) -> Any:
        if key not in self.inputs:
            last = next((n for n in reversed(self.graph.nodes) if n.op == "placeholder"), None)
            with self.graph.inserting_after(last) if last else self.graph.inserting_before():
                node = self.graph.placeholder("_".join(map(str, key)))
            self.keys[node] = key
            self.inputs[key] = fx.Proxy(node, self.tracer)
        return self.inputs[key]

    def finish(self, outputs: Any, stores: tuple[tuple[Any, ...], ...]) -> Graph:
        """The graph without what it has no use for, which our own kernels would ask memory for."""
        self.graph.output(fx.node.map_aggregate(outputs, lambda v: v.node if isinstance(v, fx.Proxy) else v))
        self.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or n.target == "copy_")
        if not self.native:
            arithmetic.gather(self.graph, [p.node for key, p in self.inputs.items() if _holds_numbers(key)])
        for key, proxy in list(self.inputs.items()):
            if not proxy.node.users:
                self.graph.erase_node(proxy.node)
                del self.inputs[key]
        inputs = tuple(self.keys[n] for n in self.graph.nodes if n.op == "placeholder")
        module = fx.GraphModule(torch.nn.Module(), self.graph)
        return Graph(module, inputs, stores, self.blocks, self.pieces, tuple(map(self.axes, inputs)))


def _axes(recipe: Recipe, structure: Structure, kinds: list[list[Kind]], key: tuple[Any, ...]) -> Axes:
    """The axes of the parameter that an input has."""
    every = tuple(range(structure.ndim))
    if key[0] == "answer" and len(key) == 4:
        kind = kinds[key[1]][key[2]]
        over = kind.over
        if kind.square:
            return (COLUMNS if over == ROWS else ROWS,)
        if over == "matrix":
            return every if kind.whole and not kind.lone and not kind.shared else ()
        (axes,) = kind.axes
        if axes is None:
            return ()
        gone = set(kind.places(len(axes)))
        if isinstance(over, int):
            return tuple(axis for place, axis in enumerate(axes) if place not in gone)
        return tuple(None if place in gone else axis for place, axis in enumerate(axes))
    if key[0] == "state":
        spec = recipe.state(structure.shape).get(key[2])
        if spec is not None and spec.shape is not None:
            return spec.axes
    return every if key[0] in ("param", "grad", "state") else ()


def _holds_numbers(key: tuple[Any, ...]) -> bool:
    return key[0] == "scalars" or (key[0] == "answer" and len(key) == 3)


class _Lazy(dict[str, Any]):
    """State by role, made a graph input when first read."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        super().__init__()
        self.read = read

    def __missing__(self, role: str) -> Any:
        self[role] = value = self.read(role)
        return value


def layout(scalars: Scalars) -> tuple[list[tuple[str, str]], tuple[tuple[str, str, bool], ...]]:
    """The order of the numbers in the packed vector, and the flags that choose a graph."""
    numbers = [(p, k) for p, values in scalars.items() for k, v in values.items() if not isinstance(v, bool)]
    flags = tuple((p, k, v) for p, values in scalars.items() for k, v in values.items() if isinstance(v, bool))
    return numbers, flags


def record(
    recipe: Recipe, numbers: list[tuple[str, str]], structure: Structure, count: int, barrier: int | None
) -> tuple[Graph, list[list[Kind]]]:
    """Record ``count`` tensors up to ``barrier`` (or to the end); also the kinds of all barriers passed.

    A measure graph returns, request by request, one vector over the tensors, or a reduction of each tensor along axes.
    """
    return _record(recipe, numbers, structure, count, barrier, _order(recipe, tuple(numbers), structure))


@cache
def _order(recipe: Recipe, numbers: tuple[tuple[str, str], ...], structure: Structure) -> Order:
    """Where requests are answered, if not in the formula's order."""
    if not structure.native or structure.sharded:
        return {}
    update, kinds = _record(recipe, numbers, structure, 1, None, {})
    measures = [_record(recipe, numbers, structure, 1, b, {})[0] for b in range(len(kinds))]
    return ordered(kinds, measures, update, structure.ndim)


def _record(
    recipe: Recipe,
    numbers: Sequence[tuple[str, str]],
    structure: Structure,
    count: int,
    barrier: int | None,
    order: Order,
) -> tuple[Graph, list[list[Kind]]]:
    layout = structure.layout
    pieces = None if barrier is None else structure.pieces
    kinds: list[list[Kind]] = []
    recorder = _Recorder(structure, pieces, lambda key: _axes(recipe, structure, kinds, key))
    packed: Any = recorder.input("scalars")
    outputs: list[Any] = []
    stores: list[tuple[Any, ...]] = []

    # Where something is rounded at random, the last number of a tensor's row is its seed.
    row = len(numbers) + layout.seeded

    def start(i: int) -> tuple[View, Any]:
        scalars: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name, _ in recipe.slots()}}
        for j, (place, key) in enumerate(numbers):
            scalars[place][key] = packed[i * row + j]
        for place, key, value in structure.flags:
            scalars[place][key] = value

        def load(*key: Any) -> Any:
            value = recorder.input(*key)
            if pieces and key[0] in ("param", "grad"):
                value = value.flatten(pieces[0], pieces[0] + 1)
            return value if structure.cast is None or key[0] == "state" else value.to(structure.cast)

        grad = load("grad", i)
        x = View(
            load("param", i),
            -grad if structure.maximize else grad,
            _Lazy(lambda role: coding.read(layout, role, lambda stored: load("state", i, stored))),
            structure.shape,
        )
        flow = recipe.flow(Bound(recipe, scalars), x)
        return x, coding.coded(flow, x, layout) if layout.coded else flow

    last = max((turn for (turn, _), place in order.items() if place and place[0] == barrier), default=barrier)
    running = [start(i) for i in range(count)]
    replies: list[Any] = [None] * count
    for turn in itertools.count():
        asked: list[Any] = []
        ended: list[Any] = []
        for (_, flow), reply in zip(running, replies, strict=True):
            try:
                asked.append(flow.send(reply))
            except StopIteration as stop:
                ended.append(stop.value)
        if ended:
            for i, ((x, _), new) in enumerate(zip(running, ended, strict=True)):
                seed = packed[i * row + row - 1].to(torch.int64) if layout.seeded else 0
                if layout.rounding == "stochastic":
                    new = leaves.call(stochastic, new, seed)
                recorder.input("param", i).copy_(new)
                stores.append(("param", i))
                for role, value in x.new.items():
                    if role in layout.noise:
                        value = leaves.call(stochastic, value, seed + layout.noise[role])
                    if value.node.op == "placeholder":
                        # State that takes over another's old value: bare (or cloned) the compiler reads it when it is
                        # new already (torch 2.13), a computed value it keeps in order.
                        value = value.neg().neg()
                    recorder.input("state", i, role).copy_(value)
                    stores.append(("state", i, role))
            return recorder.finish((), tuple(stores)), kinds
        found: list[list[Any]] = [[] for _ in asked]
        for q, column in enumerate(zip(*(requests(a) for a in asked), strict=True)):
            over, how = column[0].over, column[0].how
            place = order.get((turn, q), (turn, q))
            if place is not None:
                kinds += [[] for _ in range(place[0] + 1 - len(kinds))]
                kind = _kind(column[0], recorder.follow)
                kinds[place[0]].append(kind)
                if place[0] == barrier:
                    values = [v for r in column for v in (r.value, *r.others)]
                    if over != "matrix":
                        if how == "mean" and structure.sharded and kind.gone.intersection(structure.sharded):
                            how = "sum"
                        values = [_reduced(v, over, how, structure) for v in values]
                    out = values
                    outputs += [torch.stack(out) if count > 1 else out[0].reshape(1)] if over in WHOLE else out
            for i, request in enumerate(column):
                if place is None:
                    answered = _reduced(request.value, over, how, structure)
                elif over not in WHOLE:
                    answered = recorder.input("answer", *place, i)
                elif over == "tensor":
                    answered = recorder.input("answer", *place)[i]
                else:
                    answered = recorder.input("answer", *place)
                found[i].append(answered)
        if turn == last:
            return recorder.finish(tuple(outputs), ()), kinds
        replies = [answer(a, answers) for a, answers in zip(asked, found, strict=True)]
    raise AssertionError("formulas end")


def _kind(request: Request, follow: Follow) -> Kind:
    def axes(node: fx.Node) -> Axes | None:
        try:
            return follow(node)
        except Unknown:
            return None

    value = request.value.node
    return Kind(
        request.over,
        request.how,
        request.slot,
        function=request.fast or request.function,
        given=tuple(number.node.args[1] for number in request.given),
        whole=_is_whole(value),
        lone=request.lone,
        square=_is_square(value),
        shared=request.shared,
        axes=tuple(axes(v.node) for v in (request.value, *request.others)),
    )


def _reduced(value: Any, over: Over, how: str, structure: Structure) -> Any:
    """A reduction in a measure graph."""
    wide = {"dtype": torch.float64} if structure.wide else {}
    axis = over[0] if isinstance(over, tuple) and len(over) == 1 else over
    cut, _ = structure.pieces or (None, 0)
    if isinstance(axis, int) and axis % structure.ndim == cut and _is_whole(value.node):
        value = reduce(structure.split(value), axis % structure.ndim + 1, how)  # too few numbers to need wide sums
    return reduce(value, over, how, **wide)


def _is_square(node: fx.Node) -> bool:
    """Whether a value is in the square view of its tensor."""
    return node.target is as_square or (
        node.op != "placeholder" and node.target is not as_shaped and any(map(_is_square, node.all_input_nodes))
    )


def _is_whole(node: fx.Node) -> bool:
    """Whether a value is made of a parameter or gradient, and so of their shape."""
    found = {node}
    for earlier in reversed(node.graph.nodes):
        if earlier in found:
            found.update(earlier.all_input_nodes)
    return any(n.op == "placeholder" and n.name.startswith(("param", "grad")) for n in found)


def sample(recipe: Recipe) -> tuple[list[tuple[str, str]], tuple[tuple[str, str, bool], ...]]:
    """Scalars of an ordinary step (the second of a cycle, at default hyper-parameters), to count and to describe by."""
    from thalweg.hyper import flatten, join

    h = {**flatten(join(recipe.hypers())), **recipe.group_numbers, "k": 1, "loss_count": 1}
    scalars = recipe.scalars(h, 2, dict(recipe.numbers), (8, 8))
    return layout(scalars)


@cache
def barriers(recipe: Recipe, shape: tuple[int, ...] = (1,)) -> list[list[Kind]]:
    """The reductions asked for at each barrier: ``(over, is mean)``."""
    numbers, flags = sample(recipe)
    return record(recipe, numbers, Structure(flags, shape), 1, None)[1]


@cache
def traffic(recipe: Recipe, ndim: int = 2) -> tuple[int, ...]:
    """Elements read and written per parameter element by each graph, in order; smaller tensors count as nothing.

    Counted for axes of 256, which are long enough to be factored everywhere.
    """
    numbers, flags = sample(recipe)
    shape = (256,) * ndim
    structure = Structure(flags, recipe.alike(shape), native=True)
    specs = recipe.state(shape).items()
    whole = {role for role, spec in specs if spec.shape is None or math.prod(spec.shape) >= math.prod(shape) > 1}

    def full(key: tuple[Any, ...]) -> bool:
        return key[0] in ("param", "grad") or (key[0] == "state" and key[2] in whole)

    kinds = record(recipe, numbers, structure, 1, None)[1]
    graphs = [record(recipe, numbers, structure, 1, b)[0] for b in [*range(len(kinds)), None]]
    return tuple(sum(full(key) for key in (*_read(g), *g.stores)) for g in graphs)


def _read(graph: Graph) -> list[tuple[Any, ...]]:
    """The inputs that are read, rather than only overwritten."""
    placeholders = [n for n in graph.module.graph.nodes if n.op == "placeholder"]
    return [
        key
        for key, node in zip(graph.inputs, placeholders, strict=True)
        if any(user.target != "copy_" or user.args[1] is node for user in node.users)
    ]
