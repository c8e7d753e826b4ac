"""When the reductions of a formula are taken: as early as they are known, and those that are only stored at the end.

A formula asks as its paper has it. Requests that do not depend on each other's answers share a measure graph, so that a
tensor is read once for them (Adafactor's sums of squares, and the size of the parameter). Answers that are only stored
(SMMF's factors of the new moments, SM3's largest ones) need no barrier: the update takes those reductions on its way,
and stores them when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import fx

from thalweg.engine.view import WIDE
from thalweg.square import COLUMNS, ROWS

if TYPE_CHECKING:
    from thalweg.engine.record import Graph, Kind

#: A request by its barrier, and its place among those that are answered there.
Place = tuple[int, int]
#: Where the requests of a formula, in its own order, are answered; None is with the update.
Order = Mapping[Place, Place | None]


def ordered(kinds: list[list[Kind]], measures: list[Graph], update: Graph, ndim: int) -> Order:
    """The order for a formula recorded in its own."""
    asked = [(b, q) for b, some in enumerate(kinds) for q in range(len(some))]
    needs = {(b, q): needed for b, graph in enumerate(measures) for q, needed in enumerate(_needs(graph))}
    used = _used(update, ndim).union(*needs.values())
    kept = {place for place in asked if place in used or _together(kinds[place[0]])}
    fixed = any(map(_together, kinds))
    stages: dict[Place, int] = {}
    for place in asked:
        if place in kept:
            stages[place] = place[0] if fixed else 1 + max((stages[n] for n in needs[place]), default=-1)
    barriers = {stage: b for b, stage in enumerate(sorted(set(stages.values())))}
    places: dict[int, Iterator[int]] = {b: iter(range(len(asked))) for b in barriers.values()}
    order: dict[Place, Place | None] = dict.fromkeys(asked)
    for place, stage in stages.items():
        order[place] = barriers[stage], next(places[barriers[stage]])
    return order


def _needs(graph: Graph) -> list[set[Place]]:
    """The answers that each output of a measure graph depends on."""
    nodes = list(graph.module.graph.nodes)
    inputs = iter(graph.inputs)
    known: dict[fx.Node, set[Place]] = {}
    for node in nodes[:-1]:
        known[node] = set[Place]().union(*(known[n] for n in node.all_input_nodes))
        if node.op == "placeholder" and (key := next(inputs))[0] == "answer":
            known[node] = {(key[1], key[2])}
    return [known[out] for out in nodes[-1].args[0]]


def _together(kinds: list[Kind]) -> bool:
    """Whether a barrier is one for other tensors too, which may run on another engine, in the formula's order."""
    return any(kind.over in (*WIDE, "matrix") for kind in kinds)


def _used(update: Graph, ndim: int) -> set[Place]:
    """The answers that the update does more with than store them in state that has no number for each element."""
    every = set(range(ndim)), {ROWS, COLUMNS}
    nodes = [n for n in update.module.graph.nodes if n.op == "placeholder"]
    inputs = dict(zip(nodes, zip(update.inputs, update.axes, strict=True), strict=True))
    small = {n for n, (key, axes) in inputs.items() if key[0] == "state" and set(axes) - {None} not in every}

    def only_stored(node: fx.Node) -> bool:
        return all(only_stored(n) if n.target != "copy_" else n.args[0] in small for n in node.users)

    return {(key[1], key[2]) for n, (key, _) in inputs.items() if key[0] == "answer" and not only_stored(n)}
