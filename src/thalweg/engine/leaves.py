"""Functions that a recorded graph holds as one node, because our own C++ has code for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from thalweg.engine.many import Many


class Tracer(fx.proxy.GraphAppendingTracer):
    """Makes the symbols of a graph; with ``leaves`` what is handed to ``call`` becomes one node."""

    def __init__(self, graph: fx.Graph, leaves: bool) -> None:
        super().__init__(graph)
        self.leaves = leaves


def node(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, of every tensor where they are many; where a graph is recorded, the node of it."""
    for argument in arguments:
        if isinstance(argument, fx.Proxy):
            return argument.tracer.create_proxy("call_function", function, arguments, {})
        if isinstance(argument, Many):
            return argument.each(function, *arguments)
    return function(*arguments)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """As ``node``, but only in graphs for our own C++; in others the nodes that the function makes."""
    tracer = next((argument.tracer for argument in arguments if isinstance(argument, fx.Proxy)), None)
    return node(function, *arguments) if getattr(tracer, "leaves", False) else function(*arguments)
