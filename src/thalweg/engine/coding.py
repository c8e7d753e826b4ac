"""Between what is stored and what formulas see: decoding as state is read, encoding once the flow has ended."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from thalweg.codecs import COMPENSATION, Layout
from thalweg.engine.view import View
from thalweg.rounding import nearest
from thalweg.slots.base import Request


def read(layout: Layout, role: str, load: Callable[[str], Any]) -> Any:
    """A state as numbers; in blocks where it is stored in blocks."""
    codec = layout.codec(role)
    return load(role) if codec is None else codec.decode(*(load(role + part) for part in codec.tensors))


def coded(flow: Generator[Any, Any, Any], x: View, layout: Layout) -> Generator[Any, Any, Any]:
    """The flow, and then its results as they are stored: ``x.new`` by the roles of ``layout``, the parameter returned.

    A block's scale is one more reduction to wait for.
    """
    param = yield from flow
    if layout.rounding == "kahan":
        exact = param + x[COMPENSATION]
        param = nearest(exact)
        x[COMPENSATION] = exact - param
    blockwise = [(role, codec) for role, codec in layout.blockwise if role in x.new]
    if blockwise:
        values = [codec.blocks(x.new[role]) for role, codec in blockwise]
        tops = yield tuple(
            Request(codec.magnitude(value), codec.axes, "max")
            for (_, codec), value in zip(blockwise, values, strict=True)
        )
        for (role, codec), value, top in zip(blockwise, values, tops, strict=True):
            x[role], x[role + "_scale"] = codec.encode(value, top)
    return param
