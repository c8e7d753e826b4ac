"""The arc tangent in compiled graphs: a polynomial, where the vector library's takes longer than memory does."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

#: atan(q)/q by powers of q^2, 0 <= q <= 1, with the least relative error of any nine: 1.5e-8; in float32 1.6e-7.
COEFFICIENTS = (
    *(1.0, -0.3333307206630707, 0.1999261975288391, -0.14203648269176483, 0.1064094677567482),
    *(-0.07504318654537201, 0.042691782116889954, -0.016068778932094574, 0.0028499250765889883),
)


def expand(graph: fx.Graph) -> bool:
    """Replace every ``atan2`` in a recorded graph of float32 by arithmetic, and say whether there was one.

    It agrees to two units in the last place, infinities and zeros apart: of two zeros the angle is 0, whatever their
    signs, and of two infinities not a number.
    """
    tracer = fx.proxy.GraphAppendingTracer(graph)
    found = [node for node in graph.nodes if node.target == "atan2" or node.target is torch.atan2]
    for node in found:
        with graph.inserting_before(node):
            y, x = (fx.Proxy(argument, tracer) for argument in node.args)
            node.replace_all_uses_with(angle(y, x).node)
        graph.erase_node(node)
    return bool(found)


def angle(y: Any, x: Any) -> Any:
    """atan2(y, x) of float32: pi/2 - atan(x/y) where steep, and nothing that takes a call (as a sign copied does)."""
    steep = y.abs() > x.abs()
    q = torch.where(steep, -x, y) / _unless_zero(torch.where(steep, y, x))
    half = torch.where(y < 0, -math.pi / 2, math.pi / 2)
    base = torch.where(steep, half, torch.where(x < 0, half * 2, 0.0))
    square = q * q
    series = COEFFICIENTS[-1] * square + COEFFICIENTS[-2]
    for coefficient in COEFFICIENTS[-3::-1]:
        series = series * square + coefficient
    return series * q + base


def _unless_zero(x: Any) -> Any:
    return torch.where(x == 0, 1.0, x)
