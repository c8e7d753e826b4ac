"""Functions that the vector library takes longer for than memory does, as polynomials in compiled graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

#: (atan(q)/q - 1)/q^2 by powers of q^2, 0 <= q <= 1; of any eight they make the least relative error of atan(q):
#: 1.5e-8, in float32 1.6e-7.
ATAN = (
    *(-0.3333307206630707, 0.1999261975288391, -0.14203648269176483, 0.1064094677567482),
    *(-0.07504318654537201, 0.042691782116889954, -0.016068778932094574, 0.0028499250765889883),
)
#: (log1p(y)/y - 1)/y by powers of y, 0 <= y <= 1, likewise for log1p(y): 3.3e-8; in float32 1.8e-7.
LOG1P = (
    *(-0.49999647961557214, 0.3332132257213914, -0.24857163286806142, 0.19153653421866362),
    *(-0.13753799080932616, 0.07920449691685287, -0.030065768471459225, 0.005364818371644736),
)


def expand(graph: fx.Graph) -> bool:
    """Replace ``atan2`` and ``log1p(exp(.))`` in a recorded graph of float32, and say whether there was one.

    What stands in their place agrees to two units in the last place, but for the angles of two zeros, which are 0
    whatever their signs, and of two infinities, which are not numbers.
    """
    tracer = fx.proxy.GraphAppendingTracer(graph)
    found = False
    for node in list(graph.nodes):
        function: Any = None
        arguments = node.args
        if name_of(node) == "atan2":
            function = angle
        elif name_of(node) == "log1p" and name_of(node.args[0]) == "exp":
            function, arguments = softplus, node.args[0].args
        if function is not None:
            found = True
            with graph.inserting_before(node):
                new = function(*(fx.Proxy(argument, tracer) for argument in arguments))
            node.replace_all_uses_with(new.node)
            graph.erase_node(node)
    return found


def name_of(node: Any) -> str:
    """What a node calls, function or method; nothing for anything else."""
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def limits_of(clamp: fx.Node) -> dict[str, Any]:
    """The limits of a clamp, "min" and "max", that it has."""
    limits = dict(zip(("min", "max"), clamp.args[1:], strict=False)) | dict(clamp.kwargs)
    return {which: limit for which, limit in limits.items() if limit is not None}


def angle(y: Any, x: Any) -> Any:
    """atan2(y, x) of float32: pi/2 - atan(x/y) where steep, and nothing that takes a call (as a sign copied does)."""
    steep = y.abs() > x.abs()
    q = torch.where(steep, -x, y) / _unless_zero(torch.where(steep, y, x))
    half = torch.where(y < 0, -math.pi / 2, math.pi / 2)
    base = torch.where(steep, half, torch.where(x < 0, half * 2, 0.0))
    square = q * q
    return _series(ATAN, square) * square * q + q + base


def softplus(z: Any) -> Any:
    """log(1 + exp(z)) of float32: the exponential is of what is not positive, so it cannot overflow."""
    y = (-z.abs()).exp()
    return _series(LOG1P, y) * (y * y) + y + z.relu()


def _series(coefficients: Sequence[float], x: Any) -> Any:
    """A polynomial of 2, 4, 8, ... coefficients, pair by pair (Estrin).

    That is a chain of few operations, where Horner's form waits for each coefficient.
    """
    pairs = zip(coefficients[::2], coefficients[1::2], strict=True)
    terms = [high * x + low for low, high in pairs]
    return terms[0] if len(terms) == 1 else _series(terms, x * x)


def _unless_zero(x: Any) -> Any:
    return torch.where(x == 0, 1.0, x)
