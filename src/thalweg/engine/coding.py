"""Between what is stored and what formulas see: decoding as state is read, encoding once the flow has ended."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from thalweg.codecs import COMPENSATION, SCALE, Layout
from thalweg.engine import leaves
from thalweg.engine.view import View
from thalweg.rounding import nearest


def read(layout: Layout, role: str, load: Callable[[str], Any]) -> Any:
    """A state as numbers; in blocks where it is stored in blocks."""
    codec = layout.codec(role)
    return load(role) if codec is None else leaves.call(codec.decode, *(load(role + part) for part in codec.tensors))


def coded(flow: Generator[Any, Any, Any], x: View, layout: Layout) -> Generator[Any, Any, Any]:
    """The flow, and then its results as they are stored: ``x.new`` by the layout's roles, the parameter returned."""
    param = yield from flow
    if layout.rounding == "kahan":
        exact = param + x[COMPENSATION]
        param = leaves.call(nearest, exact)
        x[COMPENSATION] = exact - param
    for role, codec in layout.blockwise:
        if role in x.new:
            stored = leaves.call(codec.store, x.new[role])
            x[role], x[role + SCALE] = stored[0], stored[1]
    return param
