"""The sizes a graph is compiled for: every one, with a symbol for each axis of each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from thalweg.engine.record import Graph


class Lengths:
    """Stand-ins for a graph's inputs whose axes have symbols for lengths.

    A smaller state, or an answer, shares the symbols of the parameter's axes that it has (``Graph.axes``). It is not
    known by its length: the rows of a square matrix must not be taken for its columns.
    """

    def __init__(self, graph: Graph, arguments: Sequence[Tensor]) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.graph = graph
        self.symbols = ShapeEnv(duck_shape=False)  # two tensors of equal size must not share a symbol
        self.mode = FakeTensorMode(shape_env=self.symbols)
        self.axes: dict[tuple[int, int], Any] = {}
        self.pieces: dict[int, list[Any]] = {}
        self.inputs: list[Any] = list(arguments)
        whole = [key[0] in ("param", "grad") for key in graph.inputs]
        for j in sorted(range(len(arguments)), key=lambda j: not whole[j]):
            t = arguments[j]
            shape, stride = self._shape(j, t)
            with self.mode:
                if stride is None:
                    self.inputs[j] = torch.empty(shape, dtype=t.dtype, device=t.device)
                else:
                    self.inputs[j] = torch.empty_strided(shape, stride, dtype=t.dtype, device=t.device)

    def _shape(self, j: int, t: Tensor) -> tuple[Any, Any]:
        """The shape of an input, and its strides where they are not those of a tensor without gaps."""
        key, blocks = self.graph.inputs[j], self.graph.blocks
        sized = key[0] != "scalars" and t.ndim and (key[0] != "answer" or len(key) == 4)
        if not sized or (blocks and t.numel() == 1):
            return t.shape, t.stride()
        place = key[3] if key[0] == "answer" else key[1]
        if blocks:
            if (place, 0) not in self.axes:
                self.axes[place, 0] = self._fresh(j, t, range(1, t.ndim))[0]
            return (self.axes[place, 0], *t.shape[1:]), t.stride()
        if self.graph.pieces and key[0] in ("param", "grad"):
            axis, length = self.graph.pieces
            if place not in self.pieces:
                self.pieces[place] = found = self._fresh(j, t, [axis + 1])
                for i, n in enumerate([*found[:axis], found[axis] * length, *found[axis + 2 :]]):
                    self.axes[place, i] = n
            return self.pieces[place], None
        lengths = self._fresh(j, t, ())
        for i, own in enumerate(self.graph.axes[j]):
            if own is not None and t.shape[i] != 1:
                lengths[i] = self.axes.setdefault((place, own), lengths[i])
        return lengths, None

    def _fresh(self, j: int, t: Tensor, fixed: Sequence[int]) -> list[Any]:
        """New symbols for the axes of a tensor, but for ``fixed`` ones and those of length one."""
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

        free = [DimDynamic.STATIC if i in fixed else DimDynamic.DYNAMIC for i in range(t.ndim)]
        context: Any = StatelessSymbolicContext(free)
        return list(self.mode.from_tensor(t, source=ConstantSource(f"input_{j}"), symbolic_context=context).shape)

    def fixed(self) -> str:
        """What of the sizes a compilation has taken for granted; empty if the code fits all.

        That the axes of one tensor and of its smaller state are equal is so by construction.
        """
        one = len({place for place, _ in self.axes}) == 1
        conditions = [str(g.expr) for g in self.symbols.guards if not (one and _all_equal(g.expr))]
        for place in {place for place, _ in self.axes}:
            own = [n.node.expr for (i, _), n in self.axes.items() if i == place and isinstance(n, torch.SymInt)]
            found = [self.symbols.replace(n) for n in own]
            if len(set().union(*(n.free_symbols for n in found))) < len(found):
                conditions.append(f"axes of lengths {', '.join(map(str, found))}")
        return " and ".join(conditions)


def _all_equal(condition: Any) -> bool:
    """Whether it says that sizes are equal, or equal or one (where shapes are broadcast)."""
    if condition.is_Relational:
        return bool(condition.rel_op == "==")
    return condition.func.__name__ == "Or" and all(map(_all_equal, condition.args))
