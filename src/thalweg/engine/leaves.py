"""Functions that a recorded graph may hold as one node, because our own C++ has code for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


class Tracer(fx.proxy.GraphAppendingTracer):
    """Makes the symbols of a graph; with ``leaves`` what is handed to ``call`` becomes one node."""

    def __init__(self, graph: fx.Graph, leaves: bool) -> None:
        super().__init__(graph)
        self.leaves = leaves


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, or the node of it."""
    tracer = next((a.tracer for a in arguments if isinstance(a, fx.Proxy)), None)
    if isinstance(tracer, Tracer) and tracer.leaves:
        return tracer.create_proxy("call_function", function, arguments, {})
    return function(*arguments)
