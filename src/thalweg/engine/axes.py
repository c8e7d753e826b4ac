"""Which of a parameter's axes the values of a formula have, found by following a recorded graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import fx

from thalweg.engine.functions import name_of
from thalweg.sharding import Axes

#: Operations that work element by element and are not called as torch calls them, and what leaves numbers as they are.
_ELEMENTWISE = frozenset(
    (
        *("truediv", "and_", "or_", "invert", "relu", "to", "contiguous", "clone", "detach", "float"),
        *("zeros_like", "ones_like", "copy_", "stochastic", "nearest", "decode", "store"),
    )
)


class Unknown(Exception):
    """An operation of which it is not known what it does to axes."""


class Follow:
    """Finds the axes of nodes from those of the graph's inputs."""

    def __init__(self, of_input: Callable[[fx.Node], Axes]) -> None:
        self.of_input = of_input
        self.known: dict[fx.Node, Axes] = {}

    def __call__(self, node: fx.Node) -> Axes:
        """The axes of a node's value. Raises ``Unknown``."""
        needed = {node}
        for earlier in reversed(node.graph.nodes):
            if earlier in needed and earlier not in self.known:
                needed.update(earlier.all_input_nodes)
        for earlier in [n for n in node.graph.nodes if n in needed and n not in self.known]:
            self.known[earlier] = self._found(earlier)
        return self.known[node]

    def _found(self, node: fx.Node) -> Axes:
        if node.op == "placeholder":
            return self.of_input(node)
        name = name_of(node)
        if name == "getitem":
            return ()  # a number of a vector of them
        if name == "new_ones" and node.args[1] == ():
            return ()
        inputs = [self.known[n] for n in node.all_input_nodes]
        if name == "unsqueeze":
            (axes,), place = inputs, node.args[1]
            assert isinstance(place, int)
            place %= len(axes) + 1
            return (*axes[:place], None, *axes[place:])
        if name in _ELEMENTWISE or _pointwise(name):
            return _broadcast(inputs)
        raise Unknown(f"{name} of whole tensors")


def _broadcast(inputs: Iterable[Axes]) -> Axes:
    found: list[int | None] = []
    for axes in inputs:
        found[:0] = [None] * (len(axes) - len(found))
        for back, axis in enumerate(reversed(axes), 1):
            if axis is not None and found[-back] not in (None, axis):
                raise Unknown("axes that do not meet")
            found[-back] = found[-back] if axis is None else axis
    return tuple(found)


@cache
def _pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
