"""What writers of kernels share: which of a recorded graph's nodes is what, whatever language it is written in."""

from __future__ import annotations

from typing import Any

from torch import fx

from thalweg.codecs import SCALE, Blockwise, Rounded
from thalweg.engine.family import Unsupported
from thalweg.engine.functions import name_of
from thalweg.engine.record import Graph
from thalweg.rounding import nearest, stochastic

#: Operations with an operator of the same name in either language.
COMPARED = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
LOGICAL = {"and_": "&", "or_": "|", "xor": "^", "logical_and": "&", "logical_or": "|"}
#: Operations whose results are truths.
TRUTHS = (*COMPARED, *LOGICAL, "isfinite", "isnan", "invert", "logical_not")
#: What leaves numbers as they are.
SAME = ("contiguous", "clone", "detach", "float", "reshape", "unsqueeze")


class NodeWriter:
    """Goes through a graph, and hands each node to the method for its kind; values are kept by node.

    Raises ``Unsupported`` where there is no text for one.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        placeholders = [n for n in graph.module.graph.nodes if n.op == "placeholder"]
        self.inputs = dict(zip(placeholders, zip(graph.inputs, graph.axes, strict=True), strict=True))

    def go_through(self) -> None:
        """Write every node."""
        for node in self.graph.module.graph.nodes:
            if node.op in ("call_function", "call_method"):
                self.node(node, name_of(node))
            elif node.op == "output":
                self.output(node)
            elif node.op != "placeholder":
                raise Unsupported(node.op)

    def node(self, node: fx.Node, name: str) -> None:
        """Write a node that calls something."""
        codec = getattr(node.target, "__self__", None)
        if isinstance(codec, Rounded):
            self.values[node] = self.read(node.args[0])
        elif isinstance(codec, Blockwise):
            (self.decode if name == "decode" else self.encode)(node, codec)
        elif node.target is stochastic:
            self.at_random(node)
        elif node.target is nearest:
            self.to_nearest(node)
        elif name == "getitem":
            if not codec_of(node.args[0]):  # else it is stored with its block
                self.item(node)
        elif name == "copy_":
            value = node.args[1]
            if not (isinstance(value, fx.Node) and codec_of(value.args[0] if value.args else None)):
                self.store(node)
        elif name in ("sum", "mean", "amax"):
            self.reduction(node, name)
        elif name == "to":
            self.convert(node)
        elif name == "new_ones" and node.args[1] == ():
            self.values[node] = self.read(1.0)
        elif name in SAME:
            self.reshape(node, name)
        else:
            self.arithmetic(node, name)

    def coded(self, encoding: fx.Node) -> tuple[int, int]:
        """The columns of the codes and the scales that an encoding node makes."""
        codes = next(item for item in encoding.users if item.args[1] == 0)
        key, _ = self.inputs[next(iter(codes.users)).args[0]]
        return self.column(key), self.column((*key[:2], f"{key[2]}{SCALE}"))

    # What a language has of its own.

    def read(self, argument: Any) -> Any:
        raise NotImplementedError

    def column(self, key: tuple[Any, ...]) -> int:
        raise NotImplementedError

    def decode(self, node: fx.Node, codec: Blockwise) -> None:
        raise NotImplementedError

    def encode(self, node: fx.Node, codec: Blockwise) -> None:
        raise NotImplementedError

    def at_random(self, node: fx.Node) -> None:
        raise NotImplementedError

    def to_nearest(self, node: fx.Node) -> None:
        raise NotImplementedError

    def item(self, node: fx.Node) -> None:
        raise NotImplementedError

    def store(self, node: fx.Node) -> None:
        raise NotImplementedError

    def reduction(self, node: fx.Node, name: str) -> None:
        raise NotImplementedError

    def convert(self, node: fx.Node) -> None:
        raise NotImplementedError

    def reshape(self, node: fx.Node, name: str) -> None:
        raise NotImplementedError

    def arithmetic(self, node: fx.Node, name: str) -> None:
        raise NotImplementedError

    def output(self, node: fx.Node) -> None:
        raise NotImplementedError


def codec_of(node: Any) -> Blockwise | None:
    """The codec that a node encodes with, if it does."""
    codec = getattr(getattr(node, "target", None), "__self__", None)
    return codec if isinstance(codec, Blockwise) and node.target == codec.store else None
